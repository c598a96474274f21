"""What the operator accepts, said before any memory is read."""

from collections.abc import Sequence

import torch
from torch import Tensor

LevelSizes = Tensor | Sequence[Sequence[int]]


def as_level_sizes(spatial_shapes: LevelSizes) -> list[tuple[int, int]]:
    """`spatial_shapes` as Python pairs (h, w).

    A tensor on a GPU is copied to the host, which waits for the device; a list of pairs costs nothing.
    """
    if isinstance(spatial_shapes, Tensor):
        if spatial_shapes.ndim != 2 or spatial_shapes.shape[1] != 2:
            raise ValueError(f"spatial_shapes must be (L, 2), one (h, w) a level; got {tuple(spatial_shapes.shape)}")
        if spatial_shapes.is_floating_point() or spatial_shapes.is_complex() or spatial_shapes.dtype == torch.bool:
            raise ValueError(f"spatial_shapes must hold integers; got {spatial_shapes.dtype}")
        spatial_shapes = spatial_shapes.tolist()
    try:
        sizes = [tuple(pair) for pair in spatial_shapes]
    except TypeError:
        raise ValueError(f"spatial_shapes must be (L, 2), or a list of pairs (h, w); got {spatial_shapes!r}") from None
    if not sizes:
        raise ValueError("spatial_shapes is empty: give at least one level (h, w)")
    for level, size in enumerate(sizes):
        if len(size) != 2:
            raise ValueError(f"spatial_shapes[{level}] must be a pair (h, w); got {size}")
        if any(isinstance(side, (float, str, bool)) for side in size):
            raise ValueError(f"spatial_shapes[{level}] must hold integers; got {size}")
        if not (size[0] > 0 and size[1] > 0):
            raise ValueError(f"spatial_shapes[{level}] must be positive (h, w); got {size}")
    return sizes


def check_inputs(
    value: Tensor,
    level_sizes: list[tuple[int, int]],
    level_start_index: Tensor | Sequence[int] | None,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    names: tuple[str, str] = ("sampling_locations", "attention_weights"),
) -> None:
    """Raise ValueError, naming the argument, what was given and what was expected, if inputs do not fit together."""
    _check_tensor("value", value, "(B, S, M, D)", 4)
    _check_tensor(names[0], sampling_locations, "(B, Q, M, L, P, 2)", 6)
    _check_tensor(names[1], attention_weights, "(B, Q, M, L, P)", 5)
    B, S, M, _ = value.shape
    L = len(level_sizes)
    _, Q, _, _, P, _ = sampling_locations.shape
    _check_shape(names[0], sampling_locations, (B, Q, M, L, P, 2), "(B, Q, M, L, P, 2)")
    _check_shape(names[1], attention_weights, (B, Q, M, L, P), "(B, Q, M, L, P)")
    _check_device(names[0], sampling_locations, value)
    _check_device(names[1], attention_weights, value)
    if P < 1:
        raise ValueError(f"{names[0]} has no points (P = 0)")
    check_levels(level_sizes, level_start_index, S)


def check_fused_inputs(
    value: Tensor,
    level_sizes: list[tuple[int, int]],
    level_start_index: Tensor | Sequence[int] | None,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> None:
    """The same for the fused form, whose offsets and logits have the shapes of locations and weights."""
    names = ("sampling_offsets", "attention_logits")
    check_inputs(value, level_sizes, level_start_index, sampling_offsets, attention_logits, names)
    _check_tensor("reference_points", reference_points, "(B, Q, L, 2) or (B, Q, L, 4)", 4)
    B, Q, L = value.shape[0], sampling_offsets.shape[1], len(level_sizes)
    size = 4 if reference_points.shape[-1] == 4 else 2
    _check_shape("reference_points", reference_points, (B, Q, L, size), "(B, Q, L, 2 | 4)")
    _check_device("reference_points", reference_points, value)


def check_levels(
    level_sizes: list[tuple[int, int]], level_start_index: Tensor | Sequence[int] | None, num_tokens: int
) -> None:
    """Raise ValueError unless the levels fill `num_tokens` exactly and start where they should."""
    total = sum(h * w for h, w in level_sizes)
    if total != num_tokens:
        raise ValueError(
            f"value has S = {num_tokens} tokens, but spatial_shapes {level_sizes} add up to {total}: "
            "S must be the sum of h * w over the levels"
        )
    if level_start_index is None:
        return
    is_list = isinstance(level_start_index, (list, tuple))
    starts = list(level_start_index) if is_list else torch.as_tensor(level_start_index).tolist()
    if starts != level_starts(level_sizes):
        raise ValueError(
            f"level_start_index is {starts}, but levels of sizes {level_sizes} start at {level_starts(level_sizes)}"
        )


def level_starts(level_sizes: Sequence[tuple[int, int]]) -> list[int]:
    """The index of each level's first token, L entries: 0, h0*w0, h0*w0 + h1*w1, ..."""
    starts = [0]
    for h, w in level_sizes[:-1]:
        starts.append(starts[-1] + h * w)
    return starts


def _check_tensor(name: str, tensor: Tensor, letters: str, ndim: int) -> None:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a tensor {letters}; got {type(tensor).__name__}")
    if tensor.ndim != ndim:
        raise ValueError(f"{name} must be {letters}; got shape {tuple(tensor.shape)}")
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must hold floating-point numbers; got {tensor.dtype}")


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...], letters: str) -> None:
    if tuple(tensor.shape) != expected:
        raise ValueError(
            f"{name} must be {letters} = {expected} to fit value and spatial_shapes; got {tuple(tensor.shape)}"
        )


def _check_device(name: str, tensor: Tensor, value: Tensor) -> None:
    if tensor.device != value.device:
        raise ValueError(f"{name} is on {tensor.device}, value on {value.device}: put them on one device")
