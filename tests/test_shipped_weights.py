"""The weights that come with the package have learnt what their cards say."""

import re
import shlex
from pathlib import Path

import pytest

from ddetr import load_pretrained
from ddetr.checkpoints import SHIPPED
from ddetr.cli import _parser
from ddetr.course.timelapse import SCENE_SEED, look, shipped_timelapse
from ddetr.data import TOY_CATEGORIES, CocoDetection, Resolution, coco_layout, eval_transform, make_toycoco, toy_scene
from ddetr.engine import evaluate

WEIGHTS = Path(__file__).parents[1] / "data" / "weights"


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    return make_toycoco(tmp_path_factory.mktemp("unseen") / "toy", train=1, val=60, seed=77, progress=False)


def promised(name, metric):
    return float(re.search(rf"\b{metric} (0\.\d+)", (WEIGHTS / f"{name}.md").read_text()).group(1))


@pytest.mark.parametrize("name", SHIPPED)
def test_they_score_what_the_card_says_on_images_nobody_has_seen(name, unseen):
    model = load_pretrained(name)
    dataset = CocoDetection(
        *coco_layout(unseen, "val"),
        eval_transform(Resolution.around(model.config.test_size)),
        categories=model.categories,
    )
    metrics = evaluate(model, dataset, progress=False).metrics
    # Sixty images are few: AP50 of another sixty is off by some hundredths.
    assert metrics["AP50"] == pytest.approx(promised(name, "AP50"), abs=0.08)
    assert metrics["AP"] == pytest.approx(promised(name, "AP"), abs=0.08)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_command_of_the_card_is_one(name):
    text = (WEIGHTS / f"{name}.md").read_text()
    commands = [shlex.split(found, comments=True) for found in re.findall(r"-m ddetr ([^\n`]+)", text)]
    assert "data" in {command[0] for command in commands}
    for command in commands:
        _parser().parse_args(command)  # SystemExit for an option that is missing or unknown


@pytest.mark.parametrize("name", SHIPPED)
def test_they_are_small_and_bring_their_classes(name):
    assert (WEIGHTS / f"{name}.safetensors").stat().st_size < 10e6
    model = load_pretrained(name)
    assert {category["name"] for category in model.categories} == set(TOY_CATEGORIES)
    assert model.config.two_stage == (name == "tiny_two_stage")
    assert not model.training


@pytest.mark.parametrize("name", SHIPPED)
def test_they_find_the_objects_of_the_course_s_scene(name):
    found = look(load_pretrained(name), toy_scene(SCENE_SEED))
    assert (found["scores"] > 0.3).sum() >= len(found["scores"]) - 1


def test_the_names_work_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()  # a folder of that name does not stand in the way
    assert load_pretrained("tiny").config.num_queries == 50


def test_the_time_lapse_starts_ignorant_and_ends_where_the_shipped_weights_are():
    frames = shipped_timelapse()
    now = look(load_pretrained("tiny_two_stage"), toy_scene(int(frames["scene"])))
    assert frames["minutes"][0] == 0
    assert (frames["scores"][0] < 0.1).all()
    # float16 weights, and the last snapshot may be a little older than the end of the run
    assert abs(frames["scores"][-1] - now["scores"]).max() < 0.15
    assert abs(frames["boxes"][-1] - now["boxes"]).max() < 0.05
