import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from drawn_text import texts
from matplotlib.patches import Rectangle

from ddetr import DeformableDETRConfig
from ddetr.losses import Criterion, Target
from ddetr.viz.matching import MatchingState, draw, draw_terms, solve
from ddetr.viz.matching_playground import matching_playground

# Query 0 has the right class and a poor box, query 1 the right box and no class, query 2 is nowhere.
STATE = MatchingState(
    boxes=[(0.5, 0.5, 0.2, 0.2), (0.3, 0.5, 0.2, 0.2), (0.9, 0.9, 0.1, 0.1)],
    scores=[(0.6, 0.1), (0.05, 0.1), (0.02, 0.02)],
    target_boxes=[(0.3, 0.5, 0.2, 0.2)],
    target_labels=[0],
    classes=["cat", "$x_1$"],
)


def framed(axes):
    return [(round(p.get_x() + 0.5), round(p.get_y() + 0.5)) for p in axes.patches if isinstance(p, Rectangle)]


def test_weights_decide_who_is_responsible():
    assert solve(STATE._replace(weights=(2, 5, 2))).pairs == [(1, 0)]
    assert solve(STATE._replace(weights=(2, 0, 0))).pairs == [(0, 0)]


def test_costs_and_losses_are_those_of_training():
    matching = solve(STATE)
    config = DeformableDETRConfig(num_classes=2)
    logits = torch.logit(torch.tensor(STATE.scores))[None]
    boxes = torch.tensor(STATE.boxes)[None]
    target = Target(torch.tensor(STATE.target_labels), torch.tensor(STATE.target_boxes))
    criterion = Criterion(config)
    torch.testing.assert_close(matching.total, criterion.matcher.cost(logits[0], boxes[0], target))
    losses = criterion.layer_losses(logits, boxes, [target], 1)
    assert matching.losses["class, matched"] + matching.losses["class, unmatched"] == pytest.approx(
        losses["loss_class"].item(), rel=1e-5
    )
    assert matching.losses["L1"] == pytest.approx(losses["loss_bbox"].item(), abs=1e-6)
    assert matching.losses["GIoU"] == pytest.approx(losses["loss_giou"].item(), abs=1e-6)


def test_the_figure_follows_the_state():
    figure = draw(STATE)
    _, table, bars = figure.axes
    assert framed(table) == [(0, 1)]
    np.testing.assert_allclose(table.images[0].get_array(), solve(STATE).total)
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(list(solve(STATE).losses.values()))
    assert "Assignment: query 1 for cat" in figure.alt
    assert framed(draw(STATE._replace(weights=(2.0, 0.0, 0.0))).axes[1]) == [(0, 0)]


def test_each_term_by_itself():
    figure = draw_terms(STATE)
    for axes, cost in zip(figure.axes, [*solve(STATE).costs, solve(STATE).total], strict=True):
        np.testing.assert_allclose(axes.images[0].get_array(), cost)
        assert framed(axes) == [(0, 1)]
    assert {"2 x class", "5 x L1", "2 x GIoU", "sum"} <= texts(figure)


def test_objects_of_one_class_are_told_apart_and_names_are_text():
    state = STATE._replace(target_boxes=[*STATE.target_boxes, *STATE.boxes[:2]], target_labels=[0, 0, 1])
    assert {"cat 1", "cat 2", "\\$x_1\\$"} <= texts(draw(state))
    assert {"a", "b", "\\$c"} <= texts(draw(STATE._replace(queries=["a", "b", "$c"])))
    assert draw(state)._repr_png_().startswith(b"\x89PNG")


def test_an_image_without_objects():
    figure = draw(STATE._replace(target_boxes=[], target_labels=[], picture=np.zeros((4, 6, 3), np.uint8)))
    assert "Assignment: none." in figure.alt
    losses = solve(STATE._replace(target_boxes=[], target_labels=[])).losses
    assert losses["class, unmatched"] > 0
    assert losses["class, matched"] == losses["L1"] == losses["GIoU"] == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"boxes": STATE.boxes[:2]}, "got 2 boxes, 3 scores"),
        ({"target_labels": [0, 1]}, "got 1 boxes, 2 labels"),
        ({"target_labels": [2]}, r"label 2 is outside 0\.\.1"),
        ({"scores": [(0.1,)] * 3}, "each of the 2 classes"),
        ({"boxes": [], "scores": []}, "no query was given"),
        ({"queries": ["a"]}, "3 queries have 1 names"),
        ({"weights": (-1.0, 5.0, 2.0)}, "class_weight"),
    ],
)
def test_what_cannot_be_matched_is_said(change, words):
    with pytest.raises(ValueError, match=words):
        draw(STATE._replace(**change))


def test_a_dragged_box_and_a_slider_move_the_assignment():
    playground = matching_playground(STATE._replace(picture=np.zeros((100, 200, 3), np.uint8)))
    assert "Assignment: query 1 for cat" in playground.figure.alt
    handles, _ = playground.controls["boxes"]
    boxes = [list(box) for box in handles.boxes]
    np.testing.assert_allclose(boxes[0], (80, 40, 120, 60), rtol=1e-5)
    boxes[0] = boxes[1]
    handles.boxes = boxes
    assert "Assignment: query 0 for cat" in playground.figure.alt
    playground.controls["class"][0].value = 0.0
    assert playground.state.weights == (0.0, 5.0, 2.0)
    with pytest.raises(ValueError, match="needs a picture"):
        matching_playground(STATE)


def test_a_score_moves_the_assignment_and_choosing_another_does_not():
    scores = [(0.604, 0.1), *STATE.scores[1:]]
    start = STATE._replace(scores=scores, picture=np.zeros((100, 200, 3), np.uint8))
    playground = matching_playground(start)
    panel, _ = playground.controls["scores"]
    assert (panel.query.value, panel.label.value, panel.score.value) == (0, 0, 0.604)
    panel.score.value = 0.6  # what a browser's slider makes of it
    for query in (2, 1, 0):
        panel.query.value = query
    for label in (1, 0):
        panel.label.value = label
    assert [tuple(row) for row in playground.state.scores] == scores
    assert playground.figure.alt == draw(start).alt

    panel.score.value = 0.99
    assert playground.state.scores == [[0.99, 0.1], [0.05, 0.1], [0.02, 0.02]]
    assert "Assignment: query 0 for cat" in playground.figure.alt
    assert playground.figure.alt == draw(start._replace(scores=playground.state.scores)).alt
    panel.query.value = 1
    assert panel.score.value == 0.05
    with pytest.raises(ValueError, match="got 3 boxes, 2 scores"):
        matching_playground(start._replace(scores=STATE.scores[:2]))


def test_a_prediction_beyond_the_border_is_itself_until_it_is_moved():
    beyond = [(0.05, 0.5, 0.3, 0.2), *STATE.boxes[1:]]
    start = STATE._replace(boxes=beyond, picture=np.zeros((100, 200, 3), np.uint8))
    playground = matching_playground(start)
    assert list(playground.state.boxes) == beyond
    assert playground.figure.alt == draw(start).alt
    handles, _ = playground.controls["boxes"]
    handles.boxes = [[0, 30, 40, 60], *handles.boxes[1:]]
    assert playground.state.boxes[0] == pytest.approx((0.1, 0.45, 0.2, 0.3))
    assert list(playground.state.boxes[1:]) == beyond[1:]
