"""Ways to get a Deformable DETR wrong: the weights stay, one line of the code around them is not what it should be.

Each changes a healthy detector in place, by putting another function where one of its own methods was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..models import DeformableDETR
from ..models.deform_attention import MSDeformAttn, SamplingPoints
from ..models.image_batch import ImageBatch
from ..models.multi_scale import MultiScaleTokens
from ..models.outputs import DetrOutput
from ..models.reference_points import DecoderInputs
from ..ops import ms_deform_attn

Detections = list[dict[str, Tensor]]
Sizes = list[tuple[int, int]]


class Fault(NamedTuple):
    """One way to get it wrong.

    Attributes:
        infect: changes a healthy detector in place.
        meaning: what the code does, in half a sentence.
        would_show: what somebody who suspects it would see, if it were so.
    """

    infect: Callable[[DeformableDETR], None]
    meaning: str
    would_show: str


def _red_and_blue_swapped(model: DeformableDETR) -> None:
    batch_images = model.batch_images

    def swapped(images: Sequence[Tensor]) -> ImageBatch:
        batch = batch_images(images)
        return batch._replace(images=batch.images.flip(1))

    model.batch_images = swapped


def _labels_off_by_one(model: DeformableDETR) -> None:
    postprocess = model.postprocess

    def shifted(output: DetrOutput, sizes: Sizes) -> Detections:
        num_classes = output.pred_logits.shape[-1]
        return [{**found, "labels": (found["labels"] + 1) % num_classes} for found in postprocess(output, sizes)]

    model.postprocess = shifted


def _boxes_read_as_corners(model: DeformableDETR) -> None:
    postprocess = model.postprocess

    def as_corners(output: DetrOutput, sizes: Sizes) -> Detections:
        x1, y1, x2, y2 = output.pred_boxes.unbind(-1)  # they are cx, cy, w, h
        boxes = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1).abs(), (y2 - y1).abs()], dim=-1)
        return postprocess(output._replace(pred_boxes=boxes), sizes)

    model.postprocess = as_corners


def _no_inverse_sigmoid(model: DeformableDETR) -> None:
    heads = model.heads

    def boxes(layer: int, hidden: Tensor, reference_points: Tensor) -> Tensor:
        delta = heads.box_embed[min(layer, len(heads.box_embed) - 1)](hidden)
        known = reference_points.shape[-1]
        return torch.cat([delta[..., :known] + reference_points, delta[..., known:]], dim=-1).sigmoid()

    heads.boxes = boxes


def _levels_in_another_order(model: DeformableDETR) -> None:
    flatten = model.flatten.forward

    def coarse_first(maps: list[Tensor], mask: Tensor | None) -> MultiScaleTokens:
        tokens = flatten(maps, mask)
        sizes = [h * w for h, w in tokens.level_sizes]
        return tokens._replace(tokens=torch.cat(tokens.tokens.split(sizes, dim=1)[::-1], dim=1))

    model.flatten.forward = coarse_first


def _padding_not_masked(model: DeformableDETR) -> None:
    for attention in _attentions(model):
        project_value = attention.project_value
        attention.project_value = lambda tokens, mask=None, project=project_value: project(tokens)


def _mask_inverted(model: DeformableDETR) -> None:
    for attention in _attentions(model):
        project_value = attention.project_value
        attention.project_value = lambda tokens, mask, project=project_value: project(tokens, ~mask)


def _valid_ratios_forgotten(model: DeformableDETR) -> None:
    flatten = model.flatten.forward

    def all_valid(maps: list[Tensor], mask: Tensor | None) -> MultiScaleTokens:
        tokens = flatten(maps, mask)
        return tokens._replace(valid_ratios=torch.ones_like(tokens.valid_ratios))

    model.flatten.forward = all_valid


def _offsets_divided_by_height_and_width(model: DeformableDETR) -> None:
    for attention in _attentions(model):

        def points(query: Tensor, reference: Tensor, sizes: Sizes, right=attention.sampling_points) -> SamplingPoints:
            return right(query, reference, [(w, h) for h, w in sizes])

        attention.sampling_points = points
        _sum_at_points(attention, lambda locations, sizes: locations)


def _align_corners(model: DeformableDETR) -> None:
    def ends_at_centres(locations: Tensor, sizes: Sizes) -> Tensor:
        """0 and 1 are the centres of the first and the last cell; they should be the map's borders."""
        width_height = locations.new_tensor(sizes).flip(-1)[:, None]  # (L, 1, 2)
        return (locations * (width_height - 1) + 0.5) / width_height

    for attention in _attentions(model):
        _sum_at_points(attention, ends_at_centres)


def _query_and_query_pos_swapped(model: DeformableDETR) -> None:
    pre_decoder = model.pre_decoder

    def swapped(memory: Tensor, tokens: MultiScaleTokens) -> DecoderInputs:
        inputs = pre_decoder(memory, tokens)
        return inputs._replace(query=inputs.query_pos, query_pos=inputs.query)

    model.pre_decoder = swapped


def _no_level_embedding(model: DeformableDETR) -> None:
    with torch.no_grad():
        model.flatten.level_embed.zero_()


def _attentions(model: DeformableDETR) -> list[MSDeformAttn]:
    return [layer.self_attn for layer in model.encoder.layers] + [layer.cross_attn for layer in model.decoder.layers]


def _sum_at_points(attention: MSDeformAttn, move: Callable[[Tensor, list[tuple[int, int]]], Tensor]) -> None:
    """Let `attention` read where its own `sampling_points` says, and `move` from there."""

    def forward(
        query: Tensor, reference_points: Tensor, tokens: Tensor, sizes: Sizes, mask: Tensor | None = None
    ) -> Tensor:
        value = attention.project_value(tokens, mask)
        locations, weights = attention.sampling_points(query, reference_points, sizes)
        return attention.output_proj(ms_deform_attn(value, sizes, None, move(locations, sizes), weights))

    attention.forward = forward


FAULTS: dict[str, Fault] = {
    "align_corners=True": Fault(
        _align_corners,
        "0 and 1 mean the centres of a map's border cells, not its borders",
        "With align_corners=True every point would be asked for at the right place, and something next to it be read.",
    ),
    "boxes read as corners": Fault(
        _boxes_read_as_corners,
        "(cx, cy, w, h) is taken for (x1, y1, x2, y2)",
        "Were boxes read as corners, names and scores would be right, and every tensor up to the last box healthy.",
    ),
    "labels off by one": Fault(
        _labels_off_by_one,
        "classes counted from 1 in one place, from 0 in another",
        "Were labels off by one, every box would sit well and bear the name of the next category.",
    ),
    "levels in another order": Fault(
        _levels_in_another_order,
        "tokens flattened coarse to fine, spatial_shapes listed fine to coarse",
        "Were the levels in another order, every map would be folded from another's tokens, and nothing work at all.",
    ),
    "mask inverted": Fault(
        _mask_inverted,
        "True where image, in code that takes it for padding",
        "Were the mask inverted, all that an image has to say would read as zero, and each would get the same boxes.",
    ),
    "no inverse sigmoid": Fault(
        _no_inverse_sigmoid,
        "a box head's correction is added to the box itself, then comes the sigmoid",
        "Without the inverse sigmoid no centre and no side of a box could come near 0: large ones, all in the middle.",
    ),
    "no level embedding": Fault(
        _no_level_embedding,
        "position encoding alone tells where a token stands",
        "Without the level embedding the images and the maps would be healthy, and the position codes not.",
    ),
    "offsets divided by (h, w)": Fault(
        _offsets_divided_by_height_and_width,
        "sampling offsets are in cells: x needs the width, y the height",
        "Were offsets divided by (h, w), each point would lie at a wrong place, except on a square map.",
    ),
    "padding not masked": Fault(
        _padding_not_masked,
        "tokens of the padding give values like all others",
        "Were the padding not masked, an image alone would be perfectly well.",
    ),
    "query and query_pos swapped": Fault(
        _query_and_query_pos_swapped,
        "the two halves of an embedding, the wrong way round",
        "Were the halves swapped, everything up to the encoder's memory and the proposals would be healthy.",
    ),
    "red and blue swapped": Fault(
        _red_and_blue_swapped,
        "OpenCV reads blue, green, red",
        "Were red and blue swapped, the very first tensor would differ: the pixels.",
    ),
    "valid_ratios forgotten": Fault(
        _valid_ratios_forgotten,
        "all images are taken to fill the batch",
        "Were valid_ratios forgotten, an image alone would be perfectly well, and beside a larger one look elsewhere.",
    ),
}
"""The suspects, by name."""
