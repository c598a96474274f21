"""Training and evaluation."""

from . import distributed
from .evaluate import METRICS, Evaluation, coco_metrics, detect, evaluate, format_metrics
from .run import Callback, TrainOptions, TrainState
from .schedule import PAPER_RECIPE, TINY_RECIPE, Recipe, build_optimizer, default_recipe, parameter_groups
from .step import StepReport, train_step
from .train import train

__all__ = [
    "METRICS",
    "PAPER_RECIPE",
    "TINY_RECIPE",
    "Callback",
    "Evaluation",
    "Recipe",
    "StepReport",
    "TrainOptions",
    "TrainState",
    "build_optimizer",
    "coco_metrics",
    "default_recipe",
    "detect",
    "distributed",
    "evaluate",
    "format_metrics",
    "parameter_groups",
    "train",
    "train_step",
]
