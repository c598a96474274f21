"""Page 07: the encoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..cost import deformable_attention_cost, dense_attention_cost
from . import Case, Exercise, Mistake

Attention = Callable[[Tensor, Tensor], Tensor]


class _AttentionOfQueries(nn.Module):
    """Weights read from the query alone, as in deformable attention, over all tokens."""

    def __init__(self, embed_dim: int, num_tokens: int) -> None:
        super().__init__()
        self.weights = nn.Linear(embed_dim, num_tokens)
        self.value_proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, query: Tensor, value: Tensor) -> Tensor:
        """(B, S, C) twice -> (B, S, C)."""
        return self.weights(query).softmax(-1) @ self.value_proj(value)


def _layer_cases() -> list[Case]:
    cases = []
    for label, (B, S, C) in {
        "one image, 6 tokens": (1, 6, 8),
        "two images": (2, 5, 12),
        "three images, many tokens": (3, 20, 4),
    }.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(S)
            x, pos = torch.randn(B, S, C), torch.randn(1, S, C).expand(B, -1, -1)
            attention = _AttentionOfQueries(C, S)
            ffn = nn.Sequential(nn.Linear(C, 2 * C), nn.ReLU(), nn.Linear(2 * C, C))
            norms = [nn.LayerNorm(C), nn.LayerNorm(C)]
            for norm in norms:  # two that cannot be taken for each other
                nn.init.normal_(norm.weight, 1.0, 0.5)
                nn.init.normal_(norm.bias)
        cases.append(Case(label, (x, pos, attention, norms[0], ffn, norms[1])))
    return cases


def _layer(
    x: Tensor,
    pos: Tensor,
    attention: Attention,
    norm1: nn.Module,
    ffn: nn.Module,
    norm2: nn.Module,
    pos_in_query: bool = True,
    pos_in_value: bool = False,
    pos_stays: bool = False,
    residuals: tuple[bool, bool] = (True, True),
    last_norm: bool = True,
) -> Tensor:
    """The layer with its choices open, for the typical mistakes."""
    if pos_stays:
        x = x + pos
    query = x + pos if pos_in_query and not pos_stays else x
    attended = attention(query, x + pos if pos_in_value else x)
    x = norm1(x + attended if residuals[0] else attended)
    x = x + ffn(x) if residuals[1] else ffn(x)
    return norm2(x) if last_norm else x


def _norm_first(
    x: Tensor, pos: Tensor, attention: Attention, norm1: nn.Module, ffn: nn.Module, norm2: nn.Module
) -> Tensor:
    normal = norm1(x)
    x = x + attention(normal + pos, normal)
    return x + ffn(norm2(x))


def _layer_with(**choices: object) -> Callable[..., Tensor]:
    return lambda *args: _layer(*args, **choices)


ENCODER_LAYER = Exercise(
    "07.encoder_layer",
    "Write encoder_layer(x, pos, attention, norm1, ffn, norm2): x, pos (B, S, C) and four modules, the first called as "
    "attention(query, value) -> (B, S, C), one encoder layer.",
    _layer_cases,
    _layer,
    (
        Mistake(
            _norm_first,
            "You normalise first, as newer transformers do. Here the norm comes after the sum: x = norm(x + ...).",
        ),
        Mistake(
            _layer_with(pos_in_value=True),
            "Your value holds the position as well. A token asks with it, and never says it: the value is x alone.",
        ),
        Mistake(
            _layer_with(pos_in_query=False),
            "The position is missing: a token asks with x + pos.",
        ),
        Mistake(
            _layer_with(pos_stays=True),
            "You add the position to x and keep it: then it travels on in every layer's output. Add it where the token "
            "asks, nowhere else.",
        ),
        Mistake(
            _layer_with(residuals=(False, True)),
            "The first sum is missing: what a token hears is added to what it is.",
        ),
        Mistake(
            _layer_with(residuals=(True, False)),
            "The second sum is missing: x + ffn(x), then the norm.",
        ),
        Mistake(
            _layer_with(last_norm=False),
            "The last norm is missing: the feed-forward network's sum is normalised too.",
        ),
        Mistake(
            lambda x, pos, attention, norm1, ffn, norm2: _layer(x, pos, attention, norm2, ffn, norm1),
            "Your norms are swapped: each has learnt a scale and a shift of its own.",
        ),
    ),
    "Six such layers are the encoder. The position is added afresh in each: norms and sums would wash it out.",
)


def _deformable_total(S: int, C: int, M: int, L: int, P: int) -> int:
    return sum(deformable_attention_cost(S, C, M, L, P).values())


def _dense_total(S: int, C: int) -> int:
    return sum(dense_attention_cost(S, C).values())


def _deformable_cases() -> list[Case]:
    sizes = {
        "the tiny model": (727, 128, 8, 4, 4),
        "the paper's, at 480 x 546": (5532, 256, 8, 4, 4),
        "one head, one level, one point": (100, 32, 1, 1, 1),
        "four heads, one level, two points": (1000, 64, 4, 1, 2),
    }
    return [Case(f"{label}: S, C, M, L, P = {values}", values) for label, values in sizes.items()]


DEFORMABLE_COST = Exercise(
    "07.deformable_cost",
    "Write deformable_cost(S, C, M, L, P): the multiply-adds of one deformable self-attention, four linear layers and "
    "the reading of all points.",
    _deformable_cases,
    _deformable_total,
    (
        Mistake(
            lambda S, C, M, L, P: _deformable_total(S, C, M, L, P) - S * C * M * L * P,
            "An offset is two numbers, x and y: the layer gives 2 * M * L * P for a token.",
        ),
        Mistake(
            lambda S, C, M, L, P: _deformable_total(S, C, M, L, P) + (M - 1) * 5 * S * L * P * C,
            "You read all C channels for every head. A head has C / M of them: the reading costs the same for any M.",
        ),
        Mistake(
            lambda S, C, M, L, P: _deformable_total(S, C, M, L, P) - S * L * P * C,
            "Four for each channel of a point are the four corners. The fifth is the attention weight.",
        ),
        Mistake(
            lambda S, C, M, L, P: _deformable_total(S, C, M, L, P) - 4 * S * L * P * C,
            "A point lies between four cells: reading it costs four for each channel, and one more for the weight.",
        ),
        Mistake(
            lambda S, C, M, L, P: _deformable_total(S, C, M, L, P) - S * C * C,
            "One C x C matrix is missing: value_proj before the reading, output_proj behind it.",
        ),
        Mistake(
            lambda S, C, M, L, P: 2 * S * C * C + 3 * S * C * M * L * P,
            "That is the four linear layers. The reading is missing: S * L * P points of C channels, five each.",
        ),
        Mistake(
            lambda S, C, M, L, P: 2 * S * C * C + 3 * S * C * L * P + 5 * S * L * P * C,
            "Every head has offsets and weights of its own: M * L * P points, not L * P.",
        ),
        Mistake(
            lambda S, C, M, L, P: _dense_total(S, C),
            "That is dense attention: here no token is compared with all others, and S appears only once.",
        ),
    ),
    "With the paper's numbers the linear layers are nine tenths of it: the reading is cheap to count, and dear to do, "
    "because memory is read here and there.",
)


def _dense_cases() -> list[Case]:
    sizes = {"the tiny model": (727, 128), "the paper's, at 480 x 546": (5532, 256), "few tokens": (10, 64)}
    return [Case(f"{label}: S, C = {values}", values) for label, values in sizes.items()]


DENSE_COST = Exercise(
    "07.dense_cost",
    "Write dense_cost(S, C): the multiply-adds of one dense self-attention, with its four C x C matrices.",
    _dense_cases,
    _dense_total,
    (
        Mistake(
            lambda S, C: 4 * S * C * C + S * S * C,
            "One product is missing: queries times keys gives the weights, and weights times values the answer.",
        ),
        Mistake(
            lambda S, C: 3 * S * C * C + 2 * S * S * C,
            "One matrix is missing: query, key, value, and the output behind them.",
        ),
        Mistake(
            lambda S, C: 2 * S * S * C,
            "Those are the two products. The four matrices, S * C * C each, are missing.",
        ),
        Mistake(
            lambda S, C: 4 * S * C * C + 2 * 8 * S * S * C,
            "You count the heads: each has C / M channels, and all together C.",
        ),
        Mistake(
            lambda S, C: 4 * S * C * C + 2 * S * S,
            "A pair of tokens is not one multiplication but C of them, one for each channel.",
        ),
        Mistake(
            lambda S, C: 4 * C * C + 2 * S * C,
            "That is the cost of one token. There are S.",
        ),
    ),
    "Half of the quadratic part compares, the other half sums. Deformable attention has no keys to compare with, and "
    "sums L * P points where this sums S.",
)

EXERCISES = (ENCODER_LAYER, DEFORMABLE_COST, DENSE_COST)
