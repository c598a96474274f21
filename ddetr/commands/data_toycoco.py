"""`python -m ddetr data toycoco`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from ..data import HELD_OUT_CATEGORIES, TOY_CATEGORIES, make_toycoco
from .common import not_negative, positive


def add_arguments(add: Callable) -> None:
    """The command's options."""
    add("--out", required=True, metavar="DIR", help="a new folder")
    add("--train", type=positive, default=2000, metavar="N", help="images to train on; default: %(default)s")
    add("--val", type=positive, default=300, metavar="N", help="images held out; default: %(default)s")
    add("--seed", type=not_negative, default=0, help="another one draws other images; default: %(default)s")
    add(
        "--categories", nargs="+", default=TOY_CATEGORIES, metavar="NAME",
        help=f"default: {', '.join(TOY_CATEGORIES)}; drawn too: {', '.join(HELD_OUT_CATEGORIES)}",
    )  # fmt: skip
    add("--workers", type=positive, help="processes that draw; default: one for each processor")


def run(args: argparse.Namespace) -> int:
    """ToyCOCO, a data set in COCO's format that is drawn here: no network needed."""
    started = time.monotonic()
    out = make_toycoco(
        args.out,
        train=args.train,
        val=args.val,
        seed=args.seed,
        categories=args.categories,
        workers=args.workers,
    )
    print(f"{args.train} + {args.val} images in {out} after {time.monotonic() - started:.0f} s; its card is README.md")
    return 0
