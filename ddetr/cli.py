"""`python -m ddetr train | eval | predict | trace`."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
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
from .checkpoints import change_num_classes, load_pretrained, replacing
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
from .engine import TrainOptions, default_recipe, detect, evaluate, format_metrics, train
from .engine.train import read_training_state
from .models import DeformableDETR, build_model
from .viz import draw_detections


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status. Expected errors print one sentence, never a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("ddetr").setLevel(logging.INFO)
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        print("error: not enough memory: try a smaller --size or --batch-size", file=sys.stderr)
        return 1


def run_train(args: argparse.Namespace) -> int:
    """Train on a COCO-format data set, and evaluate on its val split if there is one."""
    out = _output_folder(args.out)
    if (out / "checkpoint.pt").exists() and not args.resume:
        raise ValueError(f"{out} holds a run already: --resume goes on with it, another --out starts a new one")
    settings = _settings(args, out)
    base = _base_model(args, settings, out)
    config = base.config if base else get_config(settings["preset"], **settings["overrides"])
    resolution = Resolution.around(config.test_size)
    transform = train_transform(resolution) if settings["augment"] else eval_transform(resolution)
    dataset = _dataset(args, "train", transform, limit=settings["limit"])
    val = _val_dataset(args, eval_transform(resolution), dataset)
    model = base if args.resume else _starting_model(base, config, dataset, settings)
    model = model.to(args.device)
    options = _options(settings, config)

    name = settings["weights"] or settings["preset"]
    print(
        f"{name}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, on {args.device}: "
        f"{len(dataset)} images, {dataset.num_classes} classes, shorter side {resolution.test_size} px -> {out}"
    )
    if not args.resume:
        _write_json(settings, out / "settings.json")
    state = train(model, dataset, options, out, val=val, resume=args.resume)
    if args.resume:  # only now is it known that the run could go on with them
        _write_json(settings, out / "settings.json")
    if state.stopped:
        print(f"Stopped at step {state.step}; the checkpoint is in {out}. The same command with --resume goes on.")
        return 130
    print(f"{state.step} steps in {state.seconds / 60:.1f} minutes; weights in {out / 'model.safetensors'}")
    if val is not None:
        print(format_metrics(json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])))
    return 0


def run_eval(args: argparse.Namespace) -> int:
    """COCO's twelve numbers on a data set."""
    out = Path(args.out)
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; it must be a file for the metrics and detections")
    _output_folder(out.parent)
    model = _pretrained(args)
    test_size = model.config.test_size
    transform = eval_transform(Resolution.around(test_size))
    dataset = _dataset(args, args.split, transform, categories=model.categories, limit=args.limit)
    started = time.monotonic()
    evaluation = evaluate(model, dataset, batch_size=args.batch_size, workers=args.workers)
    print(f"{evaluation.num_images} images in {time.monotonic() - started:.0f} s")
    print(format_metrics(evaluation.metrics))
    contents = {
        "weights": str(args.weights), "annotations": dataset.annotation_file.name, "test_size": test_size,
        "images": evaluation.num_images, "metrics": evaluation.metrics, "results": evaluation.results,
    }  # fmt: skip
    _write_json(contents, out)
    print(f"metrics and detections in {out}")
    return 0


def run_predict(args: argparse.Namespace) -> int:
    """Detections of image files, as drawn pictures and as JSON."""
    out = _output_folder(args.out)
    targets = [(out / f"{name}.png", out / f"{name}.json") for name in _unique_names(args.image)]
    inputs = {Path(path).resolve() for path in args.image}
    for target in itertools.chain(*targets):
        if target.resolve() in inputs:
            raise ValueError(f"--out {out} holds {target.name} itself, which would be overwritten")
    model = _pretrained(args)
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
        _write_json(contents, table)
        print(f"{path}: {len(detections)} objects above {args.threshold} -> {drawing}, {table.name}")
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


def _output_folder(path: str | Path) -> Path:
    """The folder, made if need be; ValueError if it cannot be."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out: {path} cannot be a folder to write into ({error.strerror})") from error
    return path


def _write_json(contents: Any, path: Path) -> None:
    with replacing(path) as file:
        file.write_text(json.dumps(contents, indent=1) + "\n")


def _sentence(error: BaseException) -> str:
    """What went wrong in a loading process comes with that process's traceback, whose last line says it."""
    text = str(error)
    if "Original Traceback" in text:
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return text


def _pretrained(args: argparse.Namespace) -> DeformableDETR:
    return load_pretrained(args.weights, **_overrides(args)).to(args.device)


# What a run remembers, so that --resume repeats it; the command line's None means "not given".
_DEFAULTS: dict[str, Any] = {
    "preset": "tiny_two_stage", "epochs": None, "minutes": None, "batch_size": 2, "lr": None, "seed": 0, "workers": 0,
    "augment": True, "eval_every": None, "imagenet": False, "weights": None, "limit": None,
}  # fmt: skip
_OF_THE_MODEL = ("preset", "weights", "imagenet", "size", "set")


def _settings(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """The run's settings: the command line's, over the ones that a resumed run was started with, over the defaults."""
    if args.epochs is not None and args.minutes is not None:
        raise ValueError("give --epochs or --minutes, not both")
    if args.weights and args.preset:
        raise ValueError("give --preset or --weights, not both: the weights bring their own architecture")
    remembered = {}
    if args.resume:
        given = [name for name in _OF_THE_MODEL if getattr(args, name) is not None]
        if given:
            raise ValueError(f"a resumed run keeps its model: leave out --{given[0]}")
        remembered = _remembered_settings(out / "settings.json")
    given = {name: getattr(args, name) for name in _DEFAULTS if getattr(args, name) is not None}
    if "epochs" in given or "minutes" in given:
        remembered |= {"epochs": None, "minutes": None}
    settings = _DEFAULTS | remembered | given
    settings["overrides"] = remembered.get("overrides", {}) | _overrides(args)
    if settings["epochs"] is None and settings["minutes"] is None:
        settings["epochs"] = 50
    return settings


def _remembered_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.parent} holds no run to resume: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} does not hold a run's settings")
    return settings


def _options(settings: dict[str, Any], config: DeformableDETRConfig) -> TrainOptions:
    recipe = default_recipe(config)
    if settings["lr"] is not None:
        recipe = dataclasses.replace(recipe, lr=settings["lr"])
    names = ("epochs", "minutes", "batch_size", "seed", "workers", "eval_every")
    return TrainOptions(recipe=recipe, **{name: settings[name] for name in names})


def _base_model(args: argparse.Namespace, settings: dict[str, Any], out: Path) -> DeformableDETR | None:
    """The model of the run to resume, whose weights `train` reads, or of the given weights; None for fresh ones."""
    if args.resume:
        contents = read_training_state(out / "checkpoint.pt")
        model = build_model(DeformableDETRConfig.from_dict(contents["config"]))
        model.categories = contents["categories"]
        return model
    if settings["weights"]:
        return load_pretrained(settings["weights"], **settings["overrides"])
    return None


def _starting_model(
    pretrained: DeformableDETR | None, config: DeformableDETRConfig, dataset: CocoDetection, settings: dict[str, Any]
) -> DeformableDETR:
    """A fresh model for the data's categories, or the pretrained one, with new class heads if its categories differ."""
    torch.manual_seed(settings["seed"])
    if pretrained is None:
        config = config.replace(num_classes=dataset.num_classes)
        model = build_model(config, imagenet_weights=settings["imagenet"])
    elif dataset.num_classes == config.num_classes and pretrained.categories in (None, dataset.categories):
        model = pretrained
    else:
        model = change_num_classes(pretrained, dataset.num_classes)
    model.categories = dataset.categories
    return model


def _dataset(
    args: argparse.Namespace, split: str, transform: Callable, limit: int | None, categories: list | None = None
) -> CocoDetection:
    images, annotations = _images_and_annotations(args, split)
    return CocoDetection(
        images, annotations, transform, skip_bad_images=args.skip_bad_images, categories=categories, limit=limit
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
    if "num_classes" in overrides:
        raise ValueError("num_classes is not set by hand: the data or the weights have it")
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
    add("--device", type=_device, default=device, help="default: %(default)s")
    add(
        "--size",
        type=_positive,
        metavar="PX",
        help="shorter side of the images; default: the preset's, or the weights'",
    )
    add("--set", action="append", metavar="FIELD=VALUE", help="change a config field: num_queries=50, dilation=true")


def _data_arguments(add: Callable) -> None:
    layout = "COCO's layout: annotations/instances_{train,val}2017.json, train2017/, val2017/"
    add("--data", metavar="DIR", help=layout)
    add("--images", metavar="DIR", help="image folder of any other layout, with --annotations")
    add("--annotations", metavar="FILE", help="COCO JSON for --images")
    add("--limit", type=_positive, metavar="N", help="only the first N images")
    add("--skip-bad-images", action="store_true", help="go on without images that cannot be read")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {number}")
    return number


def _not_negative(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**63 - 1; got {number}")
    return number


def _fraction(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1; got {number}")
    return number


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used here; cpu always can") from error
    return device


def _train_arguments(add: Callable) -> None:
    _data_arguments(add)
    add("--val-images", metavar="DIR", help="held-out images, with --val-annotations")
    add("--val-annotations", metavar="FILE", help="default: val2017 of --data, if it is there")
    add("--preset", choices=PRESETS, help=f"default: {_DEFAULTS['preset']}")
    add("--out", required=True, metavar="RUN", help="folder for weights, checkpoint and metrics.jsonl")
    add("--epochs", type=_positive, help="length of the run; default: 50")
    add("--minutes", type=float, help="length of the run in training time, instead of epochs")
    add("--resume", action="store_true", help="go on with the run in --out, with its settings")
    add("--weights", metavar="W", help="start from these weights; other classes get new class heads")
    add("--imagenet", action="store_true", default=None, help="start the backbone from ImageNet weights (a download)")
    add("--no-augment", dest="augment", action="store_false", default=None, help="only resize, to overfit on purpose")
    add("--batch-size", type=_positive, help=f"default: {_DEFAULTS['batch_size']}")
    add("--workers", type=_not_negative, help="processes that load images; default: 0, none besides the main one")
    add("--lr", type=float, help="learning rate; default: the preset's")
    add("--seed", type=_not_negative, help=f"default: {_DEFAULTS['seed']}")
    add("--eval-every", type=_positive, metavar="EPOCHS", help="evaluate during training too, not only at the end")


def _eval_arguments(add: Callable) -> None:
    _data_arguments(add)
    add("--weights", required=True, metavar="W", help="a file, or a folder with model.safetensors")
    add("--split", choices=("train", "val"), default="val", help="of --data; default: %(default)s")
    add("--out", default="evaluation.json", metavar="FILE", help="metrics and detections; default: %(default)s")
    add("--batch-size", type=_positive, default=1, help="default: %(default)s")
    add("--workers", type=_not_negative, default=0, help="processes that load images; default: %(default)s")


def _predict_arguments(add: Callable) -> None:
    add("image", nargs="+", help="image files")
    add("--weights", required=True, metavar="W", help="a file, or a folder with model.safetensors")
    add("--out", default="predictions", metavar="DIR", help="default: %(default)s")
    add("--threshold", type=_fraction, default=0.5, help="lowest score shown; default: %(default)s")
    add("--skip-bad-images", action="store_true", help="go on without images that cannot be read")


def _trace_arguments(add: Callable) -> None:
    add("image", nargs="+", help="image files; several make one padded batch")
    add("--weights", metavar="W", help="default: fresh weights of --preset")
    add("--preset", choices=PRESETS, default="r50", help="default: %(default)s")
