"""The executed notebooks as a web site that needs no network.

python -m ddetr.course.site --out build/site
"""

from __future__ import annotations

import argparse
import html
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.filters.ansi import ansi2html
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from ..files import write_text
from .markdown import Heading, Prose, render, to_html

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SERIES_TITLE = "Deformable DETR, from pixels to boxes"
WIDGET = "application/vnd.jupyter.widget-view+json"


def build(notebooks: Path, out: Path) -> list[Path]:
    """Write each notebook of a folder as a page into `out`, and `index.html`; returns the files, the index first.

    The index is the folder's README.md, or a list of the pages where there is none.

    Raises:
        FileNotFoundError: no notebooks there.
        ValueError: a page would need the network, or has a formula that cannot be drawn; says which.
    """
    files = sorted(notebooks.glob("[0-9]*.ipynb"))
    if not files:
        raise FileNotFoundError(f"no notebooks in {notebooks}")
    out.mkdir(parents=True, exist_ok=True)
    titles = {file.stem: title_of(nbformat.read(file, as_version=4)) for file in files}
    written = []
    for number, file in enumerate(files):
        neighbours = [files[n].stem if 0 <= n < len(files) else None for n in (number - 1, number + 1)]
        links = [f'<a href="{stem}.html">{html.escape(titles[stem])}</a>' if stem else "" for stem in neighbours]
        around = _around(f"&larr; {links[0]}" if links[0] else "", f"{links[1]} &rarr;" if links[1] else "")
        written.append(_write(out / f"{file.stem}.html", titles[file.stem], around, *_page(file)))
    readme = notebooks / "README.md"
    source = readme.read_text(encoding="utf-8") if readme.is_file() else _list_of(titles)
    prose = Prose()
    index = render(source, prose)
    return [_write(out / "index.html", SERIES_TITLE, "", index, prose.headings), *written]


def title_of(page: nbformat.NotebookNode) -> str:
    """A page's title: its first heading."""
    match = re.search(r"^# (.+)$", page.cells[0].source, re.M)
    return match[1] if match else "Untitled"


def _list_of(titles: dict[str, str]) -> str:
    links = (f"* [{title}]({stem}.ipynb)" for stem, title in titles.items())
    return "\n".join([f"# {SERIES_TITLE}", "", *links])


def _page(file: Path) -> tuple[str, list[Heading]]:
    prose = Prose()
    try:
        cells = [_cell(cell, prose) for cell in nbformat.read(file, as_version=4).cells]
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from error
    return "\n".join(cells), prose.headings


def _cell(cell: nbformat.NotebookNode, prose: Prose) -> str:
    tags = cell.metadata.get("tags", [])
    if "colab" in tags:  # nobody runs it here
        return ""
    if cell.cell_type == "markdown":
        return render(cell.source, prose)
    if cell.cell_type != "code":
        return f"<pre>{html.escape(cell.source)}</pre>"
    code = highlight(cell.source, PythonLexer(), HtmlFormatter(cssclass="highlight")) if cell.source.strip() else ""
    body = code + _outputs(cell.get("outputs", []))
    if "solution" in tags:
        return f'<details class="solution"><summary>Solution</summary>{body}</details>'
    if cell.metadata.get("jupyter", {}).get("source_hidden"):
        return f"<details><summary>Code</summary>{code}</details>{_outputs(cell.get('outputs', []))}"
    return body


def _outputs(outputs: list[Any]) -> str:
    shown = [part for output in outputs if (part := _output(output))]
    if any(WIDGET in output.get("data", {}) for output in outputs):
        also = "; this is how it looks at the start" if shown else ""
        shown.append(f'<p class="note">In Jupyter you can touch this{also}.</p>')
    return "".join(f'<div class="output">{part}</div>' for part in shown)


def _output(output: nbformat.NotebookNode) -> str:
    """The richest form that needs no kernel; "" for a widget that has none."""
    if output.output_type == "stream":
        return f"<pre>{ansi2html(output.text)}</pre>"
    if output.output_type == "error":
        return f"<pre>{ansi2html(chr(10).join(output.traceback))}</pre>"
    data = output.get("data", {})
    if "text/html" in data:
        return re.sub(r'href="([^"]+)"', lambda m: f'href="{to_html(m[1])}"', data["text/html"])
    if "image/svg+xml" in data:
        return data["image/svg+xml"]
    for kind in ("image/png", "image/jpeg", "image/gif"):
        if kind in data:
            alt = html.escape(output.metadata.get(kind, {}).get("alt", ""), quote=True)
            return f'<img alt="{alt}" src="data:{kind};base64,{data[kind].replace(chr(10), "")}">'
    if "text/markdown" in data:
        return render(data["text/markdown"], Prose())
    if "text/plain" in data and WIDGET not in data:
        return f"<pre>{ansi2html(data['text/plain'])}</pre>"
    return ""


def _around(before: str, after: str) -> str:
    return (
        f'<nav class="around" aria-label="Pages"><span>{before}</span>'
        f'<span><a href="index.html">All pages</a></span><span>{after}</span></nav>'
    )


def _write(file: Path, title: str, around: str, body: str, headings: list[Heading]) -> Path:
    items = "".join(
        f'<li class="h{h.level}"><a href="#{html.escape(h.anchor, quote=True)}">{html.escape(h.text)}</a></li>'
        for h in headings
        if h.level in (2, 3)
    )
    contents = f'<nav class="contents" aria-label="On this page"><b>On this page</b><ol>{items}</ol></nav>'
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#main">To the text</a>\n<header>{around}</header>\n<div class="body">\n{contents}\n'
        f'<main id="main">\n{body}\n<footer>{around}</footer>\n</main>\n</div>\n</body>\n</html>\n'
    )
    refuse_network(page, file.name)
    write_text(file, page)
    return file


def refuse_network(page: str, name: str) -> None:
    """ValueError if a page would load anything when it is opened. Links that a reader may follow are no matter."""
    loads = (
        r"<(?:script|img|iframe|video|audio|source|embed)\b[^>]*?\ssrc\s*=\s*[\"']?(?!data:)([^\"'\s>]+)",
        r"<link\b[^>]*?\shref\s*=\s*[\"']?([^\"'\s>]+)",
        r"@import\s+(?:url\()?[\"']?([^\"'\s;)]+)",
        r"\burl\(\s*[\"']?((?:https?:)?//[^\"'\s)]+)",
    )
    for pattern in loads:
        match = re.search(pattern, page, re.I)
        if match:
            raise ValueError(f"{name} would load {match[1]!r}: the site must be readable without a network")


def _style() -> str:
    own = Path(__file__).with_name("site.css").read_text(encoding="utf-8")
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "monokai"))
    light, dark = (
        re.sub(r"(?m)^(pre|td|span)\b.*$|background(-color)?: #(f8f8f8|272822);?", "", css) for css in (light, dark)
    )
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{own}"


def main(argv: list[str] | None = None) -> int:
    """Build the site, and say where it is."""
    parser = argparse.ArgumentParser(prog="python -m ddetr.course.site", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the site goes")
    parser.add_argument("--notebooks", type=Path, default=NOTEBOOKS, metavar="DIR", help="default: the series")
    args = parser.parse_args(argv)
    try:
        index, *pages = build(args.notebooks, args.out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(pages)} pages: open {index} in a browser; no network is needed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
