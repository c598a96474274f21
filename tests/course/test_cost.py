import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ddetr.course.cost import deformable_attention_cost, dense_attention_cost
from ddetr.models.deform_attention import MSDeformAttn


@pytest.mark.parametrize(
    ("C", "M", "L", "P", "sizes"),
    [(32, 4, 1, 2, [(5, 7)]), (64, 8, 3, 1, [(9, 30), (5, 15), (3, 8)])],  # below and above the convolution's limit
)
def test_the_linear_layers_are_what_pytorch_counts(C, M, L, P, sizes):
    S = sum(h * w for h, w in sizes)
    x = torch.randn(1, S, C)
    with FlopCounterMode(display=False) as counted:
        MSDeformAttn(C, L, M, P)(x, torch.rand(1, S, L, 2), x, sizes)
    parts = deformable_attention_cost(S, C, M, L, P)
    assert counted.get_total_flops() == 2 * (sum(parts.values()) - parts["reading"])
    assert parts["reading"] == 5 * S * M * L * P * (C // M)


def test_dense_attention_is_what_pytorch_counts():
    x = torch.randn(1, 50, 32)
    with FlopCounterMode(display=False) as counted:
        torch.nn.MultiheadAttention(32, 4, batch_first=True)(x, x, x, need_weights=True)
    assert counted.get_total_flops() == 2 * sum(dense_attention_cost(50, 32).values())
