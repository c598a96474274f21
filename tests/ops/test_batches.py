"""Any number of images at once, and deterministic algorithms."""

import pytest
import torch

from ddetr import build_model
from ddetr.engine import TINY_RECIPE, TrainOptions, train_step
from ddetr.engine.train import start_state
from ddetr.ops import ms_deform_attn


@pytest.mark.parametrize("backend", ["grid_sample", "cpu"])
@pytest.mark.parametrize("B", [1, 65, 96, 154])
def test_any_batch_size_of_the_operator(cpu_backend, backend, B):
    """No step of 64 images that a batch would have to divide: each image as if it were alone, gradients too."""
    sizes = [(3, 4), (2, 2)]
    tensors = [torch.randn(B, 16, 2, 8), torch.rand(B, 5, 2, 2, 3, 2), torch.rand(B, 5, 2, 2, 3)]

    def run(value, locations, weights):
        inputs = [tensor.clone().requires_grad_() for tensor in (value, locations, weights)]
        out = ms_deform_attn(inputs[0], sizes, None, *inputs[1:], backend=backend)
        return [out.detach(), *torch.autograd.grad(out.square().sum(), inputs)]

    whole = run(*tensors)
    for b in {0, B // 2, B - 1}:
        alone = run(*(tensor[b : b + 1] for tensor in tensors))
        for got, want in zip(whole, alone, strict=True):
            torch.testing.assert_close(got[b : b + 1], want)


@pytest.mark.parametrize("backend", ["grid_sample", "cpu"])
def test_deterministic_algorithms(cpu_backend, monkeypatch, backend):
    """Nothing that training does on a CPU refuses them, nothing reads memory before it is written, results repeat."""
    monkeypatch.setenv("DDETR_OP_BACKEND", backend)
    targets = [{"boxes": torch.tensor([[4.0, 6, 40, 30]]), "labels": torch.tensor([1])}, {"boxes": [], "labels": []}]
    options = TrainOptions(epochs=1, recipe=TINY_RECIPE)
    images = [torch.randn(3, 64, 80), torch.randn(3, 50, 90)]
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # fills what `torch.empty` gives with NaN, too
    try:
        results = []
        for _ in range(2):
            torch.manual_seed(1)
            model = build_model("tiny_two_stage", num_classes=3, dropout=0.1, encoder_layers=1, decoder_layers=2)
            state = start_state(model.train(), 2, options)
            losses = [train_step(state, images, targets, options).losses["loss"] for _ in range(3)]
            results.append((losses, state.model.state_dict()))
    finally:
        torch.use_deterministic_algorithms(before)
    assert results[0][0] == results[1][0]
    assert all(tensor.equal(results[1][1][name]) for name, tensor in results[0][1].items())
