"""Is what the reader's function gave what it should give, and if not, where do the two part?"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

TOLERANCE = 1e-4
"""Absolute and relative: wide enough for another order of additions, far below any mistake."""


LONG = 16
"""Of a sequence longer than this only the first item that differs is shown."""


class Difference(NamedTuple):
    """Where two values part, as two phrases, and a hint if the difference is of a common kind."""

    expected: str
    got: str
    hint: str = ""


def difference(expected: Any, got: Any) -> Difference | None:
    """The first difference between two values, tensors or sequences of such, or None. Lists and tuples are alike."""
    if isinstance(expected, Tensor):
        return _tensor_difference(expected, got)
    if isinstance(got, Tensor) and got.ndim == 0:
        got = got.item()
    if isinstance(expected, list | tuple):
        return _sequence_difference(expected, got)
    if isinstance(expected, int | float) and isinstance(got, int | float):
        close = abs(expected - got) <= TOLERANCE * (1 + abs(expected))
        return None if close else Difference(f"{expected:.6g}", f"{got:.6g}")
    return None if type(expected) is type(got) and expected == got else Difference(in_words(expected), in_words(got))


def in_words(value: Any) -> str:
    """A value for a sentence: a tensor by its shape and dtype, anything else as Python writes it, cut short."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
        return f"{len(value)} values: " + "; ".join(in_words(item) for item in value[:4])
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "..."


def _tensor_difference(expected: Tensor, got: Any) -> Difference | None:
    if not isinstance(got, Tensor):
        return Difference(in_words(expected), f"{in_words(got)}, a {type(got).__name__}", "Return a tensor.")
    got = got.detach().cpu()
    if expected.shape != got.shape:
        hint = ""
        if expected.numel() == got.numel():
            hint = "As many numbers as there should be, in another shape: is an axis swapped, or one too many?"
        return Difference(in_words(expected), in_words(got), hint)
    if _kind(expected) != _kind(got):
        hint = f"The numbers should be {_kind(expected)}, yours are {_kind(got)}."
        return Difference(in_words(expected), in_words(got), hint)
    close = torch.isclose(got.double(), expected.double(), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    if close.all():
        return None
    index = tuple((~close).nonzero()[0].tolist())
    place = f"at {list(index)}, " if index else ""
    return Difference(
        f"{place}{expected[index].item():.6g}",
        f"{got[index].item():.6g}",
        _common_kind(expected.double(), got.double()),
    )


def _sequence_difference(expected: list[Any] | tuple[Any, ...], got: Any) -> Difference | None:
    if isinstance(got, Tensor):
        got = got.tolist()
    if not isinstance(got, list | tuple) or len(got) != len(expected):
        return Difference(in_words(expected), in_words(got))
    for index, (ours, theirs) in enumerate(zip(expected, got, strict=True)):
        found = difference(ours, theirs)
        if found is None:
            continue
        if any(isinstance(item, Tensor) for item in expected) or len(expected) > LONG:
            return Difference(f"in item {index}, {found.expected}", found.got, found.hint)
        return Difference(in_words(expected), in_words(got), found.hint)
    return None


def _kind(tensor: Tensor) -> str:
    if tensor.dtype == torch.bool:
        return "true or false"
    return "floating-point" if tensor.is_floating_point() else "whole"


def _common_kind(expected: Tensor, got: Tensor) -> str:
    def same(a: Tensor, b: Tensor) -> bool:
        return torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)

    if not got.isfinite().all():
        return "Some of your numbers are not finite: is something divided by zero?"
    shift = got - expected
    if expected.numel() > 1 and same(shift, shift.flatten()[0].expand_as(shift)):
        return f"All your numbers are off by {shift.flatten()[0]:+.4g}."
    if expected.ndim > 1 and expected.shape[-1] > 1 and same(got, expected.flip(-1)):
        return "Your last axis runs the other way round: (h, w) where (w, h) is asked, or y before x?"
    if same(got.flatten().sort().values, expected.flatten().sort().values):
        return "All the right numbers, in another order: which axis comes first?"
    return ""
