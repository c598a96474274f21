"""Page 00: shapes from end to end, and from the heads' numbers to a detection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...models.outputs import postprocess
from . import Case, Exercise, Mistake

Shape = tuple[int, ...]
STRIDES = (8, 16, 32, 64)


def _shape_cases() -> list[Case]:
    sizes = {
        "the portrait": (1, 480, 546), "two images": (2, 480, 640), "a tall image, five in a batch": (5, 97, 33),
        "sizes that 64 divides": (3, 128, 320),
    }  # fmt: skip
    return [Case(f"{label}, ({', '.join(map(str, size))})", size) for label, size in sizes.items()]


def _tokens(height: int, width: int, strides: tuple[int, ...] = STRIDES) -> int:
    return sum(-(-height // stride) * -(-width // stride) for stride in strides)


def _shapes(batch: int, height: int, width: int) -> list[Shape]:
    S = _tokens(height, width)
    return [(batch, S, 256), (batch, S, 8, 4, 4, 2), (6, batch, 300, 4)]


def _shapes_with(tokens: Callable[[int, int], int]) -> Callable[[int, int, int], list[Shape]]:
    def answer(batch: int, height: int, width: int) -> list[Shape]:
        S = tokens(height, width)
        return [(batch, S, 256), (batch, S, 8, 4, 4, 2), (6, batch, 300, 4)]

    return answer


SHAPES = Exercise(
    "00.shapes",
    "Write shapes(batch, height, width): the shapes of multi_scale.tokens, of encoder.layer0.sampling_locations and of "
    "heads.boxes, for the ResNet-50 detector of this page and a batch of any size, as a list of three tuples.",
    _shape_cases,
    _shapes,
    (
        Mistake(
            _shapes_with(lambda h, w: sum((h // s) * (w // s) for s in STRIDES)),
            "You round down. Maps round up: 546 columns at stride 8 are 69, not 68.",
        ),
        Mistake(
            _shapes_with(lambda h, w: _tokens(h, w, STRIDES[:3])),
            "You count three levels. The neck makes a fourth map, at stride 64, and its cells are tokens too.",
        ),
        Mistake(
            _shapes_with(lambda h, w: _tokens(h, w, STRIDES[:1])),
            "You count the finest level only. The sequence holds the cells of all four.",
        ),
        Mistake(
            lambda batch, h, w: _shapes(1, h, w),
            "You read the batch axis off a trace of one image: here it is `batch`.",
        ),
        Mistake(
            lambda batch, h, w: [*_shapes(batch, h, w)[:2], (batch, 300, 4)],
            "heads.boxes has an axis more: every decoder layer gives its boxes, so 6 comes first.",
        ),
        Mistake(
            lambda batch, h, w: [*_shapes(batch, h, w)[:2], (batch, 6, 300, 4)],
            "heads.boxes has the layers first, then the batch: the layers' outputs are stacked.",
        ),
        Mistake(
            lambda batch, h, w: [_shapes(batch, h, w)[0], (batch, 300, 8, 4, 4, 2), _shapes(batch, h, w)[2]],
            "In the encoder the tokens themselves look: a set of places for each of the S tokens, not for 300 queries.",
        ),
        Mistake(
            lambda batch, h, w: [(batch, 256, _tokens(h, w)), *_shapes(batch, h, w)[1:]],
            "Tokens are rows: the channels, 256, are the last axis of a sequence. In a map they come before (h, w).",
        ),
    ),
    "Only S depends on the image. Twice the height and width make about four times the tokens, and 300 boxes stay 300.",
)


def _outputs(layers: int, B: int, Q: int, K: int, seed: int) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, B, Q, K, generator=numbers) * 2 - 3
    # The best of an earlier layer, of another image, and by softmax are other queries than the one asked for.
    logits[0, 0, 1, 0], logits[-1, -1, 2, 1 % K] = 6.0, 5.0
    logits[-1, 0, 3, K - 1], logits[-1, 0, 4] = 3.0, -9.0
    logits[-1, 0, 4, 0] = 1.0
    boxes = torch.rand(layers, B, Q, 4, generator=numbers) * 0.4 + torch.tensor([0.3, 0.3, 0.1, 0.1])
    return logits, boxes


def _detection_cases() -> list[Case]:
    kinds = {
        "six layers, two images, 20 queries, 5 classes, 480 x 640 pixels": ((6, 2, 20, 5), (480, 640), 0),
        "one class, a tall image of 300 x 100": ((2, 3, 7, 1), (300, 100), 1),
        "91 classes": ((3, 2, 10, 91), (400, 546), 2),
    }
    return [Case(label, (*_outputs(*shape, seed), size)) for label, (shape, size, seed) in kinds.items()]


def _best(
    logits: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    layer: int = -1,
    image: int = 0,
    squash: Callable[[Tensor], Tensor] = torch.sigmoid,
    pixels: tuple[int, ...] = (1, 0, 1, 0),
    corners: bool = True,
    one_based: int = 0,
) -> list[Any]:
    """The best detection of an image, with its steps open for the typical mistakes."""
    scores = squash(logits[layer, image])  # (Q, K)
    query, label = divmod(scores.argmax().item(), scores.shape[1])
    cx, cy, w, h = boxes[layer, image, query].tolist()
    box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2] if corners else [cx, cy, w, h]
    scale = [size[axis] for axis in pixels] if pixels else [1, 1, 1, 1]
    return [scores[query, label].item(), label + one_based, torch.tensor(box) * torch.tensor(scale)]


def _solution(logits: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[Any]:
    best = postprocess(logits[-1, :1], boxes[-1, :1], [size], max_detections=1)[0]
    return [best["scores"][0].item(), best["labels"][0].item(), best["boxes"][0]]


BEST_DETECTION = Exercise(
    "00.best_detection",
    "Write best_detection(logits, boxes, size): of the first image, the best pair of query and class in the last "
    "layer, as score, label, and box (x1, y1, x2, y2) in pixels, a tensor of four.",
    _detection_cases,
    _solution,
    (
        Mistake(
            lambda *args: _best(*args, squash=lambda x: x.softmax(-1)),
            "You take a softmax over the classes. Each class has its own sigmoid: a query may be two things, or none.",
        ),
        Mistake(
            lambda *args: _best(*args, squash=lambda x: x),
            "You return the logit. A score is its sigmoid, between 0 and 1.",
        ),
        Mistake(
            lambda *args: _best(*args, layer=0), "You read the first layer. The last one's answer counts: index -1."
        ),
        Mistake(
            lambda *args: _best(*args, corners=False),
            "Your box is centre and size. Corners are centre minus and plus half the size.",
        ),
        Mistake(
            lambda *args: _best(*args, pixels=(0, 1, 0, 1)),
            "You multiply x by the height. size is (h, w), and boxes are (x, y): multiply x by size[1].",
        ),
        Mistake(lambda *args: _best(*args, image=-1), "You read the last image of the batch. The first is index 0."),
        Mistake(lambda *args: _best(*args, pixels=()), "Your box is still in [0, 1]: multiply by the image's pixels."),
        Mistake(
            lambda *args: _best(*args, one_based=1),
            "Your label is one too high: class k is column k of the logits, counted from 0.",
        ),
    ),
    "Nothing else stands behind the heads, no anchors and no non-maximum suppression. The package's postprocess does "
    "this for the best 100 pairs.",
)

EXERCISES = (SHAPES, BEST_DETECTION)
