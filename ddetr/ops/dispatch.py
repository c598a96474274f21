"""The operator's two entrances. They validate, choose a back end and call it."""

import os
from collections.abc import Callable, Sequence

from torch import Tensor

from .grid_sample import ms_deform_attn_grid_sample
from .locations import sampling_locations as locate
from .loop import ms_deform_attn_loop
from .validate import LevelSizes, as_level_sizes, check_inputs

BACKENDS: dict[str, Callable[[Tensor, list[tuple[int, int]], Tensor, Tensor], Tensor]] = {
    "loop": ms_deform_attn_loop,
    "grid_sample": ms_deform_attn_grid_sample,
}


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: LevelSizes,
    level_start_index: Tensor | Sequence[int] | None,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """Multi-scale deformable attention (paper, equation 3).

    Args:
        value: (B, S, M, D), the levels' tokens one after the other.
        spatial_shapes: (L, 2) integers (h, w), or a list of pairs, which saves a wait for the GPU.
        level_start_index: (L,) index of each level's first token, checked against `spatial_shapes`; None: not checked.
        sampling_locations: (B, Q, M, L, P, 2) as (x, y) in [0, 1] of the padded map; outside reads zero.
        attention_weights: (B, Q, M, L, P), used as they are (the module's softmax makes them sum to 1 over L * P).
        backend: "loop" or "grid_sample"; None takes `DDETR_OP_BACKEND` or else the fastest there is.

    Returns:
        (B, Q, M * D), in value's dtype.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or an unknown back end.
    """
    level_sizes = as_level_sizes(spatial_shapes)
    check_inputs(value, level_sizes, level_start_index, sampling_locations, attention_weights)
    run = BACKENDS[choose_backend(backend)]
    return run(value, level_sizes, sampling_locations, attention_weights)


def ms_deform_attn_fused(
    value: Tensor,
    spatial_shapes: LevelSizes,
    level_start_index: Tensor | Sequence[int] | None,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """The operator from what the module's linear layers give, for when nobody needs locations and weights.

    reference_points (B, Q, L, 2 | 4), sampling_offsets (B, Q, M, L, P, 2), attention_logits (B, Q, M, L, P);
    the other arguments, the result (B, Q, M * D) and the errors are those of `ms_deform_attn`.
    """
    locations = locate(reference_points, sampling_offsets, spatial_shapes)
    weights = attention_logits.flatten(-2).softmax(-1).view_as(attention_logits)
    return ms_deform_attn(value, spatial_shapes, level_start_index, locations, weights, backend=backend)


def choose_backend(requested: str | None = None) -> str:
    """The back end's name: the one asked for, else `DDETR_OP_BACKEND`, else the fastest. ValueError if there is none such."""
    name = requested or os.environ.get("DDETR_OP_BACKEND") or "grid_sample"
    if name not in BACKENDS:
        source = "backend" if requested else "DDETR_OP_BACKEND"
        raise ValueError(f"{source} is {name!r}; choose one of {', '.join(map(repr, BACKENDS))}")
    return name
