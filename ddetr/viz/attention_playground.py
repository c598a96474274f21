"""A query's offsets and logits under the reader's hand."""

from __future__ import annotations

import math
from typing import Any

import ipywidgets
import torch
import traitlets
from ipywidgets import Dropdown, FloatSlider

from ..ops import sampling_locations
from .attention import AttentionState, draw, read
from .figures import level_colour
from .handles import Handles
from .sandbox import Sandbox
from .sandboxes import as_png, is_rounded


class QueryPanel(ipywidgets.HBox):
    """One level's points of the chosen head to drag, and a slider for the logit of each.

    Traits, as nested lists: offsets (M, L, P, 2) and logits (M, L, P), of all heads and levels.
    """

    offsets = traitlets.List()
    logits = traitlets.List()

    def __init__(self, start: AttentionState) -> None:
        self._head = start.head
        offsets, logits = (torch.as_tensor(given, dtype=torch.float32) for given in (start.offsets, start.logits))
        L, P = logits.shape[1:]
        H, W = start.picture.shape[:2]
        self._size = torch.tensor([W, H], dtype=torch.float32)
        # A location is where offsets of 0 lead, plus the offset in units of its level.
        zero, one = (_locate(start, torch.full((1, L, P, 2), value))[0, :, 0] for value in (0.0, 1.0))
        self._origin, self._unit = zero, one - zero  # (L, 2) each
        self.handles = Handles(
            (W, H), image=as_png(start.picture), step=2, max_width=300, title="The image: drag the points of this level"
        )
        self.level = Dropdown(
            options=[(f"level {n}: {h} x {w}", n) for n, (h, w) in enumerate(start.level_sizes)],
            value=int(logits[start.head].amax(1).argmax()), description="points of",
        )  # fmt: skip
        low, high = min(-8, math.floor(logits.min())), max(8, math.ceil(logits.max()))
        self.sliders = [FloatSlider(min=low, max=high, step=0.1, description=f"logit of {point}") for point in range(P)]
        super().__init__(
            [self.handles, ipywidgets.VBox([self.level, *self.sliders])], offsets=offsets.tolist(),
            logits=logits.tolist(), layout={"flex_flow": "row wrap"},
        )  # fmt: skip
        self.choose(start.head)
        self.level.observe(lambda _: self.choose(self._head), "value")
        self.handles.observe(self._moved, "points")
        for slider in self.sliders:
            slider.observe(self._weighed, "value")

    def choose(self, head: int) -> None:
        """Put this head's points and logits into the controls."""
        self._head, level = head, self.level.value
        places = (self._origin[level] + torch.tensor(self.offsets[head][level]) * self._unit[level]) * self._size
        # Points end at the image's border; one that lies beyond is itself until it is moved.
        self._shown = places.clamp(min=torch.zeros(2), max=self._size).tolist()
        self.handles.labels = [f"point {n}" for n in range(len(places))]
        self.handles.colours = [level_colour(level)] * len(places)
        self.handles.points = self._shown
        for slider, logit in zip(self.sliders, self.logits[head][level], strict=True):
            slider.value = logit

    def _moved(self, change: dict[str, Any]) -> None:
        level, offsets = self.level.value, _copied(self.offsets)
        for point, (new, old) in enumerate(zip(change["new"], self._shown, strict=True)):
            if new != old:
                offset = (torch.tensor(new) / self._size - self._origin[level]) / self._unit[level]
                offsets[self._head][level][point] = offset.tolist()
        self._shown = change["new"]
        self.offsets = offsets

    def _weighed(self, change: dict[str, Any]) -> None:
        point, logits = self.sliders.index(change["owner"]), _copied(self.logits)
        mine = logits[self._head][self.level.value]
        if not is_rounded(change["new"], mine[point], change["owner"].step):
            mine[point] = change["new"]
            self.logits = logits


def attention_playground(start: AttentionState) -> Sandbox:
    """`attention.draw` with controls: choose a head and a level, drag its points, and slide their logits.

    The outlined output is that of `start`. ValueError for a state that cannot be drawn.
    """
    read(start)  # says what is wrong before any control is made
    panel = QueryPanel(start)
    heads = Dropdown(options=[(f"head {n}", n) for n in range(len(panel.logits))], value=start.head, description="head")
    heads.observe(lambda change: panel.choose(change["new"]), "value")

    def state(head: int, offsets: list[Any], logits: list[Any]) -> AttentionState:
        return start._replace(head=head, offsets=offsets, logits=logits)

    def drawn(state: AttentionState) -> Any:
        return draw(state, read(start._replace(head=state.head)).output)

    return Sandbox(drawn, state, {"head": heads, "offsets": (panel, "offsets"), "logits": (panel, "logits")})


def _locate(state: AttentionState, offsets: torch.Tensor) -> torch.Tensor:
    """(M, L, P, 2) -> where they lead, in [0, 1] of the map."""
    return sampling_locations(state.reference[None, None].float(), offsets[None, None], state.level_sizes)[0, 0]


def _copied(values: Any) -> Any:
    return [_copied(one) for one in values] if isinstance(values, list) else values
