"""`torch.compile`: the network in one graph for images of any size, and the whole model as a user compiles it."""

import pytest
import torch

from ddetr import build_model
from ddetr.models.export import TensorModel

# Few layers and channels, and each test one of the two presets: tracing takes a minute for each.
SMALL = {"num_classes": 3, "embed_dim": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 9}


def batch(h, w):
    mask = torch.zeros(2, h, w, dtype=torch.bool)
    mask[1, :, -16:] = True
    return torch.randn(2, 3, h, w).masked_fill(mask[:, None], 0), mask


def test_compiled_without_graph_breaks():
    network = TensorModel(build_model("tiny_two_stage", **SMALL).eval())
    compiled = torch.compile(network, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for size in ((64, 96), (96, 128), (72, 80)):
            inputs = batch(*size)
            for ours, eager in zip(compiled(*inputs), network(*inputs), strict=True):
                torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace the builtin .scipy:UserWarning")
def test_a_compiled_model_trains_and_detects(target):
    """The checks of images and targets, the matcher and the lists between them stay Python."""
    torch._dynamo.reset()
    model = build_model("tiny", **SMALL)
    compiled = torch.compile(model, backend="aot_eager")
    images, targets = [torch.randn(3, 64, 80), torch.randn(3, 80, 96)], [target, target]

    def step(call):
        model.zero_grad()
        losses = call(images, targets)
        sum(losses.values()).backward()
        return losses, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    torch.testing.assert_close(step(compiled), step(model), rtol=1e-3, atol=1e-5)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images), rtol=1e-3, atol=1e-3)
