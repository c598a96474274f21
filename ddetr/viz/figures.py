"""The series' figures, drawn by matplotlib. Pure functions: data in, figure out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.patches import FancyBboxPatch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from PIL import Image
from torch import Tensor

from ..data import denormalize_image
from ..engine.scores import printable

LEVEL_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
"""One colour for each level, fine to coarse, throughout the series; told apart by colour-blind readers."""

INK = "#222222"

LINE_STYLES = tuple(
    (colour, line)
    for colour, line in zip(
        4 * (INK, "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9"),
        7 * ("solid", "dashed", "dotted", "dashdot"),
        strict=True,
    )
)
"""Colour and line of 28 curves; neighbours differ in both."""

PIPELINE = ("backbone", "neck", "multi_scale", "encoder", "pre_decoder", "decoder", "heads", "detections")


class Figure(MatplotlibFigure):
    """A figure that a notebook shows by itself, without pyplot and its hidden list of open figures.

    `alt` says in words what it shows, for readers who do not see it. `compact` lets the PNG have 256 colours: with
    pictures that have grain it is a quarter as large. `footnote` is written on a strip below the figure.
    """

    alt = ""
    compact = False
    footnote = ""

    def _repr_mimebundle_(self, **_options: Any) -> tuple[dict[str, bytes], dict[str, dict[str, str]]]:
        return {"image/png": self._repr_png_()}, {"image/png": {"alt": self.alt}} if self.alt else {}

    def _repr_png_(self) -> bytes:
        # No software version in the file: the same figure gives the same bytes.
        buffer = self.saved(format="png", dpi=110, metadata={"Software": None})
        if not self.compact:
            return buffer.getvalue()
        # This method keeps the colours of thin lines, which the default one gives up for shades of the picture.
        few = Image.open(buffer).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        few.save(buffer, format="png", optimize=True)
        return buffer.getvalue()

    def saved(self, **options: Any) -> io.BytesIO:
        """What `savefig` with these options writes, with the footnote."""
        width, height = self.get_size_inches()
        strip = _STRIP if self.footnote else 0
        note = self.text(0.5, -strip / 2 / height, self.footnote, ha="center", va="center", fontsize=7.5)
        note.set_in_layout(False)
        buffer = io.BytesIO()
        self.savefig(buffer, bbox_inches=Bbox.from_extents(0, -strip, width, height), **options)
        note.remove()
        return buffer


_STRIP = 0.24
"""Inches below a figure that has a footnote."""


def plain_text(text: str, longest: int = 32) -> str:
    """A name out of a data set, for matplotlib to draw letter by letter: `$` starts no formula, `_` hides no legend."""
    text = printable(text, longest).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def label_axes(axes: Axes, x: str, y: str) -> None:
    """Name both axes and their units, in the series' small letters."""
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=7)


def whole_ticks(axes: Axes) -> None:
    """A few ticks on both axes, at whole cells."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))


def level_colour(level: int) -> str:
    """One of `LEVEL_COLOURS`; they come round again where there are more levels."""
    return LEVEL_COLOURS[level % len(LEVEL_COLOURS)]


def frame(axes: Axes, level: int, width: float = 3) -> None:
    """A border in the level's colour."""
    for spine in axes.spines.values():
        spine.set(color=level_colour(level), linewidth=width)


def halo(width: float, colour: str = "white") -> list[withStroke]:
    """The path effect that underlays a line or a text, so that it shows on any picture; `width` in all."""
    return [withStroke(linewidth=width, foreground=colour)]


def dark_edge(width: float) -> list[withStroke]:
    """The path effect of a line of this width, so that a light line shows on a light picture as well."""
    return halo(width + 1.2, INK)


def pixels_of(image: Tensor) -> np.ndarray:
    """A prepared image (3, H, W) as (H, W, 3) uint8."""
    return denormalize_image(image.as_subclass(Tensor).cpu()).permute(1, 2, 0).numpy()


def pipeline_map(lit: Sequence[str] = ()) -> Figure:
    """The stages in a row, the ones in `lit` coloured. ValueError for a name that is no stage."""
    unknown = set(lit) - set(PIPELINE)
    if unknown:
        raise ValueError(f"no stage {sorted(unknown)[0]!r}; stages are {', '.join(PIPELINE)}")
    figure = Figure(figsize=(9, 0.8))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, len(PIPELINE)), ylim=(0, 1))
    axes.axis("off")
    for i, stage in enumerate(PIPELINE):
        face, ink = (LEVEL_COLOURS[0], "white") if stage in lit else ("#e8e8e8", "#333333")
        axes.add_patch(FancyBboxPatch((i + 0.08, 0.3), 0.8, 0.4, "round,pad=0.03", facecolor=face, edgecolor="none"))
        axes.text(i + 0.48, 0.5, stage, ha="center", va="center", fontsize=9, color=ink)
        if i + 1 < len(PIPELINE):
            axes.annotate("", (i + 1.05, 0.5), (i + 0.91, 0.5), arrowprops={"arrowstyle": "->", "color": "#888888"})
    figure.alt = f"The stages of the detector in a row: {', '.join(PIPELINE)}. Lit: {', '.join(lit) or 'none'}."
    return figure


def show_images(images: Sequence[Image.Image | Tensor], titles: Sequence[str], width: float = 3.2) -> Figure:
    """Pictures side by side, in pixels: PIL images, or tensors (3, H, W) as the model takes them; `width` in inches."""
    tallest = max(_height_to_width(image) for image in images)
    figure = Figure(figsize=(width * len(images), 0.85 * width * tallest + 0.6), layout="constrained")
    for axes, image, title in zip(figure.subplots(1, len(images), squeeze=False)[0], images, titles, strict=True):
        pixels = pixels_of(image) if isinstance(image, Tensor) else np.asarray(image)
        axes.imshow(pixels)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("x (pixels)", fontsize=8)
        axes.set_ylabel("y (pixels)", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.alt = f"Pictures: {'; '.join(titles)}."
    return figure


def _height_to_width(image: Image.Image | Tensor) -> float:
    w, h = image.size if isinstance(image, Image.Image) else (image.shape[2], image.shape[1])
    return h / w


def token_counts(level_sizes: Sequence[tuple[int, int]]) -> Figure:
    """How many of the S tokens each level brings, as one bar in the level's colour; level_sizes L pairs (h, w)."""
    figure = Figure(figsize=(8, 1.3), layout="constrained")
    axes = figure.subplots()
    start = 0
    for level, (h, w) in enumerate(level_sizes):
        axes.barh(0, h * w, left=start, color=level_colour(level), label=f"level {level}: {h} x {w}")
        start += h * w
    axes.set(xlim=(0, start), yticks=[])
    axes.set_xlabel("token index (0 to S)", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(ncols=len(level_sizes), loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8, frameon=False)
    shares = (f"level {level} {h} x {w}, {h * w / start:.0%}" for level, (h, w) in enumerate(level_sizes))
    figure.alt = f"{start} tokens by level: {'; '.join(shares)}."
    return figure


def level_masks(masks: Sequence[Tensor], valid_ratios: Tensor) -> Figure:
    """One image's padding on each level: dark where padding. masks L of (h, w) bool, valid_ratios (L, 2) as (w, h)."""
    figure = Figure(figsize=(2.3 * len(masks), 2.6), layout="constrained")
    for level, (axes, mask) in enumerate(zip(figure.subplots(1, len(masks), squeeze=False)[0], masks, strict=True)):
        h, w = mask.shape
        axes.imshow(mask.cpu().numpy(), cmap="Greys", vmin=0, vmax=1.4, extent=(0, w, h, 0))
        frame(axes, level)
        ratio_w, ratio_h = valid_ratios[level].tolist()
        axes.set_title(f"level {level}: {h} x {w}\nvalid w {ratio_w:.3f}, h {ratio_h:.3f}", fontsize=8)
        axes.set_xlabel("x (cells)", fontsize=7)
        axes.set_ylabel("y (cells)", fontsize=7)
        axes.tick_params(labelsize=6)
    ratios = (f"level {level} w {w:.3f} h {h:.3f}" for level, (w, h) in enumerate(valid_ratios.tolist()))
    figure.alt = f"Padding on each level, dark; valid ratios {'; '.join(ratios)}."
    return figure
