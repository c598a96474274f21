"""`python -m ddetr predict`."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..data import DataError, prepare_image, read_image
from ..engine import detect
from ..files import replacing, write_json
from ..models import DeformableDETR
from ..viz import draw_detections
from .common import fraction, model_arguments, output_folder, pretrained_model


def add_arguments(add: Callable) -> None:
    """The command's options."""
    model_arguments(add)
    add("image", nargs="+", help="image files")
    add("--weights", required=True, metavar="W", help="a file, a folder, or a name on the Hugging Face hub")
    add("--out", default="predictions", metavar="DIR", help="default: %(default)s")
    add("--threshold", type=fraction, default=0.5, help="lowest score shown; default: %(default)s")
    add("--skip-bad-images", action="store_true", help="go on without images that cannot be read")


def run(args: argparse.Namespace) -> int:
    """Detections of image files, as drawn pictures and as JSON."""
    out = output_folder(args.out)
    targets = [(out / f"{name}.png", out / f"{name}.json") for name in _unique_names(args.image)]
    inputs = {Path(path).resolve() for path in args.image}
    for target in itertools.chain(*targets):
        if target.resolve() in inputs:
            raise ValueError(f"--out {out} holds {target.name} itself, which would be overwritten")
    model = pretrained_model(args)
    names = [str(c["name"]) for c in model.categories or [{"name": k} for k in range(model.config.num_classes)]]
    for path, (drawing, table) in zip(args.image, targets, strict=True):
        try:
            picture, _ = read_image(path)
        except DataError as error:
            if not args.skip_bad_images:
                raise
            print(f"skipping: {error}", file=sys.stderr)
            continue
        detections = _detect(model, picture, path, names, args.threshold)
        boxes = torch.tensor([d["box"] for d in detections]).reshape(-1, 4)
        captions = [f"{d['name']} {d['score']:.2f}" for d in detections]
        drawn = draw_detections(picture, boxes, [d["label"] for d in detections], captions)
        with replacing(drawing) as file:
            drawn.save(file, format="PNG")
        contents = {"image": str(path), "height": picture.height, "width": picture.width, "detections": detections}
        write_json(table, contents)
        print(f"{path}: {len(detections)} objects above {args.threshold} -> {drawing}, {table.name}")
    return 0


def _detect(
    model: DeformableDETR, picture: Image.Image, path: str, names: list[str], threshold: float
) -> list[dict[str, Any]]:
    image = prepare_image(picture, model.config.test_size)
    with torch.inference_mode():
        found = detect(model, [image], [(picture.height, picture.width)], [path])[0]
    columns = (found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist())
    return [
        {"label": label, "name": names[label], "score": score, "box": box}
        for label, score, box in zip(*columns, strict=True)
        if score > threshold
    ]


def _unique_names(paths: list[str]) -> list[str]:
    """File names without their endings, numbered where an earlier file has the same."""
    names: list[str] = []
    for path in paths:
        stem = name = Path(path).stem
        number = 1
        while name in names:
            number += 1
            name = f"{stem}_{number}"
        names.append(name)
    return names
