"""The whole model in one graph, for images of any size."""

import pytest
import torch
from torch import nn

from ddetr import build_model
from ddetr.models.image_batch import ImageBatch


class Raw(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, mask):
        B, _, H, W = images.shape
        output = self.model.forward_batch(ImageBatch(images, mask, [(H, W)] * B))
        return output.pred_logits, output.pred_boxes


def batch(h, w):
    mask = torch.zeros(2, h, w, dtype=torch.bool)
    mask[1, :, -16:] = True
    return torch.randn(2, 3, h, w).masked_fill(mask[:, None], 0), mask


@pytest.mark.parametrize("preset", ["tiny", "tiny_two_stage"])
def test_compiled_without_graph_breaks(preset):
    raw = Raw(build_model(preset, num_classes=3).eval())
    compiled = torch.compile(raw, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for size in ((64, 96), (96, 128), (72, 80)):
            inputs = batch(*size)
            for ours, eager in zip(compiled(*inputs), raw(*inputs), strict=True):
                torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-5)


def test_exported():
    raw = Raw(build_model("tiny_two_stage", num_classes=3).eval())
    inputs = batch(64, 96)
    with torch.no_grad():
        exported = torch.export.export(raw, inputs).module()
        inputs = batch(64, 96)
        for ours, eager in zip(exported(*inputs), raw(*inputs), strict=True):
            torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-5)
