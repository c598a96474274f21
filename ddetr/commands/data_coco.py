"""`python -m ddetr data coco`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ..data import COCO_SERVER, carve_subset, download_subset
from .common import not_negative


def add_arguments(add: Callable) -> None:
    """The command's options."""
    add("--categories", nargs="+", default=[], metavar="NAME", help="COCO's names; quote those of two words")
    add("--train", type=not_negative, default=0, metavar="N", help="images from train2017")
    add("--val", type=not_negative, default=0, metavar="N", help="images from val2017")
    add("--out", required=True, metavar="DIR", help="a new folder, or one of this command's that was interrupted")
    add("--from", dest="source", metavar="DIR", help="a copy of COCO, in its own layout, to carve the subset out of")
    add("--download", action="store_true", help="take it from COCO's servers: annotations, and only these photos")
    add("--server", metavar="URL", help=f"of --download: a mirror instead of {COCO_SERVER}")
    add("--seed", type=not_negative, default=0, help="another one chooses other images; default: %(default)s")
    add("--manifest", metavar="FILE", help="make the subset of this manifest.json again, instead of choosing")


def run(args: argparse.Namespace) -> int:
    """A subset of real COCO: chosen categories and counts, from a local copy or downloaded."""
    if args.download == bool(args.source):
        raise ValueError("say where the photos come from: --from DIR for a local copy of COCO, or --download")
    if args.server and not args.download:
        raise ValueError("--server goes with --download")
    if args.manifest and args.seed:
        raise ValueError("the manifest has its own seed: leave --seed out")
    wanted = {
        "categories": args.categories, "train": args.train, "val": args.val,
        "seed": args.seed, "manifest": args.manifest,
    }  # fmt: skip
    if args.download:
        print(download_subset(args.out, **wanted, server=args.server or COCO_SERVER))
    else:
        print(carve_subset(args.source, args.out, **wanted))
    return 0
