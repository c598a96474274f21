"""Random small cases against the definition in float64: sizes, strides, dtypes and hostile places."""

import random

import pytest
import torch
from cases import TOLERANCE, Plain, definition, gradients

CASES = 10_000
HOSTILE = [
    float("nan"),
    float("inf"),
    -float("inf"),
    1e30,
    -1e30,
    1e9,
    -1e9,
    2.0**31,
    -0.0,
    0.0,
    1.0,
    0.5,
    -0.125,
    1.125,
]


def random_case(draw: random.Random) -> Plain:
    sizes = [(draw.randint(1, 4), draw.randint(1, 4)) for _ in range(draw.randint(1, 2))]
    B, Q, M, P = draw.choice([1, 1, 2]), draw.choice([0, 1, 1, 1, 2]), draw.choice([1, 1, 2]), draw.choice([1, 1, 2])
    D = draw.choice([1, 2, 3, 5, 8, 16, 17, 32, 35])
    S, L = sum(h * w for h, w in sizes), len(sizes)
    dtype = draw.choice(list(TOLERANCE))
    sampling_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    # Multiples of 1/64, so that float32 finds the same cell as float64 on and beside every border.
    locations = torch.randint(-16, 81, (B, Q, M, L, P, 2)).to(sampling_dtype) / 64
    if draw.random() < 0.5:
        hostile = torch.tensor(HOSTILE, dtype=sampling_dtype)[torch.randint(len(HOSTILE), locations.shape)]
        locations = torch.where(torch.rand(locations.shape) < 0.3, hostile, locations)
    tensors = (
        torch.randn(B, S, M, D).to(dtype),
        locations,
        torch.randn(B, Q, M, L, P).to(sampling_dtype),
    )
    return Plain(*(restride(t, draw) for t in tensors), sizes)


def restride(t: torch.Tensor, draw: random.Random) -> torch.Tensor:
    """The same numbers in another layout of memory."""
    how = draw.choice(["as it is", "permuted", "every second", "shifted"])
    if how == "permuted":
        order = draw.sample(range(t.ndim), t.ndim)
        back = [order.index(i) for i in range(t.ndim)]
        return t.permute(order).contiguous().permute(back)
    if how == "every second":
        return torch.stack([t, torch.full_like(t, float("nan"))], -1)[..., 0]
    if how == "shifted":
        return torch.cat([t.new_full((1,), float("nan")), t.flatten()])[1:].view(t.shape)
    return t


@pytest.mark.parametrize("part", range(4))
def test_random_cases(cpu_backend, part):
    draw = random.Random(part)
    torch.manual_seed(part)
    for number in range(CASES // 4):
        case = random_case(draw)
        for tensor in case.tensors():
            tensor.requires_grad_()
        out = case.run(cpu_backend)
        grad_out = torch.randn(out.shape).to(out.dtype)
        expected, expected_grads = definition(case, grad_out)
        results = [out, *gradients(case, out, grad_out)]
        for name, got, want in zip(
            ("out", "value", "locations", "weights"), results, [expected, *expected_grads], strict=True
        ):
            error = (got.double() - want).abs().max().item() if got.numel() else 0.0
            scale = max(1.0, want.abs().max().item()) if got.numel() else 1.0
            # `not (a <= b)` so that a NaN fails
            if not error <= TOLERANCE[got.dtype] * scale:
                pytest.fail(f"case {number} of part {part}: {name} is off by {error}\n{case}")
