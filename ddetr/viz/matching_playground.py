"""The matching playground under the reader's hand: drag a prediction, weigh the terms, and see who is responsible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets
import traitlets
from ipywidgets import Dropdown, FloatSlider
from torch import Tensor, tensor
from torchvision.ops import box_convert

from .figures import LINE_STYLES
from .handles import Handles
from .matching import MatchingState, draw, solve
from .sandbox import Sandbox
from .sandboxes import as_png, is_rounded


class ScoreSlider(ipywidgets.HBox):
    """A slider for one score, of the query and the class that are chosen beside it.

    Trait: value, Q lists of K scores in [0, 1].
    """

    value = traitlets.List()

    def __init__(self, scores: Sequence[Sequence[float]], queries: Sequence[str], classes: Sequence[str]) -> None:
        self.query = Dropdown(options=[(name, n) for n, name in enumerate(queries)], description="query")
        self.label = Dropdown(options=[(name, n) for n, name in enumerate(classes)], description="for class")
        self.score = FloatSlider(min=0, max=1, step=0.01, description="score")
        super().__init__(
            [self.query, self.label, self.score], value=[list(map(float, row)) for row in scores],
            layout={"flex_flow": "row wrap"},
        )  # fmt: skip
        self._choose()
        for chosen in (self.query, self.label):
            chosen.observe(self._choose, "value")
        self.score.observe(self._set, "value")

    def _choose(self, _change: Any = None) -> None:
        self.score.value = self.value[self.query.value][self.label.value]

    def _set(self, change: dict[str, Any]) -> None:
        scores = [list(row) for row in self.value]
        row = scores[self.query.value]
        if not is_rounded(change["new"], row[self.label.value], self.score.step):
            row[self.label.value] = change["new"]
            self.value = scores


def matching_playground(start: MatchingState) -> Sandbox:
    """`matching.draw` with controls: the queries' boxes to drag, a slider for the weight of each term, one for a score.

    The score's slider begins with the first query and the first object's class.

    ValueError for a state without a picture, or one that cannot be drawn.
    """
    if start.picture is None:
        raise ValueError("the playground needs a picture to drag boxes over")
    solve(start)  # says what is wrong before any control is made
    H, W = start.picture.shape[:2]
    queries = [str(name) for name in start.queries or range(len(start.boxes))]
    scale = tensor([W, H, W, H])
    handles = Handles(
        (W, H),
        boxes=(box_convert(_tensor(start.boxes), "cxcywh", "xyxy") * scale).tolist(),
        labels=queries,
        colours=[LINE_STYLES[1 + n % 6][0] for n in range(len(start.boxes))],
        image=as_png(start.picture), step=2, max_width=360, title="Predicted boxes: drag them",
    )  # fmt: skip
    sliders = {
        name: FloatSlider(value=weight, min=0, max=10, step=0.5, description=name)
        for name, weight in zip(("class", "L1", "GIoU"), start.weights, strict=True)
    }

    scores = ScoreSlider(start.scores, queries, [str(name) for name in start.classes])
    if start.target_labels:
        scores.label.value = start.target_labels[0]
    drawn = handles.boxes

    def state(boxes: list[list[float]], scores: list[list[float]], **weights: float) -> MatchingState:
        moved = box_convert(_tensor(boxes) / scale, "xyxy", "cxcywh").tolist()
        # The handles end at the picture's border. A prediction that goes beyond is itself until it is moved.
        kept = [start.boxes[n] if box == drawn[n] else moved[n] for n, box in enumerate(boxes)]
        return start._replace(boxes=kept, scores=scores, weights=tuple(weights.values()))

    return Sandbox(draw, state, {"boxes": (handles, "boxes"), **sliders, "scores": scores})


def _tensor(boxes: object) -> Tensor:
    return tensor(boxes).float().view(-1, 4)
