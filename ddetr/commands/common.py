"""What several commands share: their options, and where they read and write."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import load_pretrained
from ..data import CocoDetection, coco_layout
from ..models import DeformableDETR


def model_arguments(add: Callable) -> None:
    """--device, --size and --set."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", type=usable_device, default=device, help="default: %(default)s")
    add(
        "--size",
        type=positive,
        metavar="PX",
        help="shorter side of the images; default: the preset's, or the weights'",
    )
    add("--set", action="append", metavar="FIELD=VALUE", help="change a config field: num_queries=50, dilation=true")


def data_arguments(add: Callable) -> None:
    """Which data set."""
    layout = "COCO's layout: annotations/instances_{train,val}2017.json, train2017/, val2017/"
    add("--data", metavar="DIR", help=layout)
    add("--images", metavar="DIR", help="image folder of any other layout, with --annotations")
    add("--annotations", metavar="FILE", help="COCO JSON for --images")
    add("--limit", type=positive, metavar="N", help="only the first N images")
    add("--skip-bad-images", action="store_true", help="go on without images that cannot be read")


def positive(text: str) -> int:
    """An option's whole number, at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {number}")
    return number


def positive_number(text: str) -> float:
    """An option's finite number, more than 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be more than 0; got {number}")
    return number


def not_negative_number(text: str) -> float:
    """An option's finite number, at least 0."""
    number = float(text)
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be at least 0; got {number}")
    return number


def not_negative(text: str) -> int:
    """An option's whole number, from 0 to what a seed can hold."""
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**63 - 1; got {number}")
    return number


def fraction(text: str) -> float:
    """An option's number from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1; got {number}")
    return number


def usable_device(text: str) -> torch.device:
    """An option's device, on which a tensor could be made; under torchrun "cuda" is the process's own GPU."""
    try:
        device = torch.device(text)
        if device == torch.device("cuda") and "LOCAL_RANK" in os.environ:  # torchrun: a GPU for each process
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used here; cpu always can") from error
    return device


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """--size and --set name=value pairs, as config fields; values are JSON, or text where they are not."""
    overrides: dict[str, Any] = {}
    for pair in args.set or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--set takes name=value; got {pair!r}")
        try:
            overrides[name] = json.loads(value)
        except json.JSONDecodeError:
            overrides[name] = value
    if "num_classes" in overrides:
        raise ValueError("num_classes is not set by hand: the data or the weights have it")
    if args.size is not None:
        overrides["test_size"] = args.size
    return overrides


def pretrained_model(args: argparse.Namespace) -> DeformableDETR:
    """The model of --weights, with --size and --set, on --device. Errors as of `load_pretrained`."""
    return load_pretrained(args.weights, **overrides(args)).to(args.device)


def open_dataset(
    args: argparse.Namespace, split: str, transform: Callable | None, limit: int | None, categories: list | None = None
) -> CocoDetection:
    """The data set of --data, or of --images and --annotations; `split` is "train" or "val".

    ValueError where the options do not say which, or do not go together; other errors as of `CocoDetection`.
    """
    images, annotations = _images_and_annotations(args, split)
    return CocoDetection(
        images, annotations, transform, skip_bad_images=args.skip_bad_images, categories=categories, limit=limit
    )


def _images_and_annotations(args: argparse.Namespace, split: str) -> tuple[str | Path, str | Path]:
    if bool(args.images) != bool(args.annotations):
        raise ValueError("--images and --annotations go together")
    if args.images and args.data:
        raise ValueError("give --data, or --images with --annotations, not both: they name two data sets")
    if args.images:
        return args.images, args.annotations
    if not args.data:
        raise ValueError("say where the data is: --data DIR in COCO's layout, or --images DIR --annotations FILE")
    return coco_layout(args.data, split)


def output_folder(path: str | Path, option: str = "--out") -> Path:
    """The folder, made if need be; ValueError if it cannot be."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()  # better now than after an hour's work
    except OSError as error:
        raise ValueError(f"{option}: {path} cannot be a folder to write into ({error.strerror})") from error
    return path
