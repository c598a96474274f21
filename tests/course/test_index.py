"""notebooks/README.md: up to date, every link of it leads to a heading, and every question has its place."""

import re
from urllib.parse import unquote

import pytest

index = pytest.importorskip("ddetr.course.index", reason="needs the course extra: pip install -e '.[course]'")
from ddetr.course.questions import GROUPS, QUESTIONS, Question  # noqa: E402
from ddetr.course.series import SERIES  # noqa: E402


@pytest.fixture(scope="module")
def written():
    return index.read_pages()


@pytest.fixture(scope="module")
def readme():
    return index.README.read_text(encoding="utf-8")


def test_the_readme_is_up_to_date(readme, written):
    assert index.update(readme, written) == readme, "run python -m ddetr.course.index"


def test_there_are_all_the_questions():
    assert [question.number for question in QUESTIONS] == list(range(1, 37))
    assert all(question.answers for question in QUESTIONS)
    assert len({question.text for question in QUESTIONS}) == len(QUESTIONS)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: str(question.number))
def test_a_question_leads_to_a_heading_of_a_page(question, written):
    for page, heading in question.answers.items():
        if page in written:
            plain = heading.replace("`", "")
            known = [h.text for h in written[page].headings]
            assert plain in known, f"question {question.number}: page {page:02d} has no heading {plain!r} but {known}"


def test_once_the_series_is_complete_no_question_is_open(written):
    assert len(written) < len(SERIES) or not index.unanswered(written)


def test_a_page_says_which_questions_it_answers(written):
    for number, page in written.items():
        indexed = {question.number for question in QUESTIONS if number in question.answers}
        assert page.answered == indexed, f"page {number:02d}: says {sorted(page.answered)}, index {sorted(indexed)}"


def test_every_link_of_the_readme_leads_somewhere(readme, written):
    anchors = {page.name: {heading.anchor for heading in page.headings} for page in written.values()}
    links = re.findall(r"\]\(([\w-]+)\.ipynb(?:#(\S*))?\)(?: |$)", readme, re.M)
    assert len(links) >= len(written)
    for page, anchor in links:
        assert page in anchors
        assert not anchor or unquote(anchor) in anchors[page], (page, anchor)


def test_the_glossary_has_both_languages(readme):
    glossary = readme[readme.index("## Glossary") :]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in glossary.splitlines() if line.startswith("| ")]
    terms = [row[0].strip() for row in rows if row[0].strip() not in ("term", "letter")]
    assert len(terms) > 90
    assert len(set(terms)) == len(terms)
    for row in rows:
        assert re.search(r"[\u4e00-\u9fff]", row[-1]), row


def test_pages_are_counted(written):
    page = written[3]
    assert page.title == "03 · Masks and level embeddings"
    assert page.question == "How do images of different sizes share a batch?"
    assert page.exercises == 3
    assert 20 <= page.code_cells <= 60
    assert page.minutes % 5 == 0


@pytest.mark.parametrize(
    ("line", "numbers"),
    [
        ("Questions answered here: 8 (level embedding, `x`), 32 (batch 1 and 2), 34 (memory\nswings).", {8, 32, 34}),
        ("Question answered here, in part: 32 (why scores depend on the batch).", {32}),
        ("Questions answered here: 13 (why (W, H) and not 2), 14 and 15.", {13, 14, 15}),
        ("Questions answered here: 5 (a).\n\nAll 36 questions are in the README.", {5}),
        ("No questions.", set()),
    ],
)
def test_the_closing_line_of_a_page(line, numbers):
    assert index.questions_answered(f"## Take with you\n\n* 3 things\n\n{line}\n\n## Next") == numbers


def test_a_question_without_a_heading_is_open(written, monkeypatch):
    (group, questions), *_ = GROUPS.items()
    monkeypatch.setattr(index, "GROUPS", {group: (Question(1, "?", {3: "", 99: "There"}), *questions[:0])})
    assert [question.number for question in index.unanswered(written)] == [1]
    monkeypatch.setattr(index, "GROUPS", {group: (Question(1, "?", {3: "Somewhere"}),)})
    assert index.unanswered(written) == []


def test_a_readme_without_the_marks_is_refused(written):
    with pytest.raises(ValueError, match="end of contents"):
        index.update("# Nothing", written)


def test_headings_are_found_as_the_reader_sees_them():
    found = index.headings("# 00 · T\n\ntext # no\n\n## `align_corners`, *half*\n")
    assert [(heading.level, heading.text) for heading in found] == [(1, "00 · T"), (2, "align_corners, half")]
    assert found[1].anchor == "align_corners,-half"
