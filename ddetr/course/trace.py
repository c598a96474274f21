"""Every tensor from pixels to boxes as a table that says what its axes are and which page explains it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models import DeformableDETR
from ..models.trace import Trace, in_columns
from .series import SERIES

# Stage and name as a pattern -> the page that explains it, and its axes. "point" is (x, y) or a box (cx, cy, w, h),
# as the last axis says; N stands for S in the encoder and for Q in the decoder.
_EXPLAINED: tuple[tuple[str, int, tuple[str, ...]], ...] = (
    (r"pre_transformer\.images", 3, ("B", "3", "H", "W")),
    (r"pre_transformer\.mask", 3, ("B", "H", "W")),
    (r"backbone\..*", 1, ("B", "C", "h", "w")),
    (r"neck\..*", 2, ("B", "C", "h", "w")),
    (r"multi_scale\.mask_level\d+", 3, ("B", "h", "w")),
    (r"multi_scale\.(tokens|pos)", 3, ("B", "S", "C")),
    (r"multi_scale\.mask", 3, ("B", "S")),
    (r"multi_scale\.spatial_shapes", 3, ("L", "(h, w)")),
    (r"multi_scale\.level_start_index", 3, ("L",)),
    (r"multi_scale\.valid_ratios", 3, ("B", "L", "(w, h)")),
    (r"encoder\.reference_points", 4, ("B", "S", "L", "point")),
    (r"encoder\.memory", 7, ("B", "S", "C")),
    (r".*\.attention_reference_points", 4, ("B", "N", "L", "point")),
    (r".*\.value", 6, ("B", "S", "M", "D")),
    (r".*\.sampling_(offsets|locations)", 5, ("B", "N", "M", "L", "P", "(x, y)")),
    (r".*\.attention_weights", 5, ("B", "N", "M", "L", "P")),
    (r".*\.attention_output", 6, ("B", "N", "C")),
    (r"encoder\.layer\d+\.(attention_query|output)", 7, ("B", "S", "C")),
    (r"decoder\.layer\d+\.(attention_query|after_self_attn|output)", 8, ("B", "Q", "C")),
    (r"pre_decoder\.(query|query_pos)", 8, ("B", "Q", "C")),
    (r"pre_decoder\.reference_points", 8, ("B", "Q", "point")),
    (r"pre_decoder\.enc_logits", 9, ("B", "S", "K")),
    (r"pre_decoder\.enc_boxes", 9, ("B", "S", "point")),
    (r"pre_decoder\.proposal_index", 9, ("B", "Q")),
    (r"decoder\.reference_points\d+", 9, ("B", "Q", "point")),
    (r"heads\.hidden_states", 8, ("layers", "B", "Q", "C")),
    (r"heads\.logits", 9, ("layers", "B", "Q", "K")),
    (r"heads\.boxes", 9, ("layers", "B", "Q", "point")),
    (r"detections\d+\.boxes", 9, ("n", "(x1, y1, x2, y2)")),
    (r"detections\d+\.(scores|labels)", 9, ("n",)),
)

COLUMNS = ("stage", "name", "axes", "shape", "dtype", "page")


class TraceRow(NamedTuple):
    """One tensor, in words: `page` is the number of the page that explains it, `link` that page's file."""

    stage: str
    name: str
    axes: str
    shape: str
    dtype: str
    page: str
    link: str


class TraceTable(Sequence[TraceRow]):
    """The rows of a trace, in order; prints as a table, and in a notebook folds the layers that repeat.

    Attributes:
        trace: the tensors themselves: `table.trace["encoder.memory"]`.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.rows = [_row(entry.stage, entry.name, entry.tensor) for entry in trace]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __str__(self) -> str:
        return in_columns([COLUMNS, *(row[:-1] for row in self)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "\n".join(_stage_html(stage, rows) for stage, rows in self._stages())

    def _stages(self) -> Iterator[tuple[str, list[TraceRow]]]:
        """Neighbouring rows of one stage; an encoder's or decoder's layers stay apart."""
        for stage, rows in groupby(self, key=lambda row: row.stage):
            yield stage, list(rows)


def trace_table(model: DeformableDETR, images: Sequence[Tensor]) -> TraceTable:
    """Run `model` once and list every tensor from pixels to boxes.

    Args:
        model: any variant; its mode is put back afterwards.
        images: (3, H, W) normalised tensors of any sizes, as the model takes them.

    Raises:
        ValueError: images that the model would refuse.
    """
    return TraceTable(model.trace(images))


def explain(stage: str, name: str) -> tuple[int, tuple[str, ...]]:
    """The number of the page that explains a tensor, and its axes. KeyError for one that no trace has."""
    for pattern, page, axes in _EXPLAINED:
        if re.fullmatch(pattern, f"{stage}.{name}"):
            return page, axes
    raise KeyError(f"no page explains {stage}.{name}")


def _row(stage: str, name: str, tensor: Tensor) -> TraceRow:
    page, axes = explain(stage, name)
    words = {"N": "S" if stage.startswith("encoder") else "Q"}
    if axes[-1] == "point":
        words["point"] = "(x, y)" if tensor.shape[-1] == 2 else "(cx, cy, w, h)"
    return TraceRow(
        stage,
        name,
        " ".join(words.get(axis, axis) for axis in axes),
        " x ".join(map(str, tensor.shape)),
        _dtype(tensor.dtype),
        f"{page:02d}",
        f"{SERIES[page]}.ipynb",
    )


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _stage_html(stage: str, rows: Sequence[TraceRow]) -> str:
    """A stage's table, under a line to unfold it by; of layers that look alike only the first is open."""
    opened = "" if re.search(r"\.layer[1-9]|^detections[1-9]", stage) else " open"
    pages = ", ".join(sorted({row.page for row in rows}))
    cells = "".join(_row_html(row) for row in rows)
    widths = zip(COLUMNS[1:], ("15em", "12em", "12em", "4em", "3em"), strict=True)
    head = "".join(f'<th style="text-align:left;min-width:{width}">{column}</th>' for column, width in widths)
    count = f"{len(rows)} tensor{'s' if len(rows) > 1 else ''}"
    return (
        f"<details{opened}><summary><b>{html.escape(stage)}</b>: {count}, "
        f"page{'s' if ',' in pages else ''} {pages}</summary>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table></details>"
    )


def _row_html(row: TraceRow) -> str:
    texts = [html.escape(text) for text in (row.name, row.axes, row.shape, row.dtype)]
    cells = "".join(f'<td style="text-align:left">{text}</td>' for text in texts)
    return f'<tr>{cells}<td><a href="{html.escape(row.link, quote=True)}">{row.page}</a></td></tr>'
