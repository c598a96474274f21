"""Page 01: what the backbone hands over."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from ...config import PRESETS
from ...models.backbone import Backbone
from . import Case, Exercise, Mistake

Size = tuple[int, int]
Layers = Sequence[tuple[int, int]]


def _size_cases() -> list[Case]:
    sizes = {
        "a size that 32 divides": (480, 640), "the portrait": (480, 546), "one column more than a multiple": (96, 97),
        "a tall image": (801, 333), "a tiny one": (33, 65),
    }  # fmt: skip
    return [Case(f"{label}, {h} x {w}", (h, w)) for label, (h, w) in sizes.items()]


def _map_sizes(height: int, width: int) -> list[Size]:
    return [(-(-height // stride), -(-width // stride)) for stride in (8, 16, 32)]


def _rounded(height: int, width: int) -> list[Size]:
    return [(round(height / stride), round(width / stride)) for stride in (8, 16, 32)]


MAP_SIZES = Exercise(
    "01.map_sizes",
    "Write map_sizes(height, width): the (h, w) of C3, C4 and C5 as a list of three pairs of whole numbers.",
    _size_cases,
    _map_sizes,
    (
        Mistake(
            lambda h, w: [(h // s, w // s) for s in (8, 16, 32)],
            "You round down. A stride-2 convolution with padding keeps the odd last column: round up.",
        ),
        Mistake(_rounded, "You round to the nearest. One pixel beyond a multiple of the stride makes one cell more."),
        Mistake(
            lambda h, w: [size[::-1] for size in _map_sizes(h, w)],
            "Right on square images only: tensors are (height, width), you return (width, height).",
        ),
        Mistake(
            lambda h, w: [(-(-h // s), -(-w // s)) for s in (4, 8, 16)],
            "Your strides are those of C2, C3 and C4. The detector starts at C3: strides 8, 16 and 32.",
        ),
        Mistake(
            lambda h, w: [(h / s, w / s) for s in (8, 16, 32)],
            "Your sizes are fractions. There is no quarter of a column: round, and decide which way.",
        ),
    ),
    "Halving and rounding up three times is dividing by 8 and rounding up once, so you need not walk through the "
    "layers. The neck's fourth map follows the same rule with stride 64.",
)


def _freeze_cases() -> list[Case]:
    # GroupNorm, unlike frozen batch norm, has parameters that can be forgotten.
    body = Backbone(PRESETS["tiny"].replace(backbone_width=32)).body
    return [Case(f"frozen_stages={stages}", (body, stages)) for stages in (1, 0, 2, 4)]


def _run_freeze(answer: Callable[..., nn.Module], body: nn.Module, stages: int) -> list[str] | None:
    """The parts that are frozen after `answer`, by name."""
    result = answer(body, stages)
    if not isinstance(result, nn.Module):
        return result
    frozen = []
    for name, part in result.named_children():
        flags = [not parameter.requires_grad for parameter in part.parameters()]
        if any(flags):
            frozen.append(name if all(flags) else f"{name} in part")
    return frozen


def _parts(body: nn.Module) -> list[nn.Module]:
    return [body.conv1, body.bn1, body.layer1, body.layer2, body.layer3, body.layer4]


def _freezing(choose: Callable[[list[nn.Module], int], list[nn.Module]]) -> Callable[[nn.Module, int], nn.Module]:
    def answer(body: nn.Module, stages: int) -> nn.Module:
        for part in choose(_parts(body), stages):
            part.requires_grad_(False)
        return body

    return answer


FREEZE = Exercise(
    "01.freeze",
    "Write freeze(body, stages): switch off requires_grad for the stem (conv1, bn1) and the first `stages` of layer1 "
    "to layer4; 0 freezes nothing. Return the body.",
    _freeze_cases,
    _freezing(lambda parts, stages: parts[: stages + 2 if stages else 0]),
    (
        Mistake(
            _freezing(lambda parts, stages: parts[: stages + 1] if stages else []),
            "One stage short: frozen_stages=1 freezes the stem and layer1, the stem alone is no stage.",
        ),
        Mistake(
            _freezing(lambda parts, stages: parts[: stages + 2]),
            "You freeze the stem even at 0, where everything should learn: a network from scratch needs its stem.",
        ),
        Mistake(
            _freezing(lambda parts, stages: [*parts[:1], *parts[2 : stages + 2]] if stages else []),
            "You forgot bn1: with a norm that learns, its scale and shift would go on moving under frozen filters.",
        ),
        Mistake(
            _freezing(lambda parts, stages: parts[len(parts) - stages :]),
            "You freeze from the wrong end. Edges and colours are the same for every task: the early stages stay.",
        ),
        Mistake(
            _freezing(lambda parts, stages: parts[2 : stages + 2]),
            "You forgot the stem: conv1 and bn1 come before layer1, and freeze with it.",
        ),
    ),
    "requires_grad=False also saves time: nothing below the first trainable stage is ever differentiated, and its "
    "activations need not be kept.",
    _run_freeze,
)


STEM_AND_LAYER1 = ((7, 2), (3, 2), *3 * ((1, 1), (3, 1), (1, 1)))


def _layer_cases() -> list[Case]:
    return [
        Case("one 3 x 3 convolution", (((3, 1),),)),
        Case("two 3 x 3 convolutions", (((3, 1), (3, 1)),)),
        Case("a stride, then a 3 x 3", (((3, 2), (3, 1)),)),
        Case("ResNet-50's stem and layer1", (STEM_AND_LAYER1,)),
        Case("strides in the middle", (((7, 2), (3, 2), (3, 1), (3, 2), (5, 1)),)),
    ]


def _receptive_field(layers: Layers) -> int:
    field, step = 1, 1
    for kernel, stride in layers:
        field += (kernel - 1) * step
        step *= stride
    return field


def _stride_first(layers: Layers) -> int:
    field, step = 1, 1
    for kernel, stride in layers:
        step *= stride
        field += (kernel - 1) * step
    return field


def _whole_kernels(layers: Layers) -> int:
    field, step = 0, 1
    for kernel, stride in layers:
        field += kernel * step
        step *= stride
    return field


def _last_stride_only(layers: Layers) -> int:
    field, step = 1, 1
    for kernel, stride in layers:
        field += (kernel - 1) * step
        step = stride
    return field


RECEPTIVE_FIELD = Exercise(
    "01.receptive_field",
    "Write receptive_field(layers): how many pixels wide the square is that one cell sees, after layers given as a "
    "list of (kernel, stride).",
    _layer_cases,
    _receptive_field,
    (
        Mistake(
            _stride_first,
            "A layer's own stride counts from the next layer on: widen the field first, then multiply the step.",
        ),
        Mistake(
            lambda layers: 1 + sum(kernel - 1 for kernel, _ in layers),
            "You forgot the strides: after a stride of 2, neighbours lie two pixels apart, and a kernel reaches twice "
            "as far.",
        ),
        Mistake(
            _whole_kernels,
            "You add whole kernels. One of a kernel's cells is where you are already: it adds kernel - 1.",
        ),
        Mistake(_last_stride_only, "Strides multiply: after two of 2 the step is 4 pixels, not 2."),
    ),
    "Kernels of 1 never widen the field: a bottleneck block sees no further than its one 3 x 3.",
)

EXERCISES = (MAP_SIZES, FREEZE, RECEPTIVE_FIELD)
