"""The operator's two entrances. They validate, choose a back end and call it."""

import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import library, native
from .grid_sample import ms_deform_attn_grid_sample
from .locations import sampling_locations as locate
from .locations import softmax_weights
from .loop import ms_deform_attn_loop
from .validate import LevelSizes, as_level_sizes, check_fused_inputs, check_inputs

BACKENDS: dict[str, Callable[[Tensor, list[tuple[int, int]], Tensor, Tensor], Tensor]] = {
    "loop": ms_deform_attn_loop,
    "grid_sample": ms_deform_attn_grid_sample,
    "cpu": lambda value, *rest: _run_native(library.ops.ms_deform_attn, value, *rest),
    "cuda": lambda value, *rest: _run_native(library.ops.ms_deform_attn, value, *rest),
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
        backend: "loop", "grid_sample", "cpu" or "cuda"; None takes `DDETR_OP_BACKEND` or else the fastest there is.

    Returns:
        (B, Q, M * D), in value's dtype.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or an unknown back end.
        RuntimeError: the back end asked for is not there; the message says why.
    """
    level_sizes = as_level_sizes(spatial_shapes)
    check_inputs(value, level_sizes, level_start_index, sampling_locations, attention_weights)
    run = BACKENDS[choose_backend(backend, value.device.type)]
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
    `value`, `spatial_shapes`, `level_start_index`, `backend`, the result (B, Q, M * D) and the errors are those of
    `ms_deform_attn`.
    """
    level_sizes = as_level_sizes(spatial_shapes)
    check_fused_inputs(value, level_sizes, level_start_index, reference_points, sampling_offsets, attention_logits)
    name = choose_backend(backend, value.device.type)
    if name in native.NATIVE:
        run = library.ops.ms_deform_attn_fused
        return _run_native(run, value, level_sizes, reference_points, sampling_offsets, attention_logits)
    locations = locate(reference_points, sampling_offsets, spatial_shapes)
    return BACKENDS[name](value, level_sizes, locations, softmax_weights(attention_logits))


def available_backends() -> dict[str, str | None]:
    """Every back end's name, with None if it can be used here or else a sentence that says why not."""
    return {name: native.unavailable(name) if name in native.NATIVE else None for name in BACKENDS}


def choose_backend(requested: str | None = None, device_type: str = "cpu") -> str:
    """The back end's name: `requested`, else `DDETR_OP_BACKEND`, else the fastest for tensors on `device_type`.

    Raises:
        ValueError: there is no back end of that name.
        RuntimeError: it is not available, or not for tensors on that device.
    """
    name = requested or os.environ.get("DDETR_OP_BACKEND")
    if name is None or name == "":
        return _fastest(device_type)
    source = "backend" if requested else "DDETR_OP_BACKEND"
    if name not in BACKENDS:
        raise ValueError(f"{source} is {name!r}; choose one of {', '.join(map(repr, BACKENDS))}")
    if name in native.NATIVE:
        reason = _why_not(name)
        if reason is None and name != device_type:
            reason = f"the tensors are on {device_type}"
        if reason is not None:
            raise RuntimeError(f"{source} is {name!r}, which cannot serve: {reason}")
    return name


def _fastest(device_type: str) -> str:
    # ONNX has no such operator, but it has GridSample.
    exporting = torch.onnx.is_in_onnx_export()
    if device_type in native.NATIVE and not exporting and _why_not(device_type) is None:
        return device_type
    return "grid_sample"


@torch.compiler.assume_constant_result
def _why_not(name: str) -> str | None:
    return native.unavailable(name)


def _run_native(
    operator: Callable[..., Tensor], value: Tensor, level_sizes: list[tuple[int, int]], *sampling: Tensor
) -> Tensor:
    # The kernels add up, and place points, at least in float32 (see grid_sample).
    dtype = torch.promote_types(value.dtype, torch.float32)
    flat = [size for pair in level_sizes for size in pair]
    return operator(value, flat, *(tensor.to(dtype) for tensor in sampling))
