"""Page 02: the neck."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...config import DeformableDETRConfig
from ...models.backbone import BackboneFeatures
from ...models.neck import Neck
from . import Case, Exercise, Mistake

Channels = tuple[int, int, int]


def _neck_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(2)

    def features(batch: int, channels: Channels, *sizes: tuple[int, int]) -> BackboneFeatures:
        maps = [torch.randn(batch, c, *size, generator=generator) for c, size in zip(channels, sizes, strict=True)]
        return BackboneFeatures(*maps)

    # Equal widths come first: there a projection of the wrong map does not fail, it only differs.
    return [
        Case("64 channels each, a wide image", ((64, 64, 64), features(1, (64, 64, 64), (8, 12), (4, 6), (2, 3)))),
        Case("two images, odd sizes", ((32, 64, 96), features(2, (32, 64, 96), (9, 7), (5, 4), (3, 2)))),
        Case("a tall image", ((32, 64, 128), features(1, (32, 64, 128), (20, 5), (10, 3), (5, 2)))),
    ]


def _run_neck(answer: Callable[..., nn.Module], channels: Channels, features: BackboneFeatures) -> object:
    """The maps of the neck that `answer` builds, its parameters filled in from their shapes alone."""
    neck = answer(channels, 64)
    if not isinstance(neck, nn.Module):
        return neck
    with torch.no_grad():
        for parameter in neck.parameters():
            generator = torch.Generator().manual_seed(sum(parameter.shape))
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 8)
        maps = neck(features)
    return list(maps) if isinstance(maps, list | tuple) else maps


class _AnyNeck(nn.Module):
    """The neck with its choices open, for the typical mistakes."""

    def __init__(
        self,
        channels: Channels,
        width: int,
        fourth: str = "c5",
        groups: int = 32,
        kernel: tuple[int, int, int] = (3, 2, 1),
        fuse: bool = False,
        relu: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        size, stride, padding = kernel
        source = channels[-1] if fourth == "c5" else width
        convs = [nn.Conv2d(c, width, 1, bias=bias) for c in channels]
        convs.append(nn.Conv2d(source, width, size, stride, padding, bias=bias))
        self.levels = nn.ModuleList(
            nn.Sequential(conv, nn.GroupNorm(groups, width) if groups else nn.Identity()) for conv in convs
        )
        self.fourth, self.fuse, self.relu = fourth, fuse, relu

    def forward(self, features: BackboneFeatures) -> list[Tensor]:
        maps = [level(feature) for level, feature in zip(self.levels, features, strict=False)]
        if self.fuse:
            for fine in (1, 0):
                maps[fine] = maps[fine] + F.interpolate(maps[fine + 1], size=maps[fine].shape[2:])
        if self.fourth == "pool":
            maps.append(F.max_pool2d(maps[-1], 1, 2))
        else:
            maps.append(self.levels[3](features[-1] if self.fourth == "c5" else maps[-1]))
        return [level.relu() for level in maps] if self.relu else maps


def _neck_with(**choices: object) -> Callable[[Channels, int], nn.Module]:
    return lambda channels, width: _AnyNeck(channels, width, **choices)


def _package_neck(channels: Channels, width: int) -> nn.Module:
    return Neck(DeformableDETRConfig(embed_dim=width), channels)


NECK = Exercise(
    "02.neck",
    "Write neck_of(in_channels, width): a module that takes the list C3, C4, C5 and returns four maps of `width` "
    "channels, from convolutions with bias and a GroupNorm of 32 groups behind each.",
    _neck_cases,
    _package_neck,
    (
        Mistake(
            _neck_with(fourth="projected"),
            "Your fourth map is made from the projection of C5. It is made from C5 itself, with all its channels.",
        ),
        Mistake(
            _neck_with(groups=0),
            "The norm is missing: each convolution is followed by a GroupNorm of 32 groups.",
        ),
        Mistake(
            _neck_with(kernel=(3, 2, 0)),
            "Your fourth convolution has no padding: its map comes out too small. Sizes round up with padding 1.",
        ),
        Mistake(
            _neck_with(kernel=(3, 1, 1)),
            "Your fourth map is as large as C5. It has stride 64: the 3 x 3 convolution takes a stride of 2.",
        ),
        Mistake(
            _neck_with(fourth="pool"),
            "Your fourth map is a pooled one, as in an FPN. Here it is a convolution of C5 that learns.",
        ),
        Mistake(
            _neck_with(fuse=True),
            "Your levels are added to each other, as in an FPN. In this neck no level hears of another.",
        ),
        Mistake(
            _neck_with(relu=True),
            "There is no ReLU in the neck: it would throw away half of what the encoder is given.",
        ),
        Mistake(
            _neck_with(groups=64),
            "Your GroupNorm has another number of groups. It is 32, whatever the width.",
        ),
        Mistake(
            _neck_with(bias=False),
            "Your convolutions have no bias. A GroupNorm does not take it away, so here each of them has one.",
        ),
    ),
    "The three projections together have fewer parameters than the fourth convolution alone: 3 x 3 x 2048 x 256.",
    _run_neck,
)


def _norm_cases() -> list[Case]:
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "one map, two groups": (1, 4, 3, 5, 2),
        "two images, one group": (2, 6, 4, 2, 1),
        "a group of each": (2, 3, 5, 4, 3),
    }
    cases = []
    for label, (b, c, h, w, groups) in shapes.items():
        # Channels and images of different spread, so that it matters what is taken together.
        spread = torch.arange(1.0, c + 1).view(1, c, 1, 1) * torch.arange(1.0, b + 1).view(b, 1, 1, 1)
        cases.append(Case(label, (spread * torch.randn(b, c, h, w, generator=generator) + spread, groups)))
    quiet = 1e-3 * torch.randn(1, 4, 3, 3, generator=generator)
    return [*cases, Case("a map of nearly equal values", (quiet, 2))]


def _group_norm(
    x: Tensor, groups: int, dims: tuple[int, ...] = (2, 3, 4), eps: float = 1e-5, unbiased: bool = False
) -> Tensor:
    """The norm with its choices open, for the typical mistakes."""
    B, C, h, w = x.shape
    grouped = x.reshape(B, groups, C // groups, h, w)
    mean = grouped.mean(dims, keepdim=True)
    variance = grouped.var(dims, keepdim=True, unbiased=unbiased)
    return ((grouped - mean) / (variance + eps).sqrt()).reshape(B, C, h, w)


def _only_centred(x: Tensor, groups: int) -> Tensor:
    grouped = x.reshape(x.shape[0], groups, -1)
    return (grouped - grouped.mean(-1, keepdim=True)).reshape(x.shape)


def _interleaved(x: Tensor, groups: int) -> Tensor:
    B, C, h, w = x.shape
    order = torch.arange(C).view(C // groups, groups).T.flatten()
    return _group_norm(x[:, order], groups)[:, order.argsort()]


GROUP_NORM = Exercise(
    "02.group_norm",
    "Write group_norm(x, groups): x (B, C, h, w) with mean 0 and variance 1 in each group of channels, eps 1e-5 added "
    "to the variance, no scale or shift.",
    _norm_cases,
    lambda x, groups: F.group_norm(x, groups),
    (
        Mistake(
            lambda x, groups: _group_norm(x, x.shape[1]),
            "You normalise each channel by itself. The mean runs over all channels of a group as well.",
        ),
        Mistake(
            lambda x, groups: _group_norm(x, 1),
            "You normalise all channels together. Split them first: (B, C, h, w) -> (B, groups, C / groups, h, w).",
        ),
        Mistake(
            lambda x, groups: _group_norm(x, groups, (0, 2, 3, 4)),
            "Your mean runs over the batch. GroupNorm treats each image by itself; that is the point of it.",
        ),
        Mistake(
            lambda x, groups: _group_norm(x, groups, unbiased=True),
            "Your variance divides by n - 1, torch's default for var. Norms divide by n: unbiased=False.",
        ),
        Mistake(
            lambda x, groups: _group_norm(x, groups, eps=0),
            "Right but for eps: 1e-5 is added to the variance, which shows where a map is nearly constant.",
        ),
        Mistake(
            _only_centred,
            "You subtract the mean and stop. Divide by the square root of the variance.",
        ),
        Mistake(
            _interleaved,
            "Your groups take every n-th channel. A group is a run of neighbours: channels 0 to C / groups - 1 first.",
        ),
    ),
    "Groups are neighbours only by convention: the convolution before is free to put any feature into any channel.",
)

EXERCISES = (NECK, GROUP_NORM)
