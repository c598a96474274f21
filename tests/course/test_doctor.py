"""The doctor: what is not right is said with advice, and nothing that a notebook keeps names the reader's folders."""

import importlib.metadata
import sys
from pathlib import Path

import pytest

from ddetr.cli import main
from ddetr.course import doctor as face
from ddetr.course.doctor import ADVICE, FINE, MISSING, Finding, Report, doctor
from ddetr.ops import native

doctoring = sys.modules["ddetr.course.doctor"]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in ("DDETR_OP_BACKEND", "DDETR_COCO", "CXX"):
        monkeypatch.delenv(name, raising=False)


def named(report, name):
    (finding,) = [finding for finding in report if finding.name == name]
    return finding


def test_everything_that_the_series_needs_is_looked_at():
    report = doctor()
    names = [finding.name for finding in report]
    for name in ("Python", "PyTorch", "device", "operator loop", "operator grid_sample", "operator cpu",
                 "operator cuda", "operator used", "matplotlib", "ipywidgets", "widgets", "weights tiny",
                 "weights tiny_two_stage", "data", "memory"):  # fmt: skip
        assert name in names
    assert face is doctor
    assert report.complete, str(report)
    assert named(report, "operator loop").state == named(report, "operator grid_sample").state == FINE


def test_whatever_is_not_right_has_one_line_of_advice():
    for finding in doctor():
        assert bool(finding.advice) == (finding.state != FINE), finding
        assert "\n" not in finding.advice


@pytest.mark.parametrize(("compiler", "words"), [("/usr/bin/g++", "compiles it in a few"), (None, "install a C++")])
def test_a_missing_back_end_says_why_and_what_to_do(monkeypatch, compiler, words):
    monkeypatch.setattr(native, "unavailable", lambda kind: "it is not built: run python -m ddetr.ops build")
    monkeypatch.setattr(doctoring.shutil, "which", lambda name: compiler if name != "nvidia-smi" else None)
    finding = named(doctor(), "operator cpu")
    assert finding.state == ADVICE
    assert "it is not built" in finding.found
    assert words in finding.advice


def test_a_back_end_that_computes_something_else_is_found_out(monkeypatch):
    from ddetr.ops import dispatch

    wrong = dispatch.BACKENDS["grid_sample"]
    monkeypatch.setitem(dispatch.BACKENDS, "grid_sample", lambda *args: wrong(*args) + 0.1)
    report = doctor()
    assert named(report, "operator grid_sample").state == MISSING
    assert "wrong by 1.0e-01" in named(report, "operator grid_sample").found
    assert not report.complete


def test_a_back_end_that_was_asked_for_and_is_not_there(monkeypatch):
    monkeypatch.setenv("DDETR_OP_BACKEND", "abacus")
    finding = named(doctor(), "operator used")
    assert finding.state == MISSING
    assert "'abacus'" in finding.found
    assert "unset DDETR_OP_BACKEND" in finding.advice


def test_an_nvidia_gpu_that_pytorch_does_not_see(monkeypatch):
    monkeypatch.setattr(doctoring.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctoring.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "NVIDIA" in named(doctor(), "device").advice


def test_old_and_missing_packages(monkeypatch):
    versions = {"matplotlib": "3.5.1", "jupyterlab": "4.2.0", "ipykernel": "6.29.0", "jupyterlab_widgets": "3.0"}

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(doctoring.importlib.metadata, "version", version)
    monkeypatch.setattr(doctoring.importlib.util, "find_spec", lambda name: name in versions or None)
    report = doctor()
    assert named(report, "matplotlib").state == ADVICE
    assert "3.8 or newer" in named(report, "matplotlib").advice
    assert named(report, "ipywidgets").state == MISSING
    assert ".[course]" in named(report, "ipywidgets").advice
    assert report.verdict == "Some pages will not run here. Missing: ipywidgets."
    del versions["jupyterlab_widgets"]
    assert "static figures" in named(doctor(), "widgets").advice


def test_weights_that_did_not_come_along(monkeypatch, tmp_path, capsys):
    (tmp_path / "pointer").write_text("version https://git-lfs.github.com/spec/v1\n")

    def shipped(name):
        if name == "tiny.safetensors":
            return tmp_path / "pointer"
        raise FileNotFoundError(f"{name} did not come with this copy of ddetr")

    monkeypatch.setattr("ddetr.checkpoints.finding.shipped_file", shipped)
    monkeypatch.setattr(doctoring, "shipped_file", shipped)
    report = doctor()
    for name in ("weights tiny", "weights tiny_two_stage", "time-lapse"):
        assert named(report, name).state == MISSING
        assert "again" in named(report, name).advice
    assert main(["doctor"]) == 1
    assert "Missing: weights tiny" in capsys.readouterr().out


def test_a_coco_folder_that_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("DDETR_COCO", str(tmp_path))
    finding = named(doctor(), "data")
    assert finding.state == ADVICE
    assert "not in COCO's layout" in finding.found


def test_little_memory_and_a_check_that_fails(monkeypatch):
    monkeypatch.setattr(doctoring, "memory", lambda: (8.0, 1.5))
    finding = named(doctor(), "memory")
    assert (finding.state, finding.found) == (ADVICE, "1.5 of 8.0 GiB free")

    def broken():
        raise RuntimeError("no such thing")

    monkeypatch.setattr(doctoring, "memory", broken)
    finding = named(doctor(), "memory")
    assert finding.state == ADVICE
    assert "RuntimeError: no such thing" in finding.found
    assert doctor().complete


def test_a_containers_limit_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(doctoring, "_number_in", lambda file: {"memory.max": 2**30, "memory.current": 2**29}[file.name])
    assert doctoring.memory() == (1.0, 0.5)


def test_what_a_notebook_keeps(monkeypatch):
    """Names as they are, never as markup; the plain form is the same on every machine that can run the series."""
    report = Report([Finding("<b>", FINE, "a & b"), Finding("memory", ADVICE, "1 GiB", "close <something>")])
    bundle = report._repr_mimebundle_()
    assert bundle["text/plain"] == "Every page of the series runs here."
    assert "&lt;b&gt;" in bundle["text/html"]
    assert "a &amp; b" in bundle["text/html"]
    assert "<b>close &lt;something&gt;</b>" in bundle["text/html"]
    monkeypatch.setattr(native, "unavailable", lambda kind: f"the build {Path.home()}/.cache/x.so is damaged")
    assert str(Path.home()) not in str(doctor())
    assert "~/.cache/x.so" in str(doctor())


def test_the_command_prints_the_report(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr()
    assert "weights tiny_two_stage" in printed.out
    assert printed.out.rstrip().endswith("Every page of the series runs here.")
    assert printed.err == ""
