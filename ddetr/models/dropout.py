"""Dropout that does not spend its time on drawing random numbers."""

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """`nn.Dropout`, with 16 random bits for each element where PyTorch draws a number of its own.

    On a CPU random numbers come from one generator, one after the other; with a number for each element they were a
    fifth of a training step of ResNet-50's detector. One draw of 64 bits serves four elements, and 16 bits hold a
    probability to 1e-5.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Zero each element with probability p, and scale the others by 1 / (1 - p); any shape."""
        if not self.training or self.p == 0:
            return x
        threshold = round(self.p * 2**16)
        if x.device.type != "cpu" or torch.compiler.is_compiling() or threshold == 2**16:  # which 16 bits do not reach
            return super().forward(x)
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
        keep = bits >= threshold - 2**15
        return x * keep.to(x.dtype).mul_(1 / (1 - self.p))
