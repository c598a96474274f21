"""The time-lapse: one scene, seen by each snapshot of a run."""

import sys

import numpy as np
import pytest
import torch

from ddetr.course import timelapse
from ddetr.data import CocoDetection, DataError, Resolution, coco_layout, eval_transform, make_toycoco, toy_scene
from ddetr.engine import TINY_RECIPE, TrainOptions, train
from ddetr.models import build_model

SCENE = toy_scene(timelapse.SCENE_SEED)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("timelapse")
    data = make_toycoco(folder / "toy", train=4, val=1, workers=1, progress=False)
    dataset = CocoDetection(*coco_layout(data, "train"), eval_transform(Resolution.around(64)))
    torch.manual_seed(0)
    model = build_model("tiny_two_stage", num_classes=12, test_size=64, encoder_layers=1, num_queries=20)
    model.categories = dataset.categories
    options = TrainOptions(epochs=2, recipe=TINY_RECIPE, keep_every=1, log_every=1)
    train(model, dataset, options, folder / "run", progress=False)
    return folder / "run"


def test_a_frame_for_fresh_weights_and_for_each_snapshot(run):
    frames = timelapse.timelapse(run, SCENE)
    assert frames["steps"].tolist() == [0, 2, 4]
    assert frames["minutes"][0] == 0
    assert (np.diff(frames["minutes"]) > 0).all()
    assert frames["points"].shape == (3, 6, 3, 8, 4, 4, 2)
    assert frames["encoder_points"].shape == (3, 6, 1, 8, 4, 4, 2)
    np.testing.assert_allclose(frames["weights"].astype(float).sum((-1, -2)), 1, atol=2e-3)
    assert not np.array_equal(frames["points"][0], frames["points"][2])


def test_tokens_lie_on_their_objects_and_look_around_themselves(run):
    frames = timelapse.timelapse(run, SCENE)
    height, width = SCENE.image.shape[:2]
    boxes = np.array([a["bbox"] for a in SCENE.annotations if not a["iscrowd"]]) / [width, height, width, height]
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    # At initialisation the points of all heads together are a star around the token.
    star = frames["encoder_points"][0].astype(float)[:, 0, :, 0].mean((1, 2))
    np.testing.assert_allclose(star, centres, atol=0.08)


def test_the_command_writes_a_small_file(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "timelapse.npz"
    monkeypatch.setattr(sys, "argv", ["timelapse", str(run), "--out", str(out)])
    timelapse.main()
    assert "3 frames" in capsys.readouterr().out
    with np.load(out) as frames:
        assert frames["boxes"].shape == (3, 6, 4)


def test_a_run_that_goes_on_from_another(run, tmp_path, monkeypatch):
    first, both = tmp_path / "first.npz", tmp_path / "both.npz"
    monkeypatch.setattr(sys, "argv", ["timelapse", str(run), "--out", str(first)])
    timelapse.main()
    monkeypatch.setattr(sys, "argv", ["timelapse", str(run), "--after", str(first), "--out", str(both)])
    timelapse.main()
    with np.load(both) as frames:
        assert frames["steps"].tolist() == [0, 2, 4, 6, 8]
        assert (np.diff(frames["minutes"]) > 0).all()
        np.testing.assert_array_equal(frames["boxes"][3:], frames["boxes"][1:3])


def test_a_run_without_snapshots(tmp_path):
    with pytest.raises(DataError, match=r"no snapshots in .*: train with --keep-every"):
        timelapse.timelapse(tmp_path, SCENE)


def test_a_scenes_objects_as_the_losses_take_them():
    model = build_model("tiny", num_classes=2)
    model.categories = [{"id": 13, "name": "stop sign"}, {"id": 85, "name": "clock"}]
    target = timelapse.scene_target(model, SCENE)
    assert sorted(target.labels.tolist()) == [0, 0, 1]  # the scene's other objects are none that the model knows
    height, width = SCENE.image.shape[:2]
    clock = next(a["bbox"] for a in SCENE.annotations if a["category_id"] == 85)
    x, y, w, h = clock
    expected = torch.tensor([(x + w / 2) / width, (y + h / 2) / height, w / width, h / height])
    torch.testing.assert_close(target.boxes[target.labels == 1][0], expected)


def test_a_scene_without_objects():
    model = build_model("tiny", num_classes=1)
    model.categories = [{"id": 1, "name": "person"}]
    target = timelapse.scene_target(model, SCENE)
    assert target.boxes.shape == (0, 4)
    assert target.labels.dtype == torch.int64
