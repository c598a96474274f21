"""How other code bases call the operator: stand-ins with their names and signatures, around numbers of our own.

What stands for their kernels counts its calls in `CALLS`.
"""

import functools
from collections import Counter

import torch
from torch import nn

from ddetr.ops import ms_deform_attn_grid_sample, sampling_locations

CALLS = Counter()


def reference(name, value, shapes, locations, weights):
    CALLS[name] += 1
    sizes = [tuple(pair) for pair in (shapes.tolist() if isinstance(shapes, torch.Tensor) else shapes)]
    return ms_deform_attn_grid_sample(value, sizes, locations, weights)


class MSDeformAttnFunction(torch.autograd.Function):
    @staticmethod
    def apply(value, spatial_shapes, level_start_index, sampling_locations, attention_weights, im2col_step):
        return reference("official", value, spatial_shapes, sampling_locations, attention_weights)


class MultiScaleDeformableAttnFunction(torch.autograd.Function):
    @staticmethod
    def apply(*args):
        raise RuntimeError("this kernel runs on a GPU")


def multi_scale_deformable_attn_pytorch(value, value_spatial_shapes, sampling_locations, attention_weights):
    return reference("mmcv", value, value_spatial_shapes, sampling_locations, attention_weights)


def multi_scale_deformable_attention(value, value_spatial_shapes, sampling_locations, attention_weights):
    return reference("older transformers", value, value_spatial_shapes, sampling_locations, attention_weights)


class FourLinears(nn.Module):
    def __init__(self, channels, levels, heads, points):
        super().__init__()
        self.samples = (heads, levels, points)
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)

    def project(self, query, tokens, padding, references, shapes):
        """-> value, locations, weights"""
        value = self.value_proj(tokens)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0.0)
        offsets = self.sampling_offsets(query).unflatten(-1, (*self.samples, 2))
        weights = self.attention_weights(query).unflatten(-1, (self.samples[0], -1)).softmax(-1)
        weights = weights.unflatten(-1, self.samples[1:])
        return value.unflatten(-1, (self.samples[0], -1)), sampling_locations(references, offsets, shapes), weights


class Official(FourLinears):
    def __init__(self, d_model=256, n_levels=4, n_heads=8, n_points=4):
        super().__init__(d_model, n_levels, n_heads, n_points)
        self.im2col_step = 64

    def forward(
        self, query, reference_points, input_flatten, input_spatial_shapes, input_level_start_index,
        input_padding_mask=None,
    ):  # fmt: skip
        value, locations, weights = self.project(
            query, input_flatten, input_padding_mask, reference_points, input_spatial_shapes
        )
        output = MSDeformAttnFunction.apply(
            value, input_spatial_shapes, input_level_start_index, locations, weights, self.im2col_step
        )
        return self.output_proj(output)


class Dino(Official):
    """Goes through float32 where the value is in half precision."""

    def forward(
        self, query, reference_points, input_flatten, input_spatial_shapes, input_level_start_index,
        input_padding_mask=None,
    ):  # fmt: skip
        value, locations, weights = self.project(
            query, input_flatten, input_padding_mask, reference_points, input_spatial_shapes
        )
        starts = input_level_start_index
        if value.dtype == torch.float16:
            args = value.float(), input_spatial_shapes, starts, locations.float(), weights, self.im2col_step
            return self.output_proj(MSDeformAttnFunction.apply(*args).to(torch.float16))
        output = MSDeformAttnFunction.apply(value, input_spatial_shapes, starts, locations, weights, self.im2col_step)
        return self.output_proj(output)


class Uncompiled(Official):
    """Its kernel was never built, so that the import failed and the name is unknown."""

    def forward(self, query, reference_points, tokens, shapes, starts, padding=None):
        value, locations, weights = self.project(query, tokens, padding, reference_points, shapes)
        core = ms_deform_attn_core_pytorch(value, shapes, locations, weights)  # noqa: F821
        return self.output_proj(core)


def renamed_arguments(old, new):
    def decorate(function):
        @functools.wraps(function)
        def renamed(*args, **kwargs):
            if old in kwargs:
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return renamed

    return decorate


class MultiScaleDeformableAttention(FourLinears):
    """mmcv's."""

    def __init__(
        self, embed_dims=256, num_heads=8, num_levels=4, num_points=4, im2col_step=64, dropout=0.1, batch_first=False
    ):
        super().__init__(embed_dims, num_levels, num_heads, num_points)
        self.dropout, self.batch_first, self.im2col_step = nn.Dropout(dropout), batch_first, im2col_step

    @renamed_arguments("residual", "identity")
    def forward(
        self, query, key=None, value=None, identity=None, query_pos=None, key_padding_mask=None, reference_points=None,
        spatial_shapes=None, level_start_index=None, **kwargs,
    ):  # fmt: skip
        value = query if value is None else value
        identity = query if identity is None else identity
        if query_pos is not None:
            query = query + query_pos
        if not self.batch_first:
            query, value = query.permute(1, 0, 2), value.permute(1, 0, 2)
        value, locations, weights = self.project(query, value, key_padding_mask, reference_points, spatial_shapes)
        if value.is_cuda:
            output = MultiScaleDeformableAttnFunction.apply(
                value, spatial_shapes, level_start_index, locations, weights, self.im2col_step
            )
        else:
            output = multi_scale_deformable_attn_pytorch(value, spatial_shapes, locations, weights)
        output = self.output_proj(output)
        if not self.batch_first:
            output = output.permute(1, 0, 2)
        return self.dropout(output) + identity


class OlderTransformers(FourLinears):
    """Takes the sizes as a list, and a mask that is True where there is image; gives the weights too."""

    def forward(
        self, hidden_states, attention_mask=None, encoder_hidden_states=None, reference_points=None,
        spatial_shapes=None, spatial_shapes_list=None, level_start_index=None, output_attentions=False,
    ):  # fmt: skip
        padding = None if attention_mask is None else ~attention_mask
        value, locations, weights = self.project(
            hidden_states, encoder_hidden_states, padding, reference_points, spatial_shapes
        )
        output = multi_scale_deformable_attention(value, spatial_shapes_list, locations, weights)
        return self.output_proj(output), weights
