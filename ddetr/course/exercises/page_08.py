"""Page 08: queries and the decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from . import Case, Exercise, Mistake


def _input_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(8)
    cases = []
    for label, (Q, C, B) in {
        "one image": (6, 4, 1),
        "three images": (5, 8, 3),
        "as many images as queries": (4, 6, 4),
    }.items():
        embedding, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((Q, 2 * C), (2, C), (2,)))
        cases.append(Case(f"{label}: {Q} queries of {C} channels", (embedding, weight, bias, B)))
    return cases


def _decoder_inputs(
    embedding: Tensor,
    weight: Tensor,
    bias: Tensor,
    batch_size: int,
    swapped: bool = False,
    interleaved: bool = False,
    from_content: bool = False,
    squash: bool = True,
    y_first: bool = False,
    queries_first: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, its position and its reference point, with the choices open, for the typical mistakes."""
    query_pos, query = embedding.chunk(2, dim=-1)
    if interleaved:
        query_pos, query = embedding[:, 0::2], embedding[:, 1::2]
    if swapped:
        query, query_pos = query_pos, query
    reference = F.linear(query if from_content else query_pos, weight, bias)
    reference = reference.sigmoid() if squash else reference
    reference = reference.flip(-1) if y_first else reference
    parts = (query, query_pos, reference)
    if queries_first:
        return tuple(part[:, None].expand(-1, batch_size, -1) for part in parts)
    return tuple(part.expand(batch_size, -1, -1) for part in parts)


def _inputs_with(**choices: bool) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    return lambda *args: _decoder_inputs(*args, **choices)


DECODER_INPUTS = Exercise(
    "08.decoder_inputs",
    "Write decoder_inputs(embedding, weight, bias, batch_size): embedding (Q, 2 C), weight (2, C), bias (2,) -> query "
    "(B, Q, C), query_pos (B, Q, C), reference_points (B, Q, 2).",
    _input_cases,
    _decoder_inputs,
    (
        Mistake(
            _inputs_with(swapped=True),
            "Your halves are swapped: the first C channels are the position, the last C the content.",
        ),
        Mistake(
            _inputs_with(from_content=True),
            "Your reference points come from the content. They come from the position, query_pos.",
        ),
        Mistake(
            _inputs_with(squash=False),
            "The sigmoid is missing: reference points lie in [0, 1] of the image.",
        ),
        Mistake(
            _inputs_with(interleaved=True),
            "You take every other channel. A half is a run of neighbours: channels 0 to C - 1 are the position.",
        ),
        Mistake(
            _inputs_with(queries_first=True),
            "Your batch is the second axis. Here it is always the first: (B, Q, C).",
        ),
        Mistake(
            lambda embedding, weight, bias, batch_size: tuple(
                part[0] for part in _decoder_inputs(embedding, weight, bias, 1)
            ),
            "The batch axis is missing: repeat everything for each image, (Q, C) -> (B, Q, C).",
        ),
        Mistake(
            _inputs_with(y_first=True),
            "Your points are (y, x). The first row of the weight gives x.",
        ),
        Mistake(
            lambda *args: (*_decoder_inputs(*args)[1::-1], _decoder_inputs(*args)[2]),
            "All three are right, and in another order: first query, then query_pos, then the reference points.",
        ),
    ),
    "expand copies nothing: all images share one memory. Gradients of the whole batch add up in it, as they should.",
)


def _qkv_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(9)
    cases = []
    for label, (B, Q, C) in {
        "one image": (1, 5, 4),
        "two images": (2, 7, 8),
        "more channels than queries": (3, 2, 6),
    }.items():
        query, query_pos = torch.randn(B, Q, C, generator=generator), torch.randn(B, Q, C, generator=generator)
        weight, bias = torch.randn(3 * C, C, generator=generator), torch.randn(3 * C, generator=generator)
        cases.append(Case(f"{label}: B, Q, C = {B, Q, C}", (query, query_pos, weight, bias)))
    return cases


def _qkv(
    query: Tensor,
    query_pos: Tensor,
    weight: Tensor,
    bias: Tensor,
    pos_in: str = "qk",
    order: tuple[int, int, int] = (0, 1, 2),
    use_bias: bool = True,
    transposed: bool = False,
    interleaved: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, with the choices open, for the typical mistakes."""
    weights, biases = list(weight.chunk(3)), list(bias.chunk(3))
    if interleaved:
        weights, biases = [weight[n::3] for n in range(3)], [bias[n::3] for n in range(3)]
    parts = []
    for name, n in zip("qkv", order, strict=True):
        x = query + query_pos if name in pos_in else query
        parts.append(F.linear(x, weights[n].T if transposed else weights[n], biases[n] if use_bias else None))
    return tuple(parts)


def _qkv_with(**choices: object) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    return lambda *args: _qkv(*args, **choices)


QUERY_KEY_VALUE = Exercise(
    "08.query_key_value",
    "Write query_key_value(query, query_pos, weight, bias): query, query_pos (B, Q, C), weight (3 C, C), bias (3 C,) "
    "as in nn.MultiheadAttention -> q, k, v, (B, Q, C) each.",
    _qkv_cases,
    _qkv,
    (
        Mistake(
            _qkv_with(pos_in="qkv"),
            "Your values hold the position too. Who asks and who is asked show it; what is said is the content alone.",
        ),
        Mistake(
            _qkv_with(pos_in="q"),
            "Your keys have no position: then a query cannot look for those near it. q = k = query + query_pos.",
        ),
        Mistake(
            _qkv_with(pos_in=""),
            "The position is missing: q and k are made from query + query_pos.",
        ),
        Mistake(
            _qkv_with(pos_in="qk", order=(1, 0, 2)),
            "Your q and k are swapped: the first C rows of the weight make q, the next k, the last v.",
        ),
        Mistake(
            _qkv_with(use_bias=False),
            "The bias is forgotten: 3 C numbers, C for each of q, k and v.",
        ),
        Mistake(
            _qkv_with(transposed=True),
            "Your matrices are transposed: a row of the weight makes one output channel, x @ weight.T, as in F.linear.",
        ),
        Mistake(
            _qkv_with(interleaved=True),
            "You take every third row. The three matrices lie one below the other, C rows each.",
        ),
    ),
    "nn.MultiheadAttention stores one matrix and not three so that plain self-attention, where all see the same x, is "
    "one product. Here v sees another x, so it is two.",
)


def _duplicate_cases() -> list[Case]:
    one = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 1, 10, 11], [30, 30, 40, 50]])
    labels = torch.tensor([2, 2, 2, 2])
    nested = [[0.0, 0, 20, 20], [0, 0, 8, 8], [12, 12, 20, 20], [0, 0, 20, 16], [2, 0, 20, 20], [50, 5, 60, 9]]
    nested.append(nested[-1])
    chain = torch.tensor([[0.0, 0, 10, 4], [3, 0, 13, 4], [6, 0, 16, 4], [9, 0, 19, 4], [100, 0, 104, 10]])
    return [
        Case("three boxes on one object, one elsewhere", (one, labels)),
        Case("two classes, small boxes in a large one", (torch.tensor(nested), torch.tensor([1, 1, 1, 0, 1, 3, 3]))),
        Case("a row of boxes, each on the next", (chain, torch.tensor([0, 0, 0, 0, 0]))),
    ]


def _overlaps(boxes: Tensor, labels: Tensor, same_class: bool = True, share: bool = False) -> Tensor:
    """(n, n) bool: which boxes lie on which. `share`: of the smaller one's area, where IoU is asked."""
    iou = box_iou(boxes, boxes)
    if share:
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        total = area[:, None] + area[None]
        inter = iou * total / (1 + iou)
        iou = inter / torch.minimum(area[:, None], area[None])
    on = iou >= 0.5
    return on & (labels[:, None] == labels[None]) if same_class else on


def _count_duplicates(boxes: Tensor, labels: Tensor, **choices: bool) -> int:
    return int(_overlaps(boxes, labels, **choices).tril(-1).any(1).sum())


COUNT_DUPLICATES = Exercise(
    "08.count_duplicates",
    "Write count_duplicates(boxes, labels): boxes (n, 4) as (x1, y1, x2, y2), labels (n,), best first -> how many have "
    "an IoU of at least 0.5 with a better one of their class.",
    _duplicate_cases,
    _count_duplicates,
    (
        Mistake(
            lambda boxes, labels: int(_overlaps(boxes, labels).any(1).sum()),
            "Every box overlaps itself with IoU 1, so you count all of them. Compare each with the ones before it.",
        ),
        Mistake(
            lambda boxes, labels: int(_overlaps(boxes, labels).tril(-1).sum()),
            "You count pairs. A detection that repeats two others is one duplicate.",
        ),
        Mistake(
            lambda boxes, labels: int(_overlaps(boxes, labels).fill_diagonal_(False).any(1).sum()),
            "You count the best one of each object too. Only those with a better one before them are duplicates.",
        ),
        Mistake(
            lambda boxes, labels: _count_duplicates(boxes, labels, same_class=False),
            "You compare boxes of different classes: a person on a horse is no duplicate.",
        ),
        Mistake(
            lambda boxes, labels: _count_duplicates(boxes, labels, share=True),
            "You divide by the smaller area: then a small box inside a large one counts. IoU divides by the union.",
        ),
    ),
    "This is what non-maximum suppression would remove. Deformable DETR has none: its queries are trained to agree on "
    "who speaks.",
)

EXERCISES = (DECODER_INPUTS, QUERY_KEY_VALUE, COUNT_DUPLICATES)
