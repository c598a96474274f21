"""Page 11: training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...models import build_model
from ..bad_runs import RUNS
from . import Case, Exercise, Mistake

Names = Sequence[tuple[str, bool]]
Groups = dict[str, list[str]]

GROUP_NAMES = ("transformer", "backbone", "slow")


def _named(preset: str, **overrides: Any) -> Names:
    # One layer has a name of each kind; more would only be slower to make.
    model = build_model(preset, encoder_layers=1, decoder_layers=1, **overrides)
    return [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]


def _parameter_cases() -> list[Case]:
    return [
        Case("the tiny one-stage model", (_named("tiny"),)),
        Case("a ResNet-50 whose stem and first stage are frozen", (_named("r50"),)),
        Case("two-stage, no learned reference points", (_named("tiny_two_stage"),)),
        Case(
            "a model of your own with a second backbone word",
            ([("backbone.conv.weight", True), ("neck.from_backbone.weight", True), ("backbone.bn.bias", False)],),
        ),
    ]


def _group_of(name: str) -> str:
    if name.startswith("backbone."):
        return "backbone"
    return "slow" if "sampling_offsets" in name or "reference_points" in name else "transformer"


def _grouping(group_of: Callable[[str], str], frozen_too: bool = False) -> Callable[[Names], Groups]:
    def answer(parameters: Names) -> Groups:
        groups: Groups = {name: [] for name in GROUP_NAMES}
        for name, trainable in parameters:
            if trainable or frozen_too:
                groups[group_of(name)].append(name)
        return groups

    return answer


def _run_grouping(answer: Callable[[Names], Groups], parameters: Names) -> object:
    """Each parameter with its groups, in the parameters' order, so that the first mistake is named."""
    groups = answer(parameters)
    if not isinstance(groups, dict) or not all(isinstance(names, list | tuple | set) for names in groups.values()):
        return groups
    unknown = [name for name in groups if name not in GROUP_NAMES]
    if unknown:
        return unknown
    found = {name: [group for group in GROUP_NAMES if name in groups.get(group, ())] for name, _ in parameters}
    return [f"{name}: {' and '.join(groups) or 'no group'}" for name, groups in found.items()]


PARAMETER_GROUPS = Exercise(
    "11.parameter_groups",
    'Write parameter_groups(parameters): a list of (name, trainable) -> {"transformer": [names], "backbone": [names], '
    '"slow": [names]}; slow is what places the samples, frozen parameters are in no group.',
    _parameter_cases,
    _grouping(_group_of),
    (
        Mistake(
            _grouping(_group_of, frozen_too=True),
            "Frozen parameters are in your groups. An optimiser would still decay their weights: leave them out.",
        ),
        Mistake(
            _grouping(lambda name: "backbone" if name.startswith("backbone.") else "transformer"),
            "Your slow group is empty: sampling_offsets and reference_points take a tenth of the rate.",
        ),
        Mistake(
            _grouping(lambda name: "transformer" if "reference_points" in name else _group_of(name)),
            "You forgot reference_points: where a query starts to look is a place too, and moves as slowly.",
        ),
        Mistake(
            _grouping(lambda name: "transformer" if name.endswith(".bias") and "sampling" in name else _group_of(name)),
            "You left out the biases of sampling_offsets. They are the star itself: they above all should move slowly.",
        ),
        Mistake(
            _grouping(lambda name: "slow" if "attention_weights" in name else _group_of(name)),
            "attention_weights is in your slow group. It says how hard a sample counts, not where it lies: full rate.",
        ),
        Mistake(
            _grouping(lambda name: "backbone" if "backbone" in name else _group_of(name)),
            "You look for the word anywhere. Only what begins with backbone. belongs to it: the neck is new, and takes "
            "the full rate.",
        ),
        Mistake(
            _grouping(lambda name: "backbone" if name.startswith("neck.") else _group_of(name)),
            "The neck is not in the backbone's group: nothing of it comes from ImageNet, so it takes the full rate.",
        ),
    ),
    "The three groups are all that AdamW needs to know. Their rates rise and fall together: each is the full rate of "
    "the moment, times the group's own factor.",
    _run_grouping,
)


_DIAGNOSES = {name: run.diagnosis for name, run in RUNS.items()}


def _swapped(one: str, other: str) -> Callable[[str], str]:
    swap = {one: other, other: one}
    return lambda run: swap.get(_DIAGNOSES[run], _DIAGNOSES[run])


def _called(diagnosis: str, instead: str) -> Callable[[str], str]:
    return lambda run: instead if _DIAGNOSES[run] == diagnosis else _DIAGNOSES[run]


SPOT_THE_BAD_RUN = Exercise(
    "11.spot_the_bad_run",
    "Write spot_the_bad_run(run): for each of the runs "
    + ", ".join(f'"{name}"' for name in RUNS)
    + " one of "
    + ", ".join(f'"{diagnosis}"' for diagnosis in sorted(_DIAGNOSES.values()))
    + "; each comes once.",
    lambda: [Case(f"run {name}", (name,)) for name in RUNS],
    _DIAGNOSES.__getitem__,
    (
        Mistake(
            _swapped("healthy", "overfitting"),
            "You took the lowest loss for the best run. Loss is on the training images; look at AP on the others.",
        ),
        Mistake(
            _called("overfitting", "healthy"),
            "One run knows its training images by heart, and the others not at all: low loss, low AP.",
        ),
        Mistake(
            _swapped("diverging", "rate too high"),
            "Two runs have far too much rate. The one never learnt anything; the other did, and then lost it again.",
        ),
        Mistake(
            _swapped("rate too high", "rate too low"),
            "Both learn nothing, in opposite ways: one loss stays where all five begin, near 19, and AP creeps up; the "
            "other was thrown off in the first steps, and AP is 0.",
        ),
        Mistake(
            _swapped("diverging", "rate too low"),
            "You look for a loss that goes up. It first has to come down: which AP rises, and then falls?",
        ),
    ),
    "No single curve told you: the loss cannot see overfitting, AP cannot tell a rate too high from one too low. And "
    "no rate is too high or too low by itself: that depends on model, batch and warm-up.",
)

EXERCISES = (PARAMETER_GROUPS, SPOT_THE_BAD_RUN)
