"""The public face explains itself: each function and class says what it takes and what it raises."""

import ast
import dataclasses
import importlib
import inspect
import re
import runpy
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("anywidget", reason="needs the course extra: pip install -e '.[course]'")

ROOT = Path(__file__).parents[1]
FACE = runpy.run_path(str(ROOT / "bootstrap.py"))["REFERENCE"].split()
SAYS = r"`\*{{0,2}}{0}\b[^`]*`|\b{0}(?:, \w+)*(?::| \((?:\.\.\.|\w{{1,2}}[,)]))"
"""How a docstring speaks of an argument: `mask`, `mask is None` in backticks, mask: ..., mask (B, H, W), or in a list
before one of the latter two."""


def public(module):
    """Names of what the API reference shows of a module."""
    own = [name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__]
    return getattr(module, "__all__", [name for name in own if not name.startswith("_")])


def functions():
    """Name -> function and the docstrings that may speak of it, for functions, methods and constructors.

    A dataclass's fields have their words where they stand.
    """
    found = {}
    for module in map(importlib.import_module, FACE):
        for thing in (getattr(module, name) for name in public(module)):
            if inspect.isfunction(thing):
                found[f"{thing.__module__}.{thing.__name__}"] = thing, thing.__doc__ or ""
            elif inspect.isclass(thing):
                for method, function in vars(thing).items():
                    function = inspect.unwrap(getattr(function, "__func__", function))
                    shown = method[0] != "_" or (method == "__init__" and not dataclasses.is_dataclass(thing))
                    if shown and inspect.isfunction(function):
                        text = f"{thing.__doc__}\n{function.__doc__}"
                        found[f"{thing.__module__}.{thing.__name__}.{method}"] = function, text
    return found


def raised(function):
    """Names of the exceptions that the function's own lines raise."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            yield node.exc.func.id


@pytest.mark.parametrize("name", functions())
def test_a_public_function_names_its_arguments_and_errors(name):
    function, docstring = functions()[name]
    arguments = [argument for argument in inspect.signature(function).parameters if argument not in ("self", "cls")]
    unsaid = [argument for argument in arguments if not re.search(SAYS.format(argument), docstring)]
    unsaid += [error for error in raised(function) if not re.search(rf"\b{error}\b", docstring)]
    assert not unsaid, f"the docstring does not say what {', '.join(unsaid)} is"


def test_the_reference_has_what_the_readme_imports():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    imported = re.findall(r"^from (ddetr[\w.]*) import (.+)$", readme, re.M)
    assert {"ddetr", "ddetr.models.export"} <= {module for module, _ in imported}
    for module, names in imported:
        assert module in FACE
        assert set(names.split(", ")) <= set(public(importlib.import_module(module)))
