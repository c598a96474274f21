"""The pages' hands-on views: each a pure `draw(state)` with controls around it."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from ipywidgets import BoundedIntText, Dropdown, IntSlider, Play, ToggleButtons, jslink
from PIL import Image
from torch import Tensor

from . import feature_browser as features
from . import kernel_thread, padding
from .figures import INK, pixels_of
from .handles import Handles
from .sandbox import Sandbox

_SECOND = "#D55E00"


def padding_sandbox(sizes: Sequence[tuple[int, int]] = ((320, 512), (640, 256)), largest: int = 768) -> Sandbox:
    """Drag the lower right corners of images, each (h, w) in pixels, and see how they share a batch.

    ValueError for a size of less than 8 or more than `largest` pixels.
    """
    for h, w in sizes:
        if not (8 <= h <= largest and 8 <= w <= largest):
            raise ValueError(f"sizes must be (h, w) of 8 to {largest} pixels; got ({h}, {w})")
    handles = Handles(
        (largest, largest), boxes=[[0, 0, w, h] for h, w in sizes], anchored=True, step=8, max_width=280,
        labels=[f"image {n}" for n in range(len(sizes))], colours=[(INK, _SECOND)[n % 2] for n in range(len(sizes))],
        title="The images of a batch: drag their lower right corners",
    )  # fmt: skip

    def state(boxes: list[list[float]]) -> padding.PaddingState:
        return padding.PaddingState([(round(y2), round(x2)) for _, _, x2, y2 in boxes])

    return Sandbox(padding.draw, state, {"boxes": (handles, "boxes")})


def feature_browser(maps: features.Maps, image: Tensor, names: Sequence[str], level: int = 0) -> Sandbox:
    """Drag a point over the image, and choose a level and a channel of its maps; -1 shows all channels as colours.

    Args:
        maps: (1, 3, H, W) -> L maps (1, C, h, w), such as `model.backbone`.
        image: (3, H, W), normalised.
        names: of the levels.
    """
    H, W = image.shape[1:]
    with torch.no_grad():
        found = [feature[0] for feature in maps(image[None])]
    handles = Handles(
        (W, H), points=[[W / 2, H / 2]], labels=["cell"], colours=[INK], image=as_png(image), step=4, max_width=300,
        title="The image: drag the point",
    )  # fmt: skip
    levels = Dropdown(options=[(name, n) for n, name in enumerate(names)], value=level, description="level")
    channel = BoundedIntText(value=-1, min=-1, max=max(len(feature) for feature in found) - 1, description="channel")
    weight = functools.lru_cache(maxsize=64)(lambda level, place: features.what_moves(maps, image, level, place))

    def state(points: list[list[float]], level: int, channel: int) -> features.FeatureState:
        place = (round(points[0][0]), round(points[0][1]))
        chosen = None if channel < 0 else channel
        return features.FeatureState(image, found, names, level, chosen, place, weight(level, place))

    return Sandbox(features.draw, state, {"points": (handles, "points"), "level": levels, "channel": channel})


def kernel_thread_view(start: kernel_thread.ThreadState) -> Sandbox:
    """Step one thread of the attention kernel from point to point, or play it, forward or backward.

    ValueError for a state that cannot be drawn.
    """
    last = math.prod(torch.as_tensor(start.weights).shape) - 1
    step = IntSlider(value=start.point, min=0, max=last, description="point", continuous_update=False)
    play = Play(value=start.point, min=0, max=last, interval=1000)
    directions = ToggleButtons(options=(kernel_thread.FORWARD, kernel_thread.BACKWARD), value=start.direction)

    def state(point: int, direction: str) -> kernel_thread.ThreadState:
        return start._replace(point=point, direction=direction)

    sandbox = Sandbox(kernel_thread.draw, state, {"point": step, "direction": directions})
    jslink((play, "value"), (step, "value"))
    sandbox.children = (play, *sandbox.children)
    return sandbox


def as_png(picture: Tensor | np.ndarray) -> bytes:
    """A normalised image (3, H, W), or pixels (H, W, 3) uint8, as a PNG file."""
    buffer = io.BytesIO()
    pixels = pixels_of(picture) if isinstance(picture, Tensor) else picture
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def is_rounded(shown: float, value: float, step: float) -> bool:
    """Whether a slider that was given `value` made `shown` of it: the browser's rounds to its steps, and says so."""
    return abs(shown - value) <= step / 2 + 1e-9
