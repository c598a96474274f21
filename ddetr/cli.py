"""`python -m ddetr COMMAND`; each command is a module of `ddetr.commands`."""

from __future__ import annotations

import argparse
import logging
import sys
from types import ModuleType

from . import __version__
from .commands import convert, data, doctor, evaluate, predict, trace, train

COMMANDS = {
    "train": train, "eval": evaluate, "predict": predict, "trace": trace, "data": data, "convert": convert,
    "doctor": doctor,
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status. Expected errors print one sentence, never a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("ddetr").setLevel(logging.INFO)
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        print("error: not enough memory: try a smaller --size or --batch-size", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ddetr", description="Deformable DETR, from pixels to boxes.")
    parser.add_argument("--version", action="version", version=f"ddetr {__version__}")
    _add_commands(parser, COMMANDS)
    return parser


def _add_commands(parser: argparse.ArgumentParser, modules: dict[str, ModuleType]) -> None:
    """A module has `add_arguments` and `run`, or `COMMANDS` of its own."""
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, module in modules.items():
        purpose = getattr(module, "run", module).__doc__
        command = commands.add_parser(name, help=purpose, description=purpose)
        if hasattr(module, "COMMANDS"):
            _add_commands(command, module.COMMANDS)
        else:
            command.set_defaults(run=module.run)
            module.add_arguments(command.add_argument)


def _sentence(error: BaseException) -> str:
    """What went wrong in a loading process comes with that process's traceback, whose last line says it."""
    text = str(error)
    if "Original Traceback" in text:
        text = text.strip().splitlines()[-1].partition(": ")[2]
    return text
