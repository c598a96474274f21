"""notebooks/README.md: the table of contents and the index of questions, made from the pages themselves.

python -m ddetr.course.index
"""

from __future__ import annotations

import argparse
import re
import sys
from typing import NamedTuple
from urllib.parse import quote

from ..files import write_text
from . import pages
from .markdown import Heading, anchor
from .questions import GROUPS, Question
from .series import SERIES

README = pages.SOURCES.parent / "README.md"

WORDS_A_MINUTE = 150
MINUTES_A_CELL = 0.5
MINUTES_AN_EXERCISE = 5

AS_THEY_ARE = "-?(),:;'!"
"""Characters of an anchor that JupyterLab does not find when they are written as %3F and the like."""


class Page(NamedTuple):
    """What the index says of a page: its title and question, its headings, which questions it says that it answers,
    and how much there is to read, to run and to write."""

    name: str
    title: str
    question: str
    headings: tuple[Heading, ...]
    answered: frozenset[int]
    words: int
    code_cells: int
    exercises: int

    @property
    def minutes(self) -> int:
        """How long a reader takes, roughly, to the next five minutes."""
        exact = self.words / WORDS_A_MINUTE + self.code_cells * MINUTES_A_CELL + self.exercises * MINUTES_AN_EXERCISE
        return max(5, 5 * round(exact / 5))


def read_pages() -> dict[int, Page]:
    """The pages that are written, by number."""
    return {int(name[:2]): read_page(name) for name in pages.page_names()}


def read_page(name: str) -> Page:
    """What the index needs to know of a page. ValueError if it lacks a title or its question."""
    cells = [cell for cell in pages.read_page(name).cells if "colab" not in cell.metadata.get("tags", [])]
    prose = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    title = re.search(r"^# (.+)$", prose, re.M)
    question = re.search(r"^\*\*(.+?)\*\*", prose, re.M | re.S)
    if not title or not question:
        raise ValueError(f"{name} must begin with a title and its question in bold")
    code = [cell for cell in cells if cell.cell_type == "code"]
    solutions = [cell for cell in code if "solution" in cell.metadata.get("tags", [])]
    return Page(
        name,
        title[1].strip(),
        " ".join(question[1].split()),
        headings(prose),
        questions_answered(prose),
        len(prose.split()),
        len(code) - len(solutions),
        len(solutions),
    )


def headings(prose: str) -> tuple[Heading, ...]:
    """The headings of Markdown text, without their markup."""
    found = re.findall(r"^(#{1,6}) (.+)$", prose, re.M)
    plain = [(len(marks), re.sub(r"[`*]", "", text).strip()) for marks, text in found]
    return tuple(Heading(level, text, anchor(text)) for level, text in plain)


def questions_answered(prose: str) -> frozenset[int]:
    """The numbers in "Questions answered here: 8 (level embedding), 32 (batch 1 and 2)."; what stands in brackets is
    no number of a question."""
    line = re.search(r"^Questions? answered here[^:]*:(.+?)(?:\n\n|\Z)", prose, re.M | re.S)
    if not line:
        return frozenset()
    text, inner = line[1], None
    while inner != text:  # brackets in brackets
        inner, text = text, re.sub(r"\([^()]*\)", "", text)
    return frozenset(map(int, re.findall(r"\b\d+\b", text)))


def contents(written: dict[int, Page]) -> str:
    """The table of contents, in Markdown."""
    lines = ["| page | the question | minutes | exercises |", "|---|---|---|---|"]
    for page in written.values():
        lines.append(
            f"| [{page.title}]({page.name}.ipynb) | {page.question} | {page.minutes} | {page.exercises or ''} |"
        )
    total = sum(page.minutes for page in written.values())
    exercises = sum(page.exercises for page in written.values())
    return "\n".join([*lines, f"| all of it | | {total} | {exercises} |"])


def question_index(written: dict[int, Page]) -> str:
    """Every question with the places that answer it, in Markdown."""
    lines = []
    for group, questions in GROUPS.items():
        lines += [f"### {group}", "", "| | question | answered on |", "|---|---|---|"]
        for question in questions:
            places = " · ".join(_place(page, heading, written) for page, heading in question.answers.items())
            lines.append(f"| {question.number} | {question.text} | {places} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def _place(number: int, heading: str, written: dict[int, Page]) -> str:
    plain = heading.replace("`", "")
    where = f"{SERIES[number]}.ipynb" + (f"#{quote(anchor(plain), safe=AS_THEY_ARE)}" if plain else "")
    text = f"{number:02d}" + (f", {heading}" if heading else "")
    return f"[{text}]({where})" if number in written else text


def update(readme: str, written: dict[int, Page]) -> str:
    """The README with its two tables made anew. ValueError if it lacks the marks that they stand between."""
    for name, table in (("contents", contents(written)), ("questions", question_index(written))):
        pattern = rf"(<!-- {name}: [^>]*-->\n).*?(\n<!-- end of {name} -->)"
        readme, count = re.subn(pattern, lambda m, table=table: m[1] + "\n" + table + "\n" + m[2], readme, flags=re.S)
        if count != 1:
            raise ValueError(f"the README must have the marks <!-- {name}: ... --> and <!-- end of {name} --> once")
    return readme


def unanswered(written: dict[int, Page]) -> list[Question]:
    """The questions without a page that is written and a heading on it."""
    return [
        question
        for questions in GROUPS.values()
        for question in questions
        if not any(page in written and heading for page, heading in question.answers.items())
    ]


def main(argv: list[str] | None = None) -> int:
    """Bring notebooks/README.md up to date, and say which questions have no answer yet."""
    argparse.ArgumentParser(prog="python -m ddetr.course.index", description=__doc__.splitlines()[0]).parse_args(argv)
    written = read_pages()
    write_text(README, update(README.read_text(encoding="utf-8"), written))
    open_questions = ", ".join(str(question.number) for question in unanswered(written))
    print(f"{len(written)} pages" + (f"; no heading yet for questions {open_questions}" if open_questions else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
