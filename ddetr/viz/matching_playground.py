"""The matching playground under the reader's hand: drag a prediction, weigh the terms, and see who is responsible."""

from __future__ import annotations

from ipywidgets import FloatSlider
from torch import Tensor, tensor
from torchvision.ops import box_convert

from .figures import LINE_STYLES
from .handles import Handles
from .matching import MatchingState, draw
from .sandbox import Sandbox
from .sandboxes import as_png


def matching_playground(start: MatchingState) -> Sandbox:
    """`matching.draw` with controls: the queries' boxes to drag, and a slider for the weight of each term.

    ValueError for a state without a picture, or one that cannot be drawn.
    """
    if start.picture is None:
        raise ValueError("the playground needs a picture to drag boxes over")
    H, W = start.picture.shape[:2]
    scale = tensor([W, H, W, H])
    handles = Handles(
        (W, H),
        boxes=(box_convert(_tensor(start.boxes), "cxcywh", "xyxy") * scale).tolist(),
        labels=[str(name) for name in start.queries or range(len(start.boxes))],
        colours=[LINE_STYLES[1 + n % 6][0] for n in range(len(start.boxes))],
        image=as_png(start.picture), step=2, max_width=360, title="Predicted boxes: drag them",
    )  # fmt: skip
    sliders = {
        name: FloatSlider(value=weight, min=0, max=10, step=0.5, description=name)
        for name, weight in zip(("class", "L1", "GIoU"), start.weights, strict=True)
    }

    drawn = handles.boxes

    def state(boxes: list[list[float]], **weights: float) -> MatchingState:
        moved = box_convert(_tensor(boxes) / scale, "xyxy", "cxcywh").tolist()
        # The handles end at the picture's border. A prediction that goes beyond is itself until it is moved.
        kept = [start.boxes[n] if box == drawn[n] else moved[n] for n, box in enumerate(boxes)]
        return start._replace(boxes=kept, weights=tuple(weights.values()))

    return Sandbox(draw, state, {"boxes": (handles, "boxes"), **sliders})


def _tensor(boxes: object) -> Tensor:
    return tensor(boxes).float().view(-1, 4)
