import pytest
import torch

from ddetr.ops import linear
from ddetr.ops.linear import Linear


@pytest.fixture(autouse=True)
def as_a_convolution(monkeypatch):
    """On every processor, not only on those where it is the faster way."""
    monkeypatch.setattr(linear, "_CONVOLUTION_WINS", torch.backends.mkldnn.is_available())


@pytest.fixture
def restore_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(2, 300, 32), (1, 5532, 32), (3, 4, 32), (300, 32)])
@pytest.mark.parametrize("threads", [1, 2])
def test_it_is_a_linear_layer_in_value_and_gradient(shape, threads, restore_threads):
    torch.set_num_threads(threads)
    ours = Linear(32, 48)
    plain = torch.nn.Linear(32, 48)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(shape)
    results = []
    for layer in (ours, plain):
        inputs = x.clone().requires_grad_()
        out = layer(inputs)
        (out * torch.linspace(-1, 1, 48)).sum().backward()
        results.append((out, inputs.grad, layer.weight.grad, layer.bias.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert results[0][0].is_contiguous()


def test_inputs_that_are_not_contiguous():
    ours = Linear(32, 48)
    x = torch.randn(32, 400, 2).transpose(0, 2)
    torch.testing.assert_close(ours(x), torch.nn.functional.linear(x, ours.weight, ours.bias), rtol=1e-4, atol=1e-4)
