"""`python -m ddetr eval`."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data import CocoDetection, Resolution, eval_transform
from ..data.coco_manifest import fingerprint
from ..engine import (
    ErrorBreakdown,
    Evaluation,
    error_breakdown,
    evaluate,
    format_errors,
    format_groups,
    format_metrics,
    read_predictions,
    score,
    write_predictions,
)
from ..files import replacing
from .common import (
    data_arguments,
    fraction,
    model_arguments,
    not_negative,
    open_dataset,
    output_folder,
    positive,
    pretrained_model,
)

logger = logging.getLogger(__name__)


def add_arguments(add: Callable) -> None:
    """The command's options."""
    model_arguments(add)
    data_arguments(add)
    add("--weights", metavar="W", help="a file, a folder, or a name on the Hugging Face hub")
    add("--predictions", metavar="FILE", help="score these again, instead of running a model: an earlier --out, or a "
        "list in COCO's results format")  # fmt: skip
    add("--split", choices=("train", "val"), default="val", help="of --data; default: %(default)s")
    add("--out", metavar="FILE", help="scores and detections; default: evaluation.json, with --predictions none")
    add("--figures", metavar="DIR", help="write curves, errors, misses and false alarms there, as PNG")
    add("--threshold", type=fraction, default=0.5, help="lowest score in the table of errors; default: %(default)s")
    add("--batch-size", type=positive, default=1, help="images of one size share a batch; default: %(default)s")
    add("--workers", type=not_negative, default=0, help="processes that load images; default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """COCO's twelve numbers on a data set, by category and size, and what kinds of errors there are."""
    _check_options(args)
    if args.out:
        output_folder(Path(args.out).parent)
    figures = output_folder(args.figures, "--figures") if args.figures else None
    dataset, evaluation, about = _rescore(args) if args.predictions else _detect_and_score(args)
    breakdown = error_breakdown(dataset.coco, evaluation.results, evaluation.image_ids, args.threshold)
    for table in (
        format_metrics(evaluation.metrics),
        format_groups(evaluation.per_category),
        format_groups(evaluation.per_size),
        format_errors(breakdown),
    ):
        print(table, end="\n\n")
    if args.out:
        about |= {"annotations": dataset.annotation_file.name, "annotations_sha256": _fingerprint(dataset)}
        write_predictions(args.out, evaluation, dataset.categories, **about)
        print(f"scores and detections in {args.out}")
    if figures:
        _write_figures(figures, dataset, evaluation, breakdown, args)
    return 0


def _check_options(args: argparse.Namespace) -> None:
    if bool(args.weights) == bool(args.predictions):
        raise ValueError("give --weights to run a model, or --predictions to score a file again" + (
            ", not both" if args.weights else ""
        ))  # fmt: skip
    if args.predictions:
        for name in ("size", "set", "limit"):
            if getattr(args, name) is not None:
                raise ValueError(f"--{name} goes with --weights: no model is run for --predictions")
        if args.out and Path(args.out).resolve() == Path(args.predictions).resolve():
            raise ValueError(f"--out {args.out} would overwrite the predictions")
    else:
        args.out = args.out or "evaluation.json"
    if args.out and Path(args.out).is_dir():
        raise ValueError(f"--out {args.out} is a folder; it must be a file for the scores and detections")
    if args.figures and importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--figures needs matplotlib: pip install matplotlib, or leave --figures out")


def _detect_and_score(args: argparse.Namespace) -> tuple[CocoDetection, Evaluation, dict[str, Any]]:
    """The data set, what was found on it, and what the file of predictions should say about the run."""
    model = pretrained_model(args)
    test_size = model.config.test_size
    transform = eval_transform(Resolution.around(test_size))
    dataset = open_dataset(args, args.split, transform, categories=model.categories, limit=args.limit)
    started = time.monotonic()
    evaluation = evaluate(model, dataset, batch_size=args.batch_size, workers=args.workers)
    print(f"{evaluation.num_images} images in {time.monotonic() - started:.0f} s")
    return dataset, evaluation, {"weights": str(args.weights), "test_size": test_size}


def _rescore(args: argparse.Namespace) -> tuple[CocoDetection, Evaluation, dict[str, Any]]:
    """The same, from a file; neither loads a model nor reads a picture."""
    predictions = read_predictions(args.predictions)
    dataset = open_dataset(args, args.split, None, categories=predictions.categories, limit=None)
    predictions.check_belongs_to(dataset.image_ids, dataset.label_of, dataset.annotation_file)
    if predictions.annotations_sha256 not in (None, _fingerprint(dataset)):  # another ToyCOCO has the same ids
        logger.warning(
            "%s has other boxes than the annotations that these predictions were first scored on: is it the same data?",
            dataset.annotation_file,
        )
    evaluation = score(dataset.coco, predictions.results, predictions.image_ids or dataset.image_ids)
    print(f"{evaluation.num_images} images, {len(evaluation.results)} detections from {args.predictions}")
    return dataset, evaluation, {"predictions": str(args.predictions)}


def _fingerprint(dataset: CocoDetection) -> str:
    return fingerprint(dataset.coco.dataset["annotations"])


def _write_figures(
    folder: Path, dataset: CocoDetection, evaluation: Evaluation, breakdown: ErrorBreakdown, args: argparse.Namespace
) -> None:
    from ..viz.report import evaluation_figures  # matplotlib comes with the course only

    log = Path(args.weights) / "metrics.jsonl" if args.weights else None  # there, if the weights are a run's folder
    for name, figure in evaluation_figures(dataset, evaluation, breakdown, log if log and log.is_file() else None):
        with replacing(folder / f"{name}.png") as file:
            figure.savefig(file, format="png", dpi=150)
        print(f"{folder / name}.png")
