"""L maps become one sequence of tokens: masks, valid ratios, position and level embedding, flattening."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DeformableDETRConfig
from ..ops.validate import level_starts
from .position_encoding import sine_position_encoding


class MultiScaleTokens(NamedTuple):
    """What the transformer works on.

    Attributes:
        tokens: (B, S, C), the levels one after the other, each row by row.
        pos: (B, S, C), sine position encoding plus level embedding.
        mask: (B, S) bool, True where padding, or None if nothing is padded and the config wants no mask then.
        spatial_shapes: (L, 2) int64 as (h, w).
        level_start_index: (L,) int64.
        valid_ratios: (B, L, 2) as (w, h): which part of each padded map is image.
        level_sizes: `spatial_shapes` as Python pairs, which spare a GPU the way back to the host.
    """

    tokens: Tensor
    pos: Tensor
    mask: Tensor | None
    spatial_shapes: Tensor
    level_start_index: Tensor
    valid_ratios: Tensor
    level_sizes: list[tuple[int, int]]


def level_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The padding mask (B, H, W) seen at a level's `size` (h, w), by nearest neighbour -> (B, h, w) bool."""
    return F.interpolate(mask[:, None].float(), size=size)[:, 0].bool()


def get_valid_ratio(mask: Tensor) -> Tensor:
    """mask (B, h, w), True where padding -> (B, 2) as (w, h): how much of the first row and column is image."""
    _, h, w = mask.shape
    valid_h = (~mask[:, :, 0]).sum(1)
    valid_w = (~mask[:, 0, :]).sum(1)
    return torch.stack([valid_w.float() / w, valid_h.float() / h], dim=-1)


class MultiScaleFlatten(nn.Module):
    """Flattens the neck's maps and tells each token its place and its level.

    Two cells at the same place of two levels have the same position encoding; `level_embed` (L, C), learned, tells
    them apart (paper, section 4.1). L is `config.num_levels`, C `config.embed_dim`.
    """

    def __init__(self, config: DeformableDETRConfig) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.empty(config.num_levels, config.embed_dim))
        nn.init.normal_(self.level_embed)

    def forward(self, maps: list[Tensor], mask: Tensor | None) -> MultiScaleTokens:
        """maps: L of (B, C, h, w); mask (B, H, W) of the padded images, or None if nothing is padded."""
        tokens, pos, masks, ratios = [], [], [], []
        sizes = [(level.shape[2], level.shape[3]) for level in maps]
        for level, (feature, size) in enumerate(zip(maps, sizes, strict=True)):
            padding = level_mask(mask, size) if mask is not None else _no_padding(feature)
            encoding = sine_position_encoding(padding, feature.shape[1]).to(feature.dtype)
            tokens.append(feature.flatten(2).transpose(1, 2))  # (B, C, h, w) -> (B, h*w, C)
            pos.append(encoding.flatten(2).transpose(1, 2) + self.level_embed[level])
            masks.append(padding.flatten(1))
            ratios.append(get_valid_ratio(padding))
        device = tokens[0].device
        return MultiScaleTokens(
            tokens=torch.cat(tokens, 1),
            pos=torch.cat(pos, 1),
            mask=None if mask is None else torch.cat(masks, 1),
            spatial_shapes=torch.tensor(sizes, dtype=torch.int64, device=device),
            level_start_index=torch.tensor(level_starts(sizes), dtype=torch.int64, device=device),
            valid_ratios=torch.stack(ratios, 1),
            level_sizes=sizes,
        )


def _no_padding(feature: Tensor) -> Tensor:
    B, _, h, w = feature.shape
    return feature.new_zeros(B, h, w, dtype=torch.bool)
