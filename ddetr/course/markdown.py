"""The pages' prose as HTML that needs no network: formulas become pictures, and "page 05" becomes a link to it."""

from __future__ import annotations

import html
import io
import re
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from ..files import data_uri
from .series import SERIES

PIXELS_TO_A_POINT = 4 / 3
FORMULA_POINTS = 12.5


class Heading(NamedTuple):
    """A heading of a page: its level (1 for the title), its text without markup, and its anchor."""

    level: int
    text: str
    anchor: str


def anchor(text: str) -> str:
    """The anchor that Jupyter and nbconvert give to a heading of this text."""
    return text.strip().replace(" ", "-")


class Prose(IPythonRenderer):
    """Renders Markdown cells, and remembers the headings that it has met."""

    def __init__(self) -> None:
        super().__init__(escape=False)
        self.headings: list[Heading] = []

    def heading(self, text: str, level: int, **_attributes: Any) -> str:
        """A heading with an anchor, and a link to itself."""
        plain = html.unescape(re.sub(r"<[^>]+>", "", text)).strip()
        self.headings.append(Heading(level, plain, anchor(plain)))
        name = html.escape(anchor(plain), quote=True)
        link = f'<a class="anchor" href="#{name}" aria-label="Link to this heading">#</a>' if level > 1 else ""
        return f'<h{level} id="{name}">{text}{link}</h{level}>\n'

    def text(self, text: str) -> str:
        """Plain text; "page 05" in it, and "pages 04 to 07", become links."""
        return re.sub(r"\b[Pp]ages? \d\d(?:(?:,| and| or| to) \d\d)*\b", _page_links, super().text(text))

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link; one to a notebook leads to its page. The text of a link is no place for another link."""
        return super().link(re.sub(r"</?a\b[^>]*>", "", text), to_html(url), title)

    def inline_math(self, body: str) -> str:
        """A formula in a line of text."""
        return formula(body)

    def block_math(self, body: str) -> str:
        """A formula of its own."""
        return f"<p>{formula(body)}</p>"


def render(source: str, prose: Prose) -> str:
    """Markdown as HTML. ValueError for a formula that cannot be drawn."""
    return MarkdownWithMath(renderer=prose).render(source)


def to_html(link: str) -> str:
    """Where a link to a notebook leads on the site."""
    return re.sub(r"^([\w-]+)\.ipynb(?=$|#)", r"\1.html", link)


def formula(body: str) -> str:
    """A formula in TeX as a picture that stands on the line of text; its source is what a screen reader says.

    ValueError if matplotlib cannot set it.
    """
    source = " ".join(body.split())
    font = FontProperties(size=FORMULA_POINTS, math_fontfamily="cm")
    try:
        width, height, depth, *_ = MathTextParser("path").parse(f"${source}$", dpi=72, prop=font)
    except ValueError as error:
        raise ValueError(f"the formula {source!r} cannot be drawn: {str(error).splitlines()[-1]}") from error
    figure = Figure(figsize=((width + 2) / 72, (height + 2) / 72))
    figure.text(1 / (width + 2), (depth + 1) / (height + 2), f"${source}$", fontproperties=font)
    picture = io.BytesIO()
    figure.savefig(picture, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    address = data_uri(picture.getvalue(), "image/svg+xml")
    style = f"vertical-align:-{(depth + 1) * PIXELS_TO_A_POINT:.1f}px"
    pixels = f'width="{(width + 2) * PIXELS_TO_A_POINT:.0f}" height="{(height + 2) * PIXELS_TO_A_POINT:.0f}"'
    alt = html.escape(source, quote=True)
    return f'<img class="math" alt="{alt}" {pixels} style="{style}" src="{address}">'


def _page_links(match: re.Match[str]) -> str:
    one = r"\bpage \d\d|\d\d"
    return re.sub(one, lambda number: _page_link(number[0], int(number[0][-2:])), match[0], flags=re.I)


def _page_link(text: str, number: int) -> str:
    return f'<a href="{SERIES[number]}.html">{text}</a>' if number < len(SERIES) else text
