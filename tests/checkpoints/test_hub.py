"""`load_pretrained` of a name on the hub, against a server on this machine."""

import json
import os
import subprocess
import sys
import time

import pytest
import safetensors.torch
from hub_server import serving_hub
from small_models import same, small_model

from ddetr import load_pretrained
from ddetr.checkpoints import CheckpointError, save_hf
from ddetr.checkpoints.hub import is_hub_name

constants = pytest.importorskip("huggingface_hub.constants")
NAME = "somebody/deformable-detr"


@pytest.fixture
def model():
    return small_model("two_stage")


@pytest.fixture
def hub(tmp_path, model, monkeypatch):
    save_hf(model, tmp_path / "hub" / NAME)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between its tries
    with serving_hub(tmp_path / "hub") as server:
        use_server(monkeypatch, server.url)
        yield server


def use_server(monkeypatch, url):
    """What HF_ENDPOINT does, which counts only before huggingface_hub is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_a_model_is_fetched_once_and_then_comes_from_the_cache(hub, model, monkeypatch):
    loaded = load_pretrained(NAME)
    assert loaded.config == model.config
    assert same(loaded.state_dict(), model.state_dict())
    fetched = ["config.json", "preprocessor_config.json", "model.safetensors"]
    assert hub.sent == fetched
    load_pretrained(NAME)
    assert hub.sent == fetched
    use_server(monkeypatch, "http://127.0.0.1:9")  # nobody there: no network
    assert same(load_pretrained(NAME).state_dict(), model.state_dict())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same(load_pretrained(NAME).state_dict(), model.state_dict())


def test_a_model_in_several_files(hub, model, tmp_path):
    folder = tmp_path / "hub" / NAME
    split_in_two(folder)
    assert same(load_pretrained(NAME).state_dict(), model.state_dict())
    assert sorted(hub.sent)[1:3] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def split_in_two(folder):
    """As transformers does with models that are too large for one file."""
    state = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = [dict(list(state.items())[part::2]) for part in range(2)]
    files = [f"model-0000{part + 1}-of-00002.safetensors" for part in range(2)]
    for half, file in zip(halves, files, strict=True):
        safetensors.torch.save_file(half, folder / file)
    index = {"weight_map": {name: file for half, file in zip(halves, files, strict=True) for name in half}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_transfer_that_breaks_off_is_never_taken_for_the_model(hub, model):
    hub.broken = 100
    with pytest.raises(OSError, match=r"model\.safetensors of somebody/deformable-detr could not be fetched") as error:
        load_pretrained(NAME)
    assert "\n" not in str(error.value)
    hub.broken = 0
    assert same(load_pretrained(NAME).state_dict(), model.state_dict())


@pytest.mark.parametrize(
    ("refuse", "kind", "sentence"),
    [
        ((401, "GatedRepo"), OSError, "is gated: ask for access"),
        ((403, "GatedRepo"), OSError, "is gated: ask for access"),
        ((404, "RepoNotFound"), FileNotFoundError, "no file or folder somebody/deformable-detr, nor a model of that"),
        ((401, "RepoNotFound"), FileNotFoundError, "unless it is a private one"),
        ((403, ""), OSError, "is gated"),
        ((401, ""), FileNotFoundError, "unless it is a private one"),
        ((500, ""), OSError, r"config\.json of somebody/deformable-detr could not be fetched .*500"),
    ],
)
def test_no_access_is_one_sentence(hub, refuse, kind, sentence):
    hub.refuse = refuse
    with pytest.raises(kind, match=sentence) as error:
        load_pretrained(NAME)
    assert "\n" not in str(error.value)


def test_what_is_not_there(hub, tmp_path):
    with pytest.raises(FileNotFoundError, match="nor a model of that name"):
        load_pretrained("somebody/else")
    (tmp_path / "hub" / NAME / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no weights that can be had"):
        load_pretrained(NAME)
    (tmp_path / "hub" / NAME / "config.json").unlink()
    (tmp_path / "hub" / "somebody/other").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        load_pretrained("somebody/other")
    with pytest.raises(FileNotFoundError, match="no weights at"):
        load_pretrained("runs/weights.pth")  # a file's name: nobody is asked
    assert hub.sent == ["config.json", "preprocessor_config.json"]


def test_another_kind_of_model_is_refused_before_its_weights_come(hub, tmp_path):
    config = tmp_path / "hub" / NAME / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "rt_detr"}))
    with pytest.raises(CheckpointError, match="of the type 'rt_detr'; needed is 'deformable_detr'"):
        load_pretrained(NAME)
    assert hub.sent == ["config.json"]


def test_without_network_or_cache_or_the_package(hub, monkeypatch, caplog):
    use_server(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(OSError, match="the hub cannot be reached, and it is not in the cache"):
        load_pretrained(NAME)
    assert not caplog.records  # of its five tries
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set"):
        load_pretrained(NAME)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r'pip install "ddetr\[hf\]"'):
        load_pretrained(NAME)


def test_which_texts_are_names_on_the_hub():
    assert is_hub_name("SenseTime/deformable-detr-with-box-refine")
    for text in ("tiny", "runs/weights.pth", "a/b/c", "../b", "./b", "/a", "a/", "a/b c", "runs/model.safetensors"):
        assert not is_hub_name(text), text


def test_the_command_line_takes_a_name_too(hub, tmp_path):
    """In a process of its own, with HF_ENDPOINT, as a user with a mirror has it."""
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "own"), "HF_TOKEN": ""}
    environment["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
    command = [sys.executable, "-m", "ddetr", "convert", NAME, str(tmp_path / "out.pth"), "--to", "official"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "--two_stage" in done.stdout
    assert (tmp_path / "out.pth").is_file()
