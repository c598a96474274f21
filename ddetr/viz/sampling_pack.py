"""A `SamplingView` as compact bytes for the explorer's front end. Pure functions: data in, bytes out.

A layer is three arrays, one after the other, little-endian: reference points (N, R, 2 | 4) float32, places
(N, M, L, P, 2) int16, weights (N, M, L, P) uint16. Both kinds of places are in [0, 1] of the image without padding; R
is 1 where a row looks from one place on all levels, else L. That is 6 bytes a point: 776 bytes a token, with its
reference point, at 8 heads, 4 levels and 4 points.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from .figures import level_colour
from .sampling_view import PARTS, SamplingView

LONGEST_SIDE = 1600
"""Pixels; a larger picture is scaled down for display."""

_MUCH = 50e6  # bytes of one layer, worth a sentence

_PNG_PIXELS = 400 * 400  # beyond this, a photo is smaller as JPEG


def layer_bytes(view: SamplingView, part: str, layer: int) -> int:
    """How long `pack_layer`'s bytes will be."""
    attention = view.attention(part, layer)
    points = attention.weights.numel()
    return 6 * points + 4 * _references(view, part, layer).size


def pack_layer(view: SamplingView, part: str, layer: int) -> tuple[dict[str, Any], bytes]:
    """One layer's header and bytes: the header gives N, M, L, P, R, 2 or 4, and what a step of the integers is worth.

    A place is `0.5 + step[level] * integer`, within half a step; a weight is `weight_step * integer`.

    Raises:
        ValueError: a layer that does not exist, or numbers that are not finite.
    """
    attention = view.attention(part, layer)
    N, M, L, P = attention.weights.shape
    references = _references(view, part, layer)
    places = attention.locations.numpy() / view.valid_ratios.numpy()[:, None] - np.float32(0.5)
    weights = attention.weights.numpy()
    step = np.abs(places).max(axis=(0, 1, 3, 4), initial=1e-6) / 32767
    weight_step = np.abs(weights).max(initial=1e-6) / 65535
    if not (np.isfinite(step).all() and np.isfinite(weight_step) and np.isfinite(references).all()):
        raise ValueError(f"{part} layer {layer} has numbers that are not finite")
    header = {
        "part": part, "layer": layer, "rows": N, "heads": M, "levels": L, "points": P,
        "references": references.shape[1], "dims": references.shape[2],
        "step": step.tolist(), "weightStep": float(weight_step),
    }  # fmt: skip
    whole = np.rint(places / step.astype(np.float32)[:, None, None]).clip(-32767, 32767).astype("<i2")
    shares = np.rint(weights / weight_step).clip(0, 65535).astype("<u2")
    return header, references.astype("<f4").tobytes() + whole.tobytes() + shares.tobytes()


def pack_scene(view: SamplingView) -> tuple[dict[str, Any], bytes]:
    """Everything but the layers: what there is, the predictions, and the picture as PNG or JPEG.

    `notes` in it says in sentences what was changed for display.
    """
    picture, notes = _display(view)
    largest = max((layer_bytes(view, part, n) for part in PARTS for n in range(len(view.layers(part)))), default=0)
    if largest > _MUCH:
        notes.append(f"A layer takes {largest / 1e6:.0f} MB on its way here: a smaller image answers faster.")
    L = len(view.level_sizes)
    scene: dict[str, Any] = {
        "size": view.size,
        "padded": view.padded_size,
        "levels": view.level_sizes,
        "ratios": view.valid_ratios.tolist(),
        "colours": [level_colour(level) for level in range(L)],
        "parts": {part: [layer_bytes(view, part, n) for n in range(len(view.layers(part)))] for part in PARTS},
        "rows": {part: len(layers[0].weights) if (layers := view.layers(part)) else 0 for part in PARTS},
        "heads": {part: layers[0].weights.shape[1] if (layers := view.layers(part)) else 0 for part in PARTS},
        "order": query_order(view),
        "boxes": None if view.boxes is None else view.boxes.double().round(decimals=2).tolist(),
        "scores": None if view.scores is None else view.scores.double().round(decimals=4).tolist(),
        "labels": None if view.labels is None else view.labels.tolist(),
        "names": None if view.names is None else [str(name) for name in view.names],
        "notes": notes,
    }
    return scene, picture


def query_order(view: SamplingView) -> list[int]:
    """The queries, best score of the last layer first; by number where there are no scores."""
    if view.scores is None:
        return list(range(len(view.decoder[0].weights))) if view.decoder else []
    return view.scores[-1].argsort(descending=True, stable=True).tolist()


def image_type(picture: bytes) -> str:
    """The picture's media type."""
    return "image/png" if picture.startswith(b"\x89PNG") else "image/jpeg"


def _references(view: SamplingView, part: str, layer: int) -> np.ndarray:
    references = view.attention(part, layer).reference_points.numpy()
    references = references / np.tile(view.valid_ratios.numpy(), references.shape[2] // 2)
    same = np.abs(references - references[:, :1]).max(initial=0) < 1e-4
    return references[:, :1] if same else references


def _display(view: SamplingView) -> tuple[bytes, list[str]]:
    picture, notes = Image.fromarray(view.image), []
    if max(picture.size) > LONGEST_SIDE:
        w, h = picture.size
        scale = LONGEST_SIDE / max(w, h)
        picture = picture.resize((max(1, round(w * scale)), max(1, round(h * scale))), Image.Resampling.LANCZOS)
        notes.append(f"The picture of {w} x {h} pixels is shown at {picture.width} x {picture.height}.")
    buffer = io.BytesIO()
    if picture.width * picture.height <= _PNG_PIXELS:
        picture.save(buffer, "PNG")
    else:
        picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue(), notes
