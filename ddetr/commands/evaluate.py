"""`python -m ddetr eval`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from ..data import Resolution, eval_transform
from ..engine import evaluate, format_metrics
from .common import (
    data_arguments,
    model_arguments,
    not_negative,
    open_dataset,
    output_folder,
    positive,
    pretrained_model,
    write_json,
)


def add_arguments(add: Callable) -> None:
    """The command's options."""
    model_arguments(add)
    data_arguments(add)
    add("--weights", required=True, metavar="W", help="a file, or a folder with model.safetensors")
    add("--split", choices=("train", "val"), default="val", help="of --data; default: %(default)s")
    add("--out", default="evaluation.json", metavar="FILE", help="metrics and detections; default: %(default)s")
    add("--batch-size", type=positive, default=1, help="default: %(default)s")
    add("--workers", type=not_negative, default=0, help="processes that load images; default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """COCO's twelve numbers on a data set."""
    out = Path(args.out)
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; it must be a file for the metrics and detections")
    output_folder(out.parent)
    model = pretrained_model(args)
    test_size = model.config.test_size
    transform = eval_transform(Resolution.around(test_size))
    dataset = open_dataset(args, args.split, transform, categories=model.categories, limit=args.limit)
    started = time.monotonic()
    evaluation = evaluate(model, dataset, batch_size=args.batch_size, workers=args.workers)
    print(f"{evaluation.num_images} images in {time.monotonic() - started:.0f} s")
    print(format_metrics(evaluation.metrics))
    contents = {
        "weights": str(args.weights), "annotations": dataset.annotation_file.name, "test_size": test_size,
        "images": evaluation.num_images, "metrics": evaluation.metrics, "results": evaluation.results,
    }  # fmt: skip
    write_json(contents, out)
    print(f"metrics and detections in {out}")
    return 0
