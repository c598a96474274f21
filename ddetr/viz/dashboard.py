"""A training run as it goes: its curves, and what the model makes of one fixed image.

`draw` is a pure function of `DashboardState`. `Dashboard` feeds it from `engine.train`'s callbacks, and `read_run` from
the log and the snapshots of a run that is over, wherever it was made; `replay` plays that.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from IPython import get_ipython
from IPython.display import display
from ipywidgets import Play, SelectionSlider, jslink
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image
from torch import Tensor

from ..checkpoints import load_pretrained
from ..engine.checkpoint import snapshots
from ..engine.run import TrainState
from ..losses import HungarianMatcher, Target
from ..losses.boxes import xyxy_to_cxcywh
from ..models import DeformableDETR
from .figures import INK, LEVEL_COLOURS, Figure, label_axes, level_colour, pixels_of, plain_text
from .kernel_messages import handle_widget_messages
from .run_buttons import STOPPED, RunButtons
from .sandbox import DRAWING, Sandbox
from .training import plot_curves, read_metrics

FOUND = "#D55E00"
"""The colour of what a model finds; the truth is dashed ink."""

Show = Callable[[Any], Callable[[Any], None]]
"""Puts something somewhere and returns how to replace it by another thing."""

_GLANCE = 0.05
"""Seconds between two looks at the buttons of a run that is paused."""


class PictureFigure(Figure):
    """A figure with pictures in it, as a PNG of 256 colours: a third of the bytes. The marks' own colours stay."""

    def _repr_png_(self) -> bytes:
        return with_few_colours(super()._repr_png_())


def with_few_colours(png: bytes) -> bytes:
    """A PNG in a palette of its own most common colours and the series' marks', each also mixed with white."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    marks = np.array([to_rgb(colour) for colour in (*LEVEL_COLOURS, FOUND, INK, "#888888", "#0072B2")])
    mixed = np.concatenate([255 * (share * marks + 1 - share) for share in (1, 0.75, 0.5, 0.25, 0)])
    own = picture.quantize(256 - len(mixed), Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).getpalette()
    palette = Image.new("P", (1, 1))
    palette.putpalette([*mixed.round().astype(int).ravel().tolist(), *own[: 3 * (256 - len(mixed))]])
    indexed = picture.quantize(palette=palette, dither=Image.Dither.NONE)
    white = Image.fromarray((np.asarray(picture) == 255).all(2))
    indexed.paste(len(mixed) - 1, mask=white)  # the nearest of many near-whites is not always white itself
    buffer = io.BytesIO()
    indexed.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


class Look(NamedTuple):
    """What a model makes of the fixed image, at one step of its training. All in pixels of the image.

    `boxes` (N, 4) xyxy and `scores` (N,): its N best detections, N the number of objects; `points` (M, L, P, 2) as
    (x, y) and `weights` (M, L, P): where the query that answers for the largest object samples, in the last decoder
    layer.
    """

    step: int
    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray
    weights: np.ndarray


class DashboardState(NamedTuple):
    """Everything that the dashboard shows.

    Attributes:
        picture: the fixed image, (H, W, 3) uint8.
        truth: (N, 4) xyxy pixels, its objects.
        lines: the run's log, as in metrics.jsonl.
        looks: the fixed image at some steps, in order.
        title: of the run.
        scored_on: which images AP is measured on, in words.
    """

    picture: np.ndarray
    truth: np.ndarray
    lines: Sequence[dict[str, Any]] = ()
    looks: Sequence[Look] = ()
    title: str = ""
    scored_on: str = "held-out images"

    def until(self, step: int) -> DashboardState:
        """The same run as it was at `step`."""
        return self._replace(
            lines=[line for line in self.lines if line["step"] <= step],
            looks=[look for look in self.looks if look.step <= step],
        )


def draw(state: DashboardState) -> Figure:
    """Losses, learning rate and AP; below, the fixed image at the first, the middle and the latest look.

    ValueError for a state without a look.
    """
    if not state.looks:
        raise ValueError("a dashboard needs at least one look at its image; got none")
    figure = PictureFigure(figsize=(9.4, 5.2))  # a fixed layout: it is drawn often
    grid = figure.subplots(
        2, 3, height_ratios=(1, 1.2), gridspec_kw={"left": 0.05, "right": 0.985, "top": 0.89, "bottom": 0.13,
        "hspace": 0.42, "wspace": 0.2},
    )  # fmt: skip
    plot_curves(grid[0], state.lines, "step", state.scored_on)
    if state.title:
        figure.suptitle(plain_text(state.title, 100), fontsize=10)
    chosen = _first_middle_latest(state.looks)
    for axes, look in zip(grid[1], (*chosen, None, None), strict=False):
        if look is None:
            axes.axis("off")
        else:
            _draw_look(axes, state, look)
    _legend(figure, state.looks[0].points.shape[1])
    figure.alt = _in_words(state, chosen)
    return figure


def look_at(model: DeformableDETR, image: Tensor, target: dict[str, Any], step: int) -> Look:
    """One look: image (3, H, W) and target {boxes (N, 4) xyxy pixels, labels (N,)} as a data set gives them.

    ValueError for an image without objects: nothing could be followed.
    """
    boxes = target["boxes"].as_subclass(Tensor).float()
    if not len(boxes):
        raise ValueError("the dashboard follows an object: choose an image that has one")
    device = model.flatten.level_embed.device
    trace = model.trace([image.as_subclass(Tensor).to(device)])
    scale = torch.tensor([image.shape[-1], image.shape[-2]], dtype=torch.float32).repeat(2)
    logits, predicted = trace["heads.logits"][-1].cpu(), trace["heads.boxes"][-1].cpu()
    objects = Target(target["labels"].as_subclass(Tensor), xyxy_to_cxcywh(boxes / scale))
    match = HungarianMatcher(model.config)(logits, predicted, [objects])[0]
    largest = (boxes[:, 2:] - boxes[:, :2]).prod(1).argmax()
    query = match.query[match.target == largest][0]
    last = f"decoder.layer{model.config.decoder_layers - 1}"
    points = trace[f"{last}.sampling_locations"][0, query.to(device)].float().cpu() * scale[:2]
    best = trace.detections[0]
    return Look(
        step,
        best["boxes"][: len(boxes)].cpu().numpy(),
        best["scores"][: len(boxes)].cpu().numpy(),
        points.numpy(),
        trace[f"{last}.attention_weights"][0, query.to(device)].float().cpu().numpy(),
    )


def best_boxes(images: Sequence[Tensor], detections: dict[str, Sequence[dict[str, Tensor]]], count: int = 3) -> Figure:
    """The `count` best boxes of several models on the same images, a row for each title.

    `detections`: for each title and image {boxes (n, 4) xyxy pixels, scores (n,)}, best first. ValueError if there are
    not as many as images.
    """
    for title, found in detections.items():
        if len(found) != len(images):
            raise ValueError(f"{title}: detections of {len(found)} images for {len(images)} images")
    figure = PictureFigure(figsize=(2.4 * len(images), 2.2 * len(detections)), layout="constrained")
    grid = figure.subplots(len(detections), len(images), squeeze=False)
    sentences = []
    for row, (title, found) in zip(grid, detections.items(), strict=True):
        for axes, image, one in zip(row, images, found, strict=True):
            backdrop(axes, pixels_of(image))
            for box, score in zip(one["boxes"][:count].tolist(), one["scores"][:count].tolist(), strict=True):
                draw_box(axes, np.array(box), FOUND)
                write_score(axes, np.array(box), score)
            label_axes(axes, "x (pixels)" if axes in grid[-1] else "", "")
        row[0].set_ylabel(f"{plain_text(title, 40)}\ny (pixels)", fontsize=8)
        centres = [one["boxes"][0].reshape(2, 2).mean(0).tolist() for one in found if len(one["boxes"])]
        sentences.append(f"{title}: best box around " + ", ".join(f"({x:.0f}, {y:.0f})" for x, y in centres))
    figure.alt = f"Best boxes on {len(images)} images; {'; '.join(sentences)}."
    return figure


class Dashboard:
    """A callback for `engine.train`, and the figure that it keeps up to date.

        with Dashboard(model, *dataset[0]) as board:
            train(model, dataset, options, out, callbacks=[board])

    It looks at the image at each line of the log. Each `with` shows buttons, and one figure that it replaces at most
    every `every` seconds and at the end, so that one stays; without `with` it only records. `state` is what it shows.

    `pause()`, `resume()` and `stop()` are what the buttons do, and may be called from any thread: the run waits, or
    ends, before its next step; its checkpoint is written as after Ctrl-C.
    """

    def __init__(
        self,
        model: DeformableDETR,
        image: Tensor,
        target: dict[str, Any],
        *,
        title: str = "",
        scored_on: str = "held-out images",
        every: float = 5.0,
        show: Show | None = None,
    ) -> None:
        self.image, self.target, self.every = image, target, every
        self.show = show or show_in_notebook
        self.paused = self.stop_requested = False
        truth = target["boxes"].as_subclass(Tensor).numpy()
        self.state = DashboardState(pixels_of(image), truth, [], [look_at(model, image, target, 0)], title, scored_on)
        self.buttons: RunButtons | None = None
        self._replace: Callable[[Figure], None] | None = None
        self._next = 0.0

    def __enter__(self) -> Dashboard:
        self._replace = None
        self.paused = self.stop_requested = False
        self.buttons = RunButtons(self)
        self._replace_buttons = show_in_notebook(self.buttons)
        self.refresh()
        return self

    def __exit__(self, *error: Any) -> None:
        self.refresh()
        self._replace_buttons(self.buttons.afterwards())
        self.buttons.close()
        self.buttons = None

    def __call__(self, run: TrainState, line: dict[str, Any]) -> None:
        """Take in a line of the log."""
        earlier = self.state.until(line["step"])  # a resumed run may repeat some steps
        looks = [look for look in earlier.looks if look.step < line["step"]]
        looks.append(look_at(run.model, self.image, self.target, line["step"]))
        self.state = earlier._replace(lines=[*earlier.lines, line], looks=looks)
        run.stopped = run.stopped or self.stop_requested
        if self._replace is not None and time.monotonic() >= self._next:
            self.refresh()

    def before_step(self, run: TrainState) -> None:
        """Do what the buttons ask for; returns when the run may go on, or has to end."""
        handle_widget_messages()
        if self.paused:
            if self._replace is not None:
                self.refresh()
            self._say(f"Paused after step {run.step}")
        while self.paused and not (self.stop_requested or run.stopped):
            time.sleep(_GLANCE)
            handle_widget_messages()
        run.stopped = run.stopped or self.stop_requested
        self._say(f"{STOPPED} {run.step}" if run.stopped else "Running")

    def pause(self) -> None:
        """Wait before the next step."""
        self.paused = True

    def resume(self) -> None:
        """Go on after `pause`."""
        self.paused = False

    def stop(self) -> None:
        """End the run before its next step."""
        self.stop_requested = True

    def _say(self, text: str) -> None:
        if self.buttons is not None:
            self.buttons.say(text)

    def refresh(self) -> None:
        """Show the state as it is now."""
        started = time.monotonic()
        with DRAWING:  # a view that is moved meanwhile draws in another thread
            figure = draw(self.state)
            if self._replace is None:
                self._replace = self.show(figure)
            else:
                self._replace(figure)
        now = time.monotonic()
        self._next = now + max(self.every, 10 * (now - started))  # on a slow machine drawing may not eat the training


def read_run(
    run: str | Path, image: Tensor, target: dict[str, Any], *, title: str = "", scored_on: str = "held-out images"
) -> DashboardState:
    """The dashboard of a run that is over or still goes on elsewhere: its log, and a look by each of its snapshots.

    DataError if there is no log; ValueError if the run kept no snapshots (`keep_every`) to look with.
    """
    run = Path(run)
    lines = read_metrics(run)
    looks = [look_at(load_pretrained(file), image, target, step) for step, file in snapshots(run)]
    if not looks:
        raise ValueError(f"no snapshots in {run} to look at the image with: train with keep_every")
    truth = target["boxes"].as_subclass(Tensor).numpy()
    return DashboardState(pixels_of(image), truth, lines, looks, title, scored_on)


def replay(state: DashboardState) -> Sandbox:
    """A run once more, at any moment of its log: a slider over its steps, and a button that plays them.

    ValueError for a state without a look.
    """
    draw(state)  # says what is wrong before any control is made
    first = state.looks[0].step
    steps = sorted({entry["step"] for entry in state.lines} | {look.step for look in state.looks})
    steps = [step for step in steps if step >= first]
    slider = SelectionSlider(options=steps, value=steps[-1], description="step", continuous_update=False)
    play = Play(value=len(steps) - 1, max=len(steps) - 1, interval=1000)
    sandbox = Sandbox(draw, lambda step: state.until(step), {"step": slider})
    jslink((play, "value"), (slider, "index"))
    sandbox.children = (play, *sandbox.children)
    return sandbox


def show_in_notebook(shown: Any) -> Callable[[Any], None]:
    """Display something in the cell's output. Without a notebook nothing is shown."""
    handle = display(shown, display_id=True) if get_ipython() else None
    return handle.update if handle else _show_nothing


def _show_nothing(_shown: Any) -> None: ...


def scatter_points(axes: Axes, points: np.ndarray, weights: np.ndarray, area: float = 70.0) -> None:
    """Sampling points (M, L, P, 2) in pixels, coloured by level, their area in proportion to weights (M, L, P)."""
    M, L, P, _ = points.shape
    heavy_first = np.argsort(-weights, axis=None)  # light ones stay visible on top
    levels = np.broadcast_to(np.arange(L)[None, :, None], (M, L, P)).ravel()[heavy_first]
    x, y = points.reshape(-1, 2)[heavy_first].T
    axes.scatter(
        x, y, s=1.0 + area * weights.ravel()[heavy_first], c=[level_colour(n) for n in levels], edgecolors="white",
        linewidths=0.3, zorder=3,
    )  # fmt: skip


def backdrop(axes: Axes, picture: np.ndarray) -> None:
    """A picture (H, W, 3) uint8 as a pale ground for marks, in its own pixels, without grain, which costs bytes."""
    H, W = picture.shape[:2]
    factor = max(1, round(max(H, W) / 200))
    small = Image.fromarray(picture).resize((W // factor, H // factor), Image.Resampling.BOX)
    pale = 255 - (255 - np.asarray(small, dtype=np.int32)) * 0.65
    axes.imshow((pale / 6).round().astype(np.uint8) * 6, extent=(0, W, H, 0), interpolation="nearest")
    axes.set(xlim=(0, W), ylim=(H, 0))


def draw_box(axes: Axes, box: np.ndarray, colour: str, line: str = "solid", width: float = 1.6) -> None:
    """One box, xyxy pixels, with a light edge that shows on a dark picture."""
    x1, y1, x2, y2 = box
    axes.add_patch(
        Rectangle(
            (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linestyle=line, linewidth=width,
            path_effects=[withStroke(linewidth=width + 1.2, foreground="white")],
        )
    )  # fmt: skip


def write_score(axes: Axes, box: np.ndarray, score: float) -> None:
    """A score under its box, xyxy pixels, or as near as the picture allows."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    axes.text(
        np.clip(box[0], left, right - 0.08 * (right - left)), np.clip(box[3], top, bottom - 0.06 * (bottom - top)),
        f"{score:.2f}", fontsize=6, color="white", va="top", bbox={"facecolor": FOUND, "edgecolor": "none", "pad": 0.6},
    )  # fmt: skip


def _draw_look(axes: Axes, state: DashboardState, look: Look) -> None:
    backdrop(axes, state.picture)
    for box in state.truth:
        draw_box(axes, box, INK, "dashed", 1.2)
    for box, score in zip(look.boxes[::-1], look.scores[::-1], strict=True):
        draw_box(axes, box, FOUND)
        write_score(axes, box, score)
    scatter_points(axes, look.points, look.weights)
    axes.set_title(f"step {look.step}", fontsize=9)
    label_axes(axes, "x (pixels)", "y (pixels)")


def _legend(figure: Figure, levels: int) -> None:
    marks = [
        Line2D([], [], color=INK, linestyle="dashed", label="truth"),
        Line2D([], [], color=FOUND, label="the model's best"),
    ]
    marks += level_marks(levels)
    figure.legend(handles=marks, loc="lower center", ncols=len(marks), fontsize=8, frameon=False)


def level_marks(levels: int) -> list[Line2D]:
    """A legend's entries for the points of each level."""
    return [Line2D([], [], color=level_colour(n), marker="o", linestyle="", label=f"level {n}") for n in range(levels)]


def _first_middle_latest(looks: Sequence[Look]) -> list[Look]:
    places = sorted({0, (len(looks) - 1) // 2, len(looks) - 1})
    return [looks[place] for place in places]


def _in_words(state: DashboardState, chosen: Sequence[Look]) -> str:
    losses = [line["loss"] for line in state.lines if line.get("kind") == "train" and line.get("loss") is not None]
    scores = [line["AP"] for line in state.lines if line.get("kind") == "eval"]
    sentences = [f"Training run {printable_title(state.title)}"]
    if losses:
        sentences.append(f"loss from {losses[0]:.2f} to {losses[-1]:.2f}")
    if scores:
        sentences.append(f"AP on {state.scored_on} {scores[-1]:.2f}")
    steps = ", ".join(str(look.step) for look in chosen)
    best = f"{chosen[-1].scores.max():.2f}"
    sentences.append(f"the fixed image at steps {steps} with boxes and sampling points, best score at last {best}")
    return "; ".join(sentences) + "."


def printable_title(title: str) -> str:
    """A title for a sentence."""
    return plain_text(title, 100).strip() or "without a title"
