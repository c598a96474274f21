import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from drawn_text import texts
from matplotlib.patches import Rectangle

from ddetr.models.two_stage import token_proposals
from ddetr.viz.refinement import RefinementState, box_panels, draw, offset_curves, overlaps, proposals

IMAGE = torch.zeros(3, 40, 80)
TRUTH = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.2, 0.3, 0.1, 0.2]])
SHIFTED = TRUTH + torch.tensor([0.2, 0.0, 0.0, 0.0])
STATE = RefinementState(IMAGE, [("first", SHIFTED), ("last", TRUTH)], TRUTH, ["cat", "$x_1$"])


def rectangles(axes):
    return [(*p.get_xy(), p.get_width(), p.get_height()) for p in axes.patches if isinstance(p, Rectangle)]


def test_overlap_with_the_truth_stage_by_stage():
    np.testing.assert_allclose(overlaps(STATE), [[1 / 3, 0.0], [1.0, 1.0]], atol=1e-6)


def test_a_row_for_each_object_and_a_column_for_each_stage():
    figure = draw(STATE)
    assert len(figure.axes) == 4
    truth, box = rectangles(figure.axes[0])
    np.testing.assert_allclose(truth, (24, 12, 32, 16), atol=1e-5)  # pixels of an image of 80 x 40
    np.testing.assert_allclose(box, (40, 12, 32, 16), atol=1e-5)
    assert {"first\nIoU 0.33", "last\nIoU 1.00"} <= texts(figure)
    assert "cat: first 0.33, last 1.00" in figure.alt


def test_the_view_holds_every_box_of_its_object():
    for axes in draw(STATE).axes:
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        for x, y, w, h in rectangles(axes):
            assert left < x < x + w < right
            assert top < y < y + h < bottom


def test_some_of_the_objects_and_names_drawn_as_they_are():
    figure = draw(STATE._replace(objects=[1]))
    assert len(figure.axes) == 2
    assert "\\$x_1\\$\ny (pixels)" in texts(figure)
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(ValueError, match="no object 2: the scene has 2"):
        draw(STATE._replace(objects=[2]))
    with pytest.raises(ValueError, match=r"stage 'odd' needs a box for each object, \(2, 4\); got \(1, 4\)"):
        draw(STATE._replace(stages=[("odd", TRUTH[:1])]))
    with pytest.raises(ValueError, match="no stage was given"):
        draw(STATE._replace(stages=[]))


def test_proposals_level_by_level():
    sizes = [(5, 10), (2, 5)]
    boxes, valid = token_proposals(None, sizes, 1)
    valid[0, :3] = False
    figure = proposals(IMAGE, sizes, boxes[0], valid[0], torch.tensor([7, 50, 59]))
    assert "level 0, 5 x 10: 47 valid, 1 chosen; level 1, 2 x 5: 10 valid, 2 chosen" in figure.alt
    _, invalid, chosen = figure.axes[0].collections
    assert len(invalid.get_offsets()) == 3
    np.testing.assert_allclose(chosen.get_offsets(), [[7.5 * 8, 0.5 * 8]], rtol=1e-5)
    x, y, w, h = rectangles(figure.axes[1])[0]
    np.testing.assert_allclose((w, h), (8, 4), rtol=1e-5)  # side 0.1 of 80 x 40
    with pytest.raises(ValueError, match="60 tokens; got 50 boxes"):
        proposals(IMAGE, sizes, boxes[0, :50], valid[0], torch.tensor([0]))


def test_offsets_start_at_the_reference_and_stay_inside():
    axes = offset_curves([0.1, 0.5]).axes[0]
    for curve, reference in ((axes.lines[0], 0.1), (axes.lines[3], 0.5)):
        x, y = curve.get_data()
        assert y[len(y) // 2] == pytest.approx(reference)
        assert 0 < y.min() < y.max() < 1


def test_groups_of_boxes_side_by_side():
    figure = box_panels(IMAGE, {"small": TRUTH[1:], "none": TRUTH[:0]})
    assert figure.alt.startswith("small: 1 boxes, 0.10 x 0.20 of the image on average; none: 0 boxes")
    np.testing.assert_allclose(rectangles(figure.axes[0])[0], (12, 8, 8, 8), rtol=1e-5)
    assert not rectangles(figure.axes[1])
