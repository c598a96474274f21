"""Muon: a weight matrix's momentum, made orthogonal, is its step (Jordan et al., 2024, kellerjordan.github.io)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
TURNS = 2
"""Each matrix moves in one of two steps, twice as far. That is nearly the same way, for its momentum remembers some
twenty steps, at half of the cost."""
_POLYNOMIALS = ((7.7110, -22.1138, 16.2487), (3.2153, -2.4112, 0.5013), (2.2183, -1.5940, 0.4107))
"""a, b, c of p(x) = a x + b x^3 + c x^5, one for each iteration. Together they bring all of [0.02, 1] to within a tenth
of 1: each is the best for where the one before ends (the idea of Amsel et al., 2025, arXiv:2505.16932)."""


def orthogonalize(matrix: Tensor) -> Tensor:
    """The orthogonal matrix near `matrix` (m, n): U V^T for U S V^T, roughly, by iteration instead of a decomposition.

    Singular values of 2 % of the norm and more become about 1, smaller ones 55 times what they were.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (1.01 * wide.norm() + 1e-7)  # no singular value is above 1, nor is 0 divided by 0
    # p(S) of the matrix is q(S^2) S: all but the last product is done on the smaller, square matrix.
    gram = wide @ wide.T
    product = _polynomial(gram, *_POLYNOMIALS[0])
    factor = product
    for coefficients in _POLYNOMIALS[1:]:
        gram = factor @ gram @ factor
        factor = _polynomial(gram, *coefficients)
        product = factor @ product
    wide = product @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


def _polynomial(gram: Tensor, a: float, b: float, c: float) -> Tensor:
    """a + b G + c G^2, for p(x) / x."""
    result = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    result.diagonal().add_(a)
    return result


class Muon(torch.optim.AdamW):
    """AdamW, but parameters in groups with `"orthogonal": True` take steps that are as long in every direction.

    A gradient is mostly along a few singular vectors, AdamW's step along some more; Muon moves as far along all of them
    that the gradient has. Meant for the hidden layers' matrices and convolutions (a row for each output channel), not
    for embeddings, last layers, norms and biases. Matrices take turns: half of a group moves in each step, twice as
    far. Over its turns one moves, root mean square, at most about 0.2 of the learning rate a step, as with AdamW (Liu
    et al., 2025, arXiv:2502.16982, section 2.2), so that both can follow one schedule.

    `params`, `lr`, `weight_decay` and `fused` are AdamW's. ValueError in a step for an orthogonal parameter that is no
    matrix or kernel.
    """

    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 1e-2, fused: bool | None = None) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, fused=fused)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step of both; as for any optimiser, `closure` computes the loss again."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        # GradScaler leaves it to fused optimisers to divide by its scale, and to skip a step.
        scale, overflow = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        gradients = []
        for group in self.param_groups:
            if not group.get("orthogonal"):
                continue
            gradients += [(parameter, parameter.grad) for parameter in group["params"]]
            if overflow is None or not overflow:
                self._move_some(group, scale)
        for parameter, _ in gradients:
            parameter.grad = None  # AdamW leaves out what has no gradient
        super().step()
        for parameter, gradient in gradients:
            parameter.grad = gradient
        return loss

    def _move_some(self, group: dict[str, Any], scale: Tensor | None) -> None:
        """All of the group's momenta take in the gradient, and those whose turn it is move."""
        group["turn"] = (group.get("turn", -1) + 1) % TURNS  # in the group, so that a checkpoint has it
        for number, parameter in enumerate(group["params"]):
            if parameter.grad is not None:
                ahead = self._momentum(parameter, parameter.grad if scale is None else parameter.grad / scale)
                if number % TURNS == group["turn"]:
                    _move(parameter, ahead.flatten(1), TURNS * group["lr"], group["weight_decay"])

    def _momentum(self, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
        """Nesterov's, with this `gradient`."""
        if parameter.ndim < 2:
            raise ValueError(f"only matrices and kernels can be orthogonal; got a parameter of shape {parameter.shape}")
        state = self.state[parameter]
        if not state:  # named as AdamW's, which loads them
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
        state["step"] += 1
        return gradient.lerp(state["exp_avg"].lerp_(gradient, 1 - MOMENTUM), MOMENTUM)


def _move(parameter: nn.Parameter, momentum: Tensor, rate: float, weight_decay: float) -> None:
    length = 0.2 * math.sqrt(max(momentum.shape))  # for a root mean square of 0.2
    parameter.mul_(1 - rate * weight_decay)
    parameter.sub_(orthogonalize(momentum).view_as(parameter), alpha=rate * length)
