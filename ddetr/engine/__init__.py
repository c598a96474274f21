"""Training and evaluation."""

from .evaluate import METRICS, Evaluation, coco_metrics, detect, evaluate, format_metrics
from .schedule import PAPER_RECIPE, TINY_RECIPE, Recipe, build_optimizer, default_recipe, parameter_groups
from .train import TrainOptions, TrainState, train, train_step

__all__ = [
    "METRICS",
    "PAPER_RECIPE",
    "TINY_RECIPE",
    "Evaluation",
    "Recipe",
    "TrainOptions",
    "TrainState",
    "build_optimizer",
    "coco_metrics",
    "default_recipe",
    "detect",
    "evaluate",
    "format_metrics",
    "parameter_groups",
    "train",
    "train_step",
]
