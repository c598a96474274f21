"""The checks of the exercises: `check("03.valid_ratios", valid_ratios)` says how far the reader's function is."""

from __future__ import annotations

import copy
import linecache
import textwrap
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .compare import Difference, difference, in_words
from .exercises import Case, Exercise, find_exercise

UNATTEMPTED, RAISED, WRONG, RIGHT = "unattempted", "raised", "wrong", "right"

_PACKAGE = Path(__file__).parents[1]


class Verdict(NamedTuple):
    """What became of an answer: one of the four states, the hint for its mistake if it has a known one, and the text
    that the reader sees."""

    state: str
    hint: str
    text: str


class Outcome(NamedTuple):
    """What an answer gave for one case: a value, or the exception that it raised."""

    value: Any = None
    error: Exception | None = None


def check(name: str, answer: Callable[..., Any]) -> None:
    """Print whether `answer` solves exercise `name`, and if it does not, the first case that shows it, with a hint.

    A stub that is still empty, a wrong answer and one that raises are all answered in words, and the page goes on.
    ValueError for a name that is no exercise.
    """
    print(examine(name, answer).text)


def examine(name: str, answer: Callable[..., Any]) -> Verdict:
    """`check`, as a value. Neither the arguments nor PyTorch's random state are changed for the reader."""
    exercise = find_exercise(name)
    if not callable(answer):
        given = f"check needs the function itself, without calling it; got {in_words(answer)}."
        return Verdict(WRONG, "", _paragraphs(f"{name}: not yet.", given))
    with torch.random.fork_rng(devices=[]):
        cases = exercise.cases()
        outcomes = [_run(exercise, answer, case) for case in cases]
        if any(_is_unattempted(outcome) for outcome in outcomes):
            return Verdict(UNATTEMPTED, "", _paragraphs(f"{name}: not attempted yet.", exercise.spec))
        expected = [_run(exercise, exercise.solution, case) for case in cases]
        for case, right, ours in zip(cases, expected, outcomes, strict=True):
            found = None if ours.error else difference(right.value, ours.value)
            if ours.error or found:
                hint = _hint(exercise, cases, outcomes)
                return _not_yet(exercise, case, ours, found, hint)
    return Verdict(RIGHT, "", _paragraphs(f"{name}: right, in all {len(cases)} cases.", exercise.worth_knowing))


def _run(exercise: Exercise, answer: Callable[..., Any], case: Case) -> Outcome:
    torch.manual_seed(0)
    try:
        # An answer may change what it is given; the next one gets it fresh.
        return Outcome(exercise.run(answer, *copy.deepcopy(case.args)))
    except Exception as error:
        return Outcome(error=error)


def _is_unattempted(outcome: Outcome) -> bool:
    return isinstance(outcome.error, NotImplementedError) or (
        outcome.error is None and (outcome.value is None or outcome.value is ...)
    )


def _hint(exercise: Exercise, cases: Sequence[Case], outcomes: list[Outcome]) -> str:
    """The hint of the typical mistake that gives the same in every case."""
    for mistake in exercise.mistakes:
        if all(_alike(_run(exercise, mistake.answer, case), ours) for case, ours in zip(cases, outcomes, strict=True)):
            return mistake.hint
    return ""


def _alike(one: Outcome, other: Outcome) -> bool:
    if one.error or other.error:
        return type(one.error) is type(other.error) and str(one.error) == str(other.error)
    return difference(one.value, other.value) is None


def _not_yet(exercise: Exercise, case: Case, ours: Outcome, found: Difference | None, hint: str) -> Verdict:
    lines = [f"{exercise.name}: not yet. The first case that differs: {case.label}."]
    if ours.error:
        lines.append(_error_sentence(ours.error))
    elif found:
        lines += [f"  expected  {found.expected}", f"  got       {found.got}"]
        hint = hint or found.hint
    return Verdict(RAISED if ours.error else WRONG, hint, _paragraphs(*lines, f"Hint: {hint}" if hint else ""))


def _error_sentence(error: Exception) -> str:
    """What was raised, and the reader's own line that raised it."""
    message = str(error).strip().split("\n")[0]
    sentence = f"Your function raised {type(error).__name__}" + (f", {message!r}" if message else "")
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_readers(frame.filename)]
    if not own:
        return sentence + "."
    line = linecache.getline(own[-1].filename, own[-1].lineno or 0).strip()
    return f"{sentence}, in line {own[-1].lineno}" + (f": {line}" if line else ".")


def _is_readers(file: str) -> bool:
    return "site-packages" not in file and not Path(file).is_relative_to(_PACKAGE) and not file.startswith("<frozen")


def _paragraphs(*lines: str) -> str:
    """Lines as wide as a notebook's output; those that are indented, or name code, stay whole."""
    return "\n".join(
        line if line.startswith(("  ", "Your function")) else textwrap.fill(line, 110) for line in lines if line
    )
