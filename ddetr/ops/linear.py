"""A linear layer over many tokens, by whichever of PyTorch's two matrix products is the faster on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """`nn.Linear`, computed as a convolution of kernel size 1 where that is the faster way.

    PyTorch's float32 linear layer on a CPU is MKL's, its convolution oneDNN's, and on AVX-512 processors that are not
    Intel's MKL leaves half of the vector unit idle: 2.3 times slower at the encoder's sizes. (B, N, C) seen as an image
    of one row is already laid out as oneDNN likes it, so nothing is copied. The results differ by rounding. Without
    AVX-512 the two are equal going forward and the convolution takes twice as long going back.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C_in) -> (B, N, C_out), or any leading shape."""
        if not _as_convolution(x):
            return super().forward(x)
        image = x.transpose(1, 2).unsqueeze(2)  # (B, C_in, 1, N), channels last
        # With one thread PyTorch takes oneDNN only for a convolution with a stride; over one row it changes nothing.
        stride = (2, 1) if torch.get_num_threads() == 1 else 1
        return F.conv2d(image, self.weight[:, :, None, None], self.bias, stride).squeeze(2).transpose(1, 2)


_CONVOLUTION_WINS = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def _as_convolution(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_autocast_enabled("cpu"):
        return False  # a traced graph would carry the convolution to other machines
    return (
        _CONVOLUTION_WINS
        and x.ndim == 3
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.shape[0] * x.shape[1] >= 256
    )
