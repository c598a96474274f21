import contextlib
import copy
import io

import numpy as np
import pytest
from judged import made_up, random_case, result
from pycocotools.cocoeval import COCOeval

from ddetr.engine import error_breakdown, format_errors

CAR, CAT, BRUSH = 3, 17, 90


def judged_at_half(dataset, results, threshold):
    """pycocotools' own true positives, ignored detections and false positives at IoU 0.5."""
    with contextlib.redirect_stdout(io.StringIO()):
        kept = [copy.deepcopy(r) for r in results if r["score"] > threshold]
        judge = COCOeval(dataset.coco, dataset.coco.loadRes(kept), "bbox")
        judge.params.areaRng, judge.params.areaRngLbl = judge.params.areaRng[:1], ["all"]
        judge.evaluate()
    images = [image for image in judge.evalImgs if image is not None]
    matches, ignored = (np.concatenate([image[key][0] for image in images]) for key in ("dtMatches", "dtIgnore"))
    ignored = ignored.astype(bool)
    return ((matches > 0) & ~ignored).sum(), ignored.sum(), ((matches == 0) & ~ignored).sum()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [-1, 0.35])
def test_correct_ones_are_the_judges_true_positives(tmp_path, seed, threshold):
    dataset, results = random_case(tmp_path, seed)
    breakdown = error_breakdown(dataset.coco, results, dataset.image_ids, threshold)
    counts, fates = breakdown.detection_counts(), breakdown.object_counts()
    right, ignored, wrong = judged_at_half(dataset, results, threshold)
    assert counts["correct"] == fates["correct"] == right > 0
    assert counts["crowd"] == ignored > 0
    assert sum(counts.values()) - counts["correct"] - counts["crowd"] == wrong
    assert sum(counts.values()) == sum(r["score"] > threshold for r in results) == len(breakdown.detections)
    assert sum(fates.values()) == sum(not a["iscrowd"] for a in dataset.coco.anns.values()) == len(breakdown.objects)
    assert min(counts.values()) > 0


def test_each_kind_by_hand(tmp_path):
    dataset = made_up(
        tmp_path,
        [
            (1, CAR, [0, 0, 40, 40]),
            (1, CAT, [100, 0, 40, 40]),
            (1, BRUSH, [0, 100, 40, 40]),
            (1, CAT, [100, 100, 40, 40]),
            (1, CAR, [160, 160, 30, 30]),
            (1, CAR, [60, 60, 30, 30], 1),
        ],
    )
    results = [
        result(1, CAR, [0, 0, 40, 39], 0.9),  # correct
        result(1, CAR, [0, 0, 40, 40], 0.8),  # duplicate, though of the better box
        result(1, CAR, [100, 0, 40, 40], 0.7),  # wrong class: a cat
        result(1, BRUSH, [0, 120, 40, 40], 0.6),  # poor box: IoU 1/3
        result(1, CAR, [120, 100, 40, 40], 0.55),  # both wrong: IoU 1/3 with a cat
        result(1, CAT, [60, 160, 10, 10], 0.5),  # background
        result(1, CAR, [60, 60, 10, 10], 0.45),  # lies on the crowd
        result(1, CAT, [60, 60, 10, 10], 0.4),  # a crowd of another class does not help
        result(1, CAR, [160, 160, 30, 30], 0.1),  # below the threshold
    ]
    breakdown = error_breakdown(dataset.coco, results, [1], threshold=0.1)
    kinds = [outcome.kind for outcome in breakdown.detections]
    assert kinds == [
        "correct", "duplicate", "wrong class", "poor box", "both wrong", "background", "crowd", "background",
    ]  # fmt: skip
    fates = [(outcome.kind, outcome.category_id, outcome.score) for outcome in breakdown.objects]
    assert fates == [
        ("correct", CAR, 0.9), ("wrong class", CAT, 0.7), ("poor box", BRUSH, 0.6), ("both wrong", CAT, 0.55),
        ("missed", CAR, None),
    ]  # fmt: skip
    poor = breakdown.detections[3]
    assert (poor.image_id, poor.bbox, poor.other_bbox) == (1, [0, 120, 40, 40], [0, 100, 40, 40])
    assert poor.iou == pytest.approx(1 / 3)
    confused = breakdown.objects[1]
    assert (confused.other_category_id, confused.other_bbox, confused.iou) == (CAR, [100, 0, 40, 40], 1)
    assert breakdown.detections[5].other_bbox is None
    table = format_errors(breakdown).splitlines()
    assert table[0] == "Detections with a score above 0.1, and objects:"
    assert table[-1].split() == ["all", "8", "5"]
    assert ["missed", "1"] in [line.split() for line in table]


def test_the_boundaries_belong_to_the_better_kind(tmp_path):
    dataset = made_up(tmp_path, [(1, CAR, [0, 0, 40, 40])])
    for width, kind in ((20, "correct"), (19, "poor box"), (4, "poor box"), (3, "background")):
        (outcome,) = error_breakdown(dataset.coco, [result(1, CAR, [0, 0, width, 40])], [1]).detections
        assert outcome.kind == kind


def test_nothing_found_nothing_there_and_classes_that_were_not_annotated(tmp_path):
    dataset = made_up(tmp_path, [(1, CAR, [0, 0, 40, 40])], images=(1, 2))
    nothing = error_breakdown(dataset.coco, [], [1, 2])
    assert sum(nothing.detection_counts().values()) == 0
    assert nothing.object_counts()["missed"] == 1
    found = [result(2, CAR, [0, 0, 9, 9]), result(2, 44, [0, 0, 9, 9])]
    breakdown = error_breakdown(dataset.coco, found, [2])
    assert [outcome.kind for outcome in breakdown.detections] == ["background"]
    assert breakdown.objects == []
    assert error_breakdown(dataset.coco, found, []) == (0.5, [], [])
