import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from drawn_text import texts

from ddetr.viz.queries import QueriesState, draw_queries, draw_reference_points


@pytest.fixture
def state():
    """Three queries on four images: all boxes of the first small, of the second large, of the third one of each."""
    boxes = torch.zeros(4, 3, 4)
    boxes[..., :2] = torch.rand(4, 3, 2, generator=torch.Generator().manual_seed(0))
    boxes[:, 0, 2:], boxes[:, 1, 2:] = 0.05, 0.5
    boxes[:, 2, 2:] = torch.tensor([0.05, 0.2, 0.2, 0.5])[:, None]
    return QueriesState(boxes, torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]), [2, 0])


def drawn(axes):
    """The points of each size, fine to coarse."""
    return [collection.get_offsets() for collection in axes.collections[:3]]


def test_each_chosen_query_has_its_boxes_by_size(state):
    figure = draw_queries(state, columns=2)
    mixed, small = figure.axes
    assert [len(points) for points in drawn(mixed)] == [1, 2, 1]
    assert [len(points) for points in drawn(small)] == [4, 0, 0]
    np.testing.assert_allclose(drawn(small)[0], state.boxes[:, 0, :2], atol=1e-6)
    np.testing.assert_allclose([line[0] for line in mixed.lines[0].get_data()], [0.5, 0.6])
    assert {"query 2", "query 0"} <= texts(figure)
    assert "queries 2, 0 gave on 4 images" in figure.alt


def test_an_empty_place_of_the_grid_stays_empty(state):
    figure = draw_queries(state, columns=3)
    assert [axes.axison for axes in figure.axes] == [True, True, False]


@pytest.mark.parametrize(("queries", "words"), [([0, 3], "got 3"), ([-1], "got -1"), ([], "got none")])
def test_queries_that_there_are_not(state, queries, words):
    with pytest.raises(ValueError, match=words):
        draw_queries(state._replace(queries=queries))


def test_reference_points_lie_in_pixels_of_the_image():
    figure = draw_reference_points(torch.zeros(3, 40, 80), torch.tensor([[0.5, 0.25], [1.0, 1.0]]), lit=[1])
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[40, 10], [80, 40]])
    assert "1" in {text.get_text() for text in axes.texts}
    assert figure.alt == "The reference points of 2 queries over an image, numbers 1 named."
    with pytest.raises(ValueError, match="queries are 0 to 1"):
        draw_reference_points(torch.zeros(3, 40, 80), torch.rand(2, 2), lit=[2])
