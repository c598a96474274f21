from dataclasses import replace

import pytest
import torch

from ddetr import build_model
from ddetr.engine import (
    PAPER_RECIPE,
    TINY_FROM_SCRATCH,
    TINY_RECIPE,
    Recipe,
    TrainOptions,
    build_optimizer,
    default_recipe,
    parameter_groups,
)
from ddetr.engine.run import is_due
from ddetr.engine.schedule import clip_gradients, set_learning_rate


def test_the_papers_recipe():
    assert (PAPER_RECIPE.lr, PAPER_RECIPE.weight_decay, PAPER_RECIPE.clip_norm) == (2e-4, 1e-4, 0.1)
    assert PAPER_RECIPE.drop_at == 40 / 50


@pytest.mark.parametrize("preset", ["r50", "r50_two_stage"])
def test_a_tenth_for_backbone_offsets_and_reference_points(preset):
    model = build_model(preset)
    groups = {group["name"]: group for group in parameter_groups(model, PAPER_RECIPE)}
    assert [groups[name]["lr"] for name in ("transformer", "backbone", "slow")] == pytest.approx([2e-4, 2e-5, 2e-5])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    slow = {names[id(p)] for p in groups["slow"]["params"]}
    wanted = {n for n in names.values() if "sampling_offsets" in n or n.startswith("queries.reference_points")}
    assert slow == wanted
    assert all(names[id(p)].startswith("backbone.") for p in groups["backbone"]["params"])


@pytest.mark.parametrize("recipe", [PAPER_RECIPE, TINY_FROM_SCRATCH])
@pytest.mark.parametrize("preset", ["tiny", "r50_two_stage"])
def test_every_trainable_parameter_is_in_one_group(preset, recipe):
    model = build_model(preset)
    grouped = [id(p) for group in parameter_groups(model, recipe) for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("preset", ["tiny", "tiny_two_stage", "r50_two_stage"])
def test_muon_moves_the_matrices_of_the_hidden_layers(preset):
    model = build_model(preset)
    recipe = replace(TINY_FROM_SCRATCH, backbone_factor=0.5)
    groups = {group["name"]: group for group in parameter_groups(model, recipe)}
    rates = [groups[name]["lr"] / recipe.lr for name in ("transformer matrices", "backbone matrices")]
    assert rates == pytest.approx([recipe.muon_factor, recipe.muon_factor / 2])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    moved = {names[id(p)] for group in groups.values() if group["orthogonal"] for p in group["params"]}
    assert {
        "backbone.body.layer2.0.conv1.weight", "neck.levels.0.0.weight", "encoder.layers.0.self_attn.value_proj.weight",
        "encoder.layers.1.ffn.linear2.weight", "decoder.layers.0.self_attn.in_proj_weight",
        "heads.box_embed.0.2.weight",
    } <= moved  # fmt: skip
    others = ("body.conv1", "bias", "norm", "class_embed", "level_embed", "query_embed", "offsets", "attention_weights",
        "reference_points")  # fmt: skip
    assert not [name for name in moved if name.endswith(".4.weight") and "box_embed" in name]
    assert not [name for name in moved if any(part in name for part in others)]
    assert not any(group["orthogonal"] for group in parameter_groups(model, TINY_RECIPE))


def test_fresh_weights_of_tiny_models_have_a_recipe_of_their_own():
    tiny, paper = build_model("tiny").config, build_model("r50").config
    assert [default_recipe(tiny, True), default_recipe(tiny)] == [TINY_FROM_SCRATCH, TINY_RECIPE]
    assert [default_recipe(paper, True), default_recipe(paper)] == [PAPER_RECIPE, PAPER_RECIPE]


def test_warm_up_and_drop():
    optimizer = build_optimizer(build_model("tiny"), Recipe(lr=1.0, warmup=4))
    rates = [
        set_learning_rate(optimizer, Recipe(lr=1.0, warmup=4), step, progress)
        for step, progress in ((0, 0.0), (1, 0.1), (4, 0.2), (7, 0.79), (8, 0.8), (9, 0.99))
    ]
    assert rates == pytest.approx([0.25, 0.5, 1, 1, 0.1, 0.1])
    assert {group["name"]: round(group["lr"], 6) for group in optimizer.param_groups}["slow"] == 0.01


def test_cosine():
    recipe = Recipe(lr=1.0, warmup=2, schedule="cosine")
    optimizer = build_optimizer(build_model("tiny"), recipe)
    rates = [set_learning_rate(optimizer, recipe, *at) for at in ((0, 0.0), (2, 0.25), (4, 0.5), (9, 1.0), (10, 1.3))]
    assert rates == pytest.approx([0.5, (1 + 0.5**0.5) / 2, 0.5, 0, 0], abs=1e-9)
    with pytest.raises(ValueError, match="step, cosine; got 'linear'"):
        Recipe(schedule="linear")


@pytest.mark.parametrize("change", [{"muon_factor": -1}, {"lr": float("nan")}])
def test_impossible_recipes(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be .*; got"):
        Recipe(**change)


@pytest.mark.parametrize(
    ("every", "before", "now", "due"),
    [
        (None, 0, 9, False),
        (2, 1.9, 2, True),
        (2, 2, 2.5, False),
        (0.5, 0.9, 1.1, True),
        (1, 0.2, 5, True),
        (0.1, 0.95, 1, True),
        (0.1, 0.25, 0.3, True),
        (0.1, 0.3, 0.35, False),
    ],
)
def test_what_is_due(every, before, now, due):
    assert is_due(every, before, now) is due


def test_clipping():
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert clip_gradients([weight], 0) == pytest.approx(5)
    assert weight.grad.tolist() == [3, 4]
    assert clip_gradients([weight], 0.1) == pytest.approx(5)
    assert weight.grad.norm().item() == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize(
    "options", [{}, {"epochs": 1, "minutes": 1}, {"epochs": 0}, {"minutes": -1}, {"epochs": 1, "batch_size": 0}]
)
def test_impossible_options(options):
    with pytest.raises(ValueError, match="got"):
        TrainOptions(**options)
