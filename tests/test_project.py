"""Promises of the repository itself."""

import itertools
import re
import sys
from pathlib import Path

import pytest

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
