"""Figures of pages 12 and 13: they follow their data."""

import io

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from ddetr.course.clinic import Look
from ddetr.data import ToyScene
from ddetr.viz import average_precision, misses, patients
from ddetr.viz.scenes import ROLES

CATEGORIES = [{"id": 3, "name": "car"}, {"id": 6, "name": "b$s"}]


def test_the_staircase_ends_where_the_last_object_is_found():
    figure = average_precision.staircase([True, False, True], 4)
    assert f"mean of the 101: {(26 + 25 * 2 / 3) / 101:.4f}" in figure.axes[0].get_title()
    assert "2 false, precision 0.50, recall 0.25" in figure.alt


def test_the_staircase_of_all_found_is_full():
    assert "1.0000" in average_precision.staircase([True, True], 2).axes[0].get_title()


@pytest.mark.parametrize(("verdicts", "objects"), [([], 1), ([True, True], 1), ([False], 0)])
def test_a_staircase_of_nothing(verdicts, objects):
    with pytest.raises(ValueError, match="need detections"):
        average_precision.staircase(verdicts, objects)


def test_who_takes_whom_is_said():
    iou = np.array([[0.9, 0.0], [0.8, 0.1]])
    figure = average_precision.matching(iou, [0, -1], ["1", "2"], ["A", "B"])
    assert "1 takes A; 2 takes none" in figure.alt
    assert {"0.90", "takes A", "takes none"} <= {text.get_text() for text in figure.axes[0].texts}
    with pytest.raises(ValueError, match="do not fit"):
        average_precision.matching(iou, [0], ["1", "2"], ["A", "B"])


def miss(**changes):
    boxes = torch.tensor([[4.0, 4.0, 20.0, 20.0], [5.0, 5.0, 22.0, 22.0]])
    values = {
        "image": torch.zeros(3, 40, 50), "truth": boxes[0], "boxes": boxes, "scores": torch.tensor([0.1, 0.7, 0.3]),
        "names": ["car", "b$s", "cat"], "label": 0,
    }  # fmt: skip
    return misses.MissState(**(values | changes))


def test_a_miss_shows_its_own_class_beside_the_best():
    figure = misses.draw([miss()], most=2)
    bars = figure.axes[1]
    assert [label.get_text() for label in bars.get_yticklabels()] == [r"b\$s", "car"]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([0.7, 0.1])
    assert "a car, scored" in figure.alt
    assert [patch.get_width() for patch in figure.axes[0].patches] == pytest.approx([16, 16, 17])


def test_a_miss_that_does_not_fit():
    with pytest.raises(ValueError, match="no miss given"):
        misses.draw([])
    with pytest.raises(ValueError, match="do not fit"):
        misses.draw([miss(names=["car"])])


def look(*detections):
    scene = ToyScene(
        np.zeros((40, 50, 3), dtype=np.uint8),
        [
            {"bbox": [5, 5, 20, 20], "category_id": 3, "iscrowd": 0},
            {"bbox": [0, 0, 40, 40], "category_id": 3, "iscrowd": 1},
        ],
    )
    boxes = torch.tensor([box for box, _, _ in detections]).view(-1, 4)
    labels, scores = ([entry[i] for entry in detections] for i in (1, 2))
    found = {"boxes": boxes, "labels": torch.tensor(labels), "scores": torch.tensor(scores)}
    return Look([scene], [found], CATEGORIES)


def test_an_object_is_found_once_and_by_its_own_name():
    box = [5.0, 5.0, 25.0, 25.0]
    figure = patients.draw({"p": look((box, 0, 0.9), (box, 0, 0.8), (box, 1, 0.7), (box, 0, 0.2))})
    assert figure.alt == "Pictures with boxes. p: truth 1, hit 1, false alarm 2."
    assert r"b\$s 0.70" in {text.get_text() for text in figure.axes[0].texts}


def test_what_is_not_found_is_a_miss():
    assert "miss 1" in patients.draw({"p": look(([30.0, 5.0, 45.0, 25.0], 0, 0.9))}).alt
    assert "miss 1" in patients.draw({"p": look()}).alt


def test_looks_at_other_scenes_are_not_drawn_together():
    one = look()
    with pytest.raises(ValueError, match="the same scenes"):
        patients.draw({"a": one, "b": Look([], [], CATEGORIES)})


def test_a_compact_picture_keeps_the_colours_that_mean_something():
    grain = np.random.default_rng(0).integers(60, 140, (80, 100, 3), dtype=np.uint8)
    seen = look(([30.0, 5.0, 45.0, 25.0], 0, 0.9))
    seen.scenes[0] = seen.scenes[0]._replace(image=grain)
    figure = patients.draw({"p": seen})
    small = figure._repr_png_()
    figure.compact = False
    large = figure._repr_png_()
    assert len(small) < len(large) / 2
    before, after = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int) for png in (large, small))
    for colour, _, _ in ROLES.values():
        drawn = (before == [round(255 * value) for value in to_rgb(colour)]).all(-1)
        assert drawn.any()
        assert abs(after[drawn] - before[drawn]).max() < 12
