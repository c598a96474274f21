"""The public face explains itself: each function says what it takes and what it raises."""

import ast
import importlib
import inspect
import re
import textwrap

import pytest

FACE = ("ddetr", "ddetr.ops", "ddetr.models", "ddetr.losses", "ddetr.data", "ddetr.engine", "ddetr.checkpoints")


def functions():
    """Name -> function and the docstrings that may speak of it: what `__all__` offers, and its classes' methods."""
    found = {}
    for face in FACE:
        module = importlib.import_module(face)
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing):
                found[name] = thing, thing.__doc__ or ""
            elif inspect.isclass(thing):
                for method, function in vars(thing).items():
                    function = inspect.unwrap(getattr(function, "__func__", function))
                    if inspect.isfunction(function) and not method.startswith("_"):
                        found[f"{name}.{method}"] = function, f"{thing.__doc__}\n{function.__doc__}"
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
    unsaid = [word for word in [*arguments, *raised(function)] if not re.search(rf"\b{word}\b", docstring)]
    assert not unsaid, f"the docstring does not say what {', '.join(unsaid)} is"
