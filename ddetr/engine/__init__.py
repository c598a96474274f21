"""Training and evaluation."""

from . import distributed
from .errors import ErrorBreakdown, Outcome, error_breakdown, format_errors
from .evaluate import detect, evaluate
from .muon import Muon
from .predictions import Predictions, read_predictions, write_predictions
from .run import Callback, TrainOptions, TrainState
from .schedule import (
    PAPER_RECIPE,
    TINY_FROM_SCRATCH,
    TINY_RECIPE,
    Recipe,
    build_optimizer,
    default_recipe,
    parameter_groups,
)
from .scores import (
    METRICS,
    Evaluation,
    GroupScore,
    PrecisionRecall,
    coco_metrics,
    format_groups,
    format_metrics,
    score,
)
from .step import StepReport, train_step
from .train import train

__all__ = [
    "METRICS",
    "PAPER_RECIPE",
    "TINY_FROM_SCRATCH",
    "TINY_RECIPE",
    "Callback",
    "ErrorBreakdown",
    "Evaluation",
    "GroupScore",
    "Muon",
    "Outcome",
    "PrecisionRecall",
    "Predictions",
    "Recipe",
    "StepReport",
    "TrainOptions",
    "TrainState",
    "build_optimizer",
    "coco_metrics",
    "default_recipe",
    "detect",
    "distributed",
    "error_breakdown",
    "evaluate",
    "format_errors",
    "format_groups",
    "format_metrics",
    "parameter_groups",
    "read_predictions",
    "score",
    "train",
    "train_step",
    "write_predictions",
]
