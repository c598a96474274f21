"""The committed notebooks are their sources, executed by this code."""

import importlib.util
import math
import re
import subprocess
import sys

import nbformat
import pytest
import torch

from ddetr.course import check
from ddetr.course.exercises import exercise_names

pages = pytest.importorskip("ddetr.course.pages", reason="needs the course extra: pip install -e '.[course]'")
NOTEBOOKS = pages.SOURCES.parent
TRAINING = {"11_train_coco_subset"}
"""Pages with budgets of minutes, and a fast mode of a few steps for tests: they learn nothing then."""
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@pytest.fixture(params=pages.page_names())
def name(request):
    return request.param


@pytest.fixture
def committed(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def test_there_is_a_notebook_for_each_source():
    assert [n.stem for n in sorted(NOTEBOOKS.glob("*.ipynb"))] == pages.page_names()


def test_notebook_and_source_agree(name, committed):
    source = pages.read_page(name)
    assert [(c.cell_type, c.source, c.id) for c in committed.cells] == [
        (c.cell_type, c.source, c.id) for c in source.cells
    ]


def test_outputs_are_presentable(name, committed):
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output
    text = "".join(output_texts(committed))
    assert not re.search(r"/(home|root|work|tmp|Users)/|Warning|Traceback", text)
    assert (NOTEBOOKS / f"{name}.ipynb").stat().st_size < 1.5e6


def test_the_series_stays_light_enough_to_clone():
    assert sum(notebook.stat().st_size for notebook in NOTEBOOKS.glob("*.ipynb")) < 12e6


def test_a_fresh_run_gives_the_same_text(name, committed, tmp_path, monkeypatch):
    monkeypatch.delenv("DDETR_COCO", raising=False)
    if name in TRAINING:
        monkeypatch.setenv("DDETR_FAST", "1")
    fresh = pages.execute(pages.read_page(name), tmp_path)
    for ours, theirs in zip(output_texts(fresh), output_texts(committed), strict=True):
        if name in TRAINING:  # other numbers, of other widths, in the same text
            ours, theirs = (re.sub(r"budgets \w+", "budgets", " ".join(text.split())) for text in (ours, theirs))
        assert NUMBER.sub("#", ours) == NUMBER.sub("#", theirs)
        if name not in TRAINING:  # another processor rounds otherwise
            numbers = [[float(n) for n in NUMBER.findall(text)] for text in (ours, theirs)]
            assert numbers[0] == pytest.approx(numbers[1], rel=0.05, abs=1e-3)


def solution_cells():
    for name in pages.page_names():
        for cell in pages.read_page(name).cells:
            if "solution" in cell.metadata.get("tags", []):
                yield re.search(r'^check\("(.+?)"', cell.source, re.M)[1], cell


def test_every_exercise_is_on_its_page_with_its_solution_folded():
    assert sorted(name for name, _ in solution_cells()) == sorted(exercise_names())
    for _, cell in solution_cells():
        assert cell.metadata["jupyter"] == {"source_hidden": True, "outputs_hidden": True}


@pytest.mark.parametrize("exercise", exercise_names())
def test_the_pages_solution_is_right_and_its_stub_is_no_answer(exercise, capsys):
    (solution,) = [cell.source for name, cell in solution_cells() if name == exercise]
    page = next(name for name in pages.page_names() if name.startswith(exercise[:2]))
    (stub,) = [
        cell.source
        for cell in pages.read_page(page).cells
        if f'check("{exercise}"' in cell.source and cell.source != solution
    ]
    shared = {"torch": torch, "nn": torch.nn, "F": torch.nn.functional, "math": math, "check": check}
    exec(stub, dict(shared))
    assert f"{exercise}: not attempted yet" in capsys.readouterr().out
    exec(solution, dict(shared))
    assert f"{exercise}: right" in capsys.readouterr().out


@pytest.fixture
def first_cell(monkeypatch):
    """Runs a page's first cell where the package is installed or not; returns the commands that it ran."""

    def run(installed, on_colab=False, published=""):
        monkeypatch.setattr(pages, "repository", lambda: published)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
        commands = []
        monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command))
        if on_colab:
            monkeypatch.setitem(sys.modules, "google.colab", object())
        cell = pages.read_page("00_tour").cells[1]
        assert "colab" in cell.metadata.tags
        assert cell.metadata.jupyter.source_hidden
        exec(cell.source, {})
        return commands

    return run


@pytest.mark.parametrize("on_colab", [False, True])
def test_the_first_cell_does_nothing_where_the_package_is_installed(first_cell, on_colab, capsys):
    assert first_cell(installed=True, on_colab=on_colab, published="https://example.org/x") == []
    assert capsys.readouterr().out == ""


def test_the_first_cell_installs_the_package_on_colab(first_cell, capsys):
    (command,) = first_cell(installed=False, on_colab=True, published="https://example.org/x")
    assert command == [sys.executable, "-m", "pip", "install", "--quiet", "ddetr[course] @ git+https://example.org/x"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("where", [{"on_colab": True}, {"published": "https://example.org/x"}])
def test_the_first_cell_says_what_to_do_where_it_cannot_install(first_cell, where, capsys):
    assert first_cell(installed=False, **where) == []
    assert '%pip install "FOLDER[course]"' in capsys.readouterr().out


def test_the_address_is_what_pyproject_says(tmp_path):
    file = tmp_path / "pyproject.toml"
    assert pages.repository(file) == ""
    file.write_text('[project]\nname = "ddetr"\n')
    assert pages.repository(file) == ""
    file.write_text('[project]\nname = "ddetr"\n[project.urls]\nRepository = "https://example.org/x"\n')
    assert pages.repository(file) == "https://example.org/x"


def test_an_unknown_page_is_named():
    with pytest.raises(FileNotFoundError, match="99_none"):
        pages.read_page("99_none")


def output_texts(notebook):
    """What the cells printed; what depends on the machine is masked: device, operator back end, what was measured."""
    return [
        re.sub(r"device \w+ · operator \w+|(?m:^measured:.*$)", "(the machine's)", output_text(output))
        for cell in notebook.cells
        if "gpu" not in cell.metadata.get("tags", [])  # draws where there is one
        for output in cell.get("outputs", [])
    ]


def output_text(output):
    return output.get("text") or output.get("data", {}).get("text/plain", "")


def test_a_committed_page_has_no_widget_that_would_need_a_kernel(committed):
    assert "widgets" not in committed.metadata
    bundles = [output.get("data", {}) for cell in committed.cells for output in cell.get("outputs", [])]
    assert not any("application/vnd.jupyter.widget-view+json" in bundle for bundle in bundles)
