"""ToyCOCO: the same bytes everywhere, honest annotations, and nobody's folder overwritten."""

import errno
import hashlib
import json
import os

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from ddetr.cli import main
from ddetr.data import CocoDetection, DataError, coco_layout, make_toycoco, toy_scene
from ddetr.data.coco_categories import COCO_NAMES
from ddetr.data.toy.drawings import LOOKS, sketch_of
from ddetr.data.toy.raster import cover, ellipse, rectangle, stroke
from ddetr.data.toy.sketch import Chance, Placement, outline_of, place, rasterise
from ddetr.data.toycoco import HELD_OUT_CATEGORIES, TOY_CATEGORIES


@pytest.fixture(scope="module")
def toycoco(tmp_path_factory):
    return make_toycoco(tmp_path_factory.mktemp("toycoco") / "set", train=60, val=20, seed=3, workers=1, progress=False)


def annotations(folder, split):
    return json.loads((folder / "annotations" / f"instances_{split}2017.json").read_text())


def test_a_rectangle_covers_its_own_area():
    covered = cover([np.array(rectangle(1.25, 2.5, 4.75, 5.0))], 10, 10)
    assert (covered.top, covered.left) == (2, 1)
    assert covered.alpha.sum() / 256 == pytest.approx(3.5 * 2.5)
    assert covered.alpha[1].tolist() == [192, 256, 256, 192]


def test_a_circle_covers_pi_r_squared_and_a_hole_is_left_out():
    outer, inner = (np.array(ellipse(20, 20, r, r, n=200)) for r in (15, 5))
    assert cover([outer], 40, 40).alpha.sum() / 256 == pytest.approx(np.pi * 15**2, rel=2e-3)
    assert cover([outer, inner[::-1]], 40, 40).alpha.sum() / 256 == pytest.approx(np.pi * (15**2 - 5**2), rel=2e-3)


def test_a_shape_across_the_border_is_cut_there_and_one_outside_is_nothing():
    square = np.array(rectangle(-5, -5, 3, 3))
    covered = cover([square], 10, 10)
    assert (covered.top, covered.left) == (0, 0)
    assert np.array_equal(covered.alpha[:3, :3], np.full((3, 3), 256))
    assert covered.alpha.sum() == 9 * 256
    assert cover([square + 20], 10, 10) is None


def test_a_line_is_as_wide_as_it_says_and_corners_are_filled_once():
    covered = cover([np.array(c) for c in stroke([(5, 5), (15, 5), (15, 15)], 2)], 20, 20)
    assert covered.alpha.max() == 256
    assert covered.alpha.sum() / 256 == pytest.approx(2 * (12 + 10), abs=0.5)


@pytest.mark.parametrize("category_id", LOOKS)
def test_a_drawing_fills_the_size_it_is_placed_at(category_id):
    for number in range(4):
        shapes = place(sketch_of(category_id, Chance(number, category_id)), Placement(60, 60, 80))
        parts = rasterise(shapes, 120, 120)
        rows, columns = np.nonzero(outline_of(parts, 120, 120))
        assert 76 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 81


def test_pixels_and_masks_are_the_same_everywhere():
    """Of these scenes, forever: another digest here is another data set, and needs another version."""
    digest = hashlib.sha256()
    for seed in range(6):
        scene = toy_scene(seed, categories=TOY_CATEGORIES + HELD_OUT_CATEGORIES)
        digest.update(scene.image.tobytes())
        digest.update(json.dumps(scene.annotations, sort_keys=True).encode())
    assert digest.hexdigest() == "eec5adec61584c5851badd665240b85dae7954b72ee6c9c6655beb8725f85c0f"


def test_the_same_seed_gives_the_same_files_with_any_number_of_processes(toycoco, tmp_path):
    again = make_toycoco(tmp_path / "set", train=60, val=20, seed=3, workers=2, progress=False)
    files = sorted(path.relative_to(toycoco) for path in toycoco.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for file in files:
        assert (toycoco / file).read_bytes() == (again / file).read_bytes()


def test_another_seed_and_another_split_are_other_images(toycoco, tmp_path):
    other = make_toycoco(tmp_path / "set", train=5, val=5, seed=4, workers=1, progress=False)
    images = [path.read_bytes() for folder in (toycoco, other) for path in folder.rglob("*.jpg")]
    assert len(set(images)) == len(images) == 90


def test_a_larger_set_begins_with_the_smaller_one(toycoco, tmp_path):
    larger = make_toycoco(tmp_path / "set", train=61, val=1, seed=3, workers=1, progress=False)
    first = annotations(toycoco, "train")["annotations"]
    assert annotations(larger, "train")["annotations"][: len(first)] == first


def test_annotations_are_coco_s_and_true_to_the_masks(toycoco):
    for split in ("train", "val"):
        contents = annotations(toycoco, split)
        assert [c["name"] for c in contents["categories"]] == sorted(
            TOY_CATEGORIES, key=list(COCO_NAMES.values()).index
        )
        assert all(COCO_NAMES[c["id"]] == c["name"] for c in contents["categories"])
        ids = [a["id"] for a in contents["annotations"]]
        assert ids == list(range(1, len(ids) + 1))
        sizes = {image["id"]: (image["height"], image["width"]) for image in contents["images"]}
        for annotation in contents["annotations"]:
            mask = rle.decode(annotation["segmentation"])
            assert mask.shape == sizes[annotation["image_id"]]
            assert mask.sum() == annotation["area"] >= 24
            rows, columns = np.nonzero(mask)
            x, y, w, h = annotation["bbox"]
            assert (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1) == (x, y, w, h)


def test_no_two_objects_of_an_image_share_a_pixel(toycoco):
    contents = annotations(toycoco, "train")
    for image in contents["images"]:
        masks = [rle.decode(a["segmentation"]) for a in contents["annotations"] if a["image_id"] == image["id"]]
        assert not masks or np.sum(masks, axis=0).max() == 1


def test_it_holds_what_a_detector_must_cope_with(toycoco):
    contents = annotations(toycoco, "train")
    shapes = {(image["height"], image["width"]) for image in contents["images"]}
    ratios = [w / h for h, w in shapes]
    assert len(shapes) > 20
    assert min(ratios) < 0.8
    assert max(ratios) > 1.3
    per_image = [sum(a["image_id"] == image["id"] for a in contents["annotations"]) for image in contents["images"]]
    assert min(per_image) == 0
    assert 8 <= max(per_image) <= 13
    assert any(a["iscrowd"] for a in contents["annotations"])
    longest = {image["id"]: min(image["height"], image["width"]) for image in contents["images"]}
    shares = [max(a["bbox"][2:]) / longest[a["image_id"]] for a in contents["annotations"] if not a["iscrowd"]]
    assert min(shares) < 0.1
    assert 0.5 < max(shares) < 0.75
    at_border = [a for a in contents["annotations"] if a["bbox"][0] == 0 or a["bbox"][1] == 0]
    assert at_border


def test_the_loader_reads_it(toycoco):
    dataset = CocoDetection(*coco_layout(toycoco, "train"))
    image, target = dataset[0]
    assert image.shape[0] == 3
    assert len(target["boxes"]) == len(target["labels"])
    assert dataset.num_classes == 12
    with Image.open(dataset.path(dataset.image_ids[0])) as picture:
        assert picture.format == "JPEG"


def test_the_card_counts_what_is_there(toycoco):
    card, contents = (toycoco / "README.md").read_text(), annotations(toycoco, "train")
    cats = [a for a in contents["annotations"] if a["category_id"] == 17 and not a["iscrowd"]]
    small, medium = (sum(low <= a["area"] < high for a in cats) for low, high in ((0, 32**2), (32**2, 96**2)))
    assert f"| cat | 17 | {small} | {medium} | {len(cats) - small - medium} | {len(cats)} |" in card
    assert "python -m ddetr data toycoco" in card


def test_a_set_that_is_there_is_left_alone_and_an_interrupted_one_is_finished(toycoco, tmp_path, monkeypatch):
    out = tmp_path / "set"
    whole = make_toycoco(out, train=4, val=2, seed=1, workers=1, progress=False)
    monkeypatch.setattr("ddetr.data.toycoco._draw_image", lambda job: pytest.fail("drawn again"))
    assert make_toycoco(out, train=4, val=2, seed=1, workers=1, progress=False) == whole
    monkeypatch.undo()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "annotations" / "instances_val2017.json").unlink()  # written last: an interrupted run has none
    next((out / "train2017").iterdir()).write_bytes(b"half")
    make_toycoco(out, train=4, val=2, seed=1, workers=1, progress=False)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    next((out / "val2017").iterdir()).unlink()
    make_toycoco(out, train=4, val=2, seed=1, workers=1, progress=False)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_folder_with_something_else_is_not_touched(toycoco, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="is not a ToyCOCO set: choose another folder"):
        make_toycoco(tmp_path, train=1, val=1, progress=False)
    with pytest.raises(DataError, match=r"holds another ToyCOCO set \(seed 3, not 9\)"):
        make_toycoco(toycoco, train=60, val=20, seed=9, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("place", ["train2017", "annotations", "val2017/000001000001.jpg"])
def test_links_in_the_folder_are_not_drawn_through(toycoco, tmp_path, place):
    out, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (out / place).parent.mkdir(parents=True)
    (out / "toycoco.json").write_bytes((toycoco / "toycoco.json").read_bytes())
    (out / place).symlink_to(elsewhere)
    with pytest.raises(DataError, match=f"{place} is a link and may lead elsewhere"):
        make_toycoco(out, train=60, val=20, seed=3, workers=1, progress=False)
    assert not list(elsewhere.iterdir())


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file/set cannot be written: Not a directory"):
        make_toycoco(tmp_path / "file" / "set", train=1, val=1, workers=1, progress=False)

    def full(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("PIL.Image.Image.save", full)
    with pytest.raises(DataError, match=r"set cannot be written: No space left on device\. Once it can be"):
        make_toycoco(tmp_path / "set", train=1, val=1, workers=1, progress=False)
    monkeypatch.undo()
    assert make_toycoco(tmp_path / "set", train=1, val=1, workers=1, progress=False) == tmp_path / "set"


def test_unknown_categories_and_impossible_counts(tmp_path):
    with pytest.raises(DataError, match=r"draws no 'cats'; did you mean 'cat'\? It draws car, "):
        make_toycoco(tmp_path / "set", categories=["cats"])
    with pytest.raises(DataError, match="at least one category"):
        toy_scene(0, categories=[])
    with pytest.raises(DataError, match="val must be at least 1 image; got 0"):
        make_toycoco(tmp_path / "set", val=0)
    assert not (tmp_path / "set").exists()


def test_held_out_categories_are_drawn_on_demand(tmp_path):
    out = make_toycoco(tmp_path / "set", train=6, val=1, categories=HELD_OUT_CATEGORIES, workers=1, progress=False)
    contents = annotations(out, "train")
    assert {c["name"] for c in contents["categories"]} == set(HELD_OUT_CATEGORIES)
    assert not set(HELD_OUT_CATEGORIES) & set(TOY_CATEGORIES)


def test_the_command(tmp_path, capsys):
    out = tmp_path / "deep" / "toycoco"
    arguments = ["data", "toycoco", "--out", str(out), "--train", "3", "--val", "2", "--seed", "5"]
    assert main([*arguments, "--categories", "cat", "stop sign"]) == 0
    assert "3 + 2 images" in capsys.readouterr().out
    assert {c["name"] for c in annotations(out, "val")["categories"]} == {"cat", "stop sign"}
    assert main([*arguments, "--categories", "dog"]) == 1
    assert "ToyCOCO draws no 'dog'" in capsys.readouterr().err
