"""The operator's own C++ and CUDA, a function at a time, for a page that explains it."""

from __future__ import annotations

import re

from ..ops import native


def excerpt(file: str, name: str) -> str:
    """The lines of a function or struct in csrc, its comment and template line included.

    file: such as "cuda/head.h". ValueError if the file defines no such name, or there is no such file.
    """
    path = native.source_dir() / file
    if not path.is_file():
        raise ValueError(f"csrc has no file {file!r}")
    lines = path.read_text(encoding="utf-8").split("\n")
    pattern = re.compile(rf"^(?!\s*//).*\b{re.escape(name)}\b(?!;)")
    for first, line in enumerate(lines):
        if pattern.match(line) and (last := _end(lines, first)) is not None:
            first = _start(lines, first)
            return "\n".join([f"// csrc/{file}, line {first + 1}", *_dedent(lines[first : last + 1])])
    raise ValueError(f"csrc/{file} defines no {name!r}")


def _dedent(lines: list[str]) -> list[str]:
    """Without the indentation that all have in common; what is for the preprocessor stays at the margin."""
    indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip() and not line.startswith("#"))
    return [line if line.startswith("#") else line[indent:] for line in lines]


def _end(lines: list[str], first: int) -> int | None:
    """The line of the brace that closes the body; None if this is no definition."""
    depth = 0
    for number, line in enumerate(lines[first:], start=first):
        code = line.split("//")[0]
        depth += code.count("{") - code.count("}")
        if depth == 0 and "}" in code and re.search(r"\{", "".join(lines[first : number + 1])):
            return number if re.search(r"\}\s*\)?\s*;?\s*$", code) else None
        if depth == 0 and code.rstrip().endswith(";"):
            return None
    return None


def _start(lines: list[str], first: int) -> int:
    """Back to the template line and the comment above; as far as a declaration that began on an earlier line."""
    while first > 0 and (before := lines[first - 1].strip()) and not before.endswith((";", "}", "{")):
        first -= 1
    return first
