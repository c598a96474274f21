import json

import numpy as np
import pytest
from PIL import Image
from toy_data import CATEGORIES, annotation, make_coco

pytest.importorskip("matplotlib")

from drawn_text import texts
from matplotlib.patches import Rectangle

from ddetr.data import CocoDetection, DataError, Resolution, coco_layout, eval_transform, train_transform
from ddetr.engine import error_breakdown
from ddetr.viz.scenes import ROLES, Mark, Scene, close_ups, draw_scenes, image_scenes


@pytest.fixture
def toy(tmp_path):
    """Any transform: scenes show pictures as they lie on disk."""
    return CocoDetection(*coco_layout(make_coco(tmp_path / "toy"), "val"), train_transform(Resolution.around(64)))


def breakdown_of(dataset, image_id):
    """A hit, where the image has an object, and a false alarm."""
    own = [a for a in dataset.coco.imgToAnns[image_id] if not a["iscrowd"]]
    results = [
        {"image_id": image_id, "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.9} for a in own[:1]
    ]
    results.append({"image_id": image_id, "category_id": 17, "bbox": [60, 50, 5, 5], "score": 0.8})
    return error_breakdown(dataset.coco, results, dataset.image_ids)


def test_whole_images_carry_every_object_and_detection(toy):
    breakdown = breakdown_of(toy, 200)
    scenes = image_scenes(toy, breakdown, toy.image_ids)
    assert [scene.title for scene in scenes] == [f"image id {i}" for i in (200, 201, 202, 203)]
    first = scenes[0]
    assert sorted(mark.role for mark in first.marks) == ["false alarm", "hit", "truth"]
    captions = {mark.role: mark.caption for mark in first.marks}
    assert captions["false alarm"] == "background: cat 0.80"
    assert captions["hit"].endswith(" 0.90")
    assert all(mark.role == "miss" and mark.caption.startswith("missed: ") for mark in scenes[1].marks)
    assert scenes[3].marks == []
    for scene in scenes:
        for mark in scene.marks:
            assert np.shape(mark.box) == (4,)
    with Image.open(toy.path(200)) as picture:
        assert first.picture.tobytes() == picture.tobytes()


def test_marks_lie_on_the_object_of_a_turned_photo(tmp_path):
    pixels = np.full((30, 40, 3), 90, dtype=np.uint8)
    pixels[4:12, 6:20] = (250, 10, 10)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png", exif=exif)
    record = {"id": 1, "file_name": "a.png", "width": 40, "height": 30}
    contents = {"images": [record], "annotations": [annotation(1, 1, 17, [6, 4, 14, 8])], "categories": CATEGORIES}
    (tmp_path / "a.json").write_text(json.dumps(contents))
    dataset = CocoDetection(tmp_path / "images", tmp_path / "a.json")
    (scene,) = image_scenes(dataset, error_breakdown(dataset.coco, [], [1]), [1])
    assert scene.picture.shape == (40, 30, 3)
    x1, y1, x2, y2 = (int(value) for value in scene.marks[0].box)
    red = scene.picture[..., 0] > 200
    assert red[y1:y2, x1:x2].all()
    assert red.sum() == (y2 - y1) * (x2 - x1) == 14 * 8


def test_close_ups_show_the_case_in_the_picture(toy):
    breakdown = breakdown_of(toy, 200)
    misses = [outcome for outcome in breakdown.objects if outcome.kind == "missed"]
    alarm = breakdown.detections[-1]
    scenes = close_ups(toy, breakdown, [*misses, alarm])
    assert len(scenes) == len(misses) + 1 > 2
    for scene in scenes:
        case = scene.marks[-1]
        H, W = scene.picture.shape[:2]
        x1, y1, x2, y2 = scene.view
        assert 0 <= x1 <= case.box[0]
        assert case.box[2] <= x2 <= W
        assert 0 <= y1 <= case.box[1]
        assert case.box[3] <= y2 <= H
    assert scenes[-1].marks[-1].role == "false alarm"
    assert scenes[-1].view[2] - scenes[-1].view[0] == 32


def test_close_ups_show_what_the_case_is_held_against(toy):
    (own,) = [a for a in toy.coco.imgToAnns[200] if not a["iscrowd"]]
    other = next(c["id"] for c in CATEGORIES if c["id"] != own["category_id"])
    results = [{"image_id": 200, "category_id": other, "bbox": own["bbox"], "score": 0.8}]
    breakdown = error_breakdown(toy.coco, results, [200])
    by_detection, by_object = close_ups(toy, breakdown, [breakdown.detections[0], breakdown.objects[0]])
    assert [mark.role for mark in by_detection.marks] == ["truth", "false alarm"]
    assert [mark.role for mark in by_object.marks] == ["false alarm", "miss"]
    assert by_object.marks[0].caption.startswith("wrong class: ")


def test_roles_differ_in_line_and_each_has_an_entry_in_the_legend(toy):
    assert len({str(line) for _, line, _ in ROLES.values()}) == len(ROLES)
    figure = draw_scenes(image_scenes(toy, breakdown_of(toy, 200), toy.image_ids))
    shown = texts(figure)
    assert {"truth", "detection, correct", "truth, not found", "detection, wrong", "x (pixels)"} <= shown
    boxes = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert len({str(box._dash_pattern) for box in boxes}) == 3
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_an_empty_place_of_the_grid_stays_empty(toy):
    figure = draw_scenes(image_scenes(toy, breakdown_of(toy, 200), [200, 200]), columns=3)
    assert [axes.axison for axes in figure.axes] == [True, True, False]


def test_a_figure_of_nothing():
    figure = draw_scenes([])
    assert "nothing to show" in texts(figure)
    assert "nothing to show" in figure.alt


def test_pictures_that_cannot_be_read(toy):
    breakdown = breakdown_of(toy, 200)
    toy.path(201).write_bytes(b"broken")
    with pytest.raises(DataError, match="image id 201"):
        image_scenes(toy, breakdown, toy.image_ids)
    toy.skip_bad_images = True
    assert len(image_scenes(toy, breakdown, toy.image_ids)) == 3
    with pytest.raises(ValueError, match="has no image id 5"):
        image_scenes(toy, breakdown, [5])


def test_the_dataset_keeps_its_transform(toy):
    toy.transform = before = eval_transform(Resolution.around(64))
    image_scenes(toy, breakdown_of(toy, 200), [200])
    assert toy.transform is before


def test_captions_do_not_lie_on_one_another():
    marks = [Mark("false alarm", [10 + i, 20 + 2 * i, 90, 80], f"background: cat 0.{i}0") for i in range(6)]
    figure = draw_scenes([Scene(np.zeros((100, 150, 3), dtype=np.uint8), marks, "crowded")])
    figure.draw_without_rendering()
    boxes = [text.get_bbox_patch().get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 6
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert figure.axes[0].bbox.y0 < box.y0
