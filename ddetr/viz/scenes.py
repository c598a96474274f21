"""Predictions against truth on the pictures themselves: whole images, and close-ups of misses and false alarms."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox

from ..data import CocoDetection
from ..engine import ErrorBreakdown, Outcome
from ..engine.errors import CORRECT, CROWD, MISSED
from .figures import INK, Figure, dark_edge, plain_text

# What a box is -> colour, line, width. Told apart by the line alone, too.
ROLES = {
    "truth": ("white", (0, (1, 1.5)), 1.3),
    "hit": ("#56B4E9", "solid", 1.8),
    "miss": ("#F0E442", (0, (5, 2)), 2.2),
    "false alarm": ("#FF8A4A", (0, (6, 2, 1, 2)), 2.2),
}


class Mark(NamedTuple):
    """A box [x1, y1, x2, y2] in pixels of the picture, one of `ROLES`, and what stands beside it, if anything."""

    role: str
    box: list[float]
    caption: str = ""


class Scene(NamedTuple):
    """A picture (H, W, 3) uint8 with its marks; `view` [x1, y1, x2, y2] is the part to show, None for all of it."""

    picture: np.ndarray
    marks: list[Mark]
    title: str
    view: list[float] | None = None


def image_scenes(dataset: CocoDetection, breakdown: ErrorBreakdown, image_ids: Iterable[int]) -> list[Scene]:
    """Whole images with every object and every detection of `breakdown`. Pictures that were skipped are left out.

    Raises:
        DataError: a picture cannot be read, and `dataset` does not skip those.
        ValueError: an image id that `dataset` does not have.
    """
    scenes = []
    for image_id in image_ids:
        outcomes = [o for o in (*breakdown.objects, *breakdown.detections) if o.image_id == image_id]
        scene = _scene(dataset, image_id, [_mark(dataset, outcome) for outcome in outcomes])
        scenes += [scene] if scene else []
    return scenes


def close_ups(dataset: CocoDetection, breakdown: ErrorBreakdown, cases: Iterable[Outcome]) -> list[Scene]:
    """The surroundings of each of `cases`, out of `breakdown`: the case, what it is held against, and the other truth.

    Raises as `image_scenes`.
    """
    scenes = []
    for case in cases:
        truth = [o.bbox for o in breakdown.objects if o.image_id == case.image_id]
        marks = [Mark("truth", bbox) for bbox in truth if bbox not in (case.bbox, case.other_bbox)]
        marks += [_counterpart(dataset, case)] if case.other_bbox else []
        scene = _scene(dataset, case.image_id, [*marks, _mark(dataset, case)])
        if scene:
            scenes.append(scene._replace(view=_around(scene.marks[-1].box, scene.picture.shape[:2])))
    return scenes


def draw_scenes(scenes: Sequence[Scene], columns: int = 3) -> Figure:
    """Pictures in a grid, in pixels; each line of the legend is a kind of box."""
    rows = -(-len(scenes) // columns)
    figure = Figure(figsize=(max(3.2 * columns, 4.4), 0.6 + 2.7 * max(rows, 0.3)), layout="constrained")
    if not scenes:
        figure.text(0.5, 0.5, "nothing to show", ha="center", va="center", fontsize=10)
        figure.alt = "No pictures: nothing to show."
        return figure
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, scene in zip(grid, scenes, strict=False):
        _draw(axes, scene)
    for axes in grid[len(scenes) :]:
        axes.axis("off")
    figure.supxlabel("x (pixels)", fontsize=8)
    figure.supylabel("y (pixels)", fontsize=8)
    lines = [
        Line2D([], [], color=colour, linestyle=line, linewidth=width, path_effects=dark_edge(width))
        for colour, line, width in ROLES.values()
    ]
    names = ("truth", "detection, correct", "truth, not found", "detection, wrong")
    figure.legend(
        lines,
        names,
        loc="outside upper center",
        ncols=4 if columns > 1 else 2,
        fontsize=8 if columns > 1 else 7,  # a single picture is narrower than the legend at full size
        frameon=False,
        handlelength=4,
        columnspacing=2 if columns > 1 else 1,
    )
    figure.draw_without_rendering()  # from here on it is known where everything lies
    for axes in grid[: len(scenes)]:
        _unstack(axes)
    figure.compact = True
    figure.alt = f"Pictures with boxes. {'; '.join(map(_in_words, scenes))}."
    return figure


def _in_words(scene: Scene) -> str:
    counts = {role: sum(mark.role == role for mark in scene.marks) for role in ROLES}
    return f"{plain_text(scene.title, 40)}: {', '.join(f'{role} {count}' for role, count in counts.items() if count)}"


def _draw(axes: Axes, scene: Scene) -> None:
    axes.imshow(scene.picture)
    H, W = scene.picture.shape[:2]
    x1, y1, x2, y2 = scene.view or (0, 0, W, H)
    axes.set(xlim=(x1, x2), ylim=(y2, y1))
    for mark in scene.marks:
        colour, line, width = ROLES[mark.role]
        left, top, right, bottom = mark.box
        axes.add_patch(
            Rectangle(
                (left, top), right - left, bottom - top, fill=False, edgecolor=colour, linestyle=line,
                linewidth=width, path_effects=dark_edge(width),
            )
        )  # fmt: skip
        if mark.caption:
            # The truth's name stands at the bottom, where a detection of the same place leaves room.
            y, align = (bottom, "bottom") if mark.role in ("truth", "miss") else (top, "top")
            axes.text(
                min(max(left, x1), x2), min(max(y, y1), y2), plain_text(mark.caption, 40), fontsize=6.5, va=align,
                color=INK, clip_on=True, bbox={"facecolor": colour, "edgecolor": "none", "pad": 1, "alpha": 0.9},
            )  # fmt: skip
    axes.set_title(plain_text(scene.title, 40), fontsize=8)
    axes.tick_params(labelsize=6)


def _unstack(axes: Axes) -> None:
    """Move a caption that lies on an earlier one down to below it, as long as that is on the picture."""
    placed: list[Bbox] = []
    for text in axes.texts:
        extent = here = Bbox(text.get_bbox_patch().get_window_extent())
        while below := [other.y0 for other in placed if extent.overlaps(other)]:
            extent = extent.translated(0, min(below) - extent.y1 - 1)
        if extent.y0 < axes.bbox.y0:
            extent = here
        x, y = axes.transData.transform(text.get_position())
        text.set_position(axes.transData.inverted().transform((x, y + extent.y0 - here.y0)))
        placed.append(extent)


def _mark(dataset: CocoDetection, outcome: Outcome) -> Mark:
    """The outcome's own box, still in the annotation file's frame and as [x, y, w, h]."""
    name = _name(dataset, outcome.category_id)
    if outcome.is_detection:
        scored = f"{name} {outcome.score:.2f}"
        if outcome.kind == CORRECT:
            return Mark("hit", outcome.bbox, scored)
        return Mark("hit" if outcome.kind == CROWD else "false alarm", outcome.bbox, f"{outcome.kind}: {scored}")
    if outcome.kind == CORRECT:
        return Mark("truth", outcome.bbox)
    return Mark("miss", outcome.bbox, f"missed: {name}" if outcome.kind == MISSED else name)


def _counterpart(dataset: CocoDetection, outcome: Outcome) -> Mark:
    """What the outcome is held against, in the same frame."""
    name = _name(dataset, outcome.other_category_id)
    if outcome.is_detection:
        return Mark("truth", outcome.other_bbox, name)
    role = "hit" if outcome.kind == CORRECT else "false alarm"
    return Mark(role, outcome.other_bbox, f"{outcome.kind}: {name} {outcome.score:.2f}")


def _scene(dataset: CocoDetection, image_id: int, marks: list[Mark]) -> Scene | None:
    if image_id not in dataset.image_ids:
        raise ValueError(f"{dataset.annotation_file} has no image id {image_id}")
    as_it_lies = copy.copy(dataset)
    as_it_lies.transform = lambda *sample: sample
    sample = as_it_lies[dataset.image_ids.index(image_id)]
    if sample is None:
        return None
    picture, target = sample
    boxes = torch.tensor([mark.box for mark in marks], dtype=torch.float32).reshape(-1, 4)
    boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
    boxes = target["orientation"].apply(boxes, target["orig_size"]).tolist()
    placed = [mark._replace(box=box) for mark, box in zip(marks, boxes, strict=True)]
    return Scene(picture.permute(1, 2, 0).numpy(), placed, f"image id {image_id}")


def _around(box: list[float], size: tuple[int, int]) -> list[float]:
    """A square of twice the box's longer side about its centre, at least 32 pixels, moved into the picture (h, w)."""
    H, W = size
    side = max(2 * (box[2] - box[0]), 2 * (box[3] - box[1]), 32)
    view = []
    for low, high, limit in ((box[0], box[2], W), (box[1], box[3], H)):
        start = min(max((low + high - side) / 2, 0), max(limit - side, 0))
        view.append((start, min(start + side, limit)))
    (x1, x2), (y1, y2) = view
    return [x1, y1, x2, y2]


def _name(dataset: CocoDetection, category_id: int) -> str:
    return str(dataset.categories[dataset.label_of[category_id]]["name"])
