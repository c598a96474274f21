"""What a drag makes of a box or a point: the handles' own functions, in a browser."""

import base64

import pytest

pytest.importorskip("anywidget")

from ddetr.viz.handles import FRONT_END


@pytest.fixture(scope="module")
def moved(chromium):
    """`movedBox` and `movedPoint` of the handles, in the browser."""
    page = chromium.new_page()
    source = base64.b64encode(FRONT_END.read_bytes()).decode()
    yield lambda name, *given: page.evaluate(
        "async ([source, name, given]) => (await import('data:text/javascript;base64,' + source))[name](...given)",
        [source, name, given],
    )
    page.close()


@pytest.mark.parametrize(("box", "part", "by", "expected"), [
    ([10, 10, 30, 20], "whole", (5, -3), [15, 7, 35, 17]),
    ([10, 10, 30, 20], "whole", (-50, 500), [0, 40, 20, 50]),  # its size stays
    ([10, 10, 30, 20], "top left", (2, 3), [12, 13, 30, 20]),
    ([10, 10, 30, 20], "top left", (-99, 99), [0, 16, 30, 20]),  # the border, and the smallest side
    ([10, 10, 30, 20], "bottom right", (-99, 99), [10, 10, 14, 50]),
    ([10, 10, 30, 20], "top right", (99, -99), [10, 0, 100, 20]),
    ([10, 10, 30, 20], "bottom left", (1, -1), [11, 10, 30, 19]),
    ([0, 0, 1, 1], "top left", (-5, 5), [0, 0, 1, 1]),  # smaller than the smallest, and nowhere to go
    ([99, 49, 100, 50], "bottom right", (5, -5), [99, 49, 100, 50]),
])  # fmt: skip
def test_a_moved_box_stays_a_box_inside_the_picture(moved, box, part, by, expected):
    assert moved("movedBox", box, part, *by, [100, 50], 4) == expected


@pytest.mark.parametrize(("by", "expected"), [
    ((3, -4), [13, 6]), ((-50, 7), [0, 17]), ((500, 500), [100, 50]),
])  # fmt: skip
def test_a_moved_point_stays_inside_the_picture(moved, by, expected):
    assert moved("movedPoint", [10, 10], *by, [100, 50]) == expected
