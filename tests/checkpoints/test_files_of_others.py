"""Checkpoints as the official code and mmdetection leave them, and files that are not what they seem."""

import argparse
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from small_models import same, small_model

from ddetr import load_pretrained
from ddetr.checkpoints import CheckpointError, load_into, read_checkpoint
from ddetr.checkpoints.naming import their_state


@pytest.fixture
def model():
    return small_model("two_stage")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_official_checkpoint(tmp_path, model, legacy):
    """With optimiser, schedule and arguments; and as PyTorch 1.5 wrote it, when the official weights were made."""
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 40)
    contents = {
        "model": their_state(model, "official"),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "epoch": 49,
        "args": argparse.Namespace(lr=2e-4, two_stage=True, device=torch.device("cpu")),
    }
    torch.save(contents, tmp_path / "checkpoint.pth", _use_new_zipfile_serialization=not legacy)
    assert same(load_pretrained(tmp_path / "checkpoint.pth").state_dict(), model.state_dict())


class HistoryBuffer:
    """Stands for mmengine's, which keeps arrays and functions."""

    def __init__(self):
        self.history = np.arange(3.0)
        self.statistics = {"mean": np.mean, "min": HistoryBuffer.minimum}

    def minimum(self):
        return self.history.min()


@pytest.fixture
def mmengine_file(tmp_path, model, monkeypatch):
    """Its state_dict holds the averaged weights, its ema_state_dict what they are the average of."""
    module = types.ModuleType("not_installed_here")
    module.HistoryBuffer = HistoryBuffer
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(HistoryBuffer, "__module__", module.__name__)
    state = their_state(model, "mmdet")
    contents = {
        "meta": {"dataset_meta": {"classes": ("ant", "bee", "cat", "dog", "elk"), "palette": [(1, 2, 3)]}, "epoch": 3},
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "message_hub": {"log_scalars": {"train/loss": HistoryBuffer()}},
        "optimizer": torch.optim.AdamW(model.parameters()).state_dict(),
        "ema_state_dict": {f"module.{name}": tensor + 1 for name, tensor in state.items()} | {"steps": torch.tensor(5)},
    }
    torch.save(contents, tmp_path / "epoch_3.pth")
    return tmp_path / "epoch_3.pth", contents


def test_a_whole_mmdetection_checkpoint(mmengine_file, model):
    loaded = load_pretrained(mmengine_file[0])
    assert same(loaded.state_dict(), model.state_dict())
    assert [category["name"] for category in loaded.categories] == ["ant", "bee", "cat", "dog", "elk"]


def test_averaged_weights_alone(mmengine_file, model, tmp_path):
    torch.save({"ema_state_dict": mmengine_file[1]["ema_state_dict"]}, tmp_path / "ema.pth")
    loaded = load_pretrained(tmp_path / "ema.pth").state_dict()
    assert loaded["flatten.level_embed"].equal(model.flatten.level_embed + 1)


def test_what_wrappers_add_to_names(model):
    """DistributedDataParallel, torch.compile, and mmcv's averaged copies."""
    state = {f"module._orig_mod.{name}": tensor for name, tensor in their_state(model, "mmdet").items()}
    state["ema_backbone_conv1_weight"] = torch.zeros(1)
    other = small_model("two_stage")
    load_into(other, state)
    assert same(other.state_dict(), model.state_dict())


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (eval, ("1/0",), "builtins.eval"),
        (subprocess.Popen, (["true"],), "subprocess.Popen"),
        (__import__("os").system, ("true",), "posix.system"),
    ],
)
def test_a_file_that_would_run_code_is_refused_in_one_sentence(tmp_path, model, function, arguments, named, legacy):
    if sys.platform == "win32":
        named = named.replace("posix", "nt")
    contents = {"model": their_state(model, "official"), "args": Call(function, *arguments)}
    torch.save(contents, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=rf"w\.pth would call {named} when it is read, which is refused") as error:
        load_pretrained(tmp_path / "w.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("reference", "count"), [("official", 91), ("mmdet", 80), ("official", 80)])
def test_cocos_names_where_the_file_has_none(tmp_path, reference, count):
    model = small_model(num_classes=count)
    torch.save({"state_dict": their_state(model, reference)}, tmp_path / "w.pth")
    names = [category["name"] for category in load_pretrained(tmp_path / "w.pth").categories]
    assert names[17 if count == 91 else 15] == "cat"
    changed = load_pretrained(tmp_path / "w.pth", num_classes=3)
    assert changed.config.num_classes == 3
    assert changed.categories is None


def test_names_that_fit_no_label_are_not_believed(tmp_path, model):
    contents = {"state_dict": their_state(model, "mmdet"), "meta": {"CLASSES": ("one", "two")}}
    for categories in ([], ["a", "b"], [{"id": 1, "name": "a"}], "abcde", [{"id": 1}] * 5):
        torch.save(contents | {"categories": categories}, tmp_path / "w.pth")
        assert load_pretrained(tmp_path / "w.pth").categories is None


def test_other_heads_than_eight_can_be_said(tmp_path):
    model = small_model(num_heads=4, num_points=3)
    torch.save(their_state(model, "official"), tmp_path / "w.pth")
    loaded = load_pretrained(tmp_path / "w.pth", num_heads=4)
    assert loaded.config.num_points == 3
    assert same(loaded.state_dict(), model.state_dict())


def test_a_model_saved_whole_holds_no_weights_to_read(tmp_path, model):
    torch.save(model, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth holds no weights|refused"):
        read_checkpoint(tmp_path / "w.pth")
