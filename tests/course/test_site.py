"""The site: two small pages, readable without a network, a kernel or a picture."""

import base64
import re
from html import unescape
from html.parser import HTMLParser
from urllib.parse import unquote

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ddetr.course.series import SERIES

site = pytest.importorskip("ddetr.course.site", reason="needs the course extra: pip install -e '.[course]'")
markdown = pytest.importorskip("ddetr.course.markdown")
PNG = base64.b64encode(b"not looked at").decode()


def figure(alt):
    return new_output(
        "display_data", {"image/png": PNG, "text/plain": "<Figure>"}, metadata={"image/png": {"alt": alt}}
    )


FIRST = [
    new_markdown_cell("# 00 · Tour\n\nPage 01 follows; [it](01_backbone_features.ipynb#What-a-cell-sees) has cells."),
    new_code_cell("import sys", metadata={"tags": ["colab"]}),
    new_code_cell("draw()", outputs=[figure('a "sharp" <line>'), new_output("stream", text="\x1b[1mx\x1b[0m < y\n")]),
    new_markdown_cell("## `x` & you\n\nThe sum is $\\sum_p A_p x$, and `page 03` is code.\n\n### Exercise: a<b"),
    new_code_cell(
        "secret()",
        metadata={"tags": ["solution"], "jupyter": {"source_hidden": True}},
        outputs=[new_output("stream", text="right\n")],
    ),
]
SECOND = [
    new_markdown_cell("# 01 · Backbone features\n\n## What a cell sees"),
    new_code_cell("touch()", outputs=[
        new_output("display_data", {site.WIDGET: {"model_id": "1"}, "text/plain": "VBox(children=())"}),
        figure("the same, still"),
    ]),
    new_code_cell("table()", outputs=[
        new_output("execute_result", {"text/html": '<table><tr><td><a href="00_tour.ipynb">00</a></td></tr></table>'},
                   execution_count=1),
    ]),
]  # fmt: skip


@pytest.fixture
def notebooks(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name, cells in (("00_tour", FIRST), ("01_backbone_features", SECOND)):
        nbformat.write(new_notebook(cells=cells), folder / f"{name}.ipynb")
    return folder


@pytest.fixture
def pages(notebooks, tmp_path):
    files = site.build(notebooks, tmp_path / "deep" / "site")
    assert [file.name for file in files] == ["index.html", "00_tour.html", "01_backbone_features.html"]
    return [file.read_text(encoding="utf-8") for file in files]


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def test_every_link_leads_somewhere(pages):
    names = {"index.html": pages[0], "00_tour.html": pages[1], "01_backbone_features.html": pages[2]}
    for own, page in names.items():
        for link in Elements(page).all("a"):
            target, _, anchor = link["href"].partition("#")
            assert target in names or not target, link
            if anchor:
                ids = [attributes.get("id") for _, attributes in Elements(names[target or own]).found]
                assert unescape(anchor) in ids, link


def test_pages_lead_to_their_neighbours_and_to_the_index(pages):
    index, first, second = pages
    for page in ("00_tour", "01_backbone_features"):
        assert f'href="{page}.html"' in index
    assert first.count("01 · Backbone features</a> &rarr;") == 2  # above and below
    assert second.count("&larr; <a") == 2
    assert "&rarr;" not in second
    assert first.count('<a href="index.html">') == 2


def test_headings_make_the_table_of_contents(pages):
    contents = re.search(r'<nav class="contents".*?</nav>', pages[1], re.S)[0]
    assert "x &amp; you" in contents
    assert "Exercise: a&lt;b" in contents
    assert '<h2 id="x-&amp;-you">' in pages[1]


def test_a_picture_says_what_it_shows(pages):
    (picture,) = [i for i in Elements(pages[1]).all("img") if i.get("class") != "math"]
    assert picture["alt"] == 'a "sharp" <line>'
    assert picture["src"] == f"data:image/png;base64,{PNG}"


def test_the_solution_is_folded_and_the_colab_cell_is_gone(pages):
    folded = re.search(r'<details class="solution">.*?</details>', pages[1], re.S)[0]
    assert "secret" in folded
    assert "right" in folded
    assert pages[1].count("secret") == 1
    assert "<details open" not in pages[1]
    assert not re.search(r'<span class="nn">sys', pages[1])


def test_a_widget_is_its_static_figure(pages):
    assert "VBox" not in pages[2]
    assert 'alt="the same, still"' in pages[2]
    assert "In Jupyter you can touch this; this is how it looks at the start." in pages[2]


def test_what_a_cell_printed_is_text(pages):
    assert "x</span> &lt; y" in pages[1]
    assert "\x1b" not in pages[1]


def test_prose_leads_to_the_page_that_it_names(pages):
    assert '<a href="01_backbone_features.html">Page 01</a> follows' in pages[1]
    assert "<code>page 03</code>" in pages[1]
    assert 'href="01_backbone_features.html#What-a-cell-sees"' in pages[1]
    assert '<a href="00_tour.html">00</a>' in pages[2]  # a link in an output


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    files = site.build(site.NOTEBOOKS, tmp_path_factory.mktemp("series"))
    return {file.name: Elements(file.read_text(encoding="utf-8")) for file in files}


def test_every_link_of_the_series_leads_somewhere(series):
    coming = {f"{name}.html" for name in SERIES} - series.keys()  # pages that are not written yet
    ids = {name: {attributes.get("id") for _, attributes in page.found} for name, page in series.items()}
    for own, page in series.items():
        for link in page.all("a"):
            target, _, anchor = link["href"].partition("#")
            if target in coming or target.startswith(("https://", "http://")):
                continue
            assert target in series or not target, (own, link)
            assert not anchor or unquote(anchor) in ids[target or own], (own, link)


def test_every_figure_of_the_series_says_what_it_shows(series):
    for name, page in series.items():
        for picture in page.all("img"):
            assert len(picture.get("alt", "")) > 10 or picture.get("class") == "math", (name, picture["src"][:80])


def test_several_pages_become_several_links():
    text = markdown.render("*(Pages 04 to 07, and page 99.)*", markdown.Prose())
    assert "(Pages <a href=" in text
    assert re.findall(r'href="(\w+)\.html">(.*?)</a>', text) == [("04_reference_points", "04"), ("07_encoder", "07")]


def test_a_formula_is_a_picture_on_the_line(pages):
    (formula,) = [i for i in Elements(pages[1]).all("img") if i.get("class") == "math"]
    assert formula["alt"] == "\\sum_p A_p x"
    assert b"<svg" in base64.b64decode(formula["src"].partition(",")[2])
    assert "vertical-align:-" in formula["style"]
    taller = markdown.formula("x^{2^{2^2}}")
    assert int(re.search(r'height="(\d+)"', taller)[1]) > int(re.search(r'height="(\d+)"', markdown.formula("x"))[1])


def test_a_formula_that_cannot_be_drawn_is_named(notebooks, tmp_path):
    nbformat.write(
        new_notebook(cells=[new_markdown_cell(r"# T" + "\n\n$\\nosuchthing{x}$")]), notebooks / "02_neck.ipynb"
    )
    with pytest.raises(ValueError, match=r"02_neck\.ipynb: the formula .*nosuchthing"):
        site.build(notebooks, tmp_path / "site")


@pytest.mark.parametrize(
    "markup",
    ['<script src="https://cdn.example/x.js"></script>', '<img src="//example/x.png">', "<img src=x.png>",
     '<link rel="stylesheet" href="style.css">', "<style>@import url(x.css)</style>",
     "<style>p { background: url('http://example/x.png') }</style>"],
)  # fmt: skip
def test_a_page_that_would_load_something_is_refused(notebooks, tmp_path, markup, capsys):
    cell = new_code_cell("", outputs=[new_output("display_data", {"text/html": markup})])
    nbformat.write(new_notebook(cells=[new_markdown_cell("# T"), cell]), notebooks / "02_neck.ipynb")
    with pytest.raises(ValueError, match=r"02_neck\.html would load"):
        site.build(notebooks, tmp_path / "site")
    assert site.main(["--out", str(tmp_path / "site"), "--notebooks", str(notebooks)]) == 1
    assert capsys.readouterr().err.startswith("error: 02_neck.html would load")


def test_both_themes_are_there(pages):
    for page in pages:
        assert "prefers-color-scheme: dark" in page
        assert 'name="viewport"' in page


def test_the_readme_is_the_index(notebooks, tmp_path):
    (notebooks / "README.md").write_text(
        "# All of it\n\n| a | b |\n|---|---|\n| [x](00_tour.ipynb#x-&-you) | 参考点 |\n"
    )
    index, *_ = site.build(notebooks, tmp_path / "site")
    text = index.read_text(encoding="utf-8")
    assert 'href="00_tour.html#x-&amp;-you"' in text
    assert "参考点" in text
    assert "<table>" in text


def test_the_command_says_where_the_site_is(notebooks, tmp_path, capsys):
    assert site.main(["--out", str(tmp_path / "site"), "--notebooks", str(notebooks)]) == 0
    assert "2 pages: open " in capsys.readouterr().out
    assert site.main(["--out", str(tmp_path / "site"), "--notebooks", str(tmp_path)]) == 1
    assert "no notebooks" in capsys.readouterr().err


def test_the_same_notebooks_give_the_same_bytes(notebooks, tmp_path):
    one, two = (site.build(notebooks, tmp_path / name) for name in ("a", "b"))
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]
