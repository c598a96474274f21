import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from drawn_text import texts

from ddetr.engine.errors import ErrorBreakdown, Outcome
from ddetr.viz.ablation import ablation_bars
from ddetr.viz.encoder import (
    SimilarityState,
    cost_curves,
    draw_reach,
    draw_similarity,
    similarity,
    split_levels,
    token_colours,
    token_index,
)

SIZES = [(4, 6), (2, 3)]
IMAGE = torch.zeros(3, 32, 48)


def images_of(figure):
    """The cells of every map, the photo left out."""
    return [axes.images[0].get_array() for axes in figure.axes if axes.images and len(axes.images[0].get_array()) < 32]


def test_tokens_become_maps_row_by_row():
    fine, coarse = split_levels(torch.arange(30), SIZES)
    assert fine.shape == (4, 6)
    assert fine[1, 2] == 8
    assert coarse.tolist() == [[24, 25, 26], [27, 28, 29]]
    with pytest.raises(ValueError, match="30 cells; got 29"):
        split_levels(torch.arange(29), SIZES)


@pytest.mark.parametrize(
    ("level", "x", "y", "index"), [(0, 0, 0, 0), (0, 0.99, 0, 5), (0, 0, 0.99, 18), (1, 0.5, 0.5, 28)]
)
def test_the_token_at_a_place(level, x, y, index):
    assert token_index(SIZES, level, x, y) == index


@pytest.mark.parametrize(
    ("place", "words"), [((2, 0, 0), "level must be 0 to 1"), ((0, 1.0, 0), "in .0, 1."), ((0, 0, -0.1), "in .0, 1.")]
)
def test_a_place_where_no_token_is(place, words):
    with pytest.raises(ValueError, match=words):
        token_index(SIZES, *place)


def test_a_kind_of_token_has_one_colour_on_every_level():
    kinds = torch.eye(8)[:3]
    tokens = torch.cat([kinds[torch.arange(24) % 3], kinds[torch.arange(6) % 3]])
    fine, coarse = images_of(token_colours(IMAGE, {"tokens": tokens}, SIZES))
    np.testing.assert_allclose(fine[0, :3], coarse[0, :3], atol=1e-6)
    assert np.abs(fine[0, 0] - fine[0, 1]).max() > 0.5


def test_similarity_follows_the_chosen_token():
    tokens = torch.zeros(30, 4)
    tokens[:, 0] = 1
    tokens[28] = torch.tensor([0.0, 2, 0, 0])
    tokens[3] = torch.tensor([0.0, -1, 0, 0])
    state = SimilarityState(IMAGE, {"before": tokens, "after": tokens.roll(1, 0)}, SIZES, 1, 0.5, 0.5)
    cosines = similarity(state)
    assert cosines["before"][28] == pytest.approx(1)
    assert cosines["before"][3] == pytest.approx(-1)
    figure = draw_similarity(state)
    drawn = images_of(figure)
    np.testing.assert_allclose(np.concatenate([cells.ravel() for cells in drawn[:2]]), cosines["before"], atol=1e-6)
    assert "before: level 0 up to 0.00, level 1 up to 1.00; after:" in figure.alt
    with pytest.raises(ValueError, match="level"):
        draw_similarity(state._replace(level=2))


def test_what_reaches_a_token():
    seen = torch.zeros(30, dtype=torch.bool)
    seen[[0, 25]] = True
    figure = draw_reach(IMAGE, {"one layer": seen}, SIZES, 0, 0, 0)
    assert [cells.sum() for cells in images_of(figure)] == [1, 1]
    assert "one layer 2 of 30" in figure.alt


def test_costs_as_lines():
    figure = cost_curves([1, 10], {"GB": {"dense": [1, 100], "deformable": [1, 10]}}, {"tiny": 5})
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [1, 100])
    assert "dense from 1 to 100 GB; deformable from 1 to 10 GB" in figure.alt
    with pytest.raises(ValueError, match="dense has 1 values for 2"):
        cost_curves([1, 10], {"GB": {"dense": [1]}}, {})


def outcome(kind, is_detection):
    return Outcome(is_detection, kind, 0, 1, [0, 0, 1, 1])


def test_bars_count_what_was_found_and_what_was_made_up():
    objects = [outcome("correct", False), outcome("missed", False)]
    kinds = ("correct", "duplicate", "background", "wrong class", "crowd")
    full = ErrorBreakdown(0.3, [outcome(kind, True) for kind in kinds], objects)
    figure = ablation_bars({"all $parts": full, "nothing": ErrorBreakdown(0.3, [], [outcome("missed", False)] * 2)})
    assert "all $parts: 1 found, 1 duplicates, 2 detections wrong otherwise; nothing: 0 found" in figure.alt
    figure.draw_without_rendering()  # which writes the rows' names
    assert r"all \$parts" in texts(figure)
    with pytest.raises(ValueError, match="same objects"):
        ablation_bars({"a": full, "b": ErrorBreakdown(0.3, [], [])})
    with pytest.raises(ValueError, match="same objects"):
        ablation_bars({})


def test_the_sandbox_compares_the_token_that_was_dragged_to():
    pytest.importorskip("ipywidgets")
    from ddetr.viz.encoder_sandbox import similarity_sandbox

    start = SimilarityState(IMAGE, {"memory": torch.randn(30, 4)}, SIZES, 1, 0.5, 0.5)
    sandbox = similarity_sandbox(start)
    assert sandbox.state == start
    handles, _ = sandbox.controls["points"]
    handles.points = [[48, 32]]  # the corner, which belongs to the last cell
    sandbox.controls["level"][0].value = 0
    assert token_index(SIZES, sandbox.state.level, sandbox.state.x, sandbox.state.y) == 23
    assert not sandbox.message
    assert "level 0 at x 1.00, y 1.00" in sandbox.figure.alt
    with pytest.raises(ValueError, match="level must be 0 to 1; got 2"):
        similarity_sandbox(start._replace(level=2))
