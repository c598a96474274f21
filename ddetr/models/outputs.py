"""From what the heads say to detections in pixels."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..losses.boxes import cxcywh_to_xyxy


class LayerOutput(NamedTuple):
    """One decoder layer's predictions: pred_logits (B, Q, K) and pred_boxes (B, Q, 4), as in `DetrOutput`."""

    pred_logits: Tensor
    pred_boxes: Tensor


class DetrOutput(NamedTuple):
    """Everything the model predicts. Boxes are (cx, cy, w, h) in [0, 1] of each image without its padding.

    Attributes:
        pred_logits: (B, Q, K), last decoder layer, before the sigmoid.
        pred_boxes: (B, Q, 4), last decoder layer.
        aux: the earlier decoder layers' predictions, first to last.
        memory: (B, S, C), the encoder's output.
        hidden_states: (N, B, Q, C), every decoder layer's queries.
        reference_points: N of (B, Q, 2 | 4), where each decoder layer looked from.
        enc_logits: two-stage only: (B, S, K), every token's scores.
        enc_boxes: two-stage only: (B, S, 4), every token's box.
    """

    pred_logits: Tensor
    pred_boxes: Tensor
    aux: list[LayerOutput]
    memory: Tensor
    hidden_states: Tensor
    reference_points: list[Tensor]
    enc_logits: Tensor | None = None
    enc_boxes: Tensor | None = None


def postprocess(
    logits: Tensor,
    boxes: Tensor,
    sizes: list[tuple[int, int]],
    max_detections: int = 100,
    clip_boxes: bool = False,
) -> list[dict[str, Tensor]]:
    """The best (query, class) pairs of each image, by sigmoid score. There is no non-maximum suppression.

    logits (B, Q, K), boxes (B, Q, 4) as (cx, cy, w, h) in [0, 1], sizes: each image's (h, w) in pixels -> for each
    image {boxes (n, 4) xyxy pixels, scores (n,), labels (n,)}, best first, n at most `max_detections`. A query may
    appear with more than one class. With `clip_boxes`, boxes end at the image's border.
    """
    B, Q, K = logits.shape
    scores, index = logits.float().sigmoid().flatten(1).topk(min(max_detections, Q * K), dim=1)
    corners = cxcywh_to_xyxy(boxes.float()).gather(1, (index // K)[..., None].expand(-1, -1, 4))
    h, w = torch.tensor(sizes, dtype=torch.float32, device=logits.device).unbind(1)
    whole = torch.stack([w, h, w, h], dim=1)[:, None]
    pixels = corners * whole
    if clip_boxes:
        pixels = pixels.clamp(min=0).minimum(whole)
    return [{"boxes": pixels[b], "scores": scores[b], "labels": index[b] % K} for b in range(B)]
