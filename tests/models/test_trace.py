import pytest
import torch

from ddetr import build_model


@pytest.fixture
def images():
    return [torch.randn(3, 64, 80), torch.randn(3, 50, 90)]


@pytest.mark.parametrize("preset", ["tiny", "tiny_two_stage"])
def test_trace_holds_what_the_forward_pass_computes(preset, images):
    model = build_model(preset, num_classes=3).eval()
    trace = model.trace(images)
    with torch.no_grad():
        output, detections = model.forward_raw(images), model(images)
    assert trace["encoder.memory"].equal(output.memory)
    assert trace["heads.hidden_states"].equal(output.hidden_states)
    assert trace["heads.logits"][-1].equal(output.pred_logits)
    assert trace["heads.boxes"][0].equal(output.aux[0].pred_boxes)
    assert trace["detections1.boxes"].equal(detections[1]["boxes"])
    assert trace["encoder.layer1.output"].equal(output.memory)


def test_stages_come_in_order(images, tiny):
    stages = [s for s in tiny.trace(images).stages() if "." not in s]
    assert stages == ["pre_transformer", "backbone", "neck", "multi_scale", "encoder", "pre_decoder", "decoder",
                      "heads", "detections0", "detections1"]  # fmt: skip


def test_sampling_points_of_every_layer_explain_its_output(images, tiny_two_stage):
    from ddetr.ops import ms_deform_attn

    trace = tiny_two_stage.trace(images)
    for stage, layer in (("encoder.layer1", tiny_two_stage.encoder.layers[1].self_attn),
                         ("decoder.layer2", tiny_two_stage.decoder.layers[2].cross_attn)):  # fmt: skip
        out = ms_deform_attn(
            trace[f"{stage}.value"], trace.level_sizes, None,
            trace[f"{stage}.sampling_locations"], trace[f"{stage}.attention_weights"],
        )  # fmt: skip
        with torch.no_grad():
            torch.testing.assert_close(layer.output_proj(out), trace[f"{stage}.attention_output"])


def test_tracing_leaves_the_model_as_it_was(images, tiny):
    tiny.train()
    tiny.backbone.eval()
    tiny.trace(images)
    assert tiny.training
    assert tiny.encoder.training
    assert not tiny.backbone.training
    assert not any(module._forward_hooks for module in tiny.modules())


def test_a_failed_trace_leaves_the_model_as_it_was(tiny):
    tiny.train()
    with pytest.raises(ValueError, match="must be"):
        tiny.trace([torch.zeros(3)])
    assert tiny.training
    assert not any(module._forward_hooks for module in tiny.modules())


def test_names_that_are_not_there_are_answered(images, tiny):
    trace = tiny.trace(images)
    with pytest.raises(KeyError, match="encoder has reference_points, memory"):
        trace["encoder.memories"]
    with pytest.raises(KeyError, match="stages are pre_transformer"):
        trace["encodr.memory"]


def test_it_prints_as_a_table(images, tiny):
    lines = str(tiny.trace(images)).splitlines()
    assert lines[0].split() == ["stage", "name", "shape", "dtype"]
    assert any(line.split(maxsplit=2)[:2] == ["encoder", "memory"] and "(2, 128, 128)" in line for line in lines)
