import pytest
import torch

from ddetr.models.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_it_drops_the_right_share_and_keeps_the_mean(p):
    x = torch.ones(1000, 1001)
    y = Dropout(p)(x)
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=3e-3)
    assert y.mean().item() == pytest.approx(1, abs=5e-3)
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - p)])


@pytest.mark.parametrize("p", [0.999999, 1.0])
def test_nearly_all_is_dropped_too(p):
    assert (Dropout(p)(torch.ones(1000)) == 0).float().mean().item() > 0.98


def test_gradients_flow_where_values_do():
    x = torch.ones(3, 7, requires_grad=True)
    y = Dropout(0.5)(x)
    y.sum().backward()
    assert x.grad.equal(y.detach())


def test_neighbours_and_calls_are_independent():
    layer = Dropout(0.5)
    a, b = (layer(torch.ones(400_000)) == 0 for _ in range(2))
    for first, second in ((a, b), (a[1:], a[:-1]), (a[4:], a[:-4])):
        assert (first == second).float().mean().item() == pytest.approx(0.5, abs=5e-3)


def test_a_seed_repeats_it():
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(Dropout(0.3)(torch.ones(5, 5)))
    assert results[0].equal(results[1])


def test_nothing_happens_in_evaluation_or_at_zero():
    x = torch.randn(4, 4)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
