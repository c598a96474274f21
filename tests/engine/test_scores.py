import contextlib
import copy
import io

import numpy as np
import pytest
from judged import made_up, random_case, result
from pycocotools.cocoeval import COCOeval

from ddetr.engine import METRICS, format_groups, format_metrics, score
from ddetr.engine.scores import SIZES, printable


@pytest.fixture
def case(tmp_path):
    return random_case(tmp_path)


def test_every_category_is_judged_as_pycocotools_judges_it_alone(case):
    dataset, results = case
    evaluation = score(dataset.coco, results, dataset.image_ids)
    with contextlib.redirect_stdout(io.StringIO()):
        found = dataset.coco.loadRes(copy.deepcopy(results))
        for group in evaluation.per_category:
            judge = COCOeval(dataset.coco, found, "bbox")
            judge.params.catIds = [group.category_id]
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
            assert [group.ap, group.ap50, group.ap75, group.ar] == pytest.approx(judge.stats[[0, 1, 2, 8]])
            own = [a for a in dataset.coco.anns.values() if a["category_id"] == group.category_id and not a["iscrowd"]]
            assert group.objects == len(own) > 0


def test_parts_agree_with_the_whole(case):
    dataset, results = case
    evaluation = score(dataset.coco, results, dataset.image_ids)
    metrics, curves = evaluation.metrics, evaluation.precision_recall
    assert 0.1 < metrics["AP"] < metrics["AP50"] < 0.9
    for name in ("AP", "AP50", "AP75"):
        mean = np.mean([getattr(group, name.lower()) for group in evaluation.per_category])
        assert mean == pytest.approx(metrics[name])
    assert [group.name for group in evaluation.per_size] == list(SIZES)
    for group, letter in zip(evaluation.per_size, "sml", strict=True):
        assert group.ap == pytest.approx(metrics[f"AP{letter}"])
        assert group.ar == pytest.approx(metrics[f"AR{letter}"])
    assert sum(g.objects for g in evaluation.per_size) == sum(g.objects for g in evaluation.per_category)
    assert curves.curve().mean() == pytest.approx(metrics["AP"])
    assert curves.curve(iou=0.75).mean() == pytest.approx(metrics["AP75"])
    for group in evaluation.per_category:
        assert curves.curve(group.category_id, 0.5).mean() == pytest.approx(group.ap50)
        assert (np.diff(curves.curve(group.category_id, 0.5)) <= 0).all()


def test_detections_of_another_data_set(case):
    dataset, results = case
    with pytest.raises(ValueError, match="a detection has image id 4711, which the annotations do not have"):
        score(dataset.coco, [*results, results[0] | {"image_id": 4711}], dataset.image_ids)
    with pytest.raises(ValueError, match="image_ids has image id 4711, which"):
        score(dataset.coco, results, [*dataset.image_ids, 4711])


def test_results_are_left_as_they_are(case):
    dataset, results = case
    before = copy.deepcopy(results)
    evaluation = score(dataset.coco, results, dataset.image_ids)
    assert evaluation.results == before
    assert evaluation.num_images == 30


@pytest.mark.parametrize("more", [{"caption": "a cat"}, {"keypoints": [1]}, {"segmentation": "none", "area": "big"}])
def test_what_else_a_detector_writes_of_a_box_does_not_matter(case, more):
    dataset, results = case
    metrics = score(dataset.coco, results, dataset.image_ids).metrics
    assert score(dataset.coco, [result | more for result in results], dataset.image_ids).metrics == metrics


def test_a_curve_that_was_not_judged(case):
    dataset, results = case
    curves = score(dataset.coco, results, dataset.image_ids).precision_recall
    with pytest.raises(ValueError, match=r"no curve at IoU 0\.3; there are 0\.50, "):
        curves.curve(iou=0.3)
    with pytest.raises(ValueError, match="no category 5; there are 3, 17, 90"):
        curves.curve(5)


def test_a_category_without_objects_has_no_score(tmp_path):
    dataset = made_up(tmp_path, [(1, 3, [10, 10, 50, 50])])
    evaluation = score(dataset.coco, [result(1, 3, [10, 10, 50, 50]), result(1, 17, [0, 0, 9, 9])], [1])
    car, cat, _ = evaluation.per_category
    assert (car.ap, car.objects) == (pytest.approx(1), 1)
    assert (cat.ap, cat.ap50, cat.ar, cat.objects) == (-1, -1, -1, 0)
    assert np.isnan(evaluation.precision_recall.curve(17)).all()
    assert evaluation.metrics["AP"] == pytest.approx(1)
    table = format_groups(evaluation.per_category).splitlines()
    assert table[1].split() == ["car", "1", "1.000", "1.000", "1.000", "1.000"]
    assert table[2].split() == ["cat", "0", "-", "-", "-", "-"]
    assert len({len(line) for line in table}) == 1


@pytest.mark.parametrize("found", [[], [result(1, 3, [10, 10, 50, 50])]])
def test_nothing_annotated_or_nothing_found(tmp_path, found):
    empty = made_up(tmp_path / "empty", [])
    evaluation = score(empty.coco, found, [1])
    assert evaluation.metrics == dict.fromkeys(METRICS, -1)
    assert "AP -" in format_metrics(evaluation.metrics)
    assert np.isnan(evaluation.precision_recall.curve()).all()
    one = made_up(tmp_path / "one", [(1, 17, [10, 10, 50, 50])])
    assert score(one.coco, found, [1]).metrics["AP"] == 0


def test_names_cannot_command_the_terminal():
    assert printable("a\x1b[2J\n b\ud800") == "a [2J b"
    assert printable("x" * 50) == "x" * 31 + "…"
