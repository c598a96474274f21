"""Promises of the repository itself."""

import itertools
import re
import sys
from pathlib import Path

import pytest

import ddetr
from ddetr.course.exercises import exercise_names

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"torch": "pytorch"}


@pytest.fixture(scope="module")
def project():
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(project):
    return [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]


def test_conda_asks_for_what_pyproject_asks_for(project):
    wanted = {f"python{project['requires-python']}", "pip"}
    for requirement in requirements(project):
        name, version = re.fullmatch(r"([A-Za-z0-9_-]+)(.*)", requirement).groups()
        wanted.add(CONDA_NAMES.get(name, name) + version)
    asked = re.findall(r"^ {2}- (\S+)$", (ROOT / "environment.yml").read_text(), re.M)
    assert set(asked) - {"conda-forge"} == wanted
    assert len(asked) == len(wanted) + 1


def test_requirements_are_ranges_without_upper_pins(project):
    for requirement in requirements(project):
        assert re.fullmatch(r"[A-Za-z0-9_-]+>=[0-9.]+", requirement), requirement


def test_importing_the_package_is_light():
    import subprocess

    code = (
        "import sys, ddetr; print([m for m in ('matplotlib', 'IPython', 'transformers', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_files_are_short_enough_to_read():
    for file in [*(ROOT / "ddetr").rglob("*.py"), *(ROOT / "csrc").rglob("*.*")]:
        assert len(file.read_text().splitlines()) <= 500, file


def test_the_version_stands_in_one_place_and_the_papers_about_it_agree():
    newest, date = re.search(r"^## (\S+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.M).groups()
    assert newest == ddetr.__version__
    assert f"version: {newest}\ndate-released: {date}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_changelog_counts_the_exercises():
    assert f" {len(exercise_names())} exercises" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda page: page.name)
def test_links_between_files_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not broken


def test_the_readmes_map_has_every_page():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"\(notebooks/(\d\d_\w+)\.ipynb\)", readme)
    assert linked == sorted(path.stem for path in (ROOT / "notebooks" / "src").glob("[0-9]*.py"))
