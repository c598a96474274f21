"""Two-stage: the encoder proposes boxes, and the best become the decoder's queries (paper, section 4.2, A.4)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert, nms

from ..config import DeformableDETRConfig
from ..ops.locations import sizes_as_tensor
from .heads import box_head, class_head
from .multi_scale import MultiScaleTokens
from .position_encoding import encode_coordinate
from .reference_points import DecoderInputs

BASE_SIZE = 0.05
"""Side of a level-0 proposal before correction, as a fraction of the image; doubles with each level."""


def token_proposals(
    mask: Tensor | None, level_sizes: Sequence[tuple[int, int]], batch_size: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """One box around each token, before correction.

    mask (B, S) bool, True where padding, or None; level_sizes: L pairs (h, w); batch_size: B; device: where the result
    is to be. Returns proposals (B, S, 4) as (cx, cy, w, h) in [0, 1] of the image without padding, and valid (B, S):
    inside (0.01, 0.99) on every coordinate and not padding.
    """
    level_masks = mask.split([h * w for h, w in level_sizes], dim=1) if mask is not None else None
    proposals = []
    for level, (h, w) in enumerate(level_sizes):
        size = sizes_as_tensor([w, h], torch.float32, device).expand(batch_size, 2)
        if level_masks is not None:
            valid = ~level_masks[level].view(-1, h, w)
            size = torch.stack([valid[:, 0].sum(-1), valid[:, :, 0].sum(-1)], dim=-1).float()  # (B, 2) as (w, h)
        y, x = torch.meshgrid(
            torch.arange(h, dtype=torch.float32, device=device),
            torch.arange(w, dtype=torch.float32, device=device),
            indexing="ij",
        )
        centres = (torch.stack([x, y], dim=-1).view(1, h * w, 2) + 0.5) / size[:, None]
        proposals.append(torch.cat([centres, torch.full_like(centres, BASE_SIZE * 2**level)], dim=-1))
    boxes = torch.cat(proposals, 1)
    valid = ((boxes > 0.01) & (boxes < 0.99)).all(-1)
    return boxes, valid if mask is None else valid & ~mask


def encode_proposals(proposals: Tensor, embed_dim: int) -> Tensor:
    """proposals (B, Q, 4) in [0, 1] -> (B, Q, 2 C), C being `embed_dim`: sine encoding of cx, cy, w, h, C / 2 each."""
    return encode_coordinate(proposals, embed_dim // 2).flatten(-2)


def put_last(scores: Tensor, boxes: Tensor, max_overlap: float) -> Tensor:
    """Lower the scores of boxes that overlap a better one, so that they rank after all others (NMS, but none is lost).

    scores (B, S), boxes (B, S, 4) as (cx, cy, w, h), max_overlap: an IoU -> scores (B, S). The paper does without;
    Ouyang-Zhang et al. (NMS Strikes Back, 2022) show what it is good for.
    """
    lowered = scores - (scores.max() - scores.min() + 1)
    ranked = []
    for own, low, corners in zip(scores, lowered, box_convert(boxes, "cxcywh", "xyxy"), strict=True):
        best = nms(corners.float(), own.float(), max_overlap)
        ranked.append(low.index_copy(0, best, own[best]))
    return torch.stack(ranked)


class TwoStage(nn.Module):
    """Scores every token as object or not, corrects its box, and makes queries of the best `config.num_queries`."""

    def __init__(self, config: DeformableDETRConfig) -> None:
        super().__init__()
        C = config.embed_dim
        self.num_queries = config.num_queries
        self.proposal_nms = config.proposal_nms
        self.enc_output = nn.Linear(C, C)
        self.enc_output_norm = nn.LayerNorm(C)
        self.class_embed = class_head(C, config.num_classes)
        self.box_embed = box_head(C)
        self.pos_trans = nn.Linear(2 * C, 2 * C)
        self.pos_trans_norm = nn.LayerNorm(2 * C)
        nn.init.xavier_uniform_(self.enc_output.weight)
        nn.init.xavier_uniform_(self.pos_trans.weight)

    def forward(self, memory: Tensor, tokens: MultiScaleTokens) -> DecoderInputs:
        """memory (B, S, C) of `tokens` -> queries, and the encoder's own predictions, which the loss supervises.

        A small image may have fewer tokens than queries are asked for: then all of them become queries.
        """
        logits, box_logits = self.predict(memory, tokens)
        # Class 0 alone ranks: the encoder's loss has only that class, "object".
        scores = logits[..., 0]
        if self.proposal_nms:
            scores = put_last(scores.detach(), box_logits.detach().sigmoid(), self.proposal_nms)
        index = scores.topk(min(self.num_queries, scores.shape[1]), dim=1).indices  # (B, Q)
        # Detached: the decoder's losses do not reach back through the choice; the encoder has a loss of its own.
        best = box_logits.detach().gather(1, index[..., None].expand(-1, -1, 4)).sigmoid()
        encoded = encode_proposals(best, memory.shape[-1]).to(self.pos_trans.weight.dtype)
        query_pos, query = self.pos_trans_norm(self.pos_trans(encoded)).chunk(2, dim=-1)
        return DecoderInputs(query, query_pos, best, logits, box_logits.sigmoid(), index)

    def predict(self, memory: Tensor, tokens: MultiScaleTokens) -> tuple[Tensor, Tensor]:
        """memory (B, S, C) of `tokens` -> each one's logits (B, S, K) and box (B, S, 4) in inverse-sigmoid space.

        The box is +inf where a token may not propose.
        """
        proposals, valid = token_proposals(tokens.mask, tokens.level_sizes, memory.shape[0], memory.device)
        box_start = torch.log(proposals / (1 - proposals)).masked_fill(~valid[..., None], float("inf"))
        features = self.enc_output_norm(self.enc_output(memory.masked_fill(~valid[..., None], 0.0)))
        return self.class_embed(features), self.box_embed(features) + box_start
