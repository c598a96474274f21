import errno
import itertools
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from coco_server import LICENCES, make_jpeg_coco
from PIL import Image

from ddetr.cli import main
from ddetr.data import CocoDetection, DataError, carve_subset, coco_layout
from ddetr.data.coco_choice import choose_images
from ddetr.data.coco_source import LocalCoco
from ddetr.data.coco_subset import make_subset, wanted_subset


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_jpeg_coco(tmp_path_factory.mktemp("coco") / "coco", count=16)


@pytest.fixture
def coco(original, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(original, tmp_path / "coco")


def carve(coco, out, train=4, val=2, categories=("car", "cat"), **options):
    return carve_subset(coco, out, categories, train, val, **options)


def contents(folder, split):
    return json.loads((folder / "annotations" / f"instances_{split}2017.json").read_text())


def change(folder, split, edit):
    changed = contents(folder, split)
    edit(changed)
    (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(changed))


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def photos(folder, split="train"):
    return sorted((folder / f"{split}2017").iterdir())


def test_a_subset_is_cocos_layout_with_the_chosen_categories_alone(original, tmp_path):
    out = tmp_path / "out"
    subset = carve(original, out, train=6, val=3)
    assert {path.name for path in out.iterdir()} == {"annotations", "train2017", "val2017", "manifest.json"}
    for split, count in {"train": 6, "val": 3}.items():
        whole, part = contents(original, split), contents(out, split)
        assert part["licenses"] == LICENCES
        assert part["info"] == whole["info"]
        assert part["categories"] == [{"id": 3, "name": "car"}, {"id": 17, "name": "cat"}]
        assert len(part["images"]) == count
        assert all(image in whole["images"] for image in part["images"])
        ids = {image["id"] for image in part["images"]}
        assert part["annotations"] == [
            a for a in whole["annotations"] if a["image_id"] in ids and a["category_id"] in (3, 17)
        ]
        for image in part["images"]:
            name = f"{split}2017/{image['file_name']}"
            assert (out / name).read_bytes() == (original / name).read_bytes()
        dataset = CocoDetection(*coco_layout(out, split))
        assert len(dataset) == count
        assert sum(len(dataset[i][1]["boxes"]) for i in range(count)) == sum(
            boxes for _, boxes in subset.categories[split].values()
        )


def test_crowds_stay_but_choose_no_image(coco, tmp_path):
    crowd = contents(coco, "train")["images"][0]["id"]

    def only_the_crowd_is_a_car(whole):
        for annotation in whole["annotations"]:
            if annotation["image_id"] == crowd and not annotation["iscrowd"]:
                annotation["category_id"] = 90

    change(coco, "train", only_the_crowd_is_a_car)
    cars = {a["image_id"] for a in contents(coco, "train")["annotations"] if a["category_id"] == 3} - {crowd}
    carve(coco, tmp_path / "cars", train=len(cars), val=0, categories=["car"])
    assert {image["id"] for image in contents(tmp_path / "cars", "train")["images"]} == cars
    both = carve(coco, tmp_path / "both", train=15, val=0, categories=["car", "cat", "toothbrush"])
    assert sum(a["iscrowd"] for a in contents(tmp_path / "both", "train")["annotations"]) == 1
    assert sum(boxes for _, boxes in both.categories["train"].values()) == sum(
        not a["iscrowd"] for a in contents(coco, "train")["annotations"]
    )


def test_the_choice_is_the_seeds(original, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        carve(original, tmp_path / name, seed=seed)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert files(tmp_path / "a").keys() != files(tmp_path / "c").keys()


def test_each_category_gets_about_as_many_images():
    """Persons are in every other image and with every dog, cats are rare."""
    images_of = {"person": list(range(0, 1000, 2)), "dog": list(range(0, 300, 2)), "cat": list(range(1, 60, 2))}
    chosen = choose_images(images_of, 90, seed=3)
    counts = Counter({name: len(set(ids) & set(chosen)) for name, ids in images_of.items()})
    assert len(set(chosen)) == 90
    assert counts["cat"] == 30
    assert abs(counts["person"] - 60) <= 1
    assert counts["dog"] >= 58
    assert chosen == choose_images({name: ids[::-1] for name, ids in images_of.items()}, 90, seed=3)
    kept = [i for i in chosen if i != chosen[7]]
    images_of = {name: [i for i in ids if i != chosen[7]] for name, ids in images_of.items()}
    again = choose_images(images_of, 90, seed=3, kept=kept)
    assert again[:-1] == kept
    assert len(set(again)) == 90
    assert len(choose_images({"cat": [1, 2], "dog": [2, 3]}, 9)) == 3


def test_train_and_val_never_share_a_photo(coco, tmp_path):
    """By id, by name and by content; val would choose each of them."""
    train = contents(coco, "train")["images"]

    def share(val):
        val["images"][1]["file_name"] = train[1]["file_name"]
        for annotation in val["annotations"]:
            if annotation["image_id"] == val["images"][2]["id"]:
                annotation["image_id"] = train[2]["id"]
        val["images"][2]["id"] = train[2]["id"]
        for key in ("width", "height"):
            val["images"][3][key] = train[3][key]

    change(coco, "val", share)
    val = contents(coco, "val")["images"]
    for one, other in ((1, 1), (3, 3)):
        shutil.copy(coco / "train2017" / train[one]["file_name"], coco / "val2017" / val[other]["file_name"])
    everything = ["car", "cat", "toothbrush"]
    carve(coco, tmp_path / "out", train=15, val=12, categories=everything)
    ours, theirs = contents(tmp_path / "out", "train")["images"], contents(tmp_path / "out", "val")["images"]
    assert not {i["id"] for i in ours} & {i["id"] for i in theirs}
    assert not {i["file_name"] for i in ours} & {i["file_name"] for i in theirs}
    data = [path.read_bytes() for split in ("train", "val") for path in photos(tmp_path / "out", split)]
    assert len(data) == len(set(data)) == 27
    with pytest.raises(DataError, match=r"has 13 val images .*, not 14|has 12 val images .*, not 14"):
        carve(coco, tmp_path / "more", train=15, val=14, categories=everything)


@pytest.mark.parametrize("fault", ["missing", "cut", "text", "another"])
def test_photos_that_cannot_be_used_are_replaced(coco, tmp_path, caplog, fault):
    carve(coco, tmp_path / "first")
    photo = coco / "train2017" / photos(tmp_path / "first")[0].name
    if fault == "missing":
        photo.unlink()
    elif fault == "cut":
        photo.write_bytes(photo.read_bytes()[:-200])
    elif fault == "text":
        photo.write_text("no photo")
    else:
        Image.new("RGB", (300, 200)).save(photo)
    assert carve(coco, tmp_path / "second").images == {"train": 4, "val": 2}
    names = {path.name for path in photos(tmp_path / "second")}
    assert photo.name not in names
    assert len(names) == 4
    assert (fault == "missing") != (f"image id {int(photo.stem)} is replaced" in caplog.text)


def test_a_manifest_makes_the_same_subset_again(coco, tmp_path):
    carve(coco, tmp_path / "a", seed=5)
    photo = coco / "train2017" / photos(tmp_path / "a")[0].name
    manifest = tmp_path / "a" / "manifest.json"
    carve_subset(coco, tmp_path / "b", manifest=manifest)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert json.loads(manifest.read_text())["command"] == (
        "python -m ddetr data coco --categories car cat --train 4 --val 2 --seed 5 --from COCO"
    )
    with pytest.raises(DataError, match="the manifest says which categories"):
        carve(coco, tmp_path / "c", manifest=manifest)
    change(coco, "train", lambda whole: [a["bbox"].reverse() for a in whole["annotations"]])
    with pytest.raises(DataError, match="has other boxes than those that the manifest was made from"):
        carve_subset(coco, tmp_path / "d", manifest=manifest)
    photo.unlink()
    with pytest.raises(DataError, match=f"1 train photos of it are not there, first image id {int(photo.stem)}"):
        carve_subset(coco, tmp_path / "e", manifest=manifest)
    assert not any((tmp_path / name).exists() for name in "cde")


BAD_MANIFESTS = [
    ("[", "is not a manifest: not JSON"),
    ("{}", "it lacks 'format'"),
    ({"seed": "0"}, "'seed' is missing or not"),
    ({"counts": {"train": 4}}, "'counts' is missing or not"),
    ({"counts": {"train": 5, "val": 2}}, "lists 4 train photos, but counts 5"),
    ({"photos": {"train": {"../1": "0" * 64}, "val": {}}}, "'photos' is missing or not"),
    ({"photos": {}, "annotations": {}}, "names no photos"),
    ({"annotations": {"train": "x", "val": "y"}}, "'annotations' is missing or not"),
    ({"annotations": {}}, "has only one of 'photos' and 'annotations'"),
]


@pytest.mark.parametrize(("edit", "message"), BAD_MANIFESTS, ids=[message for _, message in BAD_MANIFESTS])
def test_what_is_no_manifest(original, tmp_path, edit, message):
    carve(original, tmp_path / "a")
    manifest = tmp_path / "a" / "manifest.json"
    manifest.write_text(edit if isinstance(edit, str) else json.dumps(json.loads(manifest.read_text()) | edit))
    with pytest.raises(DataError, match=message):
        carve_subset(original, tmp_path / "b", manifest=manifest)


def test_a_finished_subset_is_checked_and_repaired(original, tmp_path, caplog):
    out = tmp_path / "out"
    carve(original, out)
    whole = files(out)
    carve(original, out)
    assert "holds this subset already, and it is whole" in caplog.text
    photos(out)[0].unlink()
    Image.new("RGB", (90, 80)).save(photos(out)[1])
    change(out, "val", lambda val: val["annotations"].pop())
    carve(original, out)
    assert files(out) == whole


class Interrupted(LocalCoco):
    """Ctrl-C at a photo."""

    workers = 1
    calls = 0
    last = 2

    def photo(self, split, name, check):
        self.calls += 1
        if self.calls > self.last:
            raise KeyboardInterrupt
        return super().photo(split, name, check)


def test_interrupted_and_run_again(original, tmp_path, caplog):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        make_subset(Interrupted(original), out, wanted_subset(["car", "cat"], 4, 2, 0, None))
    assert "2 photos are in" in caplog.text
    assert len(photos(out)) == 2
    assert not list((out / "annotations").iterdir())
    (out / "train2017" / ".000000000100.jpg.0a1b2c3d").write_bytes(b"half")  # as a kill leaves it
    with pytest.raises(DataError, match="holds another subset"):
        carve(original, out, train=5)
    again = Interrupted(original)
    again.last = 9
    make_subset(again, out, wanted_subset(["car", "cat"], 4, 2, 0, None))
    assert again.calls == 4
    carve(original, tmp_path / "other")
    assert files(out) == files(tmp_path / "other")


def test_stopped_at_any_write_and_run_again(original, tmp_path, monkeypatch):
    """A run writes 10 files: what is wanted, six photos, two annotation files, the manifest."""
    carve(original, tmp_path / "whole")
    replace = os.replace
    for last in range(1, 11):
        out = tmp_path / f"out{last}"
        writes = itertools.count(1)

        def stop(source, target, last=last, writes=writes):
            if next(writes) == last:
                raise KeyboardInterrupt
            replace(source, target)

        monkeypatch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            carve(original, out)
        monkeypatch.undo()
        assert not (out / "manifest.json").exists()
        carve(original, out)
        assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "the disk is full: 0 photos are in"), (errno.EACCES, "enied")]
)
def test_a_disk_that_takes_no_more(original, tmp_path, monkeypatch, number, message):
    def refuse(path, contents):
        raise OSError(number, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(DataError, match=message):
        carve(original, tmp_path / "out")
    assert photos(tmp_path / "out") == []
    monkeypatch.undo()
    assert carve(original, tmp_path / "out").images == {"train": 4, "val": 2}


def test_folders_of_others_are_left_alone(original, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="holds files that are no subset of this command's"):
        carve(original, tmp_path / "mine")
    with pytest.raises(DataError, match="holds files that are no subset"):
        carve(original, original)
    with pytest.raises(DataError, match=r"thesis\.txt cannot be read or written"):
        carve(original, tmp_path / "mine" / "thesis.txt")
    assert files(tmp_path / "mine") == {"thesis.txt": b"years of work"}
    carve(original, tmp_path / "out")
    with pytest.raises(
        DataError, match=r"holds another subset \(car, cat; 4 train and 2 val images; seed 0; from coco\)"
    ):
        carve(original, tmp_path / "out", val=3)


@pytest.mark.parametrize("place", ["train2017", "annotations", ".unfinished", "manifest.json"])
def test_links_in_the_folder_are_not_written_through(original, tmp_path, place):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / place).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"{place} is a link"):
        carve(original, tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_links_and_paths_out_of_the_local_copy_are_not_followed(coco, tmp_path, caplog):
    carve(coco, tmp_path / "first")
    photo = coco / "train2017" / photos(tmp_path / "first")[0].name
    photo.rename(tmp_path / "secret.jpg")
    photo.symlink_to(tmp_path / "secret.jpg")
    carve(coco, tmp_path / "second")
    assert "is a link that leads out of its folder" in caplog.text
    assert photo.name not in {path.name for path in photos(tmp_path / "second")}


def test_boxes_out_of_the_image_are_clipped_and_counted(coco, tmp_path, caplog):
    def stretch(whole):
        for annotation in whole["annotations"]:
            annotation["bbox"][2] = 5000

    change(coco, "train", stretch)
    carve(coco, tmp_path / "out", val=0)
    boxes = contents(tmp_path / "out", "train")["annotations"]
    assert f"{len(boxes)} boxes reach out of their image and are clipped" in caplog.text
    widths = {image["id"]: image["width"] for image in contents(coco, "train")["images"]}
    assert all(a["bbox"][0] + a["bbox"][2] == widths[a["image_id"]] for a in boxes)
    carve_subset(coco, tmp_path / "again", manifest=tmp_path / "out" / "manifest.json")
    assert files(tmp_path / "again") == files(tmp_path / "out")


MISTAKES = [
    (
        ["--categories", "catt", "toothbrsh"],
        "'catt' is no category; did you mean 'cat'? 'toothbrsh' is no category; did",
    ),
    (["--categories", "zeppelin"], "'zeppelin' is no category. There are: car, cat, toothbrush"),
    (["--categories", "car", "--train", "99"], "train images with car, not 99: ask for --train"),
    (["--categories", "car", "--val", "99"], "val images with car, not 99: ask for --val"),
    (["--categories", "car", "--train", "0", "--val", "0"], "a subset needs images: --train 200 --val 50"),
    ([], "a subset needs at least one category: --categories cat dog"),
    (["--categories", "car", "--download"], "say where the photos come from"),
    (["--categories", "car", "--server", "http://a"], "--server goes with --download"),
    (["--manifest", "gone.json", "--train", "0"], "no manifest can be read at gone.json (No such file"),
    (["--manifest", "gone.json", "--seed", "1"], "the manifest has its own seed"),
    (
        ["--categories", "car", "--from", "gone"],
        "gone is not in COCO's layout: no annotations/instances_train2017.json",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_mistakes_get_one_sentence(original, tmp_path, capsys, arguments, message):
    command = ["data", "coco", "--from", str(original), "--train", "2", "--out", str(tmp_path / "out"), *arguments]
    assert main(command) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("error: ")
    assert message in sentence
    assert not (tmp_path / "out").exists()


def test_the_command_prints_what_it_made(original, tmp_path, capsys):
    command = ["data", "coco", "--from", str(original), "--categories", "cat", "car", "--train", "4", "--val", "2"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert f"4 train and 2 val images in {tmp_path / 'out'}" in printed.out
    assert "train photos: 100%" in printed.err
    for arguments in (["data"], ["data", "coco", "--help"]):
        with pytest.raises(SystemExit):
            main(arguments)
    assert "--download" in capsys.readouterr().out


def test_real_photos(coco_photos, tmp_path):
    out = tmp_path / "out"
    subset = carve_subset(coco_photos, out, ["cat", "dog", "person"], 20, 10)
    assert subset.images == {"train": 20, "val": 10}
    for split in ("train", "val"):
        dataset = CocoDetection(*coco_layout(out, split))
        assert [c["id"] for c in dataset.categories] == [1, 17, 18]
        assert sum(len(dataset[i][1]["boxes"]) for i in range(len(dataset))) == sum(
            boxes for _, boxes in subset.categories[split].values()
        )
        assert {image["license"] for image in contents(out, split)["images"]} <= {4, 5, 7}
    with pytest.raises(
        DataError, match="has 48 train images with cat, dog, person, not 200: ask for --train 48 at most"
    ):
        carve_subset(coco_photos, tmp_path / "more", ["cat", "dog", "person"], 200, 50)
