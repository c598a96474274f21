"""The hands-on views of pages 04 and 05, moved as a hand would move them."""

import pytest
import torch

from ddetr.viz.coordinate_sandboxes import ladder_sandbox, offsets_sandbox
from ddetr.viz.coordinates import LadderState, climb, draw
from ddetr.viz.offsets import locate
from ddetr.viz.sandbox import STILL

SIZES = [(20, 27), (10, 14), (5, 7), (3, 4)]
IMAGE = torch.rand(3, 160, 212, generator=torch.Generator().manual_seed(0))
START = LadderState((190, 30), (160, 212), (237, 212), level=2)


def control(sandbox, name):
    return sandbox.controls[name][0]


def test_a_dragged_place_climbs_the_ladder():
    sandbox = ladder_sandbox(IMAGE, START)
    assert sandbox.state == START
    control(sandbox, "points").points = [[100, 50]]
    control(sandbox, "level").value = 3
    assert sandbox.state == START._replace(place=(100, 50), level=3)
    assert "Pixel (100.0, 50.0)" in sandbox.figure.alt


@pytest.mark.parametrize("switch", ["align_corners", "half_pixel", "swapped"])
def test_each_switch_is_its_own(switch):
    sandbox = ladder_sandbox(IMAGE, START)
    control(sandbox, switch).value = not getattr(START, switch)
    wrong = START._replace(**{switch: not getattr(START, switch)})
    assert sandbox.state == wrong
    x, y = climb(wrong).reads_at
    assert f"the value of pixel ({x:.1f}, {y:.1f})" in sandbox.figure.alt
    assert " 0.0 pixels off" not in sandbox.figure.alt


def test_a_still_shows_the_picture_that_the_handles_would():
    sandbox = ladder_sandbox(IMAGE, START)
    data, _ = sandbox._repr_mimebundle_()
    with_picture, without = draw(START, IMAGE), draw(START)
    for figure in (with_picture, without):
        figure.footnote = STILL
    assert data["image/png"] == with_picture._repr_mimebundle_()[0]["image/png"]
    assert data["image/png"] != without._repr_mimebundle_()[0]["image/png"]


def test_a_state_of_another_image_is_refused():
    with pytest.raises(ValueError, match=r"image is \(160, 212\), the state's image_size \(100, 212\)"):
        ladder_sandbox(IMAGE, START._replace(image_size=(100, 212)))
    with pytest.raises(ValueError, match="level must be 0 to 3"):
        ladder_sandbox(IMAGE, START._replace(level=7))


def test_the_star_follows_the_point():
    sandbox = offsets_sandbox(IMAGE, SIZES)
    assert sandbox.state.reference == (0.5, 0.5)
    control(sandbox, "place").points = [[53, 120]]
    control(sandbox, "stretch").value = 0.5
    control(sandbox, "swapped").value = True
    control(sandbox, "head").value = 3
    state = sandbox.state
    assert state.reference == (0.25, 0.75)
    assert (state.stretch, state.swapped, state.head) == (0.5, True, 3)
    torch.testing.assert_close(locate(state)[0, 0, -1], torch.tensor([0.25 + 2 / 20, 0.75]))


def test_the_star_ends_on_the_border_of_a_dragged_box():
    sandbox = offsets_sandbox(IMAGE, SIZES, box=(0.5, 0.5, 0.5, 0.25))
    assert sandbox.state.reference == pytest.approx((0.5, 0.5, 0.5, 0.25))
    control(sandbox, "place").boxes = [[0, 40, 106, 160]]
    assert sandbox.state.reference == pytest.approx((0.25, 0.625, 0.5, 0.75))
    torch.testing.assert_close(locate(sandbox.state)[0, 0, -1], torch.tensor([0.5, 0.625]))
    assert "swapped" not in sandbox.controls
    assert "around a box" in sandbox.figure.alt


def test_a_box_beyond_the_border_is_itself_until_it_is_dragged():
    sandbox = offsets_sandbox(IMAGE, SIZES, box=(0.1, 0.5, 0.5, 0.25))
    assert sandbox.state.reference == (0.1, 0.5, 0.5, 0.25)
    control(sandbox, "place").boxes = [[0, 40, 106, 160]]
    assert sandbox.state.reference == pytest.approx((0.25, 0.625, 0.5, 0.75))
