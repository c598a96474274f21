import math

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from drawn_text import texts

from ddetr.models.deform_attention import MSDeformAttn
from ddetr.viz.offsets import OffsetsState, draw, initial_star, learnt_offsets, locate, star, weights_by_head

SIZES = ((20, 27), (10, 14), (5, 7), (3, 4))
POINT = OffsetsState((0.55, 0.5), SIZES)
BOX = OffsetsState((0.55, 0.5, 0.4, 0.6), SIZES)


def test_the_star_is_the_one_of_a_fresh_module():
    fresh = MSDeformAttn(64, num_levels=4, num_heads=8, num_points=3)
    bias = fresh.sampling_offsets.bias.detach().view(8, 4, 3, 2)
    torch.testing.assert_close(initial_star(3)[:, None].expand(-1, 4, -1, -1), bias)


@pytest.mark.parametrize("state", [POINT, BOX])
def test_the_playground_looks_where_a_fresh_module_looks(state):
    fresh = MSDeformAttn(64).eval()
    reference = torch.tensor(state.reference).expand(1, 1, 4, -1)
    points = fresh.sampling_points(torch.randn(1, 1, 64), reference, SIZES)
    torch.testing.assert_close(locate(state), points.locations[0, 0].detach())


def test_stretched_and_swapped():
    centre = torch.tensor(POINT.reference)
    offsets = locate(POINT) - centre
    torch.testing.assert_close(locate(POINT._replace(stretch=0.5)) - centre, offsets / 2)
    swapped = locate(POINT._replace(swapped=True)) - centre
    torch.testing.assert_close(swapped[:, 0, :, 0], offsets[:, 0, :, 0] * 27 / 20)
    torch.testing.assert_close(locate(BOX._replace(swapped=True)), locate(BOX))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (OffsetsState((0.5,), SIZES), r"reference must be \(x, y\) or"),
        (OffsetsState((0.5, math.nan), SIZES), "finite"),
        (OffsetsState((0.5, 0.5), ()), "at least one level; got none"),
        (POINT._replace(head=8), "head must be 0 to 7, or None; got 8"),
        (POINT._replace(head=-1), "head must be 0 to 7"),
    ],
)
def test_states_that_make_no_sense(state, words):
    with pytest.raises(ValueError, match=words):
        draw(state)


def test_the_figure_counts_what_lies_outside():
    figure = draw(POINT)
    assert {"level 0: 20 x 27\n0 of 32 points outside", "level 3: 3 x 4\n23 of 32 points outside"} <= texts(figure)
    assert "level 0, 20 x 27: x from 10.9 to 18.9 cells, y from 6.0 to 14.0, 0 outside" in figure.alt
    assert "around a point" in figure.alt
    # On the border is inside, however it was rounded.
    full = draw(OffsetsState((0.5, 0.5, 1.0, 1.0), SIZES))
    assert full.alt.count(", 0 outside") == 4
    assert "around a box" in full.alt


def test_points_are_drawn_where_they_look():
    drawn = np.array(draw(POINT).axes[0].collections[-1].get_offsets())
    expected = locate(POINT)[:, 0] * torch.tensor([27, 20])
    np.testing.assert_allclose(drawn, expected.flatten(0, 1), atol=1e-4)


def test_one_head_stands_out():
    def colours(state):
        return [tuple(colour) for colour in draw(state).axes[0].collections[-1].get_facecolors()]

    assert len(set(colours(POINT))) == 1
    chosen = colours(POINT._replace(head=2))
    assert chosen[-4:] == colours(POINT)[-4:]  # on top of the others
    assert len(set(chosen[:-4])) == 1
    assert chosen[0] != chosen[-1]


def test_every_heads_ray_ends_where_it_should():
    figure = star(initial_star(), "fresh")
    assert {"0", "7", "fresh"} <= texts(figure)
    assert "head 0 to (4.0, 0.0); head 1 to (4.0, 4.0); head 2 to (0.0, 4.0)" in figure.alt


def test_learnt_offsets_say_how_far_they_moved():
    offsets = initial_star().expand(5, -1, -1, -1) + torch.tensor([0.3, 0.4])
    figure = learnt_offsets(offsets, torch.full((5, 8, 4), 1 / 16), 2, "layer 0")
    assert "head 7: moved by 0.50" in texts(figure)
    assert "points of 5 queries" in figure.alt
    drawn = figure.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(sorted(drawn.tolist()), sorted(offsets[:, 0].flatten(0, 1).tolist()), atol=1e-5)
    with pytest.raises(ValueError, match=r"got \(5, 8, 4, 2\) and \(5, 8, 3\)"):
        learnt_offsets(offsets, torch.ones(5, 8, 3), 0)
    with pytest.raises(ValueError, match=r"\(N, 8, P, 2\)"):
        learnt_offsets(offsets[:, :4], torch.ones(5, 4, 4), 0)


def test_a_bar_for_each_head_as_long_as_its_weights():
    weights = torch.rand(8, 4, 4, generator=torch.Generator().manual_seed(0)).flatten(1).softmax(-1).view(8, 4, 4)
    figure = weights_by_head(weights, "a token")
    bars = figure.axes[0].patches
    assert len(bars) == 8 * 16
    assert bars[15].get_x() + bars[15].get_width() == pytest.approx(1)
    assert bars[5].get_width() == pytest.approx(weights[0, 1, 1].item())
    assert f"head 0 {weights[0, 0].sum():.2f}, " in figure.alt


def test_a_fifth_level_has_the_firsts_colour():
    edges = [axes.patches[-1].get_edgecolor() for axes in draw(OffsetsState((0.5, 0.5), (*SIZES, (2, 2)))).axes]
    assert len(set(edges)) == 4
    assert edges[4] == edges[0]
    bars = weights_by_head(torch.full((1, 5, 1), 0.2)).axes[0].patches
    assert [bar.get_facecolor() for bar in bars] == edges
    offsets = initial_star()[None]
    colours = [
        learnt_offsets(offsets, torch.ones(1, 8, 4), level).axes[0].collections[0].get_facecolors()[0].tolist()
        for level in (0, 4)
    ]
    assert colours[0] == colours[1] == list(edges[0])
