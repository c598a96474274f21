"""The definition of multi-scale deformable attention, written as loops.

Every other back end is tested against this one. It is for reading and for tiny inputs: one Python iteration for each
sampled corner.
"""

import math

import torch
from torch import Tensor


def bilinear_sample(image: Tensor, x: float | Tensor, y: float | Tensor) -> Tensor:
    """Read `image` (h, w, D) at the continuous place (`x`, `y`), in cells; returns (D,).

    Cell (row, column) covers [column, column + 1) x [row, row + 1), so its value sits at its centre, half a cell
    further in. What lies outside the image reads as zero; a NaN or infinite coordinate is outside.
    """
    h, w, channels = image.shape
    out = image.new_zeros(channels)
    # `not (a < b)` rather than `a >= b`: every comparison with NaN is false, so NaN lands outside as well.
    if not (-0.5 < x < w + 0.5 and -0.5 < y < h + 0.5):
        return out
    left, top = _floor(x - 0.5), _floor(y - 0.5)
    dx, dy = x - 0.5 - left, y - 0.5 - top
    corners = (
        (top, left, (1 - dy) * (1 - dx)),
        (top, left + 1, (1 - dy) * dx),
        (top + 1, left, dy * (1 - dx)),
        (top + 1, left + 1, dy * dx),
    )
    for row, column, weight in corners:
        if 0 <= row < h and 0 <= column < w:
            out = out + weight * image[row, column]
    return out


def _floor(x: float | Tensor) -> int:
    return math.floor(x.item() if isinstance(x, Tensor) else x)


def ms_deform_attn_loop(
    value: Tensor,
    level_sizes: list[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Sum the values found at the sampling locations, each times its weight (paper, equation 3).

    value (B, S, M, D), level_sizes: L pairs (h, w), sampling_locations (B, Q, M, L, P, 2) as (x, y) in [0, 1] of the
    padded map, attention_weights (B, Q, M, L, P) -> (B, Q, M * D). Differentiable, any number of times, in all three.
    """
    B, _, M, D = value.shape
    _, Q, _, L, P, _ = sampling_locations.shape
    maps = value.split([h * w for h, w in level_sizes], dim=1)
    rows = []
    for b in range(B):
        for q in range(Q):
            for m in range(M):
                total = value.new_zeros(D)
                for level, (h, w) in enumerate(level_sizes):
                    image = maps[level][b, :, m].reshape(h, w, D)
                    for p in range(P):
                        x, y = sampling_locations[b, q, m, level, p]
                        sample = bilinear_sample(image, x * w, y * h)
                        total = total + attention_weights[b, q, m, level, p] * sample
                rows.append(total)
    if not rows:
        return value.new_zeros(B, Q, M * D)
    return torch.stack(rows).view(B, Q, M * D)
