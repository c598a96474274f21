"""Our operator in other code bases' attention: the same numbers and gradients, and everything back as it was."""

import copy
import io

import golden_values as golden
import other_code_bases as others
import pytest
import torch
from torch import nn

from ddetr import build_model, ops

SIZES = [(5, 6), (3, 2)]
C, L, M, P, B, Q, S = 16, 2, 4, 3, 2, 7, 36
STARTS = torch.tensor([0, 30])


def tensors(dtype=torch.float32, box=False):
    """query, reference_points, tokens, padding"""
    padding = torch.zeros(B, S, dtype=torch.bool)
    padding[1, 25:30] = True
    query, tokens = torch.randn(B, Q, C), torch.randn(B, S, C)
    return query.to(dtype), torch.rand(B, Q, L, 4 if box else 2).to(dtype), tokens.to(dtype), padding


def call_official(module, query, reference_points, tokens, padding):
    return module(query, reference_points, tokens, torch.tensor(SIZES), STARTS, padding)


def call_mmcv(module, query, reference_points, tokens, padding):
    if not module.batch_first:
        query, tokens = query.transpose(0, 1), tokens.transpose(0, 1)
    return module(
        query, value=tokens, residual=query, query_pos=query, key_padding_mask=padding,
        reference_points=reference_points, spatial_shapes=torch.tensor(SIZES), level_start_index=STARTS,
    )  # fmt: skip


def call_transformers(module, query, reference_points, tokens, padding):
    out, weights = module(
        query, attention_mask=~padding, encoder_hidden_states=tokens, reference_points=reference_points,
        spatial_shapes=torch.tensor(SIZES), spatial_shapes_list=SIZES, level_start_index=STARTS,
    )  # fmt: skip
    assert weights.shape[:3] == (B, Q, M)
    return out


def transformers_now(family, name):
    """Their attention module today, whose `attn` is the operator."""
    hf = pytest.importorskip(f"transformers.models.{family}.modeling_{family}")
    config = getattr(pytest.importorskip("transformers"), f"{name}Config")(d_model=C, num_feature_levels=L)
    return getattr(hf, f"{name}MultiscaleDeformableAttention")(config, num_heads=M, n_points=P)


def pixel_decoder(family, name):
    """Modules of theirs that still call a function, with True where padding."""
    hf = pytest.importorskip(f"transformers.models.{family}.modeling_{family}")
    return getattr(hf, f"{name}PixelDecoderEncoderMultiscaleDeformableAttention")(C, M, L, P)


def call_mask2former(module, query, reference_points, tokens, padding, **sizes):
    return module(
        query, attention_mask=padding, encoder_hidden_states=tokens, reference_points=reference_points,
        spatial_shapes_list=SIZES, level_start_index=STARTS, **sizes,
    )[0]  # fmt: skip


def call_oneformer(module, *inputs):
    return call_mask2former(module, *inputs, spatial_shapes=torch.tensor(SIZES))


KINDS = {
    "official": (lambda: others.Official(C, L, M, P), call_official),
    "DINO": (lambda: others.Dino(C, L, M, P), call_official),
    "mmcv": (lambda: others.MultiScaleDeformableAttention(C, M, L, P, dropout=0.0), call_mmcv),
    "mmcv, batch first": (
        lambda: others.MultiScaleDeformableAttention(C, M, L, P, dropout=0.0, batch_first=True),
        call_mmcv,
    ),
    "older transformers": (lambda: others.OlderTransformers(C, L, M, P), call_transformers),
    "transformers": (lambda: transformers_now("deformable_detr", "DeformableDetr"), call_transformers),
    "Grounding DINO": (lambda: transformers_now("grounding_dino", "GroundingDino"), call_transformers),
    "RT-DETR": (lambda: transformers_now("rt_detr", "RTDetr"), call_transformers),
    "Mask2Former": (lambda: pixel_decoder("mask2former", "Mask2Former"), call_mask2former),
    "OneFormer": (lambda: pixel_decoder("oneformer", "OneFormer"), call_oneformer),
}


@pytest.fixture(params=KINDS)
def attention(request):
    """(a model that holds the module, a call of it)"""
    make, call = KINDS[request.param]
    model = nn.ModuleDict({"layer": make(), "other": nn.Linear(2, 2)})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model, lambda model, *inputs: call(model["layer"], *inputs)


def with_gradients(model, call, inputs):
    leaves = [t.clone().requires_grad_() for t in inputs[:3]]
    out = call(model, *leaves, inputs[3])
    weights = list(model["layer"].parameters())
    return [out, *torch.autograd.grad(out.float().square().sum(), [*leaves, *weights])]


def state(model):
    """What an undo has to give back, object for object."""
    return [(name, module, dict(module.__dict__)) for name, module in model.named_modules()]


def assert_same_state(now, before):
    assert len(now) == len(before)
    for (name, module, own), (old_name, old_module, old_own) in zip(now, before, strict=True):
        assert name == old_name
        assert module is old_module
        assert own.keys() == old_own.keys()
        assert all(own[key] is old_own[key] for key in own)


@pytest.mark.parametrize("box", [False, True], ids=["points", "boxes"])
def test_values_and_gradients_stay_and_the_other_operator_rests(attention, box):
    model, call = attention
    inputs = tensors(box=box)
    wanted = with_gradients(model, call, inputs)
    others.CALLS.clear()
    with ops.patch(model) as patched:
        got = with_gradients(model, call, inputs)
    assert not others.CALLS
    assert [name.split(".")[0] for name in patched.modules] == ["layer"]
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_undone_object_for_object(attention):
    model, call = attention
    before, inputs = state(model), tensors()
    wanted = call(model, *inputs)
    patched = ops.patch(model)
    assert "forward" in model.get_submodule(patched.modules[0]).__dict__
    patched.undo()
    patched.undo()
    assert_same_state(state(model), before)
    assert call(model, *inputs).equal(wanted)
    with pytest.raises(KeyError, match="mine"), ops.patch(model):
        raise KeyError("mine")
    assert_same_state(state(model), before)


def test_a_forward_that_somebody_had_put_there_comes_back():
    model = others.Official(C, L, M, P)
    own = copy.copy(model.forward)
    model.forward = own
    with ops.patch(model):
        assert model.forward is not own
    assert model.forward is own


def test_patched_twice(attention):
    model, call = attention
    before = state(model)
    with ops.patch(model) as outer:
        with ops.patch(model) as inner:
            assert outer.modules
            assert inner.modules == []
        assert "forward" in model.get_submodule(outer.modules[0]).__dict__
    assert_same_state(state(model), before)


def test_only_this_model():
    first, second = others.Official(C, L, M, P), others.Official(C, L, M, P)
    inputs = tensors()
    others.CALLS.clear()
    with ops.patch(first):
        call_official(first, *inputs)
        assert not others.CALLS
        call_official(second, *inputs)
        assert others.CALLS == {"official": 1}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(attention, dtype):
    model, call = attention
    model.to(dtype)
    inputs = tensors(dtype)
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        wanted = call(exact, *(t.double() if t.is_floating_point() else t for t in inputs))
        with ops.patch(model):
            got = call(model, *inputs)
    assert got.dtype == dtype
    tolerance = 0.06 if dtype == torch.bfloat16 else 0.01
    assert (got.double() - wanted).abs().max() < tolerance * wanted.abs().max()


def test_autocast(attention):
    model, call = attention
    inputs = tensors()
    with torch.no_grad(), ops.patch(model):
        wanted = call(model, *inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = call(model, *inputs)
    assert (got - wanted).abs().max() < 0.06 * wanted.abs().max()


def test_a_copy_is_patched_and_has_weights_of_its_own(attention):
    model, call = attention
    inputs = tensors()
    with ops.patch(model):
        copied = copy.deepcopy(model)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    others.CALLS.clear()
    assert call(copied, *inputs).abs().max() > 0.1
    assert not others.CALLS


def test_a_patched_model_can_be_pickled(attention):
    model, call = attention
    inputs, file = tensors(), io.BytesIO()
    with ops.patch(model):
        torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    torch.testing.assert_close(call(loaded, *inputs), call(model, *inputs))


def test_hooks_still_see_the_module(attention):
    model, call = attention
    seen = []
    model["layer"].register_forward_hook(lambda module, args, output: seen.append(module))
    with ops.patch(model):
        call(model, *tensors())
    assert seen == [model["layer"]]


def test_code_whose_kernel_was_never_built_runs():
    model = others.Uncompiled(C, L, M, P)
    inputs = tensors()
    with pytest.raises(NameError):
        call_official(model, *inputs)
    with ops.patch(model):
        got = call_official(model, *inputs)
    same = others.Official(C, L, M, P)
    same.load_state_dict(model.state_dict())
    torch.testing.assert_close(got, call_official(same, *inputs))


def test_nothing_to_patch():
    for model in (nn.Sequential(nn.Linear(2, 2), nn.Conv2d(1, 1, 1)), build_model("tiny", num_classes=2)):
        with pytest.raises(ValueError, match=f"nothing to patch in {type(model).__name__}"):
            ops.patch(model)
    with pytest.raises(TypeError, match=r"patch takes a model, an nn\.Module; got dict"):
        ops.patch({})


def hugging_face_detector():
    transformers = pytest.importorskip("transformers")
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.DeformableDetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, num_labels=3,
        d_model=32, encoder_layers=2, decoder_layers=2, num_queries=9, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=4, decoder_attention_heads=4, dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    return transformers.DeformableDetrForObjectDetection(config)


def test_a_whole_detector_of_hugging_face():
    model = hugging_face_detector().train()
    with torch.no_grad():  # the star it starts with points at the centres of cells, where gradients jump
        for name, parameter in model.named_parameters():
            if name.endswith("sampling_offsets.bias"):
                parameter += 0.3 * torch.randn_like(parameter)
    mask = torch.ones(2, 64, 96, dtype=torch.int64)
    mask[1, 40:] = 0
    inputs = {"pixel_values": torch.randn(2, 3, 64, 96), "pixel_mask": mask}
    inputs["labels"] = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.3, 0.2]])}] * 2

    def run():
        model.zero_grad()
        output = model(**inputs)
        output.loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return output.logits, output.pred_boxes, gradients

    before, wanted = state(model), run()
    with ops.patch(model) as patched:
        got = run()
    assert len(patched.modules) == 4  # two encoder and two decoder layers
    assert repr(patched) == "Patch(4 modules, undone)"
    assert_same_state(state(model), before)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["official", "mmcv, batch first", "older transformers"])
def test_the_module_takes_their_weights_and_gives_their_numbers(kind):
    make, call = KINDS[kind]
    theirs, ours = make(), ops.MSDeformAttn(d_model=C, n_levels=L, n_heads=M, n_points=P)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    ours.load_state_dict(theirs.state_dict())
    query, reference_points, tokens, padding = tensors()
    wanted = call(theirs, query, reference_points, tokens, padding)
    if kind.startswith("mmcv"):  # which adds the position and the identity itself
        wanted, query = wanted - query, query + query
    got = call_official(ours, query, reference_points, tokens, padding)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_the_module_has_the_official_attributes():
    module = ops.MSDeformAttn(32, 3, 4, 2)
    names = ("d_model", "n_levels", "n_heads", "n_points", "im2col_step")
    assert [getattr(module, name) for name in names] == [32, 3, 4, 2, 64]


def test_the_module_starts_anew_where_the_official_transformer_asks_it_to():
    module = ops.MSDeformAttn(C, L, M, P)
    star = module.sampling_offsets.bias.detach().clone()
    nn.init.normal_(module.sampling_offsets.bias)
    module._reset_parameters()
    assert module.sampling_offsets.bias.equal(star)


@pytest.mark.parametrize(("reference", "prefix"), [("official", "transformer."), ("mmdet", "")])
def test_the_module_has_the_references_names_and_shapes(reference, prefix):
    shapes = golden.spec(reference)["configs"]["base"]["shapes"]
    prefix += "encoder.layers.0.self_attn."
    wanted = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    assert {name: list(tensor.shape) for name, tensor in ops.MSDeformAttn().state_dict().items()} == wanted


@pytest.mark.parametrize("name", ["n_levels", "n_heads", "n_points"])
def test_the_module_refuses_to_be_empty(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0"):
        ops.MSDeformAttn(**{name: 0})


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_the_module_refuses_a_mask_that_is_not_bool(dtype):
    query, reference_points, tokens, padding = tensors()
    with pytest.raises(ValueError, match=f"mask must be .* of bool; got .* of {dtype}"):
        ops.MSDeformAttn(C, L, M, P)(query, reference_points, tokens, SIZES, None, padding.to(dtype))


def test_the_module_refuses_levels_that_start_elsewhere():
    module = ops.MSDeformAttn(C, L, M, P)
    query, reference_points, tokens, padding = tensors()
    with pytest.raises(ValueError, match="level_start_index is"):
        module(query, reference_points, tokens, torch.tensor(SIZES), torch.tensor([0, 29]), padding)
