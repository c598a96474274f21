"""Page 10: matching and losses."""

from __future__ import annotations

from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...losses import cxcywh_to_xyxy, generalized_iou, sigmoid_focal_loss
from . import Case, Exercise, Mistake

Pairs = list[tuple[int, int]]


def _giou_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(3)

    def boxes(count: int) -> Tensor:
        start = torch.rand(count, 2, generator=generator) * 6
        return torch.cat([start, start + torch.rand(count, 2, generator=generator) * 5 + 0.5], -1)

    square = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    point = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    return [
        Case("two boxes that overlap", (square, torch.tensor([[1.0, 0.0, 3.0, 1.0]]))),
        Case("apart in x and in y", (square, torch.tensor([[5.0, 6.0, 7.0, 7.0]]))),
        Case("one box inside the other", (square, torch.tensor([[0.5, 0.5, 1.0, 1.5]]))),
        Case("three boxes against five", (boxes(3), boxes(5))),
        Case("four boxes against two", (boxes(4), boxes(2))),
        Case("a box without area, and itself", (point, torch.cat([square, point]))),
    ]


def _giou(
    a: Tensor,
    b: Tensor,
    clamp: bool = True,
    minus_inter: bool = True,
    penalty: float = 1.0,
    over: str = "hull",
    floor: float = 1e-9,
) -> Tensor:
    """GIoU of all pairs with its choices open, for the typical mistakes."""
    a, b = a[:, None], b[None]

    def area(low: Tensor, high: Tensor) -> Tensor:
        size = high - low
        return (size.clamp(min=0) if clamp else size).prod(-1)

    inter = area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    union = area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - (inter if minus_inter else 0)
    hull = area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    below = hull if over == "hull" else union
    return inter / union.clamp(min=floor) - penalty * (hull - union) / below.clamp(min=floor)


GENERALIZED_IOU = Exercise(
    "10.generalized_iou",
    "Write generalized_iou(a, b): a (N, 4), b (M, 4) corners (x1, y1, x2, y2) -> (N, M): the IoU of each pair, minus "
    "the part of the smallest box around both that neither fills. 0 / 0 counts as 0.",
    _giou_cases,
    lambda a, b: generalized_iou(a[:, None], b[None]),
    (
        Mistake(
            lambda a, b: _giou(a, b, penalty=0.0),
            "That is the IoU. It is 0 for all boxes apart, however far: subtract (hull - union) / hull.",
        ),
        Mistake(
            lambda a, b: _giou(a, b, clamp=False),
            "Not clamped: for boxes apart in x and in y, two negative sides multiply to a positive overlap. "
            "clamp(min=0).",
        ),
        Mistake(
            lambda a, b: _giou(a, b, minus_inter=False),
            "Your union counts the overlap twice: area(a) + area(b) - overlap.",
        ),
        Mistake(
            lambda a, b: _giou(a, b, penalty=-1.0),
            "The empty part of the hull is a penalty: subtract it.",
        ),
        Mistake(
            lambda a, b: _giou(a, b, over="union"),
            "Divide the empty part by the hull, not by the union: GIoU must stay above -1.",
        ),
        Mistake(
            lambda a, b: _giou(a, b, floor=0.0),
            "Right, but for 0 / 0: a box without area against itself gives NaN, and one NaN spoils the whole loss.",
        ),
        Mistake(
            lambda a, b: _giou(cxcywh_to_xyxy(a), cxcywh_to_xyxy(b)),
            "You read the boxes as (cx, cy, w, h). Here they are corners.",
        ),
        Mistake(
            lambda a, b: _giou(b, a),
            "Transposed: rows are a, columns b.",
        ),
    ),
    "GIoU runs from -1 (far apart) to 1 (the same box). Between 0 and -1 it still says in which direction to move, "
    "where the gradient of the IoU is zero.",
)


def _cost_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(5)

    def random(queries: int, objects: int) -> tuple[Tensor]:
        return (torch.rand(queries, objects, generator=generator) * 8 - 4,)

    # Greedy takes 1 and then pays 7; 3 + 2 is cheaper.
    return [
        Case("the page's, 3 x 2", (torch.tensor([[1.0, 2.0], [3.0, 9.0], [8.0, 7.0]]),)),
        Case("3 x 2, one query is the best for both", (torch.tensor([[0.0, 0.5], [4.0, 4.0], [5.0, 0.9]]),)),
        Case("5 queries, 3 objects, costs below zero too", random(5, 3)),
        Case("6 queries, 4 objects", random(6, 4)),
        Case("an image without objects, 3 x 0", (torch.zeros(3, 0),)),
        Case("2 queries, 3 objects", (torch.tensor([[1.0, 0.0, 5.0], [2.0, 2.5, 9.0]]),)),
    ]


def _best_pairs(cost: Tensor, sign: int = 1) -> Pairs:
    """All assignments tried; a list of (query, object), by query."""
    Q, N = cost.shape
    if N > Q:
        return sorted((q, t) for t, q in _best_pairs(cost.T, sign))
    chosen = min(permutations(range(Q), N), key=lambda rows: sign * sum(cost[q, t].item() for t, q in enumerate(rows)))
    return sorted((q, t) for t, q in enumerate(chosen))


def _greedy(cost: Tensor) -> Pairs:
    left, pairs = cost.clone(), []
    for _ in range(min(cost.shape)):
        q, t = divmod(int(left.argmin()), cost.shape[1])
        pairs.append((q, t))
        left[q], left[:, t] = float("inf"), float("inf")
    return sorted(pairs)


def _best_of_each_object(cost: Tensor) -> Pairs:
    return sorted((int(cost[:, t].argmin()), t) for t in range(cost.shape[1]))


def _best_of_each_query(cost: Tensor) -> Pairs:
    return [(q, int(row.argmin())) for q, row in enumerate(cost) if len(row)]


def _in_order_of_objects(cost: Tensor) -> Pairs:
    taken, pairs = set(), []
    for t in range(cost.shape[1]):
        free = [q for q in cost[:, t].argsort().tolist() if q not in taken]
        if free:
            taken.add(free[0])
            pairs.append((free[0], t))
    return sorted(pairs)


MATCH = Exercise(
    "10.match",
    "Write match(cost): cost (Q, N), a row for each query, a column for each object -> a list of pairs (query, "
    "object), sorted by query: min(Q, N) pairs, none used twice, the lowest sum of costs. Q and N are small: try "
    "them all.",
    _cost_cases,
    _best_pairs,
    (
        Mistake(
            _best_of_each_object,
            "Each object takes its best query, and two may take the same one. A query can answer for one object only.",
        ),
        Mistake(
            _best_of_each_query,
            "Each query takes an object, so that several predict the same one. One to one: the other queries get none.",
        ),
        Mistake(
            _greedy,
            "Greedy: you take the cheapest pair first and pay for it later. The sum of all pairs has to be lowest.",
        ),
        Mistake(
            _in_order_of_objects,
            "You serve the objects in their order, and the first takes what another needs more. The order must not "
            "matter.",
        ),
        Mistake(
            lambda cost: _best_pairs(cost, sign=-1),
            "You look for the highest sum. A cost is what it costs: the lowest wins.",
        ),
        Mistake(
            lambda cost: [(t, q) for q, t in _best_pairs(cost)],
            "Your pairs are (object, query). The query comes first.",
        ),
        Mistake(
            lambda cost: sorted(_best_pairs(cost), key=lambda pair: pair[1]),
            "The right pairs, sorted by object. Sort them by query, as scipy and the package do.",
        ),
    ),
    "300 queries and 7 objects have more than 10**17 assignments. linear_sum_assignment finds the best in a few steps.",
    lambda answer, cost: _as_pairs(answer(cost)),
)


def _as_pairs(value: object) -> object:
    """Pairs of any kind of sequence as tuples, and what is no sequence of pairs as it is."""
    try:
        return [(int(q), int(t)) for q, t in value]
    except (TypeError, ValueError):
        return value


def _focal_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(7)

    def random(*shape: int) -> tuple[Tensor, Tensor]:
        onehot = (torch.rand(shape, generator=generator) < 0.3).float()
        return 2 * torch.randn(shape, generator=generator), onehot

    return [
        Case("two logits of 0, one class wanted", (torch.zeros(2), torch.tensor([1.0, 0.0]))),
        Case("one image, 3 queries, 4 classes", random(1, 3, 4)),
        Case("two images, 5 queries, 2 classes", random(2, 5, 2)),
        Case("very sure, rightly and wrongly", (torch.tensor([120.0, 120.0, -120.0]), torch.tensor([1.0, 0.0, 1.0]))),
    ]


def _focal(
    logits: Tensor,
    onehot: Tensor,
    alpha: float = 0.25,
    gamma: float = 2.0,
    confident: bool = False,
    softmax: bool = False,
) -> Tensor:
    """The focal loss with its choices open, for the typical mistakes."""
    p = logits.softmax(-1) if softmax else logits.sigmoid()
    right = p * onehot + (1 - p) * (1 - onehot)
    weight = alpha * onehot + (1 - alpha) * (1 - onehot)
    entropy = F.binary_cross_entropy_with_logits(logits, onehot, reduction="none")
    return weight * (right if confident else 1 - right) ** gamma * entropy


def _naive_focal(logits: Tensor, onehot: Tensor) -> Tensor:
    p = logits.sigmoid()
    right = torch.where(onehot > 0, p, 1 - p)
    weight = torch.where(onehot > 0, 0.25, 0.75)
    return -weight * (1 - right) ** 2 * right.log()


FOCAL_LOSS = Exercise(
    "10.focal_loss",
    "Write focal_loss(logits, onehot): both (..., K), onehot 1 where the class is wanted and 0 elsewhere -> the focal "
    "loss of each logit, same shape: alpha 0.25 for wanted classes and 0.75 for others, gamma 2.",
    _focal_cases,
    sigmoid_focal_loss,
    (
        Mistake(
            lambda logits, onehot: _focal(logits, onehot, alpha=0.75),
            "Your alphas are swapped: 0.25 for the wanted class, 0.75 for the others.",
        ),
        Mistake(
            lambda logits, onehot: _focal(logits, onehot, gamma=0.0),
            "The focus is missing: multiply by (1 - p of the right answer) ** 2, so that easy cases hardly count.",
        ),
        Mistake(
            lambda logits, onehot: _focal(logits, onehot, confident=True),
            "Your factor is p ** 2 where it should be (1 - p) ** 2: you look hardest at what is already right.",
        ),
        Mistake(
            lambda logits, onehot: _focal(logits, onehot, gamma=1.0),
            "Your gamma is 1. It is 2: the factor is squared.",
        ),
        Mistake(
            lambda logits, onehot: 2 * _focal(logits, onehot, alpha=0.5),
            "alpha is missing: 0.25 for the wanted class, 0.75 for the others.",
        ),
        Mistake(
            _naive_focal,
            "Right until a logit is large: then 1 - p is exactly 0 and its log is infinite. "
            "F.binary_cross_entropy_with_logits works from the logit.",
        ),
        Mistake(
            lambda logits, onehot: _focal(logits, onehot, softmax=True),
            "You take a softmax. Each class answers by itself: sigmoid.",
        ),
        Mistake(
            lambda logits, onehot: _focal(logits, onehot).mean(),
            "You take the mean. Return the loss of each logit: what to divide by is decided later.",
        ),
        Mistake(
            lambda logits, onehot: _focal(logits, onehot) * onehot,
            "Only the wanted classes count in yours. The others must learn to say no.",
        ),
    ),
    "alpha 0.25 looks the wrong way round, for wanted classes are rare. But gamma has already made the many easy "
    "negatives so light that the two work best together like this.",
)


def _box_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(8)

    def case(label: str, queries: int, counts: tuple[int, ...]) -> Case:
        boxes = torch.rand(len(counts), queries, 4, generator=generator)
        targets = [torch.rand(n, 4, generator=generator) for n in counts]
        pairs = [
            (torch.randperm(queries, generator=generator)[:n].sort().values, torch.randperm(n, generator=generator))
            for n in counts
        ]
        return Case(label, (boxes, targets, pairs))

    return [
        case("one image, 2 objects", 4, (2,)),
        case("two images, 1 and 3 objects", 5, (1, 3)),
        case("two images, one of them empty", 4, (0, 2)),
        case("nothing in the whole batch", 3, (0, 0)),
        case("three images", 6, (4, 1, 2)),
    ]


def _apart(boxes: Tensor, targets: list[Tensor], pairs: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """|difference| of each image's pairs, (n, 4)."""
    return [
        (own[query] - wanted[index]).abs() for own, wanted, (query, index) in zip(boxes, targets, pairs, strict=True)
    ]


def _l1(boxes: Tensor, targets: list[Tensor], pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.cat(_apart(boxes, targets, pairs)).sum()


def _count(targets: list[Tensor]) -> int:
    return sum(len(target) for target in targets)


def _mean_of_images(boxes: Tensor, targets: list[Tensor], pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([d.sum() / max(len(d), 1) for d in _apart(boxes, targets, pairs)]).mean()


def _unordered(boxes: Tensor, targets: list[Tensor], pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    in_order = [(query, torch.arange(len(index))) for query, index in pairs]
    return _l1(boxes, targets, in_order) / max(_count(targets), 1)


BOX_LOSS = Exercise(
    "10.box_loss",
    "Write box_loss(boxes, targets, pairs): boxes (B, Q, 4), targets B of (N, 4), pairs B of (query, object) index "
    "tensors -> the sum of |difference| over all pairs and coordinates, divided by the number of objects in the batch, "
    "at least 1.",
    _box_cases,
    lambda boxes, targets, pairs: _l1(boxes, targets, pairs) / max(_count(targets), 1),
    (
        Mistake(
            lambda boxes, targets, pairs: (
                _l1(boxes, targets, pairs) / _count(targets) if _count(targets) else torch.tensor(float("nan"))
            ),
            "A batch without objects divides by zero. Divide by at least 1.",
        ),
        Mistake(
            _mean_of_images,
            "You average each image, then the images: one object alone counts as much as three together. Divide the "
            "batch's sum by the batch's objects.",
        ),
        Mistake(
            lambda boxes, targets, pairs: _l1(boxes, targets, pairs) / max(_count(targets), 1) / 4,
            "You take the mean over the four coordinates. They are summed: only the number of objects divides.",
        ),
        Mistake(
            lambda boxes, targets, pairs: _l1(boxes, targets, pairs) / boxes.shape[:2].numel(),
            "You divide by the number of queries. Most of them have no object and no box to learn.",
        ),
        Mistake(
            lambda boxes, targets, pairs: _l1(boxes, targets, pairs) / len(targets),
            "You divide by the number of images. A crowded image would train as hard as ten others.",
        ),
        Mistake(
            lambda boxes, targets, pairs: _l1(boxes, targets, pairs),
            "You only sum: the loss grows with the batch. Divide by the number of objects.",
        ),
        Mistake(
            _unordered,
            "You take the objects in their order. Pair n is query[n] with object[n]: index the targets too.",
        ),
    ),
    "In a distributed run the number is averaged over the processes, so that all divide by the same. Dividing by one's "
    "own count would weigh the objects of a sparse process more.",
)

EXERCISES = (GENERALIZED_IOU, MATCH, FOCAL_LOSS, BOX_LOSS)
