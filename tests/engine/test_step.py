import copy

import pytest
import torch

from ddetr import build_model
from ddetr.engine import TINY_FROM_SCRATCH, TINY_RECIPE, Recipe, TrainOptions, train_step
from ddetr.engine.train import start_state

SIZE = 64


def fresh(preset="tiny_two_stage", **overrides):
    torch.manual_seed(1)
    return build_model(
        preset, **{"num_classes": 3, "dropout": 0.0, "encoder_layers": 1, "decoder_layers": 2} | overrides
    )


def batch(count=4, size=SIZE):
    """Images of one size, with 0, 1, 2, ... objects."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(3, size, size, generator=generator) for _ in range(count)]
    targets = []
    for i in range(count):
        corner = torch.rand(i, 2, generator=generator) * size / 2
        targets.append({"boxes": torch.cat([corner, corner + size / 3], 1), "labels": torch.arange(i) % 3,
                        "image_id": 100 + i})  # fmt: skip
    return images, targets


def stepped(model, images, targets, **options):
    """The state after one step, and its report."""
    chosen = TrainOptions(**{"epochs": 1, "batch_size": 4, "recipe": TINY_RECIPE} | options)
    model.train()
    state = start_state(model, len(images), chosen)
    return state, train_step(state, images, targets, chosen)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_parts_of_a_batch_make_the_step_of_the_whole(size):
    whole, report = stepped(fresh(), *batch())
    parts, in_parts = stepped(fresh(), *batch(), batch_size=size, accumulate=4)
    assert in_parts.losses == pytest.approx(report.losses, rel=1e-5, abs=1e-6)
    assert in_parts.grad_norm == pytest.approx(report.grad_norm, rel=1e-4)
    gradients = dict(whole.model.named_parameters())
    for name, parameter in parts.model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_and_losses_are_float32(precision):
    _, exact = stepped(fresh("tiny"), *batch())
    inside, losses = [], []
    model = fresh("tiny")
    model.criterion.register_forward_hook(lambda module, inputs, out: losses.extend(out.values()))
    model.encoder.layers[0].ffn.linear1.register_forward_hook(lambda module, inputs, out: inside.append(out))
    state, report = stepped(model, *batch(), precision=precision)
    while not report.grad_norm < float("inf"):  # fp16's first scales are too high, until one is not
        report = train_step(state, *batch(), TrainOptions(epochs=1, batch_size=4, precision=precision))
    assert report.losses["loss"] == pytest.approx(exact.losses["loss"], rel=2e-2)
    assert report.grad_norm == pytest.approx(exact.grad_norm, rel=0.2)
    assert {out.dtype for out in inside} == {{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
    assert {loss.dtype for loss in losses} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert state.scaler.is_enabled() is (precision == "fp16")


@pytest.mark.parametrize("recipe", [TINY_RECIPE, TINY_FROM_SCRATCH])
def test_an_overflow_in_fp16_leaves_the_step_out_and_lowers_the_scale(recipe):
    model = fresh()
    model.flatten.level_embed.register_hook(lambda gradient: gradient * float("inf"))
    before = copy.deepcopy(model.state_dict())
    options = TrainOptions(epochs=1, batch_size=4, precision="fp16", recipe=recipe)
    state = start_state(model.train(), 4, options)
    assert not train_step(state, *batch(), options).grad_norm < float("inf")
    assert state.scaler.get_scale() == 2.0**15
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    state.scaler.update(1.0)  # where lowering it further would not help
    with pytest.raises(FloatingPointError, match=r"that of flatten\.level_embed is NaN or infinite"):
        train_step(state, *batch(), options)


def test_the_padded_share():
    images, targets = batch(2)
    images[0] = images[0][:, :32]
    targets[0]["boxes"], targets[0]["labels"] = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    assert stepped(fresh(), images, targets)[1].padded == pytest.approx(0.25)
    assert stepped(fresh(), images, targets, batch_size=1)[1].padded == 0


def test_a_step_whose_images_were_all_skipped_changes_nothing():
    model = fresh()
    before = copy.deepcopy(model.state_dict())
    _, report = stepped(model, [], [])
    assert (report.losses, report.num_images) == ({}, 0)
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def failing(model, images, targets, **options):
    """The error of a step, after which the weights are what they were."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises((FloatingPointError, ValueError)) as caught:
        stepped(model, images, targets, **options)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)
    return str(caught.value)


@pytest.mark.parametrize(
    ("weight", "first"),
    [
        ("backbone.body.layer2.0.conv1.weight", "backbone.c3 "),
        ("neck.levels.1.0.weight", "neck.level1 "),
        ("encoder.layers.0.self_attn.value_proj.bias", "encoder.layer0.value "),
        ("decoder.layers.1.self_attn.out_proj.weight", "decoder.layer1.after_self_attn "),
        ("heads.class_embed.1.weight", "heads.logits "),
    ],
)
def test_nan_in_a_weight_names_it_and_the_first_tensor_after_it(weight, first):
    model = fresh()
    with torch.no_grad():
        model.get_parameter(weight).view(-1)[0] = float("nan")
    message = failing(model, *batch(), precision="fp32")
    assert message.startswith("at step 0, image ids 100, 101, 102, 103: ")
    assert "matching cost" in message or "loss_" in message
    assert f"The weights {weight} hold NaN or infinity. The first tensor that is not finite is {first}(" in message


def test_an_infinite_loss_names_its_term():
    model = fresh()
    with torch.no_grad():
        model.heads.class_embed[0].bias.fill_(3e38)
    message = failing(model, *batch())
    assert "at step 0, image ids 100, 101, 102, 103: loss_class_0 is inf. All weights are finite" in message
    assert "Every tensor of the forward pass is finite: the loss itself overflows" in message


def test_nan_in_an_image_names_the_image():
    images, targets = batch()
    images[2][0, 5, 5] = float("nan")
    message = failing(fresh(), images, targets)
    assert message.startswith("at step 0, image ids 100, 101, 102, 103: images[2] holds NaN or infinite pixels")
    assert message.endswith("(image id 102)")
    in_parts = failing(fresh(), images, targets, batch_size=1)
    assert in_parts.startswith("at step 0, image ids 102: ")


def test_an_infinite_gradient_names_the_parameter():
    model = fresh()
    model.flatten.level_embed.register_hook(lambda gradient: gradient * float("inf"))
    message = failing(model, *batch())
    assert message.startswith("at step 0, image ids 100, 101, 102, 103: the gradient's norm is ")
    assert ": that of flatten.level_embed is NaN or infinite. The weights are those of the step before" in message


def test_a_gradient_that_breaks_on_its_way_back_names_the_parameter_nearest_to_the_loss():
    model = fresh()

    def break_gradient(module, inputs, output):
        output.register_hook(lambda gradient: gradient * float("nan"))

    model.encoder.layers[0].ffn.linear1.register_forward_hook(break_gradient)
    assert ": that of encoder.layers.0.ffn.linear1.bias, " in failing(model, *batch(), recipe=Recipe(clip_norm=0.1))


@pytest.mark.parametrize("preset", ["tiny", "tiny_two_stage"])
def test_every_trainable_parameter_gets_a_gradient_even_without_objects(preset):
    """DistributedDataParallel waits for all of them."""
    images, targets = batch(1)
    state, _ = stepped(fresh(preset), images, targets)
    assert not targets[0]["boxes"].numel()
    assert [name for name, p in state.model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("change", [{"precision": "fp8"}, {"accumulate": 0}, {"eval_every": 0}])
def test_impossible_options_of_a_step(change):
    with pytest.raises(ValueError, match="got"):
        TrainOptions(epochs=1, **change)
