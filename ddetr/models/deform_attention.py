"""Multi-scale deformable attention as a module: four linear layers around the operator."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..ops import ms_deform_attn_fused, sampling_locations, softmax_weights
from .linear import Linear


class SamplingPoints(NamedTuple):
    """Where a query looks, and how hard.

    Attributes:
        locations: (B, Q, M, L, P, 2) as (x, y) in [0, 1] of the padded map; may lie outside.
        weights: (B, Q, M, L, P), summing to 1 over the L * P points of each head.
    """

    locations: Tensor
    weights: Tensor


class MSDeformAttn(nn.Module):
    """Multi-scale deformable attention (paper, section 4.1, equation 3).

    A query asks no key: two linear layers read from it, for each of M heads, L levels and P points, an offset and a
    weight. The operator sums the values found there.

    Args:
        embed_dim: C, divisible by num_heads (ValueError otherwise).
    """

    def __init__(self, embed_dim: int = 256, num_levels: int = 4, num_heads: int = 8, num_points: int = 4) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim must be divisible by num_heads; got {embed_dim} and {num_heads}")
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        num_samples = num_heads * num_levels * num_points
        self.sampling_offsets = Linear(embed_dim, num_samples * 2)
        self.attention_weights = Linear(embed_dim, num_samples)
        self.value_proj = Linear(embed_dim, embed_dim)
        self.output_proj = Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as a star: head m looks in direction m, point p at p + 1 cells, all equally hard (appendix A.4)."""
        angle = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)  # onto the square: (1, 0), (1, 1), (0, 1), ...
        radius = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        star = direction[:, None, None] * radius[:, None]  # (M, 1, P, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(star.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        tokens: Tensor,
        spatial_shapes: Tensor | Sequence[tuple[int, int]],
        mask: Tensor | None = None,
    ) -> Tensor:
        """Attend from each query to a few tokens of every level.

        Args:
            query: (B, Q, C), position already added.
            reference_points: (B, Q, L, 2) as (x, y) or (B, Q, L, 4) as (cx, cy, w, h), in [0, 1] of the padded map.
            tokens: (B, S, C), what is looked at.
            spatial_shapes: (L, 2) integers (h, w), or a list of pairs.
            mask: (B, S) bool, True where padding, which reads as zero.

        Returns:
            (B, Q, C).

        Raises:
            ValueError: tokens, levels, mask or reference points that do not fit together.
        """
        value = self.project_value(tokens, mask)
        offsets, logits = self.project_query(query)
        out = ms_deform_attn_fused(value, spatial_shapes, None, reference_points, offsets, logits)
        return self.output_proj(out)

    def project_value(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, S, C) -> (B, S, M, D), zero where `mask` says padding."""
        value = self.value_proj(tokens)
        if mask is not None:
            if mask.shape != tokens.shape[:2]:
                raise ValueError(f"mask must be (B, S) = {tuple(tokens.shape[:2])}; got {tuple(mask.shape)}")
            value = value.masked_fill(mask[..., None], 0.0)
        return value.unflatten(-1, (self.num_heads, -1))

    def project_query(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """(B, Q, C) -> sampling offsets (B, Q, M, L, P, 2) and attention logits (B, Q, M, L, P)."""
        samples = (self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).unflatten(-1, (*samples, 2))
        return offsets, self.attention_weights(query).unflatten(-1, samples)

    def sampling_points(
        self, query: Tensor, reference_points: Tensor, spatial_shapes: Tensor | Sequence[tuple[int, int]]
    ) -> SamplingPoints:
        """Where and how hard each query looks; arguments as for `forward`. The forward pass does not keep these."""
        offsets, logits = self.project_query(query)
        locations = sampling_locations(reference_points, offsets, spatial_shapes)
        return SamplingPoints(locations, softmax_weights(logits))
