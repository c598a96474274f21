"""Who is responsible for which object: the one-to-one assignment of lowest cost (DETR, section 3.1)."""

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ..config import DeformableDETRConfig
from .boxes import cxcywh_to_xyxy, generalized_iou


class Target(NamedTuple):
    """One image's objects: labels (N,) in 0..K-1 and boxes (N, 4) as (cx, cy, w, h) in [0, 1] of the image."""

    labels: Tensor
    boxes: Tensor


class Match(NamedTuple):
    """One image's pairs, sorted by query: query (n,) and target (n,), with n = min(Q, N)."""

    query: Tensor
    target: Tensor


class HungarianMatcher(nn.Module):
    """Matches queries to objects by class, L1 and GIoU cost, each with its loss's weight (paper, appendix A.4).

    `config` has these weights.
    """

    def __init__(self, config: DeformableDETRConfig) -> None:
        super().__init__()
        self.class_weight, self.bbox_weight, self.giou_weight = (
            config.class_weight, config.bbox_weight, config.giou_weight
        )  # fmt: skip
        self.alpha, self.gamma = config.focal_alpha, config.focal_gamma

    def cost(self, logits: Tensor, boxes: Tensor, target: Target) -> Tensor:
        """logits (Q, K), boxes (Q, 4) and `target`, N objects, of one image -> (Q, N), in float32."""
        return (
            self.class_weight * self.class_cost(logits, target.labels)
            + self.bbox_weight * self.bbox_cost(boxes, target.boxes)
            + self.giou_weight * self.giou_cost(boxes, target.boxes)
        )

    def class_cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What the focal loss would change if the query were given the label: logits (Q, K), labels (N,) -> (Q, N)."""
        p = logits.float().sigmoid()[:, labels]
        as_object = self.alpha * (1 - p) ** self.gamma * -(p + 1e-8).log()
        as_background = (1 - self.alpha) * p**self.gamma * -(1 - p + 1e-8).log()
        return as_object - as_background

    def bbox_cost(self, boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """L1 distance of (cx, cy, w, h): boxes (Q, 4), target_boxes (N, 4) -> (Q, N)."""
        return torch.cdist(boxes.float(), target_boxes.float(), p=1)

    def giou_cost(self, boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Minus the GIoU: boxes (Q, 4), target_boxes (N, 4), both (cx, cy, w, h) -> (Q, N)."""
        predicted, true = cxcywh_to_xyxy(boxes.float()), cxcywh_to_xyxy(target_boxes.float())
        return -generalized_iou(predicted[:, None], true[None])

    @torch.no_grad()
    def forward(self, logits: Tensor, boxes: Tensor, targets: list[Target]) -> list[Match]:
        """logits (B, Q, K), boxes (B, Q, 4), targets: B -> a match for each image.

        Raises:
            FloatingPointError: a prediction is NaN or infinite, so there is no cost to compare.
        """
        costs = [self.cost(*image) for image in zip(logits, boxes, targets, strict=True)]
        # One copy to the host for the whole batch: each is a wait for the GPU.
        on_host = torch.cat([cost.flatten() for cost in costs]).cpu().split([cost.numel() for cost in costs])
        return [
            _assign(flat.view(cost.shape), image, logits.device)
            for image, (flat, cost) in enumerate(zip(on_host, costs, strict=True))
        ]


def _assign(cost: Tensor, image: int, device: torch.device) -> Match:
    if not cost.isfinite().all():
        raise FloatingPointError(
            f"the matching cost of image {image} in the batch is NaN or infinite, so the model's predictions are: "
            "a learning rate too high, or NaN weights; torch.autograd.set_detect_anomaly(True) finds the first"
        )
    query, target = linear_sum_assignment(cost.numpy())
    return Match(torch.as_tensor(query, device=device), torch.as_tensor(target, device=device))
