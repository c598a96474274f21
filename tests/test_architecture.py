"""ARCHITECTURE.md: the import rules hold, and its pictures are what the code draws."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_imports_keep_to_the_layers(capsys):
    pytest.importorskip("importlinter", reason="needs the test extra: pip install -e '.[test]'")
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_the_pictures_are_up_to_date():
    pytest.importorskip("importlinter", reason="needs the test extra: pip install -e '.[test]'")
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs" / "architecture.py")
    architecture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(architecture)
    for name, draw in architecture.PICTURES.items():
        committed = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert draw() == committed, f"docs/{name} is out of date: run python docs/architecture.py"
        assert name in (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
