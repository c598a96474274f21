"""The losses: focal, L1 and GIoU, at every decoder layer, and once for the encoder's proposals."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DeformableDETRConfig
from .boxes import cxcywh_to_xyxy, generalized_iou
from .matcher import HungarianMatcher, Match, Target


def sigmoid_focal_loss(logits: Tensor, onehot: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of each of `logits`, same shape, not reduced (Focal loss, equation 5).

    onehot: 1 where the answer is yes, 0 elsewhere; `alpha` weighs yes against no, `gamma` leaves out what is easy.
    """
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, onehot, reduction="none")
    p_wrong = p * (1 - onehot) + (1 - p) * onehot
    return (alpha * onehot + (1 - alpha) * (1 - onehot)) * p_wrong**gamma * cross_entropy


class Criterion(nn.Module):
    """Matches and scores every prediction of a model (DETR, section 3.1; paper, appendix A.4).

    Each layer is matched on its own, and every loss is divided by the number of objects in the batch, at least 1 (the
    encoder's by `proposals_per_object` times as many), and averaged over the ranks of a distributed run. `config` has
    the weights of the losses.
    """

    def __init__(self, config: DeformableDETRConfig) -> None:
        super().__init__()
        self.config = config
        self.matcher = HungarianMatcher(config)

    def forward(self, output: Any, targets: list[Target], num_boxes: float | None = None) -> dict[str, Tensor]:
        """output: a `DetrOutput`, targets: one for each image -> weighted losses; call backward on their sum.

        `loss_class`, `loss_bbox`, `loss_giou` of the last layer, `..._0`, `..._1` of the earlier ones (with
        `aux_loss`), `..._enc` of the encoder's proposals (two-stage, where every object has the label 0, and is
        matched `config.proposals_per_object` times).

        num_boxes: what to divide by instead of this batch's `num_boxes`, when it is a part of a larger one. ValueError
        unless it is more than 0.
        """
        if num_boxes is not None and not num_boxes > 0:
            raise ValueError(f"num_boxes divides the losses and must be more than 0; got {num_boxes}")
        divisor = self.num_boxes(targets, output.pred_logits.device) if num_boxes is None else num_boxes
        losses = self.layer_losses(output.pred_logits, output.pred_boxes, targets, divisor)
        if self.config.aux_loss:
            for n, (logits, boxes) in enumerate(output.aux):
                losses |= self.layer_losses(logits, boxes, targets, divisor, suffix=f"_{n}")
        if output.enc_logits is not None:
            times = self.config.proposals_per_object
            objects = [_as_objects(target, times, output.enc_logits.shape[1]) for target in targets]
            losses |= self.layer_losses(output.enc_logits, output.enc_boxes, objects, divisor * times, suffix="_enc")
        return losses

    def num_boxes(self, targets: list[Target], device: torch.device) -> Tensor:
        """The number of objects in `targets`, at least 1, averaged over ranks; a scalar on `device`."""
        count = torch.tensor(float(sum(len(target.labels) for target in targets)), device=device)
        if not (dist.is_available() and dist.is_initialized()):
            return count.clamp(min=1)
        dist.all_reduce(count)
        return count.clamp(min=1) / dist.get_world_size()

    def layer_losses(
        self, logits: Tensor, boxes: Tensor, targets: list[Target], num_boxes: Tensor | float, suffix: str = ""
    ) -> dict[str, Tensor]:
        """Match one layer's logits (B, Q, K) and boxes (B, Q, 4) to `targets`, and score them.

        Sums are divided by `num_boxes`; the losses' names end in `suffix`.
        """
        logits, boxes = logits.float(), boxes.float()
        matches = self.matcher(logits, boxes, targets)
        matched = torch.cat([boxes[b, match.query] for b, match in enumerate(matches)])
        wanted = torch.cat([target.boxes[match.target] for target, match in zip(targets, matches, strict=True)]).float()
        giou = generalized_iou(cxcywh_to_xyxy(matched), cxcywh_to_xyxy(wanted))
        c = self.config
        return {
            f"loss_class{suffix}": c.class_weight * self.class_loss(logits, targets, matches) / num_boxes,
            f"loss_bbox{suffix}": c.bbox_weight * (matched - wanted).abs().sum() / num_boxes,
            f"loss_giou{suffix}": c.giou_weight * (1 - giou).sum() / num_boxes,
        }

    def class_loss(self, logits: Tensor, targets: list[Target], matches: list[Match]) -> Tensor:
        """Focal loss of logits (B, Q, K) by `targets` and their `matches`, summed over every query and class.

        An unmatched query should say no to all classes.
        """
        onehot = torch.zeros_like(logits)
        for b, (target, match) in enumerate(zip(targets, matches, strict=True)):
            onehot[b, match.query, target.labels[match.target]] = 1
        return sigmoid_focal_loss(logits, onehot, self.config.focal_alpha, self.config.focal_gamma).sum()


def _as_objects(target: Target, times: int, num_proposals: int) -> Target:
    """Each object `times` times, with the label 0; fewer times where that would leave some without a proposal."""
    times = max(1, min(times, num_proposals // max(1, len(target.labels))))
    return Target(torch.zeros_like(target.labels).repeat(times), target.boxes.repeat(times, 1))
