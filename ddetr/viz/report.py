"""The figures of one evaluation, as `python -m ddetr eval --figures` writes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..data import CocoDetection
from ..engine import ErrorBreakdown, Evaluation
from ..engine.errors import CORRECT, CROWD
from .evaluation import error_bars, precision_recall_curves, score_bars
from .figures import Figure
from .scenes import close_ups, draw_scenes, image_scenes
from .training import read_metrics, training_curves


def evaluation_figures(
    dataset: CocoDetection, evaluation: Evaluation, breakdown: ErrorBreakdown, log: str | Path | None = None
) -> Iterator[tuple[str, Figure]]:
    """Names and figures: scores, errors, the first images, the largest misses, the false alarms of highest score.

    `log` is the metrics.jsonl of the run that made the model, None if there is none. DataError for pictures that
    cannot be read.
    """
    yield "precision_recall", precision_recall_curves(evaluation.precision_recall)
    yield "categories", score_bars(sorted(evaluation.per_category, key=lambda group: -group.ap))
    yield "sizes", score_bars(evaluation.per_size)
    yield "errors", error_bars(breakdown)
    yield "images", draw_scenes(image_scenes(dataset, breakdown, evaluation.image_ids[:6]))
    misses = sorted(
        (outcome for outcome in breakdown.objects if outcome.kind != CORRECT), key=lambda o: -o.bbox[2] * o.bbox[3]
    )
    yield "misses", draw_scenes(close_ups(dataset, breakdown, misses[:12]), columns=4)
    alarms = sorted(
        (outcome for outcome in breakdown.detections if outcome.kind not in (CORRECT, CROWD)), key=lambda o: -o.score
    )
    yield "false_alarms", draw_scenes(close_ups(dataset, breakdown, alarms[:12]), columns=4)
    if log is not None:
        yield "training", training_curves(read_metrics(log))
