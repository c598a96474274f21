import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from toy_data import CATEGORIES, annotation, make_coco, write_coco

from ddetr.data import CocoDetection, DataError, coco_layout, collate
from ddetr.engine import coco_metrics


@pytest.fixture
def toy(tmp_path):
    return CocoDetection(*coco_layout(make_coco(tmp_path / "toy"), "train"))


def contents(**changes):
    base = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [annotation(1, 1, 17, [5, 5, 10, 10])],
        "categories": CATEGORIES,
    }
    return base | changes


def dataset(tmp_path, data, **options):
    pixels = {"a.png": np.zeros((30, 40, 3), np.uint8)}
    return CocoDetection(*write_coco(tmp_path, data, pixels), **options)


def test_sparse_ids_become_contiguous_labels(toy):
    assert [c["id"] for c in toy.categories] == [3, 17, 90]
    assert toy.label_of == {3: 0, 17: 1, 90: 2}
    labels = torch.cat([toy[i][1]["labels"] for i in range(len(toy))])
    assert labels.max() <= 2


def test_a_negative_limit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="limit is a number of images, at least 0; got -1"):
        dataset(tmp_path, contents(), limit=-1)


def test_the_aspect_ratio_is_one_where_a_side_is_missing(tmp_path):
    half = {"id": 2, "file_name": "b.png", "width": 640}
    assert dataset(tmp_path, contents(images=[*contents()["images"], half])).aspect_ratios == [40 / 30, 1]


def test_crowds_are_no_targets_but_known_to_evaluation(toy):
    _, target = toy[0]
    assert len(target["boxes"]) == 1
    assert [a["iscrowd"] for a in toy.coco.imgToAnns[target["image_id"]]] == [0, 1]


def test_images_without_boxes_are_kept(toy):
    _, target = toy[3]
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)


def test_perfect_detections_score_one(toy):
    """Boxes and ids go to the model and back to COCOeval."""
    results, ids = [], []
    for i in range(len(toy)):
        image, target = toy[i]
        h, w = target["orig_size"]
        scale = torch.tensor([w, h, w, h]) / torch.tensor([image.shape[2], image.shape[1]] * 2)
        found = {
            "boxes": target["boxes"] * scale,
            "labels": target["labels"],
            "scores": torch.ones(len(target["labels"])),
        }
        results += toy.to_results(found, target)
        ids.append(target["image_id"])
    assert coco_metrics(toy.coco, results, ids)["AP"] == pytest.approx(1.0)
    for result in results:
        result["category_id"] = 3 if result["category_id"] != 3 else 17
    assert coco_metrics(toy.coco, results, ids)["AP"] == 0


def test_no_detections_score_zero(toy):
    assert coco_metrics(toy.coco, [], toy.image_ids)["AP"] == 0


@pytest.mark.parametrize("tag", [1, 3, 6, 8])
@pytest.mark.parametrize("frame", ["file", "upright"])
def test_boxes_stay_on_the_object_of_a_turned_photo(tmp_path, tag, frame):
    pixels = np.full((30, 40, 3), 90, dtype=np.uint8)
    pixels[4:12, 6:20] = (250, 10, 10)
    file = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = tag
    (tmp_path / "images").mkdir()
    file.save(tmp_path / "images" / "a.png", exif=exif)
    upright = {1: pixels, 3: pixels[::-1, ::-1], 6: np.rot90(pixels, -1), 8: np.rot90(pixels)}[tag]
    seen = pixels if frame == "file" and tag in (6, 8) else upright
    rows, columns = np.nonzero(seen[..., 0] > 200)
    bbox = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
    record = {"id": 1, "file_name": "a.png", "width": seen.shape[1], "height": seen.shape[0]}
    data = contents(images=[record], annotations=[annotation(1, 1, 17, bbox)])
    (tmp_path / "annotations.json").write_text(json.dumps(data))
    turned = CocoDetection(tmp_path / "images", tmp_path / "annotations.json", lambda *sample: sample)
    image, target = turned[0]
    x1, y1, x2, y2 = target["boxes"][0].int().tolist()
    red = image[0] > 200
    assert red[y1:y2, x1:x2].all()
    assert red.sum() == (y2 - y1) * (x2 - x1)
    found = {"boxes": target["boxes"], "labels": target["labels"], "scores": torch.ones(1)}
    assert turned.to_results(found, target)[0]["bbox"] == bbox


def test_boxes_are_clipped_and_empty_ones_dropped(tmp_path, caplog):
    boxes = [[-5, 5, 10, 10], [30, 20, 50, 50], [5, 5, 0, 10], [60, 5, 10, 10]]
    data = contents(annotations=[annotation(i + 1, 1, 17, box) for i, box in enumerate(boxes)])
    with caplog.at_level(logging.WARNING):
        small = dataset(tmp_path, data, transform=lambda *sample: sample)
    assert "3 boxes reach out of their image" in caplog.text
    assert "2 boxes without area" in caplog.text
    assert small.coco.anns[2]["bbox"] == [30, 20, 10, 10]
    _, target = small[0]
    assert target["boxes"].tolist() == [[0, 5, 5, 15], [30, 20, 40, 30]]


BAD_FILES = [
    ([1, 2], "a list instead of an object"),
    ({"images": []}, "no list 'annotations'"),
    (contents(images=[{"id": 1}]), r"images\[0\] has no 'file_name'"),
    (contents(images=[{"id": "1", "file_name": "a.png"}]), "'id' must be int"),
    (contents(images=[{"id": 1, "file_name": "a.png", "width": 0, "height": 3}]), "'width' must be a positive"),
    (contents(images=[{"id": 1, "file_name": "a.png"}] * 2), "images has id 1 more than once"),
    (contents(categories=[]), "has no categories"),
    (contents(annotations=[{"image_id": 1, "category_id": 17}]), r"annotations\[0\] has no 'bbox'"),
    (contents(annotations=[annotation(1, 1, 17, [5, 5, 10, 10]) | {"bbox": [1, 2, 3]}]), "four finite numbers"),
    (contents(annotations=[annotation(1, 1, 17, [5, 5, 10, 10]) | {"bbox": [1, 2, 3, float("nan")]}]), "four finite"),
    (contents(annotations=[annotation(1, 2, 17, [5, 5, 10, 10])]), "image_id 2, which is not in the file"),
    (contents(annotations=[annotation(1, 1, 18, [5, 5, 10, 10])]), "category_id 18, which is not in the file"),
    (
        contents(annotations=[annotation(1, 1, 17, [5, 5, 10, 10]) | {"iscrowd": "0"}]),
        "'iscrowd' must be 0 or 1; got '0'",
    ),
    (contents(annotations=[annotation(1, 1, 17, [5, 5, 10, 10]) | {"id": [1]}]), "'id' must be int"),
    (contents(annotations=["box"]), "a str instead of an object"),
    (contents(annotations=[annotation(1, 1, 17, [5, 5, 10**400, 10])]), "four finite numbers"),
    (contents(annotations=[annotation(2**64, 1, 17, [5, 5, 10, 10])]), "'id' must be int"),
    (contents(images=[{"id": 2**64, "file_name": "a.png"}]), r"'id' must be below 2\*\*63"),
]


@pytest.mark.parametrize(("data", "message"), BAD_FILES, ids=[message for _, message in BAD_FILES])
def test_a_file_that_is_not_coco_says_what_is_wrong(tmp_path, data, message):
    with pytest.raises(DataError, match=message):
        dataset(tmp_path, data)


def test_a_file_that_is_not_json(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "a.json").write_bytes(b"\xff\xfe{]")
    with pytest.raises(DataError, match="is not JSON"):
        CocoDetection(tmp_path / "images", tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"images": [' + 5000 * "9" + "]}")
    with pytest.raises(DataError, match=r"a\.json is not JSON: Exceeds the limit"):
        CocoDetection(tmp_path / "images", tmp_path / "a.json")
    with pytest.raises(DataError, match="no annotation file"):
        CocoDetection(tmp_path / "images", tmp_path / "b.json")


def test_what_small_exporters_leave_out_is_filled_in(tmp_path):
    sparse = {"image_id": 1, "category_id": 17, "bbox": [5, 5, 10, 20]}
    small = dataset(tmp_path, contents(annotations=[sparse], images=[{"id": 1, "file_name": "a.png"}]))
    (completed,) = small.coco.anns.values()
    assert completed["area"] == 200
    assert completed["iscrowd"] == 0
    assert small[0][1]["boxes"].shape == (1, 4)


def test_boxes_that_overshoot_by_rounding_stay_as_they_are(tmp_path, caplog):
    data = contents(annotations=[annotation(1, 1, 17, [5, 5, 35.01, 10])])
    with caplog.at_level(logging.WARNING):
        small = dataset(tmp_path, data)
    assert not caplog.text
    assert small.coco.anns[1]["bbox"] == [5, 5, 35.01, 10]


def test_annotation_ids_that_repeat_are_numbered_anew(tmp_path, caplog):
    data = contents(annotations=[annotation(7, 1, 17, [5, 5, 10, 10])] * 2 + [annotation(8, 1, 3, [5, 5, 10, 10])])
    with caplog.at_level(logging.WARNING):
        small = dataset(tmp_path, json.loads(json.dumps(data)))
    assert "1 annotations have the id of another" in caplog.text
    assert sorted(small.coco.anns) == [1, 2, 3]


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    small = dataset(tmp_path, contents())
    Image.new("RGB", (40, 30)).save(tmp_path / "secret.png")
    (tmp_path / "images" / "a.png").unlink()
    (tmp_path / "images" / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="leads out of the image folder"):
        small[0]


def test_names_that_no_file_can_have_are_bad_images_too(tmp_path, caplog):
    records = [
        {"id": i, "file_name": name} for i, name in enumerate(("a.png", "half \ud800.png", "circle.png"), start=1)
    ]
    small = dataset(tmp_path, contents(images=records), skip_bad_images=True)
    (tmp_path / "images" / "circle.png").symlink_to(tmp_path / "images" / "circle.png")
    assert small[0] is not None
    assert small[1] is None
    assert small[2] is None
    assert [record.args[0] for record in caplog.records] == [2, 3]


OUTSIDE = [
    "../secret.png",
    "/etc/passwd",
    "b/../../secret.png",
    "a\0.png",
    "..\\secret.png",
    "C:\\secret.png",
    "C:a.png",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_file_names_cannot_leave_the_folder(tmp_path, name):
    Image.new("RGB", (40, 30)).save(tmp_path / "secret.png")
    record = {"id": 1, "file_name": name, "width": 40, "height": 30}
    with pytest.raises(DataError, match="leads out of the image folder"):
        dataset(tmp_path, contents(images=[record]))[0]


def test_bad_images_name_file_and_id_and_can_be_skipped(tmp_path, caplog):
    toy = make_coco(tmp_path / "toy")
    (toy / "train2017" / "000000000101.png").write_bytes(b"broken")
    (toy / "train2017" / "000000000102.png").unlink()
    strict = CocoDetection(*coco_layout(toy, "train"))
    with pytest.raises(DataError, match=r"image id 101: .*000000000101\.png cannot be read.*--skip-bad-images"):
        strict[1]
    with pytest.raises(DataError, match=r"image id 102: .*is missing"):
        strict[2]
    lenient = CocoDetection(*coco_layout(toy, "train"), skip_bad_images=True)
    images, targets = collate([lenient[i] for i in range(4)])
    assert [target["image_id"] for target in targets] == [100, 103]
    assert len(images) == 2
    assert "skipping image id 101" in caplog.text


def test_a_photo_of_another_size_than_annotated_is_refused(tmp_path):
    record = {"id": 1, "file_name": "a.png", "width": 80, "height": 60}
    with pytest.raises(DataError, match="is 40 x 30 pixels, but its annotation says 80 x 60"):
        dataset(tmp_path, contents(images=[record]))[0]


def test_a_folder_without_cocos_layout(tmp_path):
    with pytest.raises(DataError, match=r"no annotations/instances_val2017\.json"):
        coco_layout(tmp_path, "val")


def test_categories_of_a_model_that_lacks_some(tmp_path):
    with pytest.raises(DataError, match="categories that the model does not know: cat, toothbrush"):
        dataset(tmp_path, contents(), categories=CATEGORIES[:1])


def test_one_id_with_two_names(tmp_path):
    swapped = [{"id": 3, "name": "cat"}, {"id": 17, "name": "car"}, {"id": 90, "name": "toothbrush"}]
    with pytest.raises(DataError, match="calls category 3 'car', the model 'cat'"):
        dataset(tmp_path, contents(), categories=swapped)
