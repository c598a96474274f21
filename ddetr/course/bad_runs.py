"""Five short runs for page 11, one of them healthy: what their logs said, shortened to the curves.

python -m ddetr.course.bad_runs --out ddetr/course/bad_runs.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import load_pretrained
from ..data import HELD_OUT_CATEGORIES, CocoDetection, Resolution, coco_layout, eval_transform, light_transform
from ..data.toycoco import make_toycoco
from ..engine import TINY_RECIPE, TrainOptions, train
from ..engine.schedule import Recipe
from ..files import write_text

SIZE = 96
KEPT = ("kind", "step", "loss", "AP")
FILE = Path(__file__).with_suffix(".json")
"""What `main` wrote with the weights that were shipped before those of today."""


@dataclass(frozen=True)
class Run:
    """One of them: fine-tuning the shipped weights on categories that they have never seen."""

    diagnosis: str
    recipe: Recipe
    images: int = 64
    epochs: int = 8


_RECIPE = replace(TINY_RECIPE, warmup=20)
RUNS = {
    "A": Run("rate too high", replace(_RECIPE, lr=1e-2)),
    "B": Run("overfitting", replace(_RECIPE, augment="none"), images=4, epochs=128),
    "C": Run("healthy", _RECIPE),
    "D": Run("diverging", replace(_RECIPE, lr=4e-2, warmup=1000, clip_norm=0, schedule="step")),
    "E": Run("rate too low", replace(_RECIPE, lr=2e-6)),
}


def bad_runs() -> dict[str, list[dict[str, Any]]]:
    """The logs as they come with the package: a run's letter -> its lines, as in metrics.jsonl."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def log_of(run: Run, data: Path, out: Path) -> list[dict[str, Any]]:
    """Train, and keep what the curves need."""
    resolution = Resolution.around(SIZE)
    transform = (eval_transform if run.recipe.augment == "none" else light_transform)(resolution)
    dataset = CocoDetection(*coco_layout(data, "train"), transform, limit=run.images)
    val = CocoDetection(*coco_layout(data, "val"), eval_transform(resolution))
    torch.manual_seed(0)
    model = load_pretrained("tiny_two_stage", num_classes=dataset.num_classes, test_size=SIZE)
    model.categories = dataset.categories
    lines: list[dict[str, Any]] = []
    options = TrainOptions(epochs=run.epochs, recipe=run.recipe, log_every=4, eval_every=run.epochs / 8)
    try:
        train(model, dataset, options, out, val=val, callbacks=[lambda _, line: lines.append(line)], progress=False)
    except FloatingPointError as error:
        print(error)  # the run is over; what it logged until then is its curve
    return [{key: _short(line[key]) for key in KEPT if key in line} for line in lines]


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    """Make all runs, a few minutes each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--only", nargs="*", choices=RUNS, default=list(RUNS))
    args = parser.parse_args()
    logs = bad_runs() if FILE.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        toy = Path(folder) / "toy"
        data = make_toycoco(toy, train=64, val=24, seed=5, categories=HELD_OUT_CATEGORIES, workers=1, progress=False)
        for name in args.only:
            logs[name] = log_of(RUNS[name], data, Path(folder) / name)
            scores = [line["AP"] for line in logs[name] if line["kind"] == "eval"]
            losses = [line["loss"] for line in logs[name] if line["kind"] == "train"]
            print(f"{name} {RUNS[name].diagnosis}: loss {losses[0]} to {losses[-1]}, AP {scores}", flush=True)
    rows = [f'"{name}": {json.dumps(logs[name])}' for name in RUNS if name in logs]
    write_text(args.out, "{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
