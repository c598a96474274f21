"""Multi-scale deformable attention as the detector's layers call it."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .. import ops
from ..ops import sampling_locations, softmax_weights


class SamplingPoints(NamedTuple):
    """Where a query looks, and how hard.

    Attributes:
        locations: (B, Q, M, L, P, 2) as (x, y) in [0, 1] of the padded map; may lie outside.
        weights: (B, Q, M, L, P), summing to 1 over the L * P points of each head.
    """

    locations: Tensor
    weights: Tensor


class MSDeformAttn(ops.MSDeformAttn):
    """`ddetr.ops.MSDeformAttn`, its four linear layers and its start, in this package's words.

    The levels' sizes say where each level starts, so that the call does without `level_start_index`.

    Args:
        embed_dim: C, divisible by num_heads (ValueError otherwise).
        num_levels: L.
        num_heads: M.
        num_points: P, for each head and level.
    """

    def __init__(self, embed_dim: int = 256, num_levels: int = 4, num_heads: int = 8, num_points: int = 4) -> None:
        super().__init__(embed_dim, num_levels, num_heads, num_points)

    def forward(  # type: ignore[override] # one argument fewer
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
        return super().forward(query, reference_points, tokens, spatial_shapes, None, mask)

    def sampling_points(
        self, query: Tensor, reference_points: Tensor, spatial_shapes: Tensor | Sequence[tuple[int, int]]
    ) -> SamplingPoints:
        """Where and how hard each query looks, which the forward pass does not keep.

        `query`, `reference_points` and `spatial_shapes` are those of `forward`.
        """
        offsets, logits = self.project_query(query)
        locations = sampling_locations(reference_points, offsets, spatial_shapes)
        return SamplingPoints(locations, softmax_weights(logits))
