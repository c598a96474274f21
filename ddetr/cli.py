"""`python -m ddetr train | eval | predict | trace`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from . import __version__
from .checkpoints import load_pretrained, replacing
from .config import PRESETS, DeformableDETRConfig, get_config
from .data import (
    CocoDetection,
    DataError,
    Resolution,
    coco_layout,
    eval_transform,
    prepare_image,
    read_image,
    train_transform,
)
from .engine import TrainOptions, default_recipe, evaluate, format_metrics, train
from .models import DeformableDETR, build_model
from .viz import draw_detections


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status. Expected errors print one sentence, never a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def run_train(args: argparse.Namespace) -> int:
    """Train on a COCO-format data set, and evaluate on its val split if there is one."""
    out = Path(args.out)
    if (out / "checkpoint.pt").exists() and not args.resume:
        raise ValueError(f"{out} holds a run already: --resume goes on with it, another --out starts a new one")
    settings = _settings(args, out)
    options = _options(settings)
    config = _config(settings)
    resolution = Resolution.around(config.test_size)
    dataset = _dataset(
        args, "train", train_transform(resolution) if settings["augment"] else eval_transform(resolution)
    )
    val = _val_dataset(args, eval_transform(resolution), dataset)
    model = _starting_model(config, settings, dataset).to(args.device)
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "settings.json") as file:
        file.write_text(json.dumps(settings, indent=2) + "\n")

    print(
        f"{settings['preset']}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, on {args.device}: "
        f"{len(dataset)} images, {dataset.num_classes} classes, shorter side {resolution.test_size} px -> {out}"
    )
    state = train(model, dataset, options, out, val=val, resume=args.resume)
    if state.stopped:
        print(f"Stopped at step {state.step}; the checkpoint is in {out}. The same command with --resume goes on.")
        return 130
    print(f"{state.step} steps in {state.seconds / 60:.1f} minutes; weights in {out / 'model.safetensors'}")
    if val is not None:
        print(format_metrics(json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])))
    return 0


def run_eval(args: argparse.Namespace) -> int:
    """COCO's twelve numbers on a data set."""
    model = _pretrained(args)
    test_size = model.config.test_size
    dataset = _dataset(args, args.split, eval_transform(Resolution.around(test_size)), categories=model.categories)
    if dataset.num_classes != model.config.num_classes:
        raise ValueError(
            f"the model has {model.config.num_classes} classes and the data {dataset.num_classes} categories, and "
            f"{args.weights} does not say which label is which category"
        )
    started = time.monotonic()
    evaluation = evaluate(model, dataset, batch_size=args.batch_size, workers=args.workers)
    print(f"{len(dataset)} images in {time.monotonic() - started:.0f} s")
    print(format_metrics(evaluation.metrics))
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    contents = {
        "weights": str(args.weights), "annotations": dataset.annotation_file.name, "test_size": test_size,
        "metrics": evaluation.metrics, "results": evaluation.results,
    }  # fmt: skip
    with replacing(out) as file:
        file.write_text(json.dumps(contents))
    print(f"metrics and detections in {out}")
    return 0


def run_predict(args: argparse.Namespace) -> int:
    """Detections of image files, as drawn pictures and as JSON."""
    model = _pretrained(args)
    names = [
        str(category["name"]) for category in model.categories or [{"name": k} for k in range(model.config.num_classes)]
    ]
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for path, stem in zip(args.image, _unique_stems(args.image), strict=True):
        try:
            picture, _ = read_image(path)
        except DataError as error:
            if not args.skip_bad_images:
                raise
            print(f"skipping: {error}", file=sys.stderr)
            continue
        detections = _detect(model, picture, names, args.threshold)
        boxes = torch.tensor([d["box"] for d in detections]).reshape(-1, 4)
        captions = [f"{d['name']} {d['score']:.2f}" for d in detections]
        drawn = draw_detections(picture, boxes, [d["label"] for d in detections], captions)
        with replacing(out / f"{stem}.png") as file:
            drawn.save(file, format="PNG")
        contents = {"image": str(path), "height": picture.height, "width": picture.width, "detections": detections}
        with replacing(out / f"{stem}.json") as file:
            file.write_text(json.dumps(contents, indent=1) + "\n")
        print(f"{path}: {len(detections)} objects above {args.threshold} -> {out / stem}.png, .json")
    return 0


def run_trace(args: argparse.Namespace) -> int:
    """The table of every intermediate, from pixels to boxes."""
    if args.weights:
        model = _pretrained(args)
    else:
        torch.manual_seed(0)
        model = build_model(args.preset, **_overrides(args)).to(args.device)
    print(model.trace([prepare_image(read_image(path)[0], model.config.test_size) for path in args.image]))
    return 0


def _detect(model: DeformableDETR, picture: Image.Image, names: list[str], threshold: float) -> list[dict[str, Any]]:
    with torch.inference_mode():
        output = model.forward_raw([prepare_image(picture, model.config.test_size)])
    found = model.postprocess(output, [(picture.height, picture.width)])[0]
    columns = (found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist())
    return [
        {"label": label, "name": names[label], "score": score, "box": box}
        for label, score, box in zip(*columns, strict=True)
        if score > threshold
    ]


def _unique_stems(paths: list[str]) -> list[str]:
    """File names without their endings, numbered where two folders hold files of one name."""
    stems = [Path(path).stem for path in paths]
    return [f"{stem}_{i}" if stems.count(stem) > 1 else stem for i, stem in enumerate(stems)]


def _pretrained(args: argparse.Namespace) -> DeformableDETR:
    return load_pretrained(args.weights, **_overrides(args)).to(args.device)


# What a run remembers, so that --resume repeats it; the command line's None means "not given".
_DEFAULTS: dict[str, Any] = {
    "preset": "tiny_two_stage", "epochs": None, "minutes": None, "batch_size": 2, "lr": None, "seed": 0, "workers": 0,
    "augment": True, "eval_every": None, "imagenet": False, "weights": None,
}  # fmt: skip


def _settings(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """The run's settings: the command line's, over the ones that a resumed run was started with, over the defaults."""
    if args.epochs is not None and args.minutes is not None:
        raise ValueError("give --epochs or --minutes, not both")
    remembered = {}
    if args.resume:
        try:
            remembered = json.loads((out / "settings.json").read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{out} holds no run to resume: {error}") from error
    given = {name: getattr(args, name) for name in _DEFAULTS if getattr(args, name) is not None}
    if "epochs" in given or "minutes" in given:
        remembered |= {"epochs": None, "minutes": None}
    settings = _DEFAULTS | remembered | given
    settings["overrides"] = remembered.get("overrides", {}) | _overrides(args)
    if settings["epochs"] is None and settings["minutes"] is None:
        settings["epochs"] = 50
    return settings


def _options(settings: dict[str, Any]) -> TrainOptions:
    recipe = default_recipe(settings["preset"])
    if settings["lr"] is not None:
        recipe = dataclasses.replace(recipe, lr=settings["lr"])
    names = ("epochs", "minutes", "batch_size", "seed", "workers", "eval_every")
    return TrainOptions(recipe=recipe, **{name: settings[name] for name in names})


def _config(settings: dict[str, Any]) -> DeformableDETRConfig:
    return get_config(settings["preset"], **settings["overrides"])


def _starting_model(config: DeformableDETRConfig, settings: dict[str, Any], dataset: CocoDetection) -> DeformableDETR:
    torch.manual_seed(settings["seed"])
    if settings["weights"]:
        model = load_pretrained(settings["weights"], num_classes=dataset.num_classes, **settings["overrides"])
    else:
        config = config.replace(num_classes=dataset.num_classes)
        model = build_model(config, imagenet_weights=settings["imagenet"])
    model.categories = dataset.categories
    return model


def _dataset(
    args: argparse.Namespace, split: str, transform: Callable, categories: list | None = None
) -> CocoDetection:
    images, annotations = _images_and_annotations(args, split)
    return CocoDetection(
        images, annotations, transform, skip_bad_images=args.skip_bad_images, categories=categories, limit=args.limit
    )


def _images_and_annotations(args: argparse.Namespace, split: str) -> tuple[str | Path, str | Path]:
    if bool(args.images) != bool(args.annotations):
        raise ValueError("--images and --annotations go together")
    if args.images:
        return args.images, args.annotations
    if not args.data:
        raise ValueError("say where the data is: --data DIR in COCO's layout, or --images DIR --annotations FILE")
    return coco_layout(args.data, split)


def _val_dataset(args: argparse.Namespace, transform: Callable, train_set: CocoDetection) -> CocoDetection | None:
    """The held-out split: --val-images and --val-annotations, or val2017 of --data if it is there."""
    if bool(args.val_images) != bool(args.val_annotations):
        raise ValueError("--val-images and --val-annotations go together")
    images, annotations = args.val_images, args.val_annotations
    if not images:
        if args.images or not (Path(args.data) / "annotations" / "instances_val2017.json").exists():
            return None
        images, annotations = coco_layout(args.data, "val")
    return CocoDetection(
        images, annotations, transform, skip_bad_images=args.skip_bad_images, categories=train_set.categories
    )


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
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
    if args.size is not None:
        overrides["test_size"] = args.size
    return overrides


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ddetr", description="Deformable DETR, from pixels to boxes.")
    parser.add_argument("--version", action="version", version=f"ddetr {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, run, add_arguments in (
        ("train", run_train, _train_arguments),
        ("eval", run_eval, _eval_arguments),
        ("predict", run_predict, _predict_arguments),
        ("trace", run_trace, _trace_arguments),
    ):
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        command.set_defaults(run=run)
        add_arguments(command.add_argument)
        _model_arguments(command.add_argument)
    return parser


def _model_arguments(add: Callable) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", default=device, help="default: %(default)s")
    add("--size", type=int, metavar="PX", help="shorter side of the images; default: the preset's, or the weights'")
    add("--set", action="append", metavar="FIELD=VALUE", help="change a config field: num_queries=50, dilation=true")


def _data_arguments(add: Callable) -> None:
    layout = "COCO's layout: annotations/instances_{train,val}2017.json, train2017/, val2017/"
    add("--data", metavar="DIR", help=layout)
    add("--images", metavar="DIR", help="image folder of any other layout, with --annotations")
    add("--annotations", metavar="FILE", help="COCO JSON for --images")
    add("--limit", type=int, metavar="N", help="only the first N images")
    add("--skip-bad-images", action="store_true", help="go on without images that cannot be read")


def _train_arguments(add: Callable) -> None:
    _data_arguments(add)
    add("--val-images", metavar="DIR", help="held-out images, with --val-annotations")
    add("--val-annotations", metavar="FILE", help="default: val2017 of --data, if it is there")
    add("--preset", choices=PRESETS, help=f"default: {_DEFAULTS['preset']}")
    add("--out", required=True, metavar="RUN", help="folder for weights, checkpoint and metrics.jsonl")
    add("--epochs", type=int, help="length of the run; default: 50")
    add("--minutes", type=float, help="length of the run in training time, instead of epochs")
    add("--resume", action="store_true", help="go on with the run in --out, with its settings")
    add("--weights", metavar="W", help="start from these weights; other classes get new class heads")
    add("--imagenet", action="store_true", default=None, help="start the backbone from ImageNet weights (a download)")
    add("--no-augment", dest="augment", action="store_false", default=None, help="only resize, to overfit on purpose")
    add("--batch-size", type=int, help=f"default: {_DEFAULTS['batch_size']}")
    add("--workers", type=int, help="processes that load images; default: 0, none besides the main one")
    add("--lr", type=float, help="learning rate; default: the preset's")
    add("--seed", type=int, help=f"default: {_DEFAULTS['seed']}")
    add("--eval-every", type=int, metavar="EPOCHS", help="evaluate during training too, not only at the end")


def _eval_arguments(add: Callable) -> None:
    _data_arguments(add)
    add("--weights", required=True, metavar="W", help="a file, or a folder with model.safetensors")
    add("--split", choices=("train", "val"), default="val", help="of --data; default: %(default)s")
    add("--out", default="evaluation.json", metavar="FILE", help="metrics and detections; default: %(default)s")
    add("--batch-size", type=int, default=1, help="default: %(default)s")
    add("--workers", type=int, default=0, help="processes that load images; default: %(default)s")


def _predict_arguments(add: Callable) -> None:
    add("image", nargs="+", help="image files")
    add("--weights", required=True, metavar="W", help="a file, or a folder with model.safetensors")
    add("--out", default="predictions", metavar="DIR", help="default: %(default)s")
    add("--threshold", type=float, default=0.5, help="lowest score shown; default: %(default)s")
    add("--skip-bad-images", action="store_true", help="go on without images that cannot be read")


def _trace_arguments(add: Callable) -> None:
    add("image", nargs="+", help="image files; several make one padded batch")
    add("--weights", metavar="W", help="default: fresh weights of --preset")
    add("--preset", choices=PRESETS, default="r50", help="default: %(default)s")
