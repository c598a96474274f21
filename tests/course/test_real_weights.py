import shutil

import pytest

from ddetr.checkpoints import shipped_file
from ddetr.course.real_weights import real_weights


def test_without_the_variable_it_says_so(monkeypatch):
    monkeypatch.delenv("DDETR_WEIGHTS", raising=False)
    model, sentence = real_weights()
    assert model is None
    assert "is not set" in sentence


def test_a_file_is_loaded(monkeypatch, tmp_path):
    shutil.copy(shipped_file("tiny.safetensors"), tmp_path / "mine.safetensors")
    monkeypatch.setenv("DDETR_WEIGHTS", str(tmp_path / "mine.safetensors"))
    model, sentence = real_weights()
    assert model.config.num_classes == 12
    assert sentence == "DDETR_WEIGHTS: mine.safetensors"


@pytest.mark.parametrize("source", ["/nowhere/at all.pth", "nothing"])
def test_what_is_not_there_is_no_traceback(monkeypatch, source):
    monkeypatch.setenv("DDETR_WEIGHTS", source)
    model, sentence = real_weights()
    assert model is None
    assert "cannot be used" in sentence


def test_what_is_no_checkpoint_is_no_traceback(monkeypatch, tmp_path):
    (tmp_path / "notes.pth").write_text("not weights")
    monkeypatch.setenv("DDETR_WEIGHTS", str(tmp_path / "notes.pth"))
    model, sentence = real_weights()
    assert model is None
    assert "CheckpointError" in sentence
