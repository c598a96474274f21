"""Page 07's hands-on view: choose a token, and see which others resemble it."""

from __future__ import annotations

from ipywidgets import Dropdown

from .encoder import SimilarityState, draw_similarity
from .figures import INK
from .handles import Handles
from .sandbox import Sandbox
from .sandboxes import as_png

_BELOW_ONE = 1 - 1e-6
"""The image's right and lower border belong to its last cells."""


def similarity_sandbox(start: SimilarityState) -> Sandbox:
    """Drag the token over the image, and choose its level. ValueError if `start` names a token that there is not."""
    H, W = start.image.shape[1:]
    handles = Handles(
        (W, H), points=[[start.x * W, start.y * H]], labels=["token"], colours=[INK], image=as_png(start.image), step=4,
        max_width=300, title="The image: drag the token",
    )  # fmt: skip
    names = [(f"level {n}: {h} x {w}", n) for n, (h, w) in enumerate(start.level_sizes)]
    if not 0 <= start.level < len(names):
        raise ValueError(f"level must be 0 to {len(names) - 1}; got {start.level}")
    levels = Dropdown(options=names, value=start.level, description="level")

    def state(points: list[list[float]], level: int) -> SimilarityState:
        x, y = points[0]
        return start._replace(level=level, x=min(x / W, _BELOW_ONE), y=min(y / H, _BELOW_ONE))

    return Sandbox(draw_similarity, state, {"points": (handles, "points"), "level": levels})
