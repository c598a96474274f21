"""Multi-scale deformable attention in plain PyTorch: one `grid_sample` a level."""

import torch
import torch.nn.functional as F
from torch import Tensor


def ms_deform_attn_grid_sample(
    value: Tensor,
    level_sizes: list[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """The operator on any device, differentiable in every input; exports to ONNX.

    value (B, S, M, D), level_sizes: L pairs (h, w), sampling_locations (B, Q, M, L, P, 2),
    attention_weights (B, Q, M, L, P) -> (B, Q, M * D).

    [0, 1] becomes grid_sample's [-1, 1], whose ends are the outer edges of the border cells (`align_corners=False`):
    that is the half-cell convention of `bilinear_sample`.
    """
    B, _, M, D = value.shape
    _, Q, _, L, P, _ = sampling_locations.shape
    # Half precision cannot place a point within a cell (1/2048 of a 1000 px image): compute at least in float32.
    dtype = torch.promote_types(value.dtype, torch.float32)
    grids = _finite_grid(2 * sampling_locations.to(dtype) - 1)
    samples = []
    for level, level_value in enumerate(value.to(dtype).split([h * w for h, w in level_sizes], dim=1)):
        h, w = level_sizes[level]
        image = level_value.permute(0, 2, 3, 1).reshape(B * M, D, h, w)
        grid = grids[:, :, :, level].transpose(1, 2).reshape(B * M, Q, P, 2)
        samples.append(F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    # L x (B*M, D, Q, P) -> (B*M, D, Q, L*P); the weights say how much of each sample the query takes.
    stacked = torch.stack(samples, dim=-2).flatten(-2)
    weights = attention_weights.transpose(1, 2).reshape(B * M, 1, Q, L * P)
    out = (stacked * weights.to(dtype)).sum(-1)
    return out.view(B, M * D, Q).transpose(1, 2).to(value.dtype)


def _finite_grid(grid: Tensor) -> Tensor:
    """Send NaN, Inf and far-away coordinates to a place outside every map, where they read zero and pass no gradient.

    grid_sample turns NaN into -1, the border, and casts huge numbers to integers, which is undefined.
    """
    outside = 4.0  # beyond 1 + 2 / size for every size >= 1
    return torch.where(grid.abs() < outside, grid, torch.full_like(grid, outside))
