"""Sines and cosines that tell a token, or a box, where it is."""

import math

import torch
from torch import Tensor

TEMPERATURE = 10000
SCALE = 2 * math.pi


def sine_position_encoding(mask: Tensor, num_channels: int) -> Tensor:
    """Encode each cell's place in the valid part of its map (DETR, appendix A.4; half-cell shift of Deformable DETR).

    mask (B, h, w) bool, True where padding -> (B, `num_channels`, h, w) float32: the first half of the channels is
    y, the second x. Cell centres are (cumsum - 0.5) / size, from 0 to 1 over the valid part, times 2 pi.
    """
    valid = (~mask).float()
    y, x = valid.cumsum(1), valid.cumsum(2)
    y = (y - 0.5) / (y[:, -1:, :] + 1e-6)
    x = (x - 0.5) / (x[:, :, -1:] + 1e-6)
    half = num_channels // 2
    return torch.cat([encode_coordinate(y, half), encode_coordinate(x, half)], dim=-1).permute(0, 3, 1, 2)


def encode_coordinate(position: Tensor, num_channels: int) -> Tensor:
    """position (...) in [0, 1] -> (..., `num_channels`): sine and cosine, alternating, at falling frequencies.

    Channels 2i and 2i + 1 are sin and cos of 2 pi * position / 10000^(2i / num_channels).
    """
    channel = torch.arange(num_channels, dtype=torch.float32, device=position.device)
    period = TEMPERATURE ** (2 * (channel // 2) / num_channels)
    angle = position.float()[..., None] * SCALE / period
    return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-2)
