"""`python -m ddetr convert`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from ..checkpoints import load_pretrained, save_hf, save_mmdet, save_model, save_official
from ..config import DeformableDETRConfig
from .common import overrides, positive

# What writes each format, and the endings of its files; none for a folder.
FORMATS: dict[str, tuple[Callable, tuple[str, ...]]] = {
    "ddetr": (save_model, (".safetensors",)),
    "official": (save_official, (".pth", ".pt")),
    "mmdet": (save_mmdet, (".pth", ".pt")),
    "hf": (save_hf, ()),
}


def add_arguments(add: Callable) -> None:
    """The command's options."""
    add("source", metavar="IN", help="weights of any of these code bases: a file, a folder, or a name on the Hugging "
        "Face hub")  # fmt: skip
    add("target", metavar="OUT", help="a .pth file (official, mmdet), a .safetensors file (ddetr), or a folder (hf)")
    add("--to", required=True, choices=FORMATS, help="whose code is to load it")
    add("--num-classes", type=positive, metavar="K", help="another number of classes: the class heads start afresh")
    add("--size", type=positive, metavar="PX", help="shorter side of the images at test time; default: the weights'")
    add("--set", action="append", metavar="FIELD=VALUE", help="what the weights do not tell: dilation=true")
    add("--force", action="store_true", help="replace OUT if it is there")


def run(args: argparse.Namespace) -> int:
    """Weights from one code base's format into another's."""
    save, endings = FORMATS[args.to]
    target = Path(args.target)
    _check_target(target, args, endings)
    model = load_pretrained(args.source, num_classes=args.num_classes, **overrides(args))
    target.parent.mkdir(parents=True, exist_ok=True)
    save(model, target)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{args.source} -> {target}: {millions:.1f} M parameters, {model.config.num_classes} classes")
    for note in _notes(model.config, args.to):
        print(note)
    return 0


def _check_target(target: Path, args: argparse.Namespace, endings: tuple[str, ...]) -> None:
    """ValueError if OUT has another form than the format, or holds what would be lost."""
    if endings and target.suffix not in endings:
        raise ValueError(f"--to {args.to} writes a {endings[0]} file; OUT is {target}")
    if not endings and (target.suffix in (".pth", ".pt", ".safetensors", ".bin") or target.is_file()):
        raise ValueError(f"--to {args.to} writes a folder; OUT is {target}")
    if endings and target.is_dir():
        raise ValueError(f"--to {args.to} writes a file; OUT, {target}, is a folder")
    source = Path(args.source).resolve()
    if target.exists() and target.resolve() in (source, source.parent if not endings else source):
        raise ValueError(f"OUT, {target}, is where IN is; the original stays: choose another OUT")
    occupied = target.exists() and (target.is_file() or any(target.iterdir()))
    if occupied and not args.force:
        raise ValueError(f"{target} is there already: --force replaces it, another OUT keeps it")


def _notes(config: DeformableDETRConfig, to: str) -> list[str]:
    """What the other code base must be told, or does otherwise."""
    notes = []
    if to == "mmdet":
        options = f"with_box_refine={config.box_refine}, as_two_stage={config.two_stage}"
        notes.append(
            f"mmdetection's config: num_queries={config.num_queries}, num_feature_levels={config.num_levels}, {options}"
            + (", neck=dict(bias=True)" if config.neck_bias else "")
        )
    if to == "official":
        flags = [
            flag
            for flag, given in (
                ("--with_box_refine", config.box_refine), ("--two_stage", config.two_stage),
                ("--dilation", config.dilation), (f"--num_feature_levels {config.num_levels}", config.num_levels != 4),
                (f"--num_queries {config.num_queries}", config.num_queries != 300),
            )
            if given
        ]  # fmt: skip
        notes.append(f"The official code's options: {' '.join(flags) or 'none'}; num_classes is {config.num_classes}")
    if to == "hf" and config.dilation:
        notes.append("transformers needs timm for a dilated backbone: pip install timm")
    if to in ("official", "hf") and not config.mask_unpadded:
        notes.append("There is always a mask there; this model has none for batches without padding, and differs there")
    return notes
