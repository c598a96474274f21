"""From what the linear layers give to where the operator reads, and how hard."""

from collections.abc import Sequence

import torch
from torch import Tensor


def sampling_locations(
    reference_points: Tensor, sampling_offsets: Tensor, spatial_shapes: Tensor | Sequence[Sequence[int]]
) -> Tensor:
    """Where each query reads, in [0, 1] of the padded map (unbounded: an offset may lead outside).

    reference_points (B, Q, L, 2 | 4), sampling_offsets (B, Q, M, L, P, 2), spatial_shapes (L, 2) as (h, w)
    -> (B, Q, M, L, P, 2) as (x, y).

    A point (x, y) counts offsets in cells of the level it looks into: they are divided by (w, h). A box
    (cx, cy, w, h) counts them in half box sides, and one part for each point, so that the star of P rings at
    initialisation ends on the border of the box (paper, appendix A.4).

    Raises:
        ValueError: reference points of another last dimension than 2 or 4.
    """
    box_size = reference_points.shape[-1]
    if box_size not in (2, 4):
        raise ValueError(
            f"reference_points must end in 2 (x, y) or 4 (cx, cy, w, h); got {tuple(reference_points.shape)}"
        )
    centres = reference_points[:, :, None, :, None, :2]  # (B, Q, 1, L, 1, 2)
    if box_size == 2:
        if not isinstance(spatial_shapes, Tensor):
            spatial_shapes = sizes_as_tensor(
                [n for pair in spatial_shapes for n in pair], sampling_offsets.dtype, sampling_offsets.device
            )
        width_height = spatial_shapes.to(sampling_offsets).flip(-1)  # (L, 2): (h, w) -> (w, h)
        return centres + sampling_offsets / width_height[:, None]
    num_points = sampling_offsets.shape[4]
    half_sizes = reference_points[:, :, None, :, None, 2:] * 0.5
    return centres + sampling_offsets / num_points * half_sizes


def softmax_weights(attention_logits: Tensor) -> Tensor:
    """attention_logits (B, Q, M, L, P) -> weights that sum to 1 over the L * P points of each head (equation 3)."""
    return attention_logits.flatten(-2).softmax(-1).view_as(attention_logits)


def sizes_as_tensor(level_sizes: Sequence[int], dtype: torch.dtype, device: torch.device | None) -> Tensor:
    """h0, w0, h1, w1, ... -> (L, 2).

    Number by number: a traced size stays a variable so, where `torch.tensor` of them all would become a constant.
    """
    return torch.stack([torch.full((), n, dtype=dtype, device=device) for n in level_sizes]).view(-1, 2)
