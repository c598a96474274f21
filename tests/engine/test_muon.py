import copy

import pytest
import torch
from torch import nn

from ddetr.engine.muon import TURNS, Muon, orthogonalize


def matrix(values, m, n):
    """A matrix (m, n) of these singular values, with its singular vectors."""
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(k, k, generator=generator)).Q[:, : len(values)] for k in (m, n))
    return u @ torch.diag(values) @ v.T, u, v


@pytest.mark.parametrize(("m", "n"), [(40, 40), (40, 90), (90, 40)])
def test_singular_values_become_one_and_singular_vectors_stay(m, n):
    values = torch.logspace(0, -1.2, 40)
    values = values / values.norm()
    assert values.min() > 0.02
    given, u, v = matrix(values, m, n)
    inside = u.T @ orthogonalize(1e-3 * given) @ v  # whatever its norm
    assert ((inside.diagonal() - 1).abs() < 0.1).all()
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 1e-3


def test_small_singular_values_grow_and_a_zero_matrix_stays():
    given, u, v = matrix(torch.tensor([1.0, 1e-3]), 8, 8)
    assert (u.T @ orthogonalize(given) @ v).diagonal()[1] == pytest.approx(0.055, abs=0.003)
    assert orthogonalize(torch.zeros(3, 5)).equal(torch.zeros(3, 5))


def run(optimizer, parameters, steps=3):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def parameters():
    generator = torch.Generator().manual_seed(2)
    return [nn.Parameter(torch.randn(size, generator=generator)) for size in [(8, 4, 3, 3), (6, 8), (6,)]]


def groups(parameters):
    *matrices, bias = parameters
    return [{"params": matrices, "orthogonal": True}, {"params": [bias], "lr": 0.1}]


def test_what_is_not_orthogonal_is_adamws():
    ours, theirs = parameters(), parameters()
    run(Muon([{"params": ours}], lr=0.01, weight_decay=0.1), ours)
    run(torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.1), theirs)
    assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))


def test_a_step_is_as_long_in_every_direction():
    moved = parameters()
    before = [parameter.detach().clone() for parameter in moved]
    optimizer = Muon(groups(moved), lr=0.01, weight_decay=0.0)
    for parameter, old in zip(moved[:2], before, strict=False):  # in turn
        run(optimizer, moved, steps=1)  # always the same gradients
        step = (parameter - old).detach()
        assert step.pow(2).mean().sqrt() == pytest.approx(TURNS * 0.01 * 0.2, rel=0.1)
        values = torch.linalg.svdvals(step.flatten(1))
        assert values.min() > 0.8 * values.max()
        assert (step * parameter.grad).sum() < 0
    assert not moved[2].equal(before[2])


def test_matrices_take_turns():
    moved = parameters()
    optimizer = Muon(groups(moved), lr=0.01)
    turns = []
    for _ in range(2 * TURNS):
        before = [parameter.detach().clone() for parameter in moved[:2]]
        run(optimizer, moved, steps=1)
        turns.append([not parameter.equal(old) for parameter, old in zip(moved, before, strict=False)])
    assert turns == 2 * [[True, False], [False, True]]


def test_the_momentum_takes_in_the_gradient_of_every_step():
    moved = parameters()
    optimizer = Muon(groups(moved), lr=0.01)
    for step in range(3):
        for parameter in moved:
            parameter.grad = torch.full_like(parameter, float(step == 1))
        optimizer.step()
    for parameter in moved[:2]:
        torch.testing.assert_close(optimizer.state[parameter]["exp_avg"], torch.full_like(parameter, 0.05 * 0.95))


def test_weight_decay_shrinks_what_has_no_direction():
    (weight, *_) = parameters()
    before = weight.detach().clone()
    weight.grad = torch.zeros_like(weight)
    Muon([{"params": [weight], "orthogonal": True}], lr=0.5, weight_decay=0.1).step()
    torch.testing.assert_close(weight.detach(), before * (1 - TURNS * 0.5 * 0.1))


def test_it_goes_on_from_its_state_exactly():
    once, twice = parameters(), parameters()
    run(Muon(groups(once), lr=0.01, fused=True), once, steps=3)
    optimizer = Muon(groups(twice), lr=0.01, fused=True)
    run(optimizer, twice, steps=3)  # in the middle of the turns
    again = [nn.Parameter(parameter.detach().clone()) for parameter in twice]
    resumed = Muon(groups(again), lr=0.01, fused=True)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, own in ((optimizer, twice), (resumed, again)):
        run(each, own, steps=3)
    assert all(a.equal(b) for a, b in zip(twice, again, strict=True))
    assert not any(a.equal(b) for a, b in zip(once, twice, strict=True))


def test_gradients_are_left_as_they_were():
    moved = parameters()
    gradients = [torch.ones_like(parameter) for parameter in moved]
    for parameter, gradient in zip(moved, gradients, strict=True):
        parameter.grad = gradient.clone()
    Muon(groups(moved), lr=0.01).step()
    assert all(parameter.grad.equal(gradient) for parameter, gradient in zip(moved, gradients, strict=True))


def test_vectors_have_no_directions():
    bias = nn.Parameter(torch.zeros(3))
    bias.grad = torch.ones(3)
    with pytest.raises(ValueError, match="only matrices and kernels"):
        Muon([{"params": [bias], "orthogonal": True}]).step()


def test_a_scale_that_was_not_taken_off_does_not_count():
    once, scaled = parameters(), parameters()
    plain, optimizer = Muon(groups(once), lr=0.01, fused=True), Muon(groups(scaled), lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    sum(parameter.square().sum() for parameter in once).backward()
    plain.step()
    scaler.scale(sum(parameter.square().sum() for parameter in scaled)).backward()
    scaler.step(optimizer)
    for a, b in zip(once, scaled, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(plain.state[once[0]]["exp_avg"], optimizer.state[scaled[0]]["exp_avg"])


def test_what_has_no_gradient_does_not_move():
    moved = parameters()
    before = [parameter.detach().clone() for parameter in moved]
    Muon(groups(moved), lr=0.01, weight_decay=0.1).step()
    assert all(a.equal(b) for a, b in zip(moved, before, strict=True))


def test_a_step_that_overflowed_in_float16_is_left_out():
    moved = parameters()
    optimizer = Muon(groups(moved), lr=0.01, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = [parameter.detach().clone() for parameter in moved]
    scaler.scale(sum(parameter.sum() for parameter in moved)).backward()
    moved[2].grad[0] = float("inf")
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert all(a.equal(b) for a, b in zip(moved, before, strict=True))
    assert scaler.get_scale() == 2.0
    assert not optimizer.state[moved[0]]


def test_the_closure_gives_the_loss():
    (weight, *_) = parameters()
    optimizer = Muon([{"params": [weight], "orthogonal": True}], lr=0.01)

    def closure():
        optimizer.zero_grad()
        loss = weight.pow(2).sum()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert optimizer.step(closure) < first
