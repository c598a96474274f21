import math

import pytest
import torch

from ddetr import build_model


@pytest.mark.parametrize("preset", ["r50_single_scale", "r50_single_scale_dc5", "r50", "r50_refine", "r50_two_stage"])
def test_heads_start_as_in_the_paper(preset):
    model = build_model(preset)
    refine, two_stage = model.config.box_refine, model.config.two_stage
    assert len(model.heads.box_embed) == (6 if refine else 1)
    for n, (classes, boxes) in enumerate(zip(model.heads.class_embed, model.heads.box_embed, strict=True)):
        torch.testing.assert_close(classes.bias, torch.full_like(classes.bias, -math.log(99)))
        assert boxes[-1].weight.abs().max() == 0
        size_bias = -2.0 if n == 0 and not two_stage else 0.0
        assert boxes[-1].bias.tolist() == [0.0, 0.0, size_bias, size_bias]
    if refine:
        assert torch.equal(model.heads.class_embed[0].weight, model.heads.class_embed[5].weight)
        assert model.heads.class_embed[0].weight is not model.heads.class_embed[5].weight


def test_sampling_starts_as_a_star_on_every_level():
    attention = build_model("r50").encoder.layers[3].self_attn
    assert attention.sampling_offsets.weight.abs().max() == 0
    assert attention.attention_weights.weight.abs().max() == 0
    assert attention.attention_weights.bias.abs().max() == 0
    star = attention.sampling_offsets.bias.view(8, 4, 4, 2)
    directions = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, direction in enumerate(directions):
        for point in range(4):
            wanted = torch.tensor(direction, dtype=torch.float32) * (point + 1)
            torch.testing.assert_close(star[head, :, point], wanted.expand(4, 2), atol=1e-5, rtol=0)


def test_projections_are_xavier_with_zero_bias():
    model = build_model("r50")
    for linear in (model.queries.reference_points, model.neck.levels[3][0]):
        fan_in, fan_out = torch.nn.init._calculate_fan_in_and_fan_out(linear.weight)
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert 0.9 * bound < linear.weight.abs().max() <= bound
        assert linear.bias.abs().max() == 0
    ffn = model.encoder.layers[0].ffn.linear1.weight
    assert ffn.abs().max() <= math.sqrt(6 / (256 + 1024)) + 1e-6


def test_stem_and_first_stage_and_norms_are_frozen():
    body = build_model("r50").backbone.body
    trained = {name for name, parameter in body.named_parameters() if parameter.requires_grad}
    assert trained
    assert {name.split(".")[0] for name in trained} == {"layer2", "layer3", "layer4"}
    assert not any("bn" in name or "downsample.1" in name for name in trained)


def test_dilation_keeps_stride_16():
    images = torch.zeros(1, 3, 64, 96)
    assert build_model("r50_single_scale_dc5").backbone(images).c5.shape == (1, 2048, 4, 6)
    assert build_model("r50_single_scale").backbone(images).c5.shape == (1, 2048, 2, 3)
