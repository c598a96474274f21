"""The figures of the operator's page: one thread, collisions, memory, cost, half a cell."""

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from drawn_text import texts
from matplotlib.patches import Rectangle

from ddetr.ops import ms_deform_attn
from ddetr.viz.conventions import ConventionState, border, draw, read_at
from ddetr.viz.cost import curves
from ddetr.viz.kernel_thread import ThreadState, collisions, corners_of, scatter, warp_reads
from ddetr.viz.kernel_thread import draw as draw_thread

SIZES = [(4, 6), (2, 3)]
LOCATIONS = [[[0.5, 0.5], [0.02, 0.5]], [[0.4, 0.9], [3.0, 0.1]]]
STATE = ThreadState(SIZES, LOCATIONS, [[0.1, 0.2], [0.3, 0.4]], query=7, head=2, channels=(8, 12))


def words_of(figure):
    return "\n".join(texts(figure))


def outlined(axes):
    return sorted(p.get_xy()[::-1] for p in axes.patches if isinstance(p, Rectangle) and not p.get_fill())


def test_corners_are_what_the_operator_reads():
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(1, 30, 1, 1, generator=generator)
    for location in (torch.rand(40, 2, generator=generator) * 1.6 - 0.3).tolist():
        for level, (size, start) in enumerate(zip(SIZES, (0, 24), strict=True)):
            inside = [c for c in corners_of(location, size, start) if c.token is not None]
            by_hand = sum(c.weight * value[0, c.token, 0, 0].item() for c in inside)
            weights = torch.zeros(1, 1, 1, 2, 1)
            weights[..., level, 0] = 1
            places = torch.tensor(location).expand(1, 1, 1, 2, 1, 2)
            assert ms_deform_attn(value, SIZES, None, places, weights).item() == pytest.approx(by_hand, abs=1e-5)


def test_a_thread_steps_through_its_points():
    figure = draw_thread(STATE)
    assert outlined(figure.axes[0]) == [(1, 2), (1, 3), (2, 2), (2, 3)]
    assert outlined(figure.axes[1]) == []
    assert "value[b,    8, 2, 8:12]   0.25 * 0.100 = 0.0250" in words_of(figure)
    assert "at the end it writes  out[b, 7, 2, 8:12]" in words_of(figure)
    assert "tokens 8, 9, 14, 15" in figure.alt
    figure = draw_thread(STATE._replace(point=2))
    assert outlined(figure.axes[0]) == []
    assert len(outlined(figure.axes[1])) == 2  # the lower two corners lie below the map
    assert "outside: zero, nothing to read" in words_of(figure)
    drawn = [len(axes.lines) for axes in figure.axes[:2]]
    assert drawn == [4 + 1 + 6 + 1 + 2, 2 + 1 + 3 + 1 + 1]  # the grid, and a circle for each point so far
    assert "now it writes" in words_of(draw_thread(STATE._replace(point=3)))


def test_backward_writes_what_forward_reads():
    figure = draw_thread(STATE._replace(direction="backward"))
    assert outlined(figure.axes[0]) == [(1, 2), (1, 3), (2, 2), (2, 3)]
    assert "grad_value[b,   15, 2, 8:12]   0.25 * 0.100 = 0.0250" in words_of(figure)
    assert "grad_locations[b, 7, 2, 0, 0]" in words_of(figure)
    assert "adds to each one's gradient" in figure.alt


def test_tensors_that_need_gradients_are_fine():
    tensors = STATE._replace(
        locations=torch.tensor(LOCATIONS, requires_grad=True), weights=torch.ones(2, 2, requires_grad=True)
    )
    assert draw_thread(tensors)._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"point": 4}, "point is 4; the thread's points are 0 to 3"),
        ({"point": -1}, "points are 0 to 3"),
        ({"direction": "sideways"}, "'forward' or 'backward'"),
        ({"locations": [[[0.5, 0.5]]]}, r"\(L, P, 2\) with L = 2"),
        ({"weights": [[1.0], [1.0]]}, r"weights must be \(L, P\) = \(2, 2\)"),
        ({"locations": [[[float("nan"), 0.5], [0.0, 0.0]]] * 2}, "NaN"),
    ],
)
def test_a_state_that_does_not_fit(change, words):
    with pytest.raises(ValueError, match=words):
        draw_thread(STATE._replace(**change))


def test_the_scatter_shows_where_threads_meet():
    places = {3: [[0.4, 0.5], [0.95, 0.1]], 8: [[0.6, 0.5], [2.0, 2.0]]}  # the last reads nothing
    locations = {query: torch.tensor(points) for query, points in places.items()}
    figure = scatter((2, 3), 24, locations, {3: torch.tensor([0.1, 0.2]), 8: torch.tensor([0.4, 0.0])}, 1, head=2)
    counts = [text.get_text() for text in figure.axes[0].texts if text.get_text()]
    assert sorted(counts) == ["1", "1", "1", "2", "2", "2"]
    assert "2 meet with 2 additions: queries 3, 8" in figure.alt
    assert "token 25" in figure.alt
    words = words_of(figure)
    assert "+= 0.1000 * 0.35 * grad_out[b, 3, 2, d]" in words
    assert "+= 0.4000 * 0.35 * grad_out[b, 8, 2, d]" in words
    assert "grad_value\n[b, 25, 2, d]" in words


def test_a_scatter_of_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing is added"):
        scatter((2, 3), 0, {0: torch.full((2, 2), 3.0)}, {0: torch.ones(2)})


def test_collisions_name_the_busiest_cell():
    counts = [torch.tensor([[0, 3], [1, 0]]), torch.tensor([[9]])]
    figure = collisions(counts, "two levels")
    assert figure.alt == "two levels: additions to each cell, at most level 0 3, level 1 9."
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), counts[0])
    assert figure.axes[0].images[0].get_clim() == (0, 9)  # one scale for all levels


def test_a_warp_fetches_whole_sectors():
    figure = warp_reads({"near": [4 * i for i in range(8)], "far": [320 * i for i in range(8)]})
    assert "near: 1 sectors of 32 bytes fetched for 32 bytes" in figure.alt
    assert "far: 8 sectors of 32 bytes fetched for 32 bytes" in figure.alt
    assert [len(axes.patches) for axes in figure.axes] == [1 + 8, 8 + 8]


def test_cost_curves():
    figure = curves([10, 20], {"slow": [(1.0, 0)], "fast": [(0.001, 10**6), (0.002, 2 * 10**6)], "absent": []}, "cost")
    assert figure.alt == "cost: slow 1e+03 ms and 0 MB at 10 tokens; fast 2 ms and 2 MB at 20 tokens."
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[1].get_ydata(), [1, 2])
    np.testing.assert_allclose(right.lines[0].get_ydata(), [1, 2])  # nothing was counted for the slow one
    with pytest.raises(ValueError, match="2 costs for 1 numbers of tokens"):
        curves([10], {"more": [(1, 1), (1, 1)]}, "cost")


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("cells", [2, 5, 40])
def test_the_conventions_are_grid_samples(cells, align_corners):
    ruler = (torch.arange(cells) + 0.5).view(1, 1, 1, cells)
    for x in (0.3, 0.5, 0.7):
        place = torch.tensor([2 * x - 1, 0.0]).view(1, 1, 1, 2)
        read = torch.nn.functional.grid_sample(ruler, place, align_corners=align_corners).item()
        assert read == pytest.approx(read_at(x, cells, align_corners), abs=1e-4)


def test_the_two_rulers():
    figure = draw(ConventionState(4, 0.2))
    assert "read at 0.800 and at 1.100" in words_of(figure)
    assert "level 3 32 pixels" in figure.alt
    with pytest.raises(ValueError, match="at least one cell"):
        draw(ConventionState(0, 0.5))


def test_the_border_says_where_reading_ends():
    places = torch.tensor([-1.0, -0.75, -0.5, 0.0, 0.5])
    figure = border(places, (places + 0.5).clamp(0, 1), torch.tensor([0.0, 0, 0, 1, 0]))
    assert "0 from -0.50 cells on" in figure.alt
