"""The exercises, a file for each page: `page_03.EXERCISES` holds those named "03.something"."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...config import did_you_mean


class Case(NamedTuple):
    """One call of the reader's function: what is special about it, in words, and its arguments."""

    label: str
    args: tuple[Any, ...]


class Mistake(NamedTuple):
    """A typical wrong answer, and what somebody who gave it needs to hear."""

    answer: Callable[..., Any]
    hint: str


def call(answer: Callable[..., Any], *args: Any) -> Any:
    """The ordinary way to run an answer."""
    return answer(*args)


class Exercise(NamedTuple):
    """What the reader writes, and how it is judged.

    Attributes:
        name: page and function, "03.valid_ratios"; the page's stub is called `valid_ratios`.
        spec: what to write, in one sentence.
        cases: a function that makes the same cases each time.
        solution: an answer that is right.
        mistakes: answers that are wrong, each with its own hint.
        worth_knowing: what a right answer is told.
        run: `run(answer, *args)` gives what is compared; by default what the answer returns.
    """

    name: str
    spec: str
    cases: Callable[[], Sequence[Case]]
    solution: Callable[..., Any]
    mistakes: Sequence[Mistake]
    worth_knowing: str
    run: Callable[..., Any] = call


def exercise_names() -> list[str]:
    """Every exercise of the series, in order."""
    return [exercise.name for page in _pages() for exercise in _exercises(page)]


def find_exercise(name: str) -> Exercise:
    """An exercise by name. ValueError, with the nearest name, if there is none."""
    page = f"page_{str(name).partition('.')[0]}"
    for exercise in _exercises(page) if page in _pages() else ():
        if exercise.name == name:
            return exercise
    raise ValueError(f"there is no exercise {name!r}{did_you_mean(str(name), exercise_names())}")


def _pages() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def _exercises(page: str) -> Sequence[Exercise]:
    return importlib.import_module(f".{page}", __name__).EXERCISES
