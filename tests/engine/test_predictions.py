import json

import pytest
from judged import random_case, result
from toy_data import CATEGORIES

from ddetr.data import DataError
from ddetr.engine import read_predictions, score, write_predictions


@pytest.fixture
def case(tmp_path):
    return random_case(tmp_path / "case", images=5)


def test_a_file_scores_as_the_detections_did(tmp_path, case):
    dataset, results = case
    results[0]["score"], results[1]["bbox"][0] = 1 / 3, 0.1 + 0.2  # whose last bits matter
    evaluation = score(dataset.coco, results, dataset.image_ids)
    write_predictions(tmp_path / "p.json", evaluation, CATEGORIES, weights="here")
    read = read_predictions(tmp_path / "p.json")
    assert read == (results, dataset.image_ids, CATEGORIES, None)
    again = score(dataset.coco, read.results, read.image_ids)
    assert again.metrics == evaluation.metrics
    assert again.per_category == evaluation.per_category
    contents = json.loads((tmp_path / "p.json").read_text())
    assert contents["weights"] == "here"
    assert contents["images"] == 5
    assert [group["name"] for group in contents["per_category"]] == ["car", "cat", "toothbrush"]


def test_no_detections_make_a_file_too(tmp_path, case):
    dataset, _ = case
    write_predictions(tmp_path / "p.json", score(dataset.coco, [], dataset.image_ids), CATEGORIES)
    assert read_predictions(tmp_path / "p.json").results == []


def test_a_bare_list_as_other_detectors_write_it(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps([result(1, 3, [0, 0, 9, 9])]))
    assert read_predictions(tmp_path / "p.json") == ([result(1, 3, [0, 0, 9, 9])], None, None, None)


DAMAGED = [
    ("{]", "is not JSON"),
    ('{"results": [1', "is not JSON"),
    ("[" * 100_000, "is not JSON"),
    ("3", "holds no predictions"),
    ('{"metrics": {}}', "holds no predictions"),
    ("[3]", r"results\[0\] must be an object; got 3"),
    ([result(1, 3, [0, 0, 9, 9]) | {"image_id": "1"}], r"results\[0\]: 'image_id' must be a whole number; got '1'"),
    ([result(1, 3, [0, 0, 9, 9]) | {"category_id": True}], "'category_id' must be a whole number"),
    ([{"image_id": 1, "category_id": 3, "score": 1}], "'bbox' must be four finite numbers .* got None"),
    ([result(1, 3, [0, 0, 9])], "four finite numbers"),
    ([result(1, 3, [0, 0, 9, float("nan")])], "four finite numbers"),
    ([result(1, 3, [0, 0, 9, 9], float("inf"))], "'score' must be a finite number; got inf"),
    ([result(1, 3, [0, 0, 9, 9]) | {"bbox": [0, 0, 10**400, 9]}], "four finite numbers"),
    ("[" + 5000 * "9" + "]", "is not JSON"),
    ({"results": [], "image_ids": [1, 1]}, "'image_ids' must be a list of different whole numbers"),
    ({"results": [], "image_ids": []}, "'image_ids' must be"),
    ({"results": [result(2, 3, [0, 0, 9, 9])], "image_ids": [1]}, "on image id 2, which is not among its"),
    ({"results": [], "categories": [{"id": 1}]}, "'categories' must be a list of objects with 'id' and 'name'"),
]


@pytest.mark.parametrize(("contents", "message"), DAMAGED, ids=[message for _, message in DAMAGED])
def test_a_damaged_file_says_what_is_wrong(tmp_path, contents, message):
    (tmp_path / "p.json").write_text(contents if isinstance(contents, str) else json.dumps(contents))
    with pytest.raises(DataError, match=message):
        read_predictions(tmp_path / "p.json")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="no predictions at"):
        read_predictions(tmp_path / "p.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_predictions(tmp_path)
    (tmp_path / "p.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is not JSON"):
        read_predictions(tmp_path / "p.json")


def test_predictions_of_another_data_set(tmp_path, case):
    dataset, results = case
    (tmp_path / "p.json").write_text(json.dumps(results))
    predictions = read_predictions(tmp_path / "p.json")
    predictions.check_belongs_to(range(1, 6), [3, 17, 90], "val.json")
    with pytest.raises(DataError, match=r"for image id 1 and \d others, which val.json does not have: they belong"):
        predictions.check_belongs_to([7], [3, 17, 90], "val.json")
    with pytest.raises(DataError, match=r"for category id 90, which val.json does not have"):
        predictions.check_belongs_to(range(1, 6), [3, 17], "val.json")
    with pytest.raises(DataError, match="image id 9"):
        predictions._replace(image_ids=[1, 2, 3, 4, 5, 9]).check_belongs_to(range(1, 6), [3, 17, 90], "val.json")
