"""The decoder: queries talk to each other, then look into the memory."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import DeformableDETRConfig
from .deform_attention import MSDeformAttn
from .dropout import Dropout
from .encoder import FeedForward
from .heads import DetectionHeads
from .multi_scale import MultiScaleTokens
from .reference_points import DecoderInputs, decoder_reference_points


class DecoderOutput(NamedTuple):
    """What each of the N layers gave, first to last.

    Attributes:
        hidden_states: N of (B, Q, C).
        reference_points: N of (B, Q, 2 | 4), where each layer looked *from*, in [0, 1] of the image without padding.
    """

    hidden_states: list[Tensor]
    reference_points: list[Tensor]


class DecoderLayer(nn.Module):
    """Self-attention among the queries, deformable cross-attention into the memory, a feed-forward network.

    Sizes are `config`'s.
    """

    def __init__(self, config: DeformableDETRConfig) -> None:
        super().__init__()
        C = config.embed_dim
        self.self_attn = nn.MultiheadAttention(C, config.num_heads, dropout=config.dropout, batch_first=True)
        self.self_attn_norm = nn.LayerNorm(C)
        self.cross_attn = MSDeformAttn(C, config.num_levels, config.num_heads, config.num_points)
        self.cross_attn_norm = nn.LayerNorm(C)
        self.ffn = FeedForward(C, config.ffn_dim, config.dropout)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, query: Tensor, query_pos: Tensor, reference_points: Tensor, memory: Tensor, tokens: MultiScaleTokens
    ) -> Tensor:
        """query, query_pos (B, Q, C), reference_points (B, Q, L, 2 | 4) of the padded maps, memory (B, S, C)
        of `tokens` -> (B, Q, C)."""
        asking = query + query_pos
        attended, _ = self.self_attn(asking, asking, query, need_weights=False)
        query = self.self_attn_norm(query + self.dropout(attended))
        attended = self.cross_attn(query + query_pos, reference_points, memory, tokens.level_sizes, tokens.mask)
        query = self.cross_attn_norm(query + self.dropout(attended))
        return self.ffn(query)


class Decoder(nn.Module):
    """A stack of `config.decoder_layers` layers (paper, section 4.1).

    With `config.box_refine` it corrects the boxes as it goes (section 4.2).
    """

    def __init__(self, config: DeformableDETRConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.box_refine = config.box_refine

    def forward(
        self, inputs: DecoderInputs, memory: Tensor, tokens: MultiScaleTokens, heads: DetectionHeads
    ) -> DecoderOutput:
        """Run the layers, from `inputs`, on the `memory` (B, S, C) of `tokens`.

        With `box_refine`, layer n + 1 looks from the box that `heads` read off layer n.
        """
        query, reference_points = inputs.query, inputs.reference_points
        hidden_states, references = [], []
        for n, layer in enumerate(self.layers):
            padded = decoder_reference_points(reference_points, tokens.valid_ratios)
            query = layer(query, inputs.query_pos, padded, memory, tokens)
            hidden_states.append(query)
            references.append(reference_points)
            if self.box_refine and n + 1 < len(self.layers):
                # Detached: a layer's loss trains its own correction, not the references of the layers before.
                with torch.no_grad():
                    reference_points = heads.boxes(n, query, reference_points)
        return DecoderOutput(hidden_states, references)
