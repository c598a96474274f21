"""The encoder: every token looks at a few others, on all levels, layer after layer."""

from torch import Tensor, nn

from ..config import DeformableDETRConfig
from ..ops.linear import Linear
from .deform_attention import MSDeformAttn
from .dropout import Dropout
from .multi_scale import MultiScaleTokens
from .reference_points import encoder_reference_points


class FeedForward(nn.Module):
    """Linear, ReLU, linear, added to the input and normalised.

    From `embed_dim`, C, to `hidden_dim` and back, with `dropout` behind both.
    """

    def __init__(self, embed_dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = Linear(embed_dim, hidden_dim)
        self.linear2 = Linear(hidden_dim, embed_dim)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, N, C) -> (B, N, C)."""
        hidden = self.dropout(self.linear1(x).relu())
        return self.norm(x + self.dropout(self.linear2(hidden)))


class EncoderLayer(nn.Module):
    """Deformable self-attention among the tokens of all levels, then a feed-forward network; sizes are `config`'s."""

    def __init__(self, config: DeformableDETRConfig) -> None:
        super().__init__()
        C = config.embed_dim
        self.self_attn = MSDeformAttn(C, config.num_levels, config.num_heads, config.num_points)
        self.self_attn_norm = nn.LayerNorm(C)
        self.ffn = FeedForward(C, config.ffn_dim, config.dropout)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, tokens: MultiScaleTokens, reference_points: Tensor) -> Tensor:
        """x (B, S, C), what `tokens` are by now; reference_points (B, S, L, 2) -> (B, S, C)."""
        attended = self.self_attn(x + tokens.pos, reference_points, x, tokens.level_sizes, tokens.mask)
        x = self.self_attn_norm(x + self.dropout(attended))
        return self.ffn(x)


class Encoder(nn.Module):
    """A stack of `config.encoder_layers` layers (paper, section 4.1)."""

    def __init__(self, config: DeformableDETRConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))

    def forward(self, tokens: MultiScaleTokens) -> Tensor:
        """`tokens`, S in each image -> the memory, (B, S, C)."""
        reference_points = encoder_reference_points(tokens.level_sizes, tokens.valid_ratios)
        x = tokens.tokens
        for layer in self.layers:
            x = layer(x, tokens, reference_points)
        return x
