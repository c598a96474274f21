"""`python -m ddetr train`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import change_num_classes, copy_encoder, load_pretrained
from ..config import PRESETS, DeformableDETRConfig, get_config
from ..data import AUGMENTATIONS, CocoDetection, Resolution, coco_layout, eval_transform
from ..data.coco import with_ids
from ..engine import TrainOptions, default_recipe, distributed, format_metrics, train
from ..engine.checkpoint import check_resumable, muon_factor, read_training_state, snapshots
from ..engine.log import tensorboard
from ..engine.run import PRECISIONS
from ..engine.schedule import SCHEDULES, Recipe
from ..engine.train import start_state
from ..files import write_json
from ..models import DeformableDETR, build_model
from .common import (
    data_arguments,
    model_arguments,
    not_negative,
    not_negative_number,
    open_dataset,
    output_folder,
    overrides,
    positive,
    positive_number,
)

# What a run remembers, so that --resume repeats it; the command line's None means "not given".
_DEFAULTS: dict[str, Any] = {
    "preset": "tiny_two_stage", "epochs": None, "minutes": None, "batch_size": None, "lr": None, "schedule": None,
    "accumulate": 1, "precision": "fp32", "seed": 0, "workers": 0, "augment": None, "log_every": 10, "save_every": 60.0,
    "eval_every": None, "keep_every": None, "tensorboard": False, "imagenet": False, "weights": None, "limit": None,
    "encoder_from": None, "muon_factor": None,
}  # fmt: skip


def add_arguments(add: Callable) -> None:
    """The command's options."""
    model_arguments(add)
    data_arguments(add)
    add("--val-images", metavar="DIR", help="held-out images, with --val-annotations")
    add("--val-annotations", metavar="FILE", help="default: val2017 of --data, if it is there")
    add("--preset", choices=PRESETS, help=f"default: {_DEFAULTS['preset']}")
    add("--out", required=True, metavar="RUN", help="folder for weights, checkpoint and metrics.jsonl")
    add("--epochs", type=positive, help="length of the run; default: 50")
    add("--minutes", type=positive_number, help="length of the run in training time, instead of epochs")
    add("--resume", action="store_true", help="go on with the run in --out, with its settings")
    add("--weights", metavar="W", help="start from these weights; other classes get new class heads")
    add("--encoder-from", metavar="W", help="take backbone, neck and encoder from these weights of another variant")
    add("--imagenet", action="store_true", default=None, help="start the backbone from ImageNet weights (a download)")
    add(
        "--augment",
        choices=AUGMENTATIONS,
        help="none to overfit on purpose; default: the preset's",
    )
    add(
        "--batch-size",
        type=positive,
        metavar="N",
        help="images at once, in each process of torchrun; default: 2, or with Muon what makes steps of about 4",
    )
    add("--accumulate", type=positive, metavar="N", help="batches that make one optimiser step; default: 1")
    add("--precision", choices=PRECISIONS, help="of the network; losses are always float32; default: fp32")
    add("--workers", type=not_negative, help="processes that load images; default: 0, none besides the main one")
    add("--lr", type=float, help="learning rate; default: the preset's")
    add("--muon-factor", type=not_negative_number, metavar="F", help="by which Muon multiplies the rate for the hidden "
        "layers' matrices, 0 for AdamW alone; default: the preset's")  # fmt: skip
    add("--seed", type=not_negative, help=f"default: {_DEFAULTS['seed']}")
    add("--schedule", choices=SCHEDULES, help="of the learning rate; default: the preset's")
    add("--log-every", type=positive, metavar="STEPS", help="between two lines of metrics.jsonl; default: 10")
    add("--save-every", type=not_negative_number, metavar="S", help="seconds between two checkpoints; default: 60")
    add(
        "--eval-every", type=positive_number, metavar="N",
        help="evaluate every N epochs too (minutes with --minutes), not only at the end",
    )  # fmt: skip
    add(
        "--keep-every", type=positive_number, metavar="N",
        help="keep the weights in RUN/snapshots every N epochs (minutes with --minutes)",
    )  # fmt: skip
    add("--tensorboard", action="store_true", default=None, help="write RUN/tensorboard too")


def run(args: argparse.Namespace) -> int:
    """Train on a COCO-format data set, and evaluate on its val split if there is one."""
    with distributed.process_group(args.device):
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    say = print if distributed.is_main() else _say_nothing
    if not distributed.is_main():
        logging.getLogger("ddetr.checkpoints").setLevel(logging.ERROR)  # rank 0 says the same
    out = output_folder(args.out)
    if not args.resume:
        _refuse_to_overwrite(out)
    settings = _settings(args, out)
    if args.resume:
        _say_changes(say, _remembered_settings(out / "settings.json"), settings)
    checkpoint = _checkpoint(out, say) if args.resume else None
    base = _base_model(checkpoint, settings)
    config = base.config if base else get_config(settings["preset"], **settings["overrides"])
    resolution = Resolution.around(config.test_size)
    if checkpoint and settings["muon_factor"] is None:
        settings["muon_factor"] = muon_factor(checkpoint["optimizer"]["param_groups"])  # whatever today's default is
    options = _options(settings, config)
    transform = AUGMENTATIONS[options.recipe.augment](resolution)
    dataset = open_dataset(args, "train", transform, limit=settings["limit"])
    val = _val_dataset(args, eval_transform(resolution), dataset)
    if val is not None and not len(val):
        raise ValueError(f"no images to evaluate on in {val.annotation_file}")  # better now than after the run
    model = base if base and checkpoint else _starting_model(base, config, dataset, settings)
    model = model.to(args.device)
    if checkpoint:  # before the settings are replaced: a run that cannot go on keeps its own
        model.categories = dataset.categories  # what it would be trained on, to be compared with what it was
        check_resumable(checkpoint, start_state(model, len(dataset), options))
    callbacks = [tensorboard(out / "tensorboard")] if settings["tensorboard"] and distributed.is_main() else []

    name = settings["weights"] or settings["preset"]
    say(
        f"{name}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, on {args.device}: "
        f"{len(dataset)} images, {dataset.num_classes} classes, shorter side {resolution.test_size} px, "
        f"{_images_per_step(options)} -> {out}"
    )
    if settings["weights"] and not checkpoint:
        say(
            f"Of {settings['weights']} only the weights are taken; the optimiser starts afresh, also where the file "
            "holds the state of one (--resume goes on with a run)."
        )
    if distributed.is_main():
        write_json(out / "settings.json", settings | {"images_per_step": options.images_per_step})
    state = train(model, dataset, options, out, val=val, resume=checkpoint or False, callbacks=callbacks)
    if state.stopped:
        say(f"Stopped at step {state.step}; the checkpoint is in {out}. The same command with --resume goes on.")
        return 130
    say(f"{state.step} steps in {state.seconds / 60:.1f} minutes; weights in {out / 'model.safetensors'}")
    if val is not None and distributed.is_main():
        say(format_metrics(json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])))
    return 0


def _refuse_to_overwrite(out: Path) -> None:
    """ValueError if the folder holds what a run has learnt, with or without the checkpoint to go on from."""
    there = [name for name in ("checkpoint.pt", "model.safetensors", "snapshots") if (out / name).exists()]
    if there:
        goes_on = "--resume goes on with it, " if "checkpoint.pt" in there else ""
        raise ValueError(f"{out} holds a run already ({', '.join(there)}): {goes_on}another --out starts a new one")


def _say_nothing(text: str) -> None: ...


def _images_per_step(options: TrainOptions) -> str:
    """The batch that the learning rate is for, and how it is put together."""
    factors = [
        f"{number} {name}"
        for number, name in (
            (distributed.world_size(), "processes"), (options.accumulate, "parts"), (options.batch_size, "images"),
        )
        if number > 1
    ]  # fmt: skip
    total = f"{options.images_per_step} images a step"
    return f"{total} ({' x '.join(factors)})" if len(factors) > 1 else total


def _checkpoint(out: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The run's checkpoint; None if it was killed before it had one, and so starts from its beginning again."""
    if (out / "checkpoint.pt").exists():
        return read_training_state(out / "checkpoint.pt")
    files = [out / "model.safetensors", *(file for step, file in snapshots(out) if step)]
    learnt = [file for file in files if file.exists()]
    if learnt:
        raise ValueError(
            f"{out} has no checkpoint.pt to go on from, and starting again would replace what it has learnt: "
            f"--weights {learnt[0]} with another --out starts from there"
        )
    say(f"There is no checkpoint in {out} yet: the run starts from its beginning.")
    return None


def _settings(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """The run's settings: the command line's, over the ones that a resumed run was started with, over the defaults."""
    if args.epochs is not None and args.minutes is not None:
        raise ValueError("give --epochs or --minutes, not both")
    if args.weights and args.preset:
        raise ValueError("give --preset or --weights, not both: the weights bring their own architecture")
    if args.weights and args.encoder_from:
        raise ValueError("give --weights or --encoder-from, not both: --weights brings an encoder too")
    remembered = {}
    if args.resume:
        remembered = _remembered_settings(out / "settings.json")
        _check_same_model(args, remembered)
    given = {name: getattr(args, name) for name in _DEFAULTS if getattr(args, name) is not None}
    if "epochs" in given or "minutes" in given:
        remembered |= {"epochs": None, "minutes": None}
    settings = _DEFAULTS | remembered | given
    settings["overrides"] = remembered.get("overrides", {}) | overrides(args)
    if settings["epochs"] is None and settings["minutes"] is None:
        settings["epochs"] = 50
    return settings


def _check_same_model(args: argparse.Namespace, remembered: dict[str, Any]) -> None:
    """ValueError for an option that would make another model of the run; repeating the run's own is fine."""
    given = {name: getattr(args, name) for name in ("preset", "weights", "encoder_from", "imagenet")}
    changed = [name for name, value in given.items() if value is not None and value != remembered.get(name)]
    kept = remembered.get("overrides", {})
    if any(kept.get(name) != value for name, value in overrides(args).items()):
        changed.append("size" if args.size not in (None, kept.get("test_size")) else "set")
    if changed:
        raise ValueError(f"a resumed run keeps its model: leave out --{changed[0].replace('_', '-')}")


def _say_changes(say: Callable[[str], None], before: dict[str, Any], now: dict[str, Any]) -> None:
    """Which settings a resumed run changes.

    A longer run is what people resume for, and needs no remark; nor do parts of a step, for the step has to stay.
    """
    changed = [
        f"{name.replace('_', '-')} {_in_words(before[name])} -> {_in_words(now[name])}"
        for name in _DEFAULTS
        if name not in ("epochs", "minutes", "batch_size", "accumulate") and before.get(name, now[name]) != now[name]
    ]
    if changed:
        say(f"From here on with {', '.join(changed)}: no longer the run that it would have been without the stop.")


def _in_words(value: Any) -> str:
    return "(the default)" if value is None else str(value)


def _remembered_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.parent} holds no run to resume: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} does not hold a run's settings")
    return settings


def _options(settings: dict[str, Any], config: DeformableDETRConfig) -> TrainOptions:
    choices = ("lr", "muon_factor", "schedule", "augment")
    given = {name: settings[name] for name in choices if settings[name] is not None}
    fresh = not (settings["weights"] or settings["encoder_from"])
    recipe = dataclasses.replace(default_recipe(config, from_scratch=fresh), **given)
    names = (
        "epochs", "minutes", "accumulate", "precision", "seed", "workers", "log_every", "save_every", "eval_every",
        "keep_every",
    )  # fmt: skip
    batch_size = settings["batch_size"] or _default_batch_size(recipe, settings["accumulate"])
    return TrainOptions(recipe=recipe, batch_size=batch_size, **{name: settings[name] for name in names})


def _default_batch_size(recipe: Recipe, accumulate: int) -> int:
    """Two images; with Muon, whose cost is the step's and not the images', what makes steps of about four."""
    return max(1, 4 // (accumulate * distributed.world_size())) if recipe.muon_factor else 2


def _base_model(checkpoint: dict[str, Any] | None, settings: dict[str, Any]) -> DeformableDETR | None:
    """The model of the run to resume, whose weights `train` reads, or of the given weights; None for fresh ones."""
    if checkpoint:
        model = build_model(DeformableDETRConfig.from_dict(checkpoint["config"]))
        model.categories = checkpoint["categories"]
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
        if settings["encoder_from"]:
            copy_encoder(load_pretrained(settings["encoder_from"]), model)
    else:
        known = pretrained.categories and with_ids(pretrained.categories, dataset.categories)
        fits = dataset.num_classes == config.num_classes and known in (None, dataset.categories)
        model = pretrained if fits else change_num_classes(pretrained, dataset.num_classes)
    model.categories = dataset.categories
    return model


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
