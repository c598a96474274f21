"""Inputs for the operator's tests, and what the definition makes of them."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ddetr.ops import ms_deform_attn, ms_deform_attn_fused, ms_deform_attn_loop, sampling_locations

SIZES = [(3, 4), (2, 2)]
FORMS = ["plain", "fused points", "fused boxes"]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""How far a result may be off: a rounding or two of the dtype it is stored in."""


class Case:
    """Tensors, then the levels' sizes. `run` calls a back end, `define` the loop."""

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, field.name) for field in fields(self) if field.name != "sizes")

    def to(self, dtype: torch.dtype) -> "Case":
        return type(self)(*(t.detach().to(dtype) for t in self.tensors()), self.sizes)

    def requires_grad(self) -> "Case":
        return type(self)(*(t.detach().clone().requires_grad_() for t in self.tensors()), self.sizes)


@dataclass
class Plain(Case):
    value: Tensor
    locations: Tensor
    weights: Tensor
    sizes: list[tuple[int, int]]

    def run(self, backend: str) -> Tensor:
        return ms_deform_attn(self.value, self.sizes, None, self.locations, self.weights, backend=backend)

    def define(self) -> Tensor:
        return ms_deform_attn_loop(self.value, self.sizes, self.locations, self.weights)


@dataclass
class Fused(Case):
    value: Tensor
    reference_points: Tensor
    offsets: Tensor
    logits: Tensor
    sizes: list[tuple[int, int]]

    def run(self, backend: str) -> Tensor:
        return ms_deform_attn_fused(
            self.value, self.sizes, None, self.reference_points, self.offsets, self.logits, backend=backend
        )

    def define(self) -> Tensor:
        locations = sampling_locations(self.reference_points, self.offsets, self.sizes)
        weights = self.logits.flatten(-2).softmax(-1).view_as(self.logits)
        return ms_deform_attn_loop(self.value, self.sizes, locations, weights)


def plain_case(B=2, Q=3, M=2, D=4, P=2, sizes=SIZES, dtype=torch.float64, seed=0) -> Plain:
    """Locations from a little outside the map to a little outside on the other side."""
    random = torch.Generator().manual_seed(seed)
    L, S = len(sizes), sum(h * w for h, w in sizes)
    value = torch.randn(B, S, M, D, generator=random, dtype=torch.float64)
    locations = torch.rand(B, Q, M, L, P, 2, generator=random, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.rand(B, Q, M, L, P, generator=random, dtype=torch.float64)
    return Plain(value, locations, weights, sizes).to(dtype)


def fused_case(reference_size=2, B=2, Q=3, M=2, D=4, P=2, sizes=SIZES, dtype=torch.float64, seed=0) -> Fused:
    random = torch.Generator().manual_seed(seed)
    L, S = len(sizes), sum(h * w for h, w in sizes)
    value = torch.randn(B, S, M, D, generator=random, dtype=torch.float64)
    reference_points = torch.rand(B, Q, L, reference_size, generator=random, dtype=torch.float64)
    offsets = torch.randn(B, Q, M, L, P, 2, generator=random, dtype=torch.float64)
    logits = torch.randn(B, Q, M, L, P, generator=random, dtype=torch.float64)
    return Fused(value, reference_points, offsets, logits, sizes).to(dtype)


def every_case(**kwargs) -> dict[str, Case]:
    """The operator's three forms, by the names in `FORMS`."""
    return dict(zip(FORMS, (plain_case(**kwargs), fused_case(2, **kwargs), fused_case(4, **kwargs)), strict=True))


def gradients(case: Case, out: Tensor, grad_out: Tensor) -> tuple[Tensor, ...]:
    if not out.requires_grad:  # the loop over no queries
        return tuple(torch.zeros_like(t) for t in case.tensors())
    return torch.autograd.grad(out, case.tensors(), grad_out, allow_unused=True, materialize_grads=True)


def definition(case: Case, grad_out: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The value and the gradients of the loop in float64, from the numbers that `case` holds in its own dtype."""
    exact = case.to(torch.float64).requires_grad()
    out = exact.define()
    return out.detach(), gradients(exact, out, grad_out.double())


def close(got: Tensor, want: Tensor) -> None:
    """Within `TOLERANCE` of the largest number that is wanted, if that is above 1."""
    tolerance = TOLERANCE[got.dtype]
    scale = max(1.0, want.abs().max().item()) if want.numel() else 1.0
    torch.testing.assert_close(got.double(), want.double(), rtol=tolerance, atol=tolerance * scale)
