"""What attention costs, in multiply-adds: one multiplication and the addition of its result count as one."""

from __future__ import annotations


def deformable_attention_cost(
    num_tokens: int, embed_dim: int = 256, num_heads: int = 8, num_levels: int = 4, num_points: int = 4
) -> dict[str, int]:
    """Multi-scale deformable self-attention among S tokens, part by part (paper, appendix A.1).

    Reading a point costs five for each channel: four corners of a bilinear sample, and the attention weight. A head's
    points have C / M channels, so that the heads cancel out there.
    """
    S, C = num_tokens, embed_dim
    samples = num_heads * num_levels * num_points
    return {
        "sampling_offsets": S * C * 2 * samples,
        "attention_weights": S * C * samples,
        "value_proj": S * C * C,
        "reading": S * num_levels * num_points * C * 5,
        "output_proj": S * C * C,
    }


def dense_attention_cost(num_tokens: int, embed_dim: int = 256) -> dict[str, int]:
    """Dense self-attention among S tokens, part by part: the heads cancel out."""
    S, C = num_tokens, embed_dim
    return {
        "query, key, value": 3 * S * C * C,
        "query x key": S * S * C,
        "weights x value": S * S * C,
        "output": S * C * C,
    }
