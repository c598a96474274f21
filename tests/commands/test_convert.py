import json

import pytest
import torch
from small_models import same, small_model

from ddetr import load_pretrained
from ddetr.checkpoints import read_checkpoint, save_hf, save_model, save_official
from ddetr.cli import main


@pytest.fixture
def model():
    return small_model("two_stage")


@pytest.fixture
def official(tmp_path, model):
    save_official(model, tmp_path / "official.pth")
    return tmp_path / "official.pth"


def convert(*arguments):
    return main(["convert", *map(str, arguments)])


def test_through_every_format_and_back(tmp_path, official, capsys):
    chain = [("mmdet", "a.pth"), ("ddetr", "b.safetensors"), ("hf", "c"), ("official", "deep/d.pth")]
    source = official
    for to, name in chain:
        assert convert(source, tmp_path / name, "--to", to, "--set", "num_queries=9") == 0
        source = tmp_path / name
    assert same(read_checkpoint(source).state, read_checkpoint(official).state)
    printed = capsys.readouterr().out
    assert "with_box_refine=True, as_two_stage=True, neck=dict(bias=True)" in printed
    assert "--with_box_refine --two_stage --num_queries 9; num_classes is 5" in printed
    assert "5 classes" in printed


def test_other_classes(tmp_path, official, model):
    assert convert(official, tmp_path / "out.safetensors", "--to", "ddetr", "--num-classes", 3) == 0
    loaded = load_pretrained(tmp_path / "out.safetensors")
    assert loaded.config.num_classes == 3
    assert loaded.flatten.level_embed.equal(model.flatten.level_embed)


def test_a_file_that_is_there_stays_unless_forced(tmp_path, official, capsys):
    precious = tmp_path / "precious.pth"
    precious.write_text("years of work")
    assert convert(official, precious, "--to", "mmdet") == 1
    assert "--force replaces it" in capsys.readouterr().err
    assert precious.read_text() == "years of work"
    (tmp_path / "broken.pth").write_bytes(official.read_bytes()[:9999])
    assert convert(tmp_path / "broken.pth", precious, "--to", "mmdet", "--force") == 1
    assert precious.read_text() == "years of work"
    assert convert(official, precious, "--to", "mmdet", "--force") == 0
    assert "level_embed" in read_checkpoint(precious).state
    assert {file.name for file in tmp_path.iterdir()} == {"precious.pth", "broken.pth", "official.pth"}


def test_a_folder_that_holds_something_stays_unless_forced(tmp_path, official, model):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert convert(official, tmp_path / "out", "--to", "hf") == 1
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["notes.txt"]
    assert convert(official, tmp_path / "out", "--to", "hf", "--force", "--set", "num_queries=9") == 0
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert same(load_pretrained(tmp_path / "out").state_dict(), model.state_dict())
    (tmp_path / "empty").mkdir()
    assert convert(official, tmp_path / "empty", "--to", "hf") == 0


@pytest.mark.parametrize(
    ("source", "target", "to", "sentence"),
    [
        ("official.pth", "official.pth", "mmdet", "is where IN is"),
        ("folder", "folder", "hf", "is where IN is"),
        ("folder/model.safetensors", "folder", "hf", "is where IN is"),
        ("official.pth", "out.safetensors", "official", "writes a .pth file"),
        ("official.pth", "out", "mmdet", "writes a .pth file"),
        ("official.pth", "out.pth", "ddetr", "writes a .safetensors file"),
        ("official.pth", "out.pth", "hf", "writes a folder"),
        ("official.pth", "folder.pth", "official", "is a folder"),
        ("gone.pth", "out.pth", "official", "no weights at"),
        ("text.pth", "out.pth", "official", "is not a PyTorch checkpoint"),
        ("tiny", "out", "hf", "batch norm only"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_writes_nothing(
    tmp_path, official, model, source, target, to, sentence, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "folder.pth").mkdir()
    save_hf(model, tmp_path / "folder")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert convert(source, target, "--to", to, "--force") == 1
    (printed,) = [line for line in capsys.readouterr().err.splitlines() if "tensors loaded" not in line]
    assert printed.startswith("error: ")
    assert sentence in printed
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_half_a_weight_file_is_refused(tmp_path, model, capsys):
    save_model(model, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    for length in (0, 7, 1000, len(whole) // 2, len(whole) - 1):
        (tmp_path / "half.safetensors").write_bytes(whole[:length])
        assert convert(tmp_path / "half.safetensors", tmp_path / "out.pth", "--to", "official") == 1
        assert "is not a safetensors file, or is damaged" in capsys.readouterr().err
    assert not (tmp_path / "out.pth").exists()


def test_names_and_image_size_go_along(tmp_path, model):
    model.categories = [{"id": 3 * k + 1, "name": name} for k, name in enumerate(["é", '"<b>', "猫", "4", "LABEL_1"])]
    save_model(model, tmp_path / "in.safetensors")
    assert convert(tmp_path / "in.safetensors", tmp_path / "out", "--to", "hf", "--size", 320) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["id2label"]["2"] == "猫"
    assert config["label2id"]["4"] == 3
    loaded = load_pretrained(tmp_path / "out")
    assert loaded.categories == model.categories
    assert loaded.config.test_size == 320
    assert torch.equal(loaded.flatten.level_embed, model.flatten.level_embed)
