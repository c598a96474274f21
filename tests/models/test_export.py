"""One exported program, in PyTorch and in onnxruntime, for images of sizes that it was not traced with."""

import pytest
import torch

from ddetr import build_model
from ddetr.models.export import INPUTS, TensorModel, example_inputs, export_onnx, export_program

# Every mechanism of the presets, with few levels and layers: tracing takes a while for each.
SMALL = {
    "num_classes": 3, "num_levels": 3, "embed_dim": 32, "encoder_layers": 1, "decoder_layers": 2, "ffn_dim": 32,
    "num_queries": 9, "num_heads": 4,
}  # fmt: skip
OTHER_SIZES = [(65, 96), (97, 250)]


def padded(h, w, batch):
    mask = torch.zeros(batch, h, w, dtype=torch.bool)
    mask[-1, :, -16:] = True
    return torch.randn(batch, 3, h, w).masked_fill(mask[:, None], 0), mask


def assert_equal_outputs(run, model, sizes, batch):
    wanted = TensorModel(model)
    with torch.no_grad():
        for size in sizes:
            inputs = padded(*size, batch)
            for got, expected in zip(run(*inputs), wanted(*inputs), strict=True):
                torch.testing.assert_close(torch.as_tensor(got), expected, rtol=1e-3, atol=1e-4)


def test_a_program_for_any_size_and_batch():
    model = build_model("tiny", **SMALL)
    program = export_program(model)
    assert model.training  # as it was
    model.eval()
    assert_equal_outputs(program.module(), model, OTHER_SIZES, batch=3)


def test_a_file_for_onnxruntime(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = build_model("tiny_two_stage", **SMALL).eval()
    export_onnx(model, tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])

    def run(*inputs):
        return session.run(None, dict(zip(INPUTS, (t.numpy() for t in inputs), strict=True)))

    assert_equal_outputs(run, model, OTHER_SIZES, batch=1)


def test_the_example_has_no_special_size():
    for preset, batch in (("tiny", 2), ("tiny_two_stage", 1)):
        images, mask = example_inputs(build_model(preset, **SMALL))
        assert images.shape == (batch, 3, *mask.shape[1:])
        assert mask.any()
