import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from drawn_text import texts
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from test_sampling_view import foreign

from ddetr.viz.figures import LEVEL_COLOURS
from ddetr.viz.sampling import REFERENCE_COLOUR, Attention, points_of, sampling_points


def dots(figure):
    """Every drawn point: x, y, area, filled or not, colour."""
    found = []
    for group in figure.axes[0].findobj(PathCollection):
        hollow = len(group.get_facecolors()) == 0
        inks = group.get_edgecolors() if hollow else group.get_facecolors()
        for (x, y), area, ink in zip(group.get_offsets(), group.get_sizes(), inks, strict=True):
            found.append((x, y, area, hollow, tuple(ink)))
    return sorted(found, key=lambda dot: dot[2])


def test_each_point_where_it_falls_sized_by_weight_in_its_levels_colour():
    view = foreign()
    figure = sampling_points(view, "decoder", 0, 2)
    points, drawn = points_of(view, "decoder", 0, 2), dots(figure)
    assert len(drawn) == len(points.x) == 12
    for i, (x, y, area, hollow, ink) in enumerate(drawn):
        np.testing.assert_allclose([x, y], [points.x[i], points.y[i]], rtol=1e-6)
        assert ink[:3] == to_rgb(LEVEL_COLOURS[points.level[i]])
        assert hollow == (points.where[i] != 0)
        assert area == pytest.approx(9 + 130 * points.weight[i] / points.weight[-1])
    opacity = [dot[4][3] for dot in drawn]
    assert opacity == sorted(opacity)
    assert opacity[-1] == 1


def test_choices_follow_and_the_scale_stays():
    view = foreign()
    whole = {dot[:2]: dot for dot in dots(sampling_points(view, "decoder", 0, 2))}
    some = dots(sampling_points(view, "decoder", 0, 2, heads=[0], levels=[1], heaviest=2))
    assert len(some) == 2
    assert all(whole[dot[:2]] == dot for dot in some)
    alike = dots(sampling_points(view, "decoder", 0, 2, weights=False))
    assert len({dot[2] for dot in alike}) == 1
    lines = sampling_points(view, "decoder", 0, 2, levels=[1], lines=True).axes[0].lines
    start = view.decoder[0].reference_points[2, 1].numpy() * [48, 32]
    for line in lines[:-1]:
        np.testing.assert_allclose(line.get_xydata()[0], start, rtol=1e-5)
        assert tuple(line.get_xydata()[1]) in {dot[:2] for dot in alike}
    assert len(lines) == 6 + 1


def test_cross_reference_box_and_predicted_box():
    boxes = np.array([[[1.0, 2, 30, 20]] * 5])
    view = foreign(reference_size=4, boxes=boxes)
    figure = sampling_points(view, "decoder", 0, 2)
    (cross,) = [line for line in figure.axes[0].lines if line.get_marker() == "+"]
    assert cross.get_color() == REFERENCE_COLOUR
    places = view.decoder[0].reference_points[2].numpy() * [48, 32, 48, 32]
    np.testing.assert_allclose(sorted(cross.get_xdata()), sorted(places[:, 0]), atol=0.1)
    rectangles = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert [patch.get_linestyle() for patch in rectangles] == ["solid", "solid", (0, (4, 3))]
    x, y = rectangles[-1].get_xy()
    assert (x, y, rectangles[-1].get_width(), rectangles[-1].get_height()) == (1, 2, 29, 18)
    assert {"reference point", "reference box", "predicted box"} <= texts(figure)


def test_no_point_is_lost_silently():
    locations = torch.tensor([[0.5, 0.5], [1.1, 0.5], [9.0, 0.5], [0.5, -7.0]])
    layer = Attention(torch.full((1, 2, 2), 0.5), locations.expand(1, 1, 2, 4, 2), torch.full((1, 1, 2, 4), 1 / 8))
    figure = sampling_points(foreign(decoder=(layer,)), "decoder", 0, 0)
    axes = figure.axes[0]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    shown = [left <= x <= right and top <= y <= bottom for x, y, *_ in dots(figure)]
    assert shown.count(True) == 4
    assert "8 points\n6 outside the map\n4 beyond this frame" in texts(figure)
    assert "6 outside the map, 4 beyond this frame." in figure.alt


def test_the_figure_in_words():
    view = foreign(boxes=np.zeros((1, 5, 4)), scores=np.full((1, 5), 0.9), labels=np.zeros((1, 5)), names=["a"])
    figure = sampling_points(view, "decoder", 0, 2, heads=[1])
    heaviest = points_of(view, "decoder", 0, 2, heads=[1])
    assert "query 2, decoder layer 0 (0 to 0): a 0.90" in figure.alt
    assert "6 points of 1 heads" in figure.alt
    place = f"{heaviest.weight[-1]:.3f}: head 1, level {heaviest.level[-1]}, at ({heaviest.x[-1]:.0f}, "
    assert place in figure.alt
    assert "level 0 (4 x 6)" in " ".join(texts(figure))


def test_a_smaller_picture_keeps_its_shape():
    def shape(inches):
        width, height = sampling_points(foreign(), "decoder", 0, 2, inches=inches).get_size_inches()
        return width - 3.1, height - 0.9  # without the room for legend and labels

    np.testing.assert_allclose(shape(2.5), np.array(shape(5.0)) / 2, rtol=1e-5)


def test_a_point_that_does_not_exist():
    with pytest.raises(ValueError, match="point must be 0 to 2, there being 3 points; got 3"):
        sampling_points(foreign(), "decoder", 0, 1, point=(0, 0, 3))


def test_names_are_text():
    name = "<img src=x onerror=alert(1)> $\\frac{1}{$ \n_"
    view = foreign(boxes=np.zeros((1, 5, 4)), scores=np.ones((1, 5)), labels=np.zeros((1, 5)), names=[name])
    figure = sampling_points(view, "decoder", 0, 1)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert any("<img src=x onerror" in text for text in texts(figure))


def test_a_figure_of_no_points_is_drawn():
    figure = sampling_points(foreign(), "decoder", 0, 1, levels=[])
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert "0 points" in texts(figure)
