import pytest
import torch

from ddetr import build_model
from ddetr.engine import PAPER_RECIPE, Recipe, TrainOptions, build_optimizer, parameter_groups
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
    grouped = [id(p) for group in groups.values() for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}


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
