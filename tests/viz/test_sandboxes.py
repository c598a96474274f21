"""The pages' hands-on views, moved as a hand would move them."""

import pytest
import torch

from ddetr.viz import feature_browser, kernel_thread
from ddetr.viz.sandboxes import feature_browser as browse
from ddetr.viz.sandboxes import kernel_thread_view, padding_sandbox


def test_dragging_a_corner_changes_the_batch():
    sandbox = padding_sandbox([(64, 128), (96, 64)], largest=256)
    assert "in a batch of 96 x 128" in sandbox.figure.alt
    handles, _ = sandbox.controls["boxes"]
    handles.boxes = [[0, 0, 200, 64], [0, 0, 64, 96]]
    assert sandbox.state.sizes == [(64, 200), (96, 64)]
    assert "in a batch of 96 x 200" in sandbox.figure.alt


@pytest.mark.parametrize("size", [(4, 64), (64, 2000)])
def test_a_size_that_does_not_fit_is_refused(size):
    with pytest.raises(ValueError, match="8 to 768 pixels"):
        padding_sandbox([size])


def pooled(images):
    """Two levels whose cells are means of 8 x 8 and of 16 x 16 pixels."""
    grey = images.mean(1, keepdim=True)
    return [torch.nn.functional.avg_pool2d(grey, side).repeat(1, 4, 1, 1) for side in (8, 16)]


@pytest.fixture
def browser():
    image = torch.rand(3, 32, 64, generator=torch.Generator().manual_seed(0))
    return browse(pooled, image, ["fine", "coarse"])


def test_the_marked_cell_is_the_one_under_the_point(browser):
    handles, _ = browser.controls["points"]
    handles.points = [[41, 9]]
    assert "row 1, column 5" in browser.figure.alt
    browser.controls["level"][0].value = 1
    assert "coarse" in browser.figure.alt
    assert "row 0, column 2" in browser.figure.alt


def test_a_cell_is_moved_by_its_own_pixels_alone(browser):
    handles, _ = browser.controls["points"]
    handles.points = [[41, 9]]
    rows, columns = browser.state.weight.nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 15, 40, 47)


def test_a_channel_that_does_not_exist_is_refused(browser):
    state = browser.state
    with pytest.raises(ValueError, match="fine has channels 0 to 3; got 4"):
        feature_browser.draw(state._replace(channel=4))
    with pytest.raises(ValueError, match="level must be 0 to 1; got 2"):
        feature_browser.draw(state._replace(level=2))
    with pytest.raises(ValueError, match=r"place must be \(x, y\) within the image, 64 x 32"):
        feature_browser.draw(state._replace(place=(65, 3)))


def test_the_pixels_at_the_border_belong_to_the_last_cell():
    assert feature_browser.cell_at((32, 64), (4, 8), (64, 32)) == (3, 7)
    assert feature_browser.cell_at((32, 64), (4, 8), (8, 0)) == (0, 1)


def test_a_thread_is_stepped_and_turned_around():
    locations = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(0))
    view = kernel_thread_view(kernel_thread.ThreadState([(4, 6), (2, 3)], locations, torch.full((2, 3), 1 / 6)))
    step, _ = view.controls["point"]
    assert step.max == 5
    step.value = 4
    assert "forward, at point 4 of 6, level 1" in view.figure.alt
    view.controls["direction"][0].value = "backward"
    assert "It adds to each one's gradient." in view.figure.alt


def test_a_thread_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="locations"):
        kernel_thread_view(kernel_thread.ThreadState([(4, 6)], torch.rand(2, 3, 2), torch.rand(2, 3)))
