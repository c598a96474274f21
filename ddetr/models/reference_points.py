"""Where a token or a query looks from."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import DeformableDETRConfig


class DecoderInputs(NamedTuple):
    """What the decoder starts from.

    Attributes:
        query: (B, Q, C), the content.
        query_pos: (B, Q, C), the position; added to the content wherever a query asks or is asked.
        reference_points: (B, Q, 2) as (x, y) or (B, Q, 4) as (cx, cy, w, h), in [0, 1] of each image without padding.
        enc_logits: two-stage only: (B, S, K), the encoder's scores for every token.
        enc_boxes: two-stage only: (B, S, 4) as (cx, cy, w, h), the encoder's box for every token.
        proposal_index: two-stage only: (B, Q), the tokens that became queries, best first.
    """

    query: Tensor
    query_pos: Tensor
    reference_points: Tensor
    enc_logits: Tensor | None = None
    enc_boxes: Tensor | None = None
    proposal_index: Tensor | None = None


def encoder_reference_points(level_sizes: Sequence[tuple[int, int]], valid_ratios: Tensor) -> Tensor:
    """Each token looks from the centre of its own cell (paper, section 4.1).

    level_sizes: L pairs (h, w); valid_ratios (B, L, 2) as (w, h) -> (B, S, L, 2) as (x, y) in [0, 1] of the padded map.

    Dividing by the token's own level's ratio gives its place in the image without padding, the same at every level;
    multiplying by the ratio of the level looked into turns that into a place on that level's padded map.
    """
    places = []
    for level, (h, w) in enumerate(level_sizes):
        y = (torch.arange(h, dtype=torch.float32, device=valid_ratios.device) + 0.5) / h
        x = (torch.arange(w, dtype=torch.float32, device=valid_ratios.device) + 0.5) / w
        y, x = torch.meshgrid(y, x, indexing="ij")
        grid = torch.stack([x, y], dim=-1).flatten(0, 1)  # (h*w, 2), row by row
        places.append(grid / valid_ratios[:, None, level])  # (B, h*w, 2)
    return torch.cat(places, 1)[:, :, None] * valid_ratios[:, None]


def decoder_reference_points(reference_points: Tensor, valid_ratios: Tensor) -> Tensor:
    """The queries' reference points on each level's padded map.

    reference_points (B, Q, 2 | 4) of the image without padding, valid_ratios (B, L, 2) -> (B, Q, L, 2 | 4).
    """
    scale = valid_ratios.repeat(1, 1, reference_points.shape[-1] // 2)  # (B, L, 2 | 4): (w, h) or (w, h, w, h)
    return reference_points[:, :, None] * scale[:, None]


class LearnedQueries(nn.Module):
    """The one-stage decoder's queries: learned, the same for every image (paper, section 4.1).

    One embedding of 2 C for each of `config.num_queries`: the first half is `query_pos`, the second the content.
    """

    def __init__(self, config: DeformableDETRConfig) -> None:
        super().__init__()
        self.query_embed = nn.Embedding(config.num_queries, 2 * config.embed_dim)
        self.reference_points = nn.Linear(config.embed_dim, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, batch_size: int) -> DecoderInputs:
        """Query, position (B, Q, C each) and reference points (B, Q, 2), repeated for each of `batch_size` images."""
        query_pos, query = self.query_embed.weight.expand(batch_size, -1, -1).chunk(2, dim=-1)
        return DecoderInputs(query, query_pos, self.reference_points(query_pos).sigmoid())
