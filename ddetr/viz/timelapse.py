"""How sampling points and boxes moved while a detector learnt: still frames, and a player that needs no kernel."""

from __future__ import annotations

import hashlib
import html
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D
from PIL import Image

from ..files import data_uri
from .dashboard import FOUND, PictureFigure, backdrop, draw_box, level_marks, scatter_points, write_score
from .figures import INK, Figure, label_axes, plain_text

PANEL = 420
"""The player's width of one panel, in pixels."""


class TimelapseState(NamedTuple):
    """F frames of one scene, with N objects. Coordinates are in [0, 1] of the picture.

    Attributes:
        picture: (H, W, 3) uint8.
        steps: (F,) optimiser steps.
        boxes: (F, N, 4) as (cx, cy, w, h): of the query that answers for each object.
        scores: (F, N), of the right class.
        points: panel's title -> (F, M, L, P, 2) as (x, y), of the object that is followed.
        weights: panel's title -> (F, M, L, P).
        follow: which of the N objects that is.
    """

    picture: np.ndarray
    steps: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    points: Mapping[str, np.ndarray]
    weights: Mapping[str, np.ndarray]
    follow: int

    @classmethod
    def from_frames(
        cls, frames: Mapping[str, np.ndarray], picture: np.ndarray, follow: int, *, layer: int = -1
    ) -> TimelapseState:
        """From what `course.timelapse` keeps: `layer` of decoder and encoder. ValueError for an object not there."""
        objects = frames["boxes"].shape[1]
        if not 0 <= follow < objects:
            raise ValueError(f"follow must be one of the scene's {objects} objects, 0 to {objects - 1}; got {follow}")
        panels = {"decoder: the query that answers": "", "encoder: the token at its centre": "encoder_"}
        chosen = {
            kind: {
                title: frames[prefix + kind][:, follow, layer].astype(np.float32) for title, prefix in panels.items()
            }
            for kind in ("points", "weights")
        }
        return cls(picture, frames["steps"], frames["boxes"], frames["scores"], follow=follow, **chosen)


class Player:
    """A page's player: one HTML fragment with everything in it. A notebook shows it by itself."""

    def __init__(self, text: str, description: str) -> None:
        self.html, self.description = text, description

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.description


def stills(state: TimelapseState, frames: Sequence[int]) -> Figure:
    """Some frames, a column each; the panels as rows. ValueError for a frame that is not there."""
    count = len(state.steps)
    for frame in frames:
        if not -count <= frame < count:
            raise ValueError(f"there are frames 0 to {count - 1}; got {frame}")
    H, W = state.picture.shape[:2]
    width = 2.8 * len(frames)
    height = (2.8 * H / W + 0.45) * len(state.points) + 0.5
    figure = PictureFigure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(len(state.points), len(frames), squeeze=False)
    for row, title in zip(grid, state.points, strict=True):
        for axes, frame in zip(row, frames, strict=True):
            backdrop(axes, state.picture)
            _overlay(axes, state, frame, title)
            axes.set_title(f"step {state.steps[frame]}", fontsize=9)
            label_axes(axes, "x (pixels)" if axes in grid[-1] else "", "y (pixels)" if axes is row[0] else "")
        row[0].set_title(f"{plain_text(title, 60)}\nstep {state.steps[frames[0]]}", fontsize=9)
    marks = level_marks(next(iter(state.points.values())).shape[2])
    marks.append(Line2D([], [], color=FOUND, label="box, its score"))
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=8, frameon=False)
    figure.alt = describe(state, frames)
    return figure


def describe(state: TimelapseState, frames: Sequence[int]) -> str:
    """How far the points lie from the followed object's centre, and how sure the model is, in words."""
    sentences = []
    for frame in frames:
        spread = ", ".join(f"{title} {spread_of(state, title)[frame]:.2f}" for title in state.points)
        score = state.scores[frame, state.follow]
        sentences.append(f"step {state.steps[frame]}: score {score:.2f}, mean distance of the points {spread}")
    return (
        "Sampling points and boxes at some steps of a training run; distances from the points' own middle, as shares "
        f"of the picture. {'; '.join(sentences)}."
    )


def spread_of(state: TimelapseState, title: str) -> np.ndarray:
    """(F,): how far one panel's points lie from their middle, weighted, as shares of the picture's sides."""
    points, weights = state.points[title], state.weights[title][..., None]
    total = weights.sum((1, 2, 3), keepdims=True)
    middle = (points * weights).sum((1, 2, 3), keepdims=True) / total
    distance = np.sqrt(((points - middle) ** 2).sum(-1, keepdims=True))
    return ((distance * weights).sum((1, 2, 3, 4)) / total.ravel()).astype(float)


def player(state: TimelapseState, frames: Sequence[int] | None = None, *, title: str = "Time-lapse") -> Player:
    """A slider and a play button over the frames (all of them if None): inline pictures, a few lines of JavaScript.

    Without JavaScript the last frame shows.
    """
    frames = list(range(len(state.steps)) if frames is None else frames)
    if not frames:
        raise ValueError("a player needs at least one frame; got none")
    background = _data_uri(_background(state), "JPEG", quality=80)
    overlays = [_data_uri(_overlay_picture(state, frame), "PNG", optimize=True) for frame in frames]
    captions = [f"step {state.steps[frame]}, score {state.scores[frame, state.follow]:.2f}" for frame in frames]
    name = "timelapse-" + hashlib.sha256("".join(overlays).encode()).hexdigest()[:10]
    alt = html.escape(describe(state, [frames[0], frames[-1]]), quote=True)
    text = _PAGE.format(
        name=name, title=html.escape(title), alt=alt, background=background, last=overlays[-1], caption=captions[-1],
        end=len(frames) - 1, frames=json.dumps(overlays), captions=json.dumps(captions),
    )  # fmt: skip
    return Player(text, f"Player({len(frames)} frames, steps {state.steps[frames[0]]} to {state.steps[frames[-1]]})")


_PAGE = """\
<figure id="{name}" style="margin:0;max-width:880px;background:#fff;color:#222;padding:8px;font:13px sans-serif">
<figcaption>{title} <output>{caption}</output></figcaption>
<div style="position:relative"><img src="{background}" alt="the scene without points" style="width:100%;display:block">
<img class="overlay" src="{last}" alt="{alt}" style="position:absolute;left:0;top:0;width:100%"></div>
<button type="button">play</button>
<input type="range" min="0" max="{end}" value="{end}" aria-label="frame" style="width:70%;vertical-align:middle">
<script>
(function () {{
  var root = document.getElementById("{name}"), frames = {frames}, captions = {captions}, timer = null;
  var slider = root.querySelector("input"), button = root.querySelector("button");
  function show(n) {{
    slider.value = n;
    root.querySelector(".overlay").src = frames[n];
    root.querySelector("output").textContent = captions[n];
  }}
  function stop() {{ clearInterval(timer); timer = null; button.textContent = "play"; }}
  slider.oninput = function () {{ stop(); show(+slider.value); }};
  button.onclick = function () {{
    if (timer) {{ stop(); return; }}
    button.textContent = "pause";
    if (+slider.value === frames.length - 1) show(0);
    timer = setInterval(function () {{
      if (+slider.value === frames.length - 1) stop(); else show(+slider.value + 1);
    }}, 350);
  }};
}})();
</script></figure>
"""


def _overlay(axes: Axes, state: TimelapseState, frame: int, title: str) -> None:
    H, W = state.picture.shape[:2]
    scale = np.array([W, H], dtype=np.float32)
    for n, (cx, cy, w, h) in enumerate(state.boxes[frame] * np.tile(scale, 2)):
        box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        followed = n == state.follow
        draw_box(axes, box, FOUND if followed else INK, "solid" if followed else "dotted", 2.0 if followed else 1.0)
        if followed:
            write_score(axes, np.array(box), state.scores[frame, n])
    scatter_points(axes, state.points[title][frame] * scale, state.weights[title][frame])


def _canvas(state: TimelapseState) -> tuple[Figure, list[Axes]]:
    """An empty figure as large as the player's picture, with axes that fill a panel each."""
    H, W = state.picture.shape[:2]
    panels = len(state.points)
    figure = Figure(figsize=(panels * PANEL / 100, PANEL * H / W / 100 + 0.2), dpi=100, facecolor="none")
    top = PANEL * H / W / (PANEL * H / W + 20)
    places = [figure.add_axes(((n + 0.005) / panels, 0, 0.99 / panels, top)) for n in range(panels)]
    for axes in places:
        axes.set(xlim=(0, W), ylim=(H, 0))
        axes.axis("off")
    return figure, places


def _background(state: TimelapseState) -> Image.Image:
    figure, places = _canvas(state)
    figure.set_facecolor("white")
    for axes, title in zip(places, state.points, strict=True):
        backdrop(axes, state.picture)
        axes.set_title(plain_text(title, 60), fontsize=9, pad=4)
    return _pixels(figure).convert("RGB")


def _overlay_picture(state: TimelapseState, frame: int) -> Image.Image:
    figure, places = _canvas(state)
    for axes, title in zip(places, state.points, strict=True):
        _overlay(axes, state, frame, title)
        axes.set(xlim=(0, state.picture.shape[1]), ylim=(state.picture.shape[0], 0))
    return _pixels(figure).quantize(24, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)


def _pixels(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba()).copy(), "RGBA")


def _data_uri(picture: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return data_uri(buffer.getvalue(), f"image/{kind.lower()}")
