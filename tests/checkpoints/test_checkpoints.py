import argparse
import contextlib
import os
import stat
import sys
from collections import OrderedDict

import golden_values as golden
import pytest
import torch

from ddetr import build_model, load_pretrained
from ddetr.checkpoints import CheckpointError, copy_encoder, infer_config, load_into, read_checkpoint, save_model
from ddetr.files import replacing


@pytest.fixture(scope="module")
def official():
    return golden.state_dict("official", "base")


def test_saving_and_loading_gives_the_same_model(tmp_path, tiny_two_stage):
    tiny_two_stage.categories = [{"id": k, "name": f"thing {k}"} for k in range(3)]
    save_model(tiny_two_stage, tmp_path / "model.safetensors")
    for source in (tmp_path, tmp_path / "model.safetensors"):
        loaded = load_pretrained(source)
        assert not loaded.training
        assert loaded.config == tiny_two_stage.config
        assert loaded.categories == tiny_two_stage.categories
        images = [torch.randn(3, 64, 64)]
        with torch.no_grad():
            assert loaded(images)[0]["boxes"].equal(tiny_two_stage.eval()(images)[0]["boxes"])


@pytest.mark.parametrize("categories", [["a", "b", "c"], "abc", 3, [{"name": "a"}] * 3, [{"id": 1, "name": "a"}]])
def test_categories_that_are_none_are_left_out(tmp_path, tiny_two_stage, categories):
    tiny_two_stage.categories = categories
    save_model(tiny_two_stage, tmp_path / "w.safetensors")
    assert load_pretrained(tmp_path / "w.safetensors").categories is None


@pytest.mark.parametrize(
    ("reference", "variant"),
    [("official", v) for v in golden.VARIANTS] + [("mmdet", v) for v in ("base", "refine", "two_stage")],
)
def test_the_config_is_read_off_the_shapes(reference, variant):
    wanted = golden.config(reference, variant).replace(dropout=0.1, dilation=False)
    assert infer_config(golden.state_dict(reference, variant)) == wanted


@pytest.mark.parametrize("wrapped", ["model", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_files_as_the_references_write_them(tmp_path, official, wrapped, prefix):
    state = OrderedDict((prefix + name, tensor) for name, tensor in official.items())
    contents = {wrapped: state, "epoch": 3, "args": argparse.Namespace(lr=1e-4)} if wrapped else state
    torch.save(contents, tmp_path / "weights.pth")
    model = build_model("r50", dropout=0.0)
    assert load_into(model, tmp_path / "weights.pth").naming == "official"
    assert model.flatten.level_embed.equal(official["transformer.level_embed"])


class Unknown:
    """Stands for the log buffers and configs of other code bases, whose classes are not installed here."""

    def __init__(self):
        self.history = [1, 2, 3]


def test_objects_of_unknown_classes_do_not_hinder(tmp_path, official):
    torch.save({"state_dict": official, "message_hub": Unknown(), "meta": {"x": Unknown}}, tmp_path / "w.pth")
    assert len(read_checkpoint(tmp_path / "w.pth").state) == len(official)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_code_is_never_run(tmp_path, official, legacy):
    trap = tmp_path / "trap"
    contents = {"model": official, "evil": Evil(str(trap))}
    torch.save(contents, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    with contextlib.suppress(CheckpointError):  # refused, or read with a placeholder: either will do
        read_checkpoint(tmp_path / "w.pth")
    assert not trap.exists()
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert trap.exists()  # the trap does work


def test_a_refused_checkpoint_changes_nothing(official):
    model = build_model("r50", dropout=0.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cases = {
        "missing": {k: v for k, v in official.items() if "enc_layer" not in k and "linear1" not in k},
        "unexpected": official | {"transformer.extra.weight": torch.zeros(2)},
        "mismatched": official | {"query_embed.weight": torch.zeros(100, 512)},
    }
    for word, state in cases.items():
        with pytest.raises(CheckpointError, match=word):
            load_into(model, state)
        for name, tensor in model.state_dict().items():
            assert tensor.equal(before[name])


def test_another_class_count_or_variant_is_refused_with_advice(official):
    with pytest.raises(CheckpointError, match=r"(?s)class_embed.0.weight.* has shape \(91, 256\).*\(80, 256\)"):
        load_into(build_model("r50", num_classes=80), official)
    with pytest.raises(CheckpointError, match="load_pretrained builds that model"):
        load_into(build_model("r50_two_stage"), official)
    with pytest.raises(CheckpointError, match="differs from"):
        load_into(build_model("r50"), golden.state_dict("official", "refine"))


def test_not_strict_loads_what_fits_and_lists_the_rest(official, caplog):
    model = build_model("r50", num_classes=80)
    report = load_into(model, official, strict=False)
    assert not report.complete
    assert len(report.mismatched) == 2
    assert "mismatched (2)" in caplog.text
    assert model.flatten.level_embed.equal(official["transformer.level_embed"])


@pytest.mark.parametrize(
    "contents", [b"", b"hello", b"PK\x03\x04 not really a zip", b"version https://git-lfs.github.com/spec/v1"]
)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_damaged_files_say_which(tmp_path, contents, name):
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(CheckpointError, match=name):
        load_pretrained(tmp_path / name)


def test_half_a_model_and_no_model(tmp_path):
    torch.save({"transformer.level_embed": torch.zeros(4, 256)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="no whole Deformable DETR"):
        load_pretrained(tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="is a int"):
        load_into(build_model("tiny"), {"flatten.level_embed": 5})
    with pytest.raises(CheckpointError, match="a state dict or a path; got NoneType"):
        load_into(build_model("tiny"), None)


def test_unsafe_loading_is_never_recommended(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError) as refused:
        read_checkpoint(tmp_path / "w.pth")
    assert "weights_only" not in str(refused.value)


def test_files_without_weights(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_checkpoint(tmp_path / "w.pth")
    torch.save({"state_dict": {"fc.weight": torch.zeros(2)}}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="is no Deformable DETR"):
        load_pretrained(tmp_path / "w.pth")
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load_pretrained(tmp_path / "gone.pth")
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors in"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (80, 3)])
def test_other_classes_get_new_class_heads_only(tmp_path, before, after, caplog):
    model = build_model("tiny_two_stage", num_classes=before)
    torch.nn.init.ones_(model.heads.class_embed[0].bias)
    save_model(model, tmp_path / "model.safetensors")
    changed = load_pretrained(tmp_path, num_classes=after)
    assert changed.config.num_classes == after
    assert f"{after} classes instead of {before}" in caplog.text
    assert changed.heads.class_embed[0].bias.tolist() == pytest.approx([-4.595] * after, abs=1e-3)
    old = model.state_dict()
    for name, tensor in changed.state_dict().items():
        assert "class_embed" in name or tensor.equal(old[name])


def write_half(file):
    with replacing(file) as temporary:
        temporary.write_text("half")
        raise RuntimeError("disk full")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_text("old")
    with pytest.raises(RuntimeError, match="disk full"):
        write_half(file)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_written_files_have_ordinary_permissions(tmp_path):
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("x")
    (tmp_path / "b").write_text("x")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


@pytest.mark.parametrize(("reference", "label"), [("official", 17), ("mmdet", 15)])
def test_labels_of_the_references_weights_mean_cocos_categories(tmp_path, reference, label):
    torch.save({"state_dict": golden.state_dict(reference, "base")}, tmp_path / "w.pth")
    model = load_pretrained(tmp_path / "w.pth")
    assert len(model.categories) == model.config.num_classes
    assert model.categories[label] == {"id": 17, "name": "cat"}


def test_an_encoder_moves_to_another_variant():
    source = build_model("tiny_two_stage", num_classes=3)
    target = build_model("tiny", num_classes=5)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    copy_encoder(source, target)
    theirs = source.state_dict()
    for name, tensor in target.state_dict().items():
        taken = name.partition(".")[0] in ("backbone", "neck", "flatten", "encoder")
        assert torch.equal(tensor, theirs[name] if taken else before[name]), name
    with pytest.raises(
        ValueError, match=r"the encoder of these weights does not fit: .*encoder_layers is 2 there, 1 here"
    ):
        copy_encoder(source, build_model("tiny", encoder_layers=1))
