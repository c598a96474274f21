"""What a detector finds on some scenes, beside what is there. A pure function: looks in, figure out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..data.coco import coco_results
from ..data.toycoco import scenes_as_coco
from ..engine import error_breakdown
from ..engine.errors import CORRECT
from .figures import Figure, plain_text
from .scenes import Mark, Scene, draw_scenes


def draw(looks: Mapping[str, Any], threshold: float = 0.3, most: int = 3) -> Figure:
    """A row of scenes for each look (see `ddetr.course.clinic.Look`), under its name; detections above the threshold.

    ValueError if the looks are of different numbers of scenes, or of none.
    """
    counts = {len(look.scenes[:most]) for look in looks.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"each look must show the same scenes; got {sorted(counts) or 'none'} of them")
    panels = [
        Scene(scene.image, marks, plain_text(name))
        for name, look in looks.items()
        for scene, marks in zip(look.scenes[:most], _marks(look, threshold), strict=False)
    ]
    return draw_scenes(panels, columns=counts.pop())


def _marks(look: Any, threshold: float) -> list[list[Mark]]:
    """For each scene every object and every detection, right or wrong."""
    results = []
    for number, found in enumerate(look.detections):
        results += coco_results(found, number, look.categories)
    truth = scenes_as_coco(look.scenes, look.categories)
    breakdown = error_breakdown(truth, results, range(len(look.scenes)), threshold)
    marks: list[list[Mark]] = [[] for _ in look.scenes]
    for outcome in (*breakdown.objects, *breakdown.detections):
        right, (x, y, w, h) = outcome.kind == CORRECT, outcome.bbox
        role, caption = "truth" if right else "miss", ""
        if outcome.is_detection:
            name = truth.cats[outcome.category_id]["name"]
            role, caption = "hit" if right else "false alarm", f"{name} {outcome.score:.2f}"
        marks[outcome.image_id].append(Mark(role, [x, y, x + w, y + h], caption))
    return marks
