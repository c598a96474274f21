"""Multi-scale deformable attention as a module: four linear layers around the operator."""

import math

import torch
from torch import Tensor, nn

from .dispatch import ms_deform_attn_fused
from .linear import Linear
from .validate import LevelSizes


class MSDeformAttn(nn.Module):
    """Multi-scale deformable attention (paper, section 4.1, equation 3), called as the official code calls its own.

    A query asks no key: two linear layers read from it, for each of M heads, L levels and P points, an offset and a
    weight. The operator sums the values found there.

    A drop-in: arguments and attributes have the official names and order, and the parameters (`sampling_offsets`,
    `attention_weights`, `value_proj`, `output_proj`) also mmcv's and Hugging Face's names and shapes, so that weights
    of all three load as they are.

    Args:
        d_model: C, divisible by n_heads.
        n_levels: L.
        n_heads: M.
        n_points: P, for each head and level.

    Raises:
        ValueError: one of the numbers is below 1, or d_model is not divisible.
    """

    im2col_step = 64  # how many images the official kernel takes at once; ours takes all

    def __init__(self, d_model: int = 256, n_levels: int = 4, n_heads: int = 8, n_points: int = 4) -> None:
        super().__init__()
        for name, number in (("n_levels", n_levels), ("n_heads", n_heads), ("n_points", n_points)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1; got {number}")
        if d_model % n_heads:
            raise ValueError(
                f"{d_model} channels cannot be shared out to {n_heads} heads: d_model must be divisible by n_heads"
            )
        self.d_model, self.n_levels, self.n_heads, self.n_points = d_model, n_levels, n_heads, n_points
        num_samples = n_heads * n_levels * n_points
        self.sampling_offsets = Linear(d_model, num_samples * 2)
        self.attention_weights = Linear(d_model, num_samples)
        self.value_proj = Linear(d_model, d_model)
        self.output_proj = Linear(d_model, d_model)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as a star: head m looks in direction m, point p at p + 1 cells, all equally hard (appendix A.4)."""
        angle = torch.arange(self.n_heads, dtype=torch.float32) * (2 * math.pi / self.n_heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)  # onto the square: (1, 0), (1, 1), (0, 1), ...
        radius = torch.arange(1, self.n_points + 1, dtype=torch.float32)
        star = direction[:, None, None] * radius[:, None]  # (M, 1, P, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(star.expand(-1, self.n_levels, -1, -1).flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    _reset_parameters = reset_parameters  # the official transformer calls this after it has initialised everything

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        input_flatten: Tensor,
        input_spatial_shapes: LevelSizes,
        input_level_start_index: Tensor | None = None,
        input_padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend from each query to a few tokens of every level.

        Args:
            query: (B, Q, C), position already added.
            reference_points: (B, Q, L, 2) as (x, y) or (B, Q, L, 4) as (cx, cy, w, h), in [0, 1] of the padded map.
            input_flatten: (B, S, C), the tokens that are looked at.
            input_spatial_shapes: (L, 2) integers (h, w), or a list of pairs.
            input_level_start_index: (L,), checked if given.
            input_padding_mask: (B, S) bool, True where padding, which reads as zero.

        Returns:
            (B, Q, C).

        Raises:
            ValueError: tokens, levels, mask or reference points that do not fit together.
        """
        value = self.project_value(input_flatten, input_padding_mask)
        offsets, logits = self.project_query(query)
        out = ms_deform_attn_fused(
            value, input_spatial_shapes, input_level_start_index, reference_points, offsets, logits
        )
        return self.output_proj(out)

    def project_value(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """tokens (B, S, C) -> (B, S, M, D), zero where `mask` (B, S) bool says padding; ValueError for another one."""
        value = self.value_proj(tokens)
        if mask is not None:
            if mask.shape != tokens.shape[:2] or mask.dtype != torch.bool:
                raise ValueError(
                    f"mask must be (B, S) = {tuple(tokens.shape[:2])} of bool; got {tuple(mask.shape)} of {mask.dtype}"
                )
            value = value.masked_fill(mask[..., None], 0.0)
        return value.unflatten(-1, (self.n_heads, -1))

    def project_query(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """query (B, Q, C) -> sampling offsets (B, Q, M, L, P, 2) and attention logits (B, Q, M, L, P)."""
        samples = (self.n_heads, self.n_levels, self.n_points)
        offsets = self.sampling_offsets(query).unflatten(-1, (*samples, 2))
        return offsets, self.attention_weights(query).unflatten(-1, samples)
