"""The sampling explorer: a widget that shows where each token and query looks, under the reader's hand.

Python computes once; the front end (`sampling_*.js`, one plain module) then answers every move by itself.
"""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

try:
    import anywidget
    import traitlets
except ImportError as error:
    raise ImportError('the sampling explorer needs anywidget: pip install "ddetr[course]"') from error

from ..config import did_you_mean
from ..data import prepare_image
from ..files import write_text
from ..models.trace import Trace
from .figures import Figure
from .sampling import sampling_points
from .sampling_pack import image_type, layer_bytes, pack_layer, pack_scene, query_order
from .sampling_view import PARTS, SamplingView, check_index, describe, token_at

_HERE = Path(__file__).parent

_CAPTION = "A still picture of the sampling explorer: run this cell in JupyterLab, Notebook 7 or VS Code to move it."


def _read(*names: str) -> str:
    return "\n".join((_HERE / name).read_text(encoding="utf-8") for name in names)


_MODULE = _read("sampling_data.js", "sampling_paint.js", "sampling_controls.js", "sampling_explorer.js")
_STYLE = _read("sampling_explorer.css")


class ChoiceError(ValueError, traitlets.TraitError):
    """A choice that does not exist; the explorer keeps the one before."""


class SamplingExplorer(anywidget.AnyWidget):
    """Sampling points of every token and query, layer by layer, over the image.

        SamplingExplorer(model, image)

    Each choice below is an attribute, in step with the view in both directions: set it, or `observe` it.

    Attributes:
        part: "encoder" (move over the image: the token under the pointer) or "decoder" (click a detection).
        layer: which layer of that part, from 0.
        token: encoder: the row of the token; see `token_at`.
        query: decoder: the number of the query.
        heads, levels: numbers of those shown.
        heaviest: how many points, the heaviest; None for all.
        weights: False draws all points alike.
        lines: whether a line joins each point with its reference point.
        grid: whether the cells of the current point's level are drawn.
        point: [head, level, point] of the point that the read-outs are about; None for the heaviest shown.
        pinned: encoder: whether the token stays where it is when the pointer moves.
        threshold: decoder: detections of a lower score are not drawn.
        playing: whether the view steps through the layers.
        view: the `SamplingView`; not shared with the front end.
        bytes_sent: how many bytes went to the front end so far; see also `sizes()`.

    Args:
        model: a `DeformableDETR` in evaluation mode.
        image: a picture, which is prepared as the model wants it, or a prepared tensor (3, h, w).
        view: instead of both, the data of any other deformable attention.
        choices: any of the attributes.

    Raises:
        ValueError: a model in training mode, an image that does not fit, or a choice that does not exist.
    """

    _esm = _MODULE
    _css = _STYLE

    part = traitlets.Unicode("encoder").tag(sync=True)
    layer = traitlets.Int(0).tag(sync=True)
    token = traitlets.Int(0).tag(sync=True)
    query = traitlets.Int(0).tag(sync=True)
    heads = traitlets.List(traitlets.Int()).tag(sync=True)
    levels = traitlets.List(traitlets.Int()).tag(sync=True)
    heaviest = traitlets.Int(None, allow_none=True).tag(sync=True)
    weights = traitlets.Bool(True).tag(sync=True)
    lines = traitlets.Bool(False).tag(sync=True)
    grid = traitlets.Bool(False).tag(sync=True)
    point = traitlets.List(traitlets.Int(), default_value=None, allow_none=True).tag(sync=True)
    pinned = traitlets.Bool(False).tag(sync=True)
    threshold = traitlets.Float(0.3).tag(sync=True)
    playing = traitlets.Bool(False).tag(sync=True)
    # For a notebook that is opened with its outputs and without a kernel: what the view then shows.
    _still = traitlets.Unicode("").tag(sync=True)
    _alt = traitlets.Unicode("").tag(sync=True)

    CHOICES = (
        "part", "layer", "token", "query", "heads", "levels", "heaviest", "weights", "lines", "grid", "point", "pinned",
        "threshold", "playing",
    )  # fmt: skip

    def __init__(
        self,
        model: nn.Module | None = None,
        image: Tensor | np.ndarray | Image.Image | None = None,
        *,
        view: SamplingView | None = None,
        **choices: Any,
    ) -> None:
        if view is None:
            view = _look(model, image)
        elif model is not None or image is not None:
            raise ValueError("give a model and an image, or a view; not both")
        for name in choices:
            if name not in self.CHOICES:
                raise ValueError(f"the explorer has no choice {name!r}{did_you_mean(name, self.CHOICES)}")
        if not (view.encoder or view.decoder):
            raise ValueError("this view has no layers, neither of an encoder nor of a decoder")
        self.view = view
        self.bytes_sent = 0
        super().__init__(**{**_defaults(view, choices), **choices})
        self.observe(self._follow_part, "part")
        self.on_msg(self._answer)

    @classmethod
    def from_trace(
        cls,
        trace: Trace,
        image: Tensor | np.ndarray | Image.Image | None = None,
        *,
        index: int = 0,
        names: list[str] | None = None,
        **choices: Any,
    ) -> SamplingExplorer:
        """The explorer of what `trace` saw; `image`, `index` and `names` are those of `SamplingView.from_trace`."""
        return cls(view=SamplingView.from_trace(trace, image, index=index, names=names), **choices)

    def sizes(self) -> dict[str, int]:
        """How many bytes each piece takes on its way to the front end, by name; layers travel when they are needed."""
        pieces = {"picture": len(pack_scene(self.view)[1])}
        for part in PARTS:
            for n in range(len(self.view.layers(part))):
                pieces[f"{part} layer {n}"] = layer_bytes(self.view, part, n)
        return pieces

    def figure(self) -> Figure:
        """The same state as a matplotlib figure."""
        row = self.token if self.part == "encoder" else self.query
        return sampling_points(
            self.view, self.part, self.layer, row, heads=self.heads, levels=self.levels, heaviest=self.heaviest,
            weights=self.weights, lines=self.lines, point=self.point, grid=self.grid,
        )  # fmt: skip

    def to_html(self, path: str | Path, *, limit_mb: float = 100) -> Path:
        """Write the explorer to `path`, one page that needs neither kernel nor network, with the present choices.

        Layers that would make it larger than `limit_mb` are left out, which the page says: the encoder's, those
        farthest from the present one first.

        Raises:
            ValueError: not even the present layer fits.
        """
        scene, picture = pack_scene(self.view)
        kept = self._fitting(limit_mb * 1e6 - 4 / 3 * len(picture))
        left_out = [f"{part} layer {n}" for part in PARTS for n in range(len(self.view.layers(part)))]
        left_out = [name for name in left_out if name not in {f"{part} layer {n}" for part, n in kept}]
        if left_out:
            scene["notes"].append(f"Left out of this page, to keep it under {limit_mb:g} MB: {', '.join(left_out)}.")
        scene["parts"] = {
            part: [size if (part, n) in kept else None for n, size in enumerate(scene["parts"][part])] for part in PARTS
        }
        data = {
            "scene": scene,
            "media": image_type(picture),
            "picture": base64.b64encode(picture).decode(),
            "layers": [_packed(self.view, part, n) for part, n in kept],
            "choices": {name: getattr(self, name) for name in self.CHOICES},
        }
        path = Path(path)
        write_text(path, _page(data))
        return path

    def _fitting(self, room: float) -> list[tuple[str, int]]:
        """The layers that fit into `room` bytes of base64: the decoder's, then the encoder's nearest to the present."""
        present = self.layer if self.part == "encoder" else 0
        order = [("decoder", n) for n in range(len(self.view.decoder))]
        order += sorted((("encoder", n) for n in range(len(self.view.encoder))), key=lambda key: abs(key[1] - present))
        order.sort(key=lambda key: key != (self.part, self.layer))
        kept = []
        for part, n in order:
            room -= 4 / 3 * layer_bytes(self.view, part, n)
            if room >= 0:
                kept.append((part, n))
        if (self.part, self.layer) not in kept:
            needed = 4 / 3 * layer_bytes(self.view, self.part, self.layer) / 1e6
            raise ValueError(f"limit_mb is too small: {self.part} layer {self.layer} alone takes {needed:.1f} MB")
        return kept

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget, and for front ends without widgets its still picture with a sentence."""
        bundle = super()._repr_mimebundle_(**options)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        figure = self.figure()
        figure.footnote = _CAPTION
        still = figure.saved(format="jpeg", dpi=80, pil_kwargs={"quality": 75})
        self._still, self._alt = base64.b64encode(still.getvalue()).decode(), figure.alt
        return {**data, "image/png": figure._repr_png_()}, {**metadata, "image/png": {"alt": figure.alt}}

    def __repr__(self) -> str:
        row = self.token if self.part == "encoder" else self.query
        return f"SamplingExplorer: {describe(self.view, self.part, self.layer, row)}"

    def _answer(self, _widget: Any, content: dict[str, Any], _buffers: list[Any]) -> None:
        """What the front end asks for: the scene, or a layer."""
        try:
            if content.get("type") == "scene":
                scene, picture = pack_scene(self.view)
                self._ship({"type": "scene", "scene": scene, "media": image_type(picture)}, picture)
            elif content.get("type") == "layer":
                header, data = pack_layer(self.view, content.get("part", ""), content.get("layer", -1))
                self._ship({"type": "layer", **header}, data)
        except ValueError as error:
            self.send({"type": "error", "message": str(error)})

    def _ship(self, message: dict[str, Any], data: bytes) -> None:
        self.bytes_sent += len(data)
        self.send(message, buffers=[data])

    def _follow_part(self, _change: Any) -> None:
        self.layer = min(self.layer, len(self.view.layers(self.part)) - 1)
        M, _, P = _samples(self.view, self.part)
        if self.heads and self.heads[-1] >= M:
            self.heads = list(range(M))
        if self.point and (self.point[0] >= M or self.point[2] >= P):
            self.point = None  # type: ignore[assignment] # which the trait allows

    @traitlets.validate("part")
    def _check_part(self, proposal: Any) -> str:
        part = proposal["value"]
        if part not in PARTS or not self.view.layers(part):
            there = ", ".join(name for name in PARTS if self.view.layers(name))
            raise ChoiceError(f"part must be one of {there}; got {part!r}")
        return part

    @traitlets.validate("layer")
    def _check_layer(self, proposal: Any) -> int:
        return _exists("layer", proposal["value"], len(self.view.layers(self.part)), f"{self.part} layers")

    @traitlets.validate("token")
    def _check_token(self, proposal: Any) -> int:
        return _exists("token", proposal["value"], _rows(self.view, "encoder"), "tokens") if self.view.encoder else 0

    @traitlets.validate("query")
    def _check_query(self, proposal: Any) -> int:
        return _exists("query", proposal["value"], _rows(self.view, "decoder"), "queries") if self.view.decoder else 0

    @traitlets.validate("heads", "levels")
    def _check_numbers(self, proposal: Any) -> list[int]:
        M, L, _ = _samples(self.view, self.part)
        what = proposal["trait"].name
        count = M if what == "heads" else L
        return sorted({_exists(what.removesuffix("s"), number, count, what) for number in proposal["value"]})

    @traitlets.validate("point")
    def _check_point(self, proposal: Any) -> list[int] | None:
        point = proposal["value"]
        if point is None:
            return None
        if len(point) != 3:
            raise ChoiceError(f"point must be [head, level, point] or None; got {point}")
        for name, number, count in zip(("head", "level", "point"), point, _samples(self.view, self.part), strict=True):
            _exists(name, number, count, f"{name}s")
        return point

    @traitlets.validate("heaviest")
    def _check_heaviest(self, proposal: Any) -> int | None:
        if proposal["value"] is not None and proposal["value"] < 1:
            raise ChoiceError(f"heaviest must be at least 1, or None for all points; got {proposal['value']}")
        return proposal["value"]

    @traitlets.validate("threshold")
    def _check_threshold(self, proposal: Any) -> float:
        if not 0 <= proposal["value"] <= 1:
            raise ChoiceError(f"threshold must be in [0, 1]; got {proposal['value']}")
        return proposal["value"]


def _look(model: Any, image: Any) -> SamplingView:
    if model is None or image is None:
        raise ValueError("give a model and an image, or view=")
    if not hasattr(model, "trace"):
        raise ValueError(
            f"{type(model).__name__} has no trace(); for another deformable model, put its tensors into a "
            "SamplingView and give that as view="
        )
    if model.training:
        raise ValueError(
            "the model is in training mode, where dropout makes each look another one; call model.eval() first"
        )
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    prepared = prepare_image(image, model.config.test_size) if isinstance(image, Image.Image) else image
    names = [category["name"] for category in model.categories] if model.categories else None
    return SamplingView.from_trace(model.trace([prepared]), image, names=names)


def _defaults(view: SamplingView, choices: dict[str, Any]) -> dict[str, Any]:
    """The token in the middle of the first level, and the best query."""
    part = choices.get("part", "encoder" if view.encoder else "decoder")
    M, L, _ = _samples(view, part if part in PARTS and view.layers(part) else "encoder" if view.encoder else "decoder")
    defaults: dict[str, Any] = {"part": part, "heads": list(range(M)), "levels": list(range(L))}
    if view.encoder:
        h, w = view.size
        defaults["token"] = min(token_at(view, 0, w / 2, h / 2), _rows(view, "encoder") - 1)
    if view.decoder:
        defaults["query"] = query_order(view)[0]
    return defaults


def _rows(view: SamplingView, part: str) -> int:
    return len(view.layers(part)[0].weights)


def _samples(view: SamplingView, part: str) -> tuple[int, int, int]:
    """M, L, P."""
    _, M, L, P = view.layers(part)[0].weights.shape
    return M, L, P


def _exists(name: str, number: int, count: int, what: str) -> int:
    try:
        check_index(name, number, count, what)
    except ValueError as error:
        raise ChoiceError(str(error)) from None
    return number


def _packed(view: SamplingView, part: str, layer: int) -> dict[str, Any]:
    header, data = pack_layer(view, part, layer)
    return {"header": header, "data": base64.b64encode(data).decode()}


def _page(data: dict[str, Any]) -> str:
    """One page with everything in it: the module, its style, and the data as JSON, in which no `<` can close a tag."""
    safe = json.dumps(data).replace("<", "\\u003c")
    size = f"{data['scene']['size'][1]} x {data['scene']['size'][0]} pixels"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sampling explorer</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 1rem auto; max-width: 1100px; padding: 0 1rem; font-family: system-ui, sans-serif;
  background: light-dark(#ffffff, #16181c); color: light-dark(#1b1b1b, #e8e8e8); }}
{_STYLE}
</style>
</head>
<body>
<h1 style="font-size: 1.1rem">Sampling points of Deformable DETR, {html.escape(size)}</h1>
<div id="explorer"></div>
<noscript>This page draws with JavaScript; nothing is loaded from anywhere.</noscript>
<script type="application/json" id="data">{safe}</script>
<script type="module">
{_MODULE}
const data = JSON.parse(document.getElementById("data").textContent);
render({{ model: modelOf(data), el: document.getElementById("explorer") }});
</script>
</body>
</html>
"""
