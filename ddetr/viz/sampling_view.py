"""Where a token or a query looks, and how hard: the data behind the sampling points' figure and explorer.

`SamplingView` holds what is drawn, from a trace of this package's models or from the tensors of any other deformable
attention; the functions below read it. Nothing here runs a model or draws.

Pixels are those of the image that the model saw, without padding: x to the right, y down, (0, 0) the top left corner.
A location is in [0, 1] of its level's padded map. Dividing by the level's valid ratio and multiplying by the image's
size makes pixels of it: the map's valid cells then tile the image, and what lies on padding lies beside the image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data import denormalize_image
from ..losses.boxes import cxcywh_to_xyxy
from ..models.trace import Trace
from .corners import corners as four_corners

PARTS = ("encoder", "decoder")

ON_IMAGE, ON_PADDING, OUTSIDE = 0, 1, 2
"""Where a point falls: on the image's part of its level's map, on the padding, outside the map (which reads zero)."""


class Attention(NamedTuple):
    """One layer's deformable attention, for N tokens or queries.

    Attributes:
        reference_points: (N, L, 2) as (x, y) or (N, L, 4) as (cx, cy, w, h), in [0, 1] of the padded map.
        locations: (N, M, L, P, 2) as (x, y) in [0, 1] of the padded map; may lie outside.
        weights: (N, M, L, P), summing to 1 over the L * P points of each head.
    """

    reference_points: Tensor
    locations: Tensor
    weights: Tensor


class Points(NamedTuple):
    """n sampling points of one token or query, heaviest last; each field an array of n.

    Attributes:
        x, y: in pixels of the image.
        weight: the attention weight.
        head, level, point: which one it is.
        where: `ON_IMAGE`, `ON_PADDING` or `OUTSIDE`.
    """

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    head: np.ndarray
    level: np.ndarray
    point: np.ndarray
    where: np.ndarray


class Corner(NamedTuple):
    """One of the four cells that a point reads: its column and row, its share, and whether there is image.

    `weight` is the bilinear weight, the four summing to 1; outside the map and on padding zero is read.
    """

    column: int
    row: int
    weight: float
    where: int


@dataclass(frozen=True, eq=False)
class SamplingView:
    """One image and every layer's sampling points on it, without the model.

    Attributes:
        image: (h, w, 3) uint8, the picture, at any resolution.
        level_sizes: the L levels' (h, w) in cells.
        encoder, decoder: one `Attention` for each layer. The encoder's rows are the S tokens, level after level, row
            by row; the decoder's are the Q queries. Either may be empty.
        size: (h, w) in pixels, what the model saw of this image; None for the picture's own.
        padded_size: (H, W) in pixels, the batch that it was padded to, at the right and bottom; None for `size`.
        valid_ratios: (L, 2) as (w, h), which part of each padded map is image; None for all of it.
        boxes: (layers, Q, 4) xyxy pixels, what each decoder layer predicts; or None.
        scores, labels: (layers, Q), the best class of each prediction, and how sure; or None.
        names: what each label means, K texts; or None.

    Raises:
        ValueError: parts that do not fit together; names the layer and both shapes.
    """

    image: np.ndarray
    level_sizes: Sequence[tuple[int, int]]
    encoder: tuple[Attention, ...] = ()
    decoder: tuple[Attention, ...] = ()
    size: tuple[int, int] = None  # type: ignore[assignment] # there is one from __post_init__ on, and of the next two
    padded_size: tuple[int, int] = None  # type: ignore[assignment]
    valid_ratios: Tensor = None  # type: ignore[assignment]
    boxes: Tensor | None = None
    scores: Tensor | None = None
    labels: Tensor | None = None
    names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("image", _picture(self.image))
        put("level_sizes", tuple((int(h), int(w)) for h, w in self.level_sizes))
        put("size", _size(self.size or self.image.shape[:2]))
        put("padded_size", _size(self.padded_size or self.size))
        ratios = torch.ones(len(self.level_sizes), 2) if self.valid_ratios is None else _tensor(self.valid_ratios)
        put("valid_ratios", ratios)
        for part in PARTS:
            put(part, tuple(Attention(*(_tensor(field) for field in layer)) for layer in getattr(self, part)))
        for name in ("boxes", "scores", "labels"):
            put(name, None if getattr(self, name) is None else _tensor(getattr(self, name), name == "labels"))
        _check(self)

    @classmethod
    def from_trace(
        cls,
        trace: Trace,
        image: Tensor | np.ndarray | Image.Image | None = None,
        *,
        index: int = 0,
        names: Sequence[str] | None = None,
    ) -> SamplingView:
        """What `model.trace(images)` saw of one image of its batch.

        Args:
            trace: what `model.trace` gave.
            image: the prepared tensor (3, h, w), or the picture, at any resolution; None takes it out of the trace.
            index: which image of the batch.
            names: what each label means: `[c["name"] for c in model.categories]`.

        Raises:
            ValueError: an index that the batch does not have, or an image that the trace has not seen.
        """
        B = len(trace.image_sizes)
        check_index("index", index, B, "images in the trace")
        h, w = trace.image_sizes[index]
        batch = trace["pre_transformer.images"]
        seen = batch[index, :, :h, :w]
        boxes = cxcywh_to_xyxy(trace["heads.boxes"][:, index].float()) * torch.tensor([w, h, w, h]).to(batch.device)
        scores, labels = trace["heads.logits"][:, index].float().sigmoid().max(-1)
        return cls(
            image=_matching(seen if image is None else image, seen),
            level_sizes=trace.level_sizes,
            encoder=_layers(trace, "encoder", index),
            decoder=_layers(trace, "decoder", index),
            size=(h, w),
            padded_size=(batch.shape[-2], batch.shape[-1]),
            valid_ratios=trace["multi_scale.valid_ratios"][index],
            boxes=boxes,
            scores=scores,
            labels=labels,
            names=names,
        )

    def layers(self, part: str) -> tuple[Attention, ...]:
        """The layers of `part`, "encoder" or "decoder". ValueError for another word."""
        if part not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}; got {part!r}")
        return getattr(self, part)

    def attention(self, part: str, layer: int) -> Attention:
        """Layer number `layer` of `part`. ValueError for one that does not exist."""
        layers = self.layers(part)
        check_index("layer", layer, len(layers), f"{part} layers")
        return layers[layer]

    def replace(self, **changes: Any) -> SamplingView:
        """A copy with the fields in `changes` changed."""
        return dataclasses.replace(self, **changes)


def to_pixels(view: SamplingView, places: np.ndarray, level: np.ndarray | int) -> np.ndarray:
    """places (..., 2) as (x, y) in [0, 1] of the padded maps of `level` (...) -> pixels of the image of `view`."""
    h, w = view.size
    return places / view.valid_ratios.numpy()[level] * np.array([w, h], dtype=np.float32)


def to_cells(view: SamplingView, level: int, x: float, y: float) -> tuple[float, float]:
    """A pixel (x, y) -> (column, row) on a level's map, in cells from its top left corner; centres at 0.5, 1.5, ..."""
    check_index("level", level, len(view.level_sizes), "levels")
    ratio_w, ratio_h = view.valid_ratios[level].tolist()
    (h, w), (rows, columns) = view.size, view.level_sizes[level]
    return x / w * ratio_w * columns, y / h * ratio_h * rows


def token_at(view: SamplingView, level: int, x: float, y: float) -> int:
    """The row of the token whose cell of `level` covers the pixel (`x`, `y`) of the image of `view`.

    ValueError for a point outside the padded image.
    """
    column, row = to_cells(view, level, x, y)
    H, W = view.padded_size
    if not (0 <= x <= W and 0 <= y <= H):
        raise ValueError(f"({x}, {y}) is outside the {W} x {H} pixels (w x h) of the padded image")
    h, w = view.level_sizes[level]
    start = sum(rows * columns for rows, columns in view.level_sizes[:level])
    return start + min(int(row), h - 1) * w + min(int(column), w - 1)


def cell_of(view: SamplingView, row: int) -> tuple[int, int, int]:
    """The (level, row, column) of token `row` of the encoder in `view`: the reverse of the flattening.

    ValueError if there is no such token.
    """
    rest = row
    for level, (h, w) in enumerate(view.level_sizes):
        if 0 <= rest < h * w:
            return level, rest // w, rest % w
        rest -= h * w
    raise ValueError(f"there is no token {row}; the levels have {row - rest} tokens" if row >= 0 else f"no token {row}")


def reference(view: SamplingView, part: str, layer: int, row: int) -> np.ndarray:
    """Where a token or a query looks from on each level, in pixels: (L, 2) as (x, y), or (L, 4) as (cx, cy, w, h).

    `view`, `part`, `layer` and `row` say which, as in `sampling_points`. This package's models look from one
    place of the image on all levels.
    """
    points = _row(view.attention(part, layer), row, part).reference_points.numpy()
    level = np.arange(len(points))
    return np.concatenate([to_pixels(view, pair, level) for pair in np.split(points, points.shape[1] // 2, 1)], 1)


def points_of(
    view: SamplingView,
    part: str,
    layer: int,
    row: int,
    *,
    heads: Iterable[int] | None = None,
    levels: Iterable[int] | None = None,
    heaviest: int | None = None,
) -> Points:
    """The sampling points of one token or query: those of some heads and levels, and of these the heaviest.

    `view`, `part`, `layer`, `row`, `heads`, `levels` and `heaviest` are those of `sampling_points`.

    Raises:
        ValueError: a part, layer, row, head or level that does not exist, or `heaviest` below 1.
    """
    one = _row(view.attention(part, layer), row, part)
    M, L, P = one.weights.shape
    chosen = np.zeros((M, L, P), dtype=bool)
    rows, columns = _choice("head", heads, M), _choice("level", levels, L)
    chosen[np.ix_(rows, columns)] = True
    index = np.flatnonzero(chosen)
    weight = one.weights.numpy().reshape(-1)
    index = index[np.argsort(weight[index], kind="stable")]
    if heaviest is not None:
        if heaviest < 1:
            raise ValueError(f"heaviest must be at least 1, or None for all points; got {heaviest}")
        index = index[-heaviest:]
    head, level, point = np.unravel_index(index, (M, L, P))
    locations = one.locations.numpy().reshape(-1, 2)[index]
    where = np.where((locations > view.valid_ratios.numpy()[level]).any(1), ON_PADDING, ON_IMAGE)
    where[((locations < 0) | (locations > 1)).any(1)] = OUTSIDE
    x, y = to_pixels(view, locations, level).T
    return Points(x, y, weight[index], head, level, point, where)


def corners(view: SamplingView, level: int, x: float, y: float) -> list[Corner]:
    """The four cells of `level` that a point at pixel (`x`, `y`) of the image of `view` reads.

    In order: top left, top right, bottom left, bottom right.
    """
    column, row = (place - 0.5 for place in to_cells(view, level, x, y))  # cells' centres lie at whole numbers
    (h, w), (ratio_w, ratio_h) = view.level_sizes[level], view.valid_ratios[level].tolist()
    found = []
    for i, j, weight, inside in four_corners(column, row, (h, w)):
        image = i < round(ratio_h * h) and j < round(ratio_w * w)
        where = OUTSIDE if not inside else ON_IMAGE if image else ON_PADDING
        found.append(Corner(j, i, weight, where))
    return found


def describe(view: SamplingView, part: str, layer: int, row: int) -> str:
    """Which token or query it is, in words, with the box's class and score if the view knows them."""
    depth = f"{part} layer {layer} (0 to {len(view.layers(part)) - 1})"
    if part == "encoder":
        if not _is_grid(view, part, layer):
            return f"row {row}, {depth}"
        level, i, j = cell_of(view, row)
        return f"token {row}: level {level}, row {i}, column {j}, {depth}"
    text = f"query {row}, {depth}"
    if view.scores is not None and layer < len(view.scores):
        text += f": {label_name(view, layer, row)} {float(view.scores[layer, row]):.2f}"
    return text


def label_name(view: SamplingView, layer: int, row: int) -> str:
    """The name of a query's best class, as it came with the data; its number if it has none."""
    if view.labels is None:
        return "score"
    label = int(view.labels[layer, row])
    return str(view.names[label]) if view.names is not None and label < len(view.names) else f"class {label}"


def _layers(trace: Trace, part: str, index: int) -> tuple[Attention, ...]:
    stages = [stage for stage in trace.stages() if stage.startswith(f"{part}.layer")]
    names = ("attention_reference_points", "sampling_locations", "attention_weights")
    return tuple(Attention(*(trace[f"{stage}.{name}"][index] for name in names)) for stage in stages)


def _matching(image: Tensor | np.ndarray | Image.Image, seen: Tensor) -> np.ndarray:
    """The picture of `image`, which must be what the trace saw, `seen` (3, h, w)."""
    h, w = seen.shape[1:]
    if isinstance(image, Tensor) and image.is_floating_point():
        if image.shape != seen.shape:
            raise ValueError(f"the trace saw an image of {tuple(seen.shape)}; got one of {tuple(image.shape)}")
        if not torch.allclose(image.to(seen), seen, atol=1e-3):
            raise ValueError("these are not the pixels that the trace saw; give it the tensor that was traced, or None")
        return _picture(image)
    picture = _picture(image)
    height, width = picture.shape[:2]
    if abs(width * h / height - w) > 1.5 and abs(height * w / width - h) > 1.5:
        raise ValueError(
            f"the trace saw an image of {w} x {h} pixels (w x h); a picture of {width} x {height} has another shape"
        )
    return picture


def _picture(image: Tensor | np.ndarray | Image.Image) -> np.ndarray:
    """Any form of a picture -> (h, w, 3) uint8. A float tensor is taken as normalised, as the model takes it."""
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] == 3:
        pixels = denormalize_image(image.detach().float().cpu()) if image.is_floating_point() else image.cpu()
        return pixels.permute(1, 2, 0).contiguous().numpy()
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8:
        return image
    shape = tuple(image.shape) if isinstance(image, Tensor | np.ndarray) else None
    kind = type(image).__name__ + (f" of {shape}, {image.dtype}" if shape is not None else "")
    raise ValueError(f"image must be a PIL image, a tensor (3, h, w) or an array (h, w, 3) of uint8; got {kind}")


def _tensor(values: Any, whole: bool = False) -> Tensor:
    tensor = torch.as_tensor(values).detach().cpu()
    return tensor.long() if whole else tensor.float()


def _size(size: Sequence[int]) -> tuple[int, int]:
    h, w = (int(side) for side in size)
    if h < 1 or w < 1:
        raise ValueError(f"a size is (h, w) in pixels, at least 1 each; got {(h, w)}")
    return h, w


def _check(view: SamplingView) -> None:
    L = len(view.level_sizes)
    if not L:
        raise ValueError("level_sizes must name at least one level (h, w)")
    if view.padded_size[0] < view.size[0] or view.padded_size[1] < view.size[1]:
        raise ValueError(f"padded_size {view.padded_size} is smaller than the image, {view.size} (h, w)")
    if view.valid_ratios.shape != (L, 2):
        raise ValueError(f"valid_ratios must be (L, 2) = {(L, 2)}; got {tuple(view.valid_ratios.shape)}")
    for part in PARTS:
        layers = getattr(view, part)
        for n, layer in enumerate(layers):
            N, M, L_, P = layer.weights.shape if layer.weights.ndim == 4 else (None,) * 4
            shapes = ", ".join(str(tuple(field.shape)) for field in layer)
            fits = L_ == L and layer.locations.shape == (N, M, L, P, 2)
            if not fits or layer.reference_points.shape not in ((N, L, 2), (N, L, 4)):
                raise ValueError(
                    f"{part} layer {n}: reference_points (N, {L}, 2 or 4), locations (N, M, {L}, P, 2) and weights "
                    f"(N, M, {L}, P) must go together; got {shapes}"
                )
            if layers[0].weights.shape[0] != N:
                raise ValueError(f"{part} layer {n} has {N} rows, layer 0 {layers[0].weights.shape[0]}")
    if view.boxes is not None and (view.boxes.ndim != 3 or view.boxes.shape[2] != 4):
        raise ValueError(f"boxes must be (layers, Q, 4); got {tuple(view.boxes.shape)}")
    for name in ("scores", "labels"):
        value = getattr(view, name)
        if value is not None and (view.boxes is None or value.shape != view.boxes.shape[:2]):
            wanted = None if view.boxes is None else tuple(view.boxes.shape[:2])
            raise ValueError(f"{name} must be (layers, Q) as boxes are, {wanted}; got {tuple(value.shape)}")


def _is_grid(view: SamplingView, part: str, layer: int) -> bool:
    """Whether the rows are the levels' tokens, as an encoder's are."""
    return len(view.attention(part, layer).weights) == sum(h * w for h, w in view.level_sizes)


def _row(attention: Attention, row: int, part: str) -> Attention:
    check_index("row", row, len(attention.weights), "tokens" if part == "encoder" else "queries")
    return Attention(*(field[row] for field in attention))


def check_index(name: str, index: int, count: int, what: str) -> None:
    """ValueError unless `index` is one of `count` things, called `what`."""
    if not count:
        raise ValueError(f"there are no {what} in this view")
    if isinstance(index, bool) or not isinstance(index, int | np.integer) or not 0 <= index < count:
        raise ValueError(f"{name} must be 0 to {count - 1}, there being {count} {what}; got {index!r}")


def _choice(name: str, chosen: Iterable[int] | None, count: int) -> list[int]:
    numbers = list(range(count)) if chosen is None else list(chosen)
    for number in numbers:
        check_index(name, number, count, f"{name}s")
    return numbers
