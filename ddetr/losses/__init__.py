"""Matching and losses."""

from .boxes import cxcywh_to_xyxy, generalized_iou, xyxy_to_cxcywh
from .criterion import Criterion, sigmoid_focal_loss
from .matcher import HungarianMatcher, Match, Target

__all__ = [
    "Criterion",
    "HungarianMatcher",
    "Match",
    "Target",
    "cxcywh_to_xyxy",
    "generalized_iou",
    "sigmoid_focal_loss",
    "xyxy_to_cxcywh",
]
