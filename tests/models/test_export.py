"""One exported program, in PyTorch and in onnxruntime, for images of sizes that it was not traced with."""

import pytest
import torch
from small_models import SMALL, scramble

from ddetr import PRESETS, build_model
from ddetr.models.export import INPUTS, SMALLEST, TensorModel, example_inputs, export_onnx, export_program

OTHER_SIZES = [(SMALLEST, 96), (97, 250)]


def quick_model(preset):
    """With the preset's levels and variant, and little else: tracing takes a while for each layer."""
    config = PRESETS[preset]
    own_backbone = {"backbone": config.backbone, "backbone_width": config.backbone_width} if config.dilation else {}
    model = build_model(preset, **SMALL | own_backbone)
    scramble(model.state_dict())
    return model


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


@pytest.mark.parametrize("preset", PRESETS)
def test_a_program_of_every_preset_for_any_size_and_batch(preset):
    model = quick_model(preset)
    program = export_program(model)
    assert model.training  # as it was
    model.eval()
    assert_equal_outputs(program.module(), model, OTHER_SIZES, batch=1 if model.config.proposal_nms else 3)


def test_a_file_for_onnxruntime(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = quick_model("tiny_two_stage").eval()
    export_onnx(model, tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])

    def run(*inputs):
        return session.run(None, dict(zip(INPUTS, (t.numpy() for t in inputs), strict=True)))

    assert_equal_outputs(run, model, OTHER_SIZES, batch=1)


def test_the_example_has_no_special_size():
    for preset, batch in (("tiny", 2), ("tiny_two_stage", 1)):
        images, mask = example_inputs(quick_model(preset))
        assert images.shape == (batch, 3, *mask.shape[1:])
        assert mask.any()
