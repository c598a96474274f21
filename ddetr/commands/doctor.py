"""`python -m ddetr doctor`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable

from ..course.doctor import doctor


def add_arguments(add: Callable) -> None:
    """The command has no options."""


def run(args: argparse.Namespace) -> int:
    """What the series needs and what of it is here, with advice; fails if a page cannot run."""
    logging.getLogger("ddetr").setLevel(logging.WARNING)  # it loads the shipped weights
    report = doctor()
    print(report)
    return 0 if report.complete else 1
