"""ARCHITECTURE.md: the import rules hold, and its pictures are what the code draws."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_imports_keep_to_the_layers():
    """In a process of its own: import-linter's logging set-up disables every logger that exists already."""
    pytest.importorskip("importlinter", reason="needs the test extra: pip install -e '.[test]'")
    lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", lint, "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_the_pictures_are_up_to_date():
    pytest.importorskip("importlinter", reason="needs the test extra: pip install -e '.[test]'")
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs" / "architecture.py")
    architecture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(architecture)
    for name, draw in architecture.PICTURES.items():
        committed = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert draw() == committed, f"docs/{name} is out of date: run python docs/architecture.py"
        assert name in (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
