"""`python -m ddetr trace`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from ..config import PRESETS
from ..data import prepare_image, read_image
from ..models import build_model
from .common import model_arguments, overrides, pretrained_model


def add_arguments(add: Callable) -> None:
    """The command's options."""
    model_arguments(add)
    add("image", nargs="+", help="image files; several make one padded batch")
    add("--weights", metavar="W", help="default: fresh weights of --preset")
    add("--preset", choices=PRESETS, default="r50", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """The table of every intermediate, from pixels to boxes."""
    if args.weights:
        model = pretrained_model(args)
    else:
        torch.manual_seed(0)
        model = build_model(args.preset, **overrides(args)).to(args.device)
    print(model.trace([prepare_image(read_image(path)[0], model.config.test_size) for path in args.image]))
    return 0
