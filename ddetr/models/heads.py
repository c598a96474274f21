"""The heads: a query's vector becomes class scores and a box."""

import copy
import math

import torch
from torch import Tensor, nn

from ..config import DeformableDETRConfig

PRIOR_PROBABILITY = 0.01
"""What every class scores before training, so that the many empty queries do not swamp the loss (RetinaNet, 4.1)."""


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """`x` (...) -> log(x / (1 - x)), held inside [`eps`, 1 - eps] so that the borders stay finite."""
    return torch.log(x.clamp(eps, 1.0) / (1 - x.clamp(0.0, 1.0)).clamp(min=eps))


def class_head(embed_dim: int, num_classes: int) -> nn.Linear:
    """(..., C) -> (..., K) logits, its bias -log(99) so that every score starts at 0.01.

    embed_dim: C; num_classes: K.
    """
    head = nn.Linear(embed_dim, num_classes)
    nn.init.constant_(head.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
    return head


def box_head(embed_dim: int) -> nn.Sequential:
    """(..., C) -> (..., 4): a correction to (cx, cy, w, h) in inverse-sigmoid space, at first zero; embed_dim: C."""
    first, second, last = nn.Linear(embed_dim, embed_dim), nn.Linear(embed_dim, embed_dim), nn.Linear(embed_dim, 4)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)


def decode_box(delta: Tensor, reference_points: Tensor) -> Tensor:
    """Correct a reference in inverse-sigmoid space (paper, appendix A.3 and A.4).

    delta (B, Q, 4); reference_points (B, Q, 2), whose box has no size yet, or (B, Q, 4) -> (cx, cy, w, h) in [0, 1].
    """
    reference = inverse_sigmoid(reference_points)
    if reference.shape[-1] == 2:
        delta = torch.cat([delta[..., :2] + reference, delta[..., 2:].to(reference.dtype)], dim=-1)
    else:
        delta = delta + reference
    return delta.sigmoid()


class DetectionHeads(nn.Module):
    """A class and a box head, shared by the decoder's layers, or with `config.box_refine` one pair for each."""

    def __init__(self, config: DeformableDETRConfig) -> None:
        super().__init__()
        count = config.decoder_layers if config.box_refine else 1
        first_class, first_box = class_head(config.embed_dim, config.num_classes), box_head(config.embed_dim)
        self.class_embed = nn.ModuleList(copy.deepcopy(first_class) for _ in range(count))
        self.box_embed = nn.ModuleList(copy.deepcopy(first_box) for _ in range(count))
        if not config.two_stage:
            # A first guess of sigmoid(-2) = 0.12 of the image: only proposals come with a size to correct.
            nn.init.constant_(self.box_embed[0].get_parameter("4.bias")[2:], -2.0)

    def logits(self, layer: int, hidden: Tensor) -> Tensor:
        """hidden (B, Q, C) of decoder layer `layer` -> (B, Q, K)."""
        return self.class_embed[min(layer, len(self.class_embed) - 1)](hidden)

    def boxes(self, layer: int, hidden: Tensor, reference_points: Tensor) -> Tensor:
        """hidden (B, Q, C), reference_points (B, Q, 2 | 4) of decoder layer `layer` -> (cx, cy, w, h) in [0, 1]."""
        return decode_box(self.box_embed[min(layer, len(self.box_embed) - 1)](hidden), reference_points)

    def forward(self, hidden_states: list[Tensor], reference_points: list[Tensor]) -> tuple[Tensor, Tensor]:
        """hidden_states: N of (B, Q, C); reference_points: N of (B, Q, 2 | 4) -> logits, boxes, (N, B, Q, K | 4)."""
        logits = [self.logits(n, hidden) for n, hidden in enumerate(hidden_states)]
        boxes = [
            self.boxes(n, hidden, reference)
            for n, (hidden, reference) in enumerate(zip(hidden_states, reference_points, strict=True))
        ]
        return torch.stack(logits), torch.stack(boxes)
