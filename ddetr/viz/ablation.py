"""A detector with a part taken out: how much it still finds, and how much it makes up."""

from __future__ import annotations

from collections.abc import Mapping

from ..engine.errors import CORRECT, CROWD, DUPLICATE, ErrorBreakdown
from .figures import Figure, label_axes, plain_text

_FOUND, _DUPLICATE, _WRONG = "#0072B2", "#E69F00", "#999999"


def ablation_bars(breakdowns: Mapping[str, ErrorBreakdown]) -> Figure:
    """For each variant, by name: how many of the objects it found, and how many of its detections were wrong.

    ValueError if there is none, or if they were not judged on the same objects.
    """
    counts = {len(breakdown.objects) for breakdown in breakdowns.values()}
    if len(counts) != 1:
        raise ValueError(f"the variants must be judged on the same objects; got {sorted(counts)} of them")
    (objects,) = counts
    names = list(breakdowns)
    found = [breakdown.object_counts()[CORRECT] for breakdown in breakdowns.values()]
    kinds = [breakdown.detection_counts() for breakdown in breakdowns.values()]
    again = [kind[DUPLICATE] for kind in kinds]
    wrong = [sum(kind.values()) - kind[CORRECT] - kind[CROWD] - kind[DUPLICATE] for kind in kinds]

    figure = Figure(figsize=(9, 1.2 + 0.33 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rows = [plain_text(name, 60) for name in names]
    left.bar_label(left.barh(rows, found, color=_FOUND), fontsize=8, padding=2)
    left.axvline(objects, color="#333333", linewidth=1, linestyle="dashed")
    left.set(xlim=(0, 1.12 * max(objects, 1)), title="objects found")
    right.barh(rows, again, color=_DUPLICATE, hatch="///", edgecolor="white", label="of an object found already")
    bars = right.barh(rows, wrong, left=again, color=_WRONG, label="wrong otherwise")
    right.bar_label(bars, [f"{a} + {w}" for a, w in zip(again, wrong, strict=True)], fontsize=8, padding=2)
    most = max(a + w for a, w in zip(again, wrong, strict=True))
    right.set(xlim=(0, 1.25 * max(most, 1)), title="detections that are wrong")
    figure.legend(*right.get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside lower right", ncols=2)
    left.invert_yaxis()
    for axes, x in ((left, f"objects (of {objects}, dashed)"), (right, "detections")):
        label_axes(axes, x, "")
        axes.title.set_fontsize(9)
    left.tick_params(axis="y", labelsize=8)
    figure.alt = f"Of {objects} objects: " + "; ".join(
        f"{name}: {f} found, {a} duplicates, {w} detections wrong otherwise"
        for name, f, a, w in zip(names, found, again, wrong, strict=True)
    )
    return figure
