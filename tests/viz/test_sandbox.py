"""Controls over a pure draw(state): what is drawn follows them, and what cannot be drawn is said."""

import asyncio
import threading
import time

import ipywidgets
import pytest
from traitlets import TraitError

from ddetr.viz.figures import Figure
from ddetr.viz.handles import Handles
from ddetr.viz.sandbox import Sandbox, picture


def draw(number):
    if number < 0:
        raise ValueError(f"number must not be negative; got {number}")
    if number == 13:
        raise RuntimeError("a bug")
    figure = Figure(figsize=(1, 1))
    figure.text(0.1, 0.5, str(number))
    figure.alt = f"the number {number}"
    return figure


@pytest.fixture
def slider():
    return ipywidgets.IntSlider(3, -5, 20)


@pytest.fixture
def sandbox(slider):
    return Sandbox(draw, lambda number: number, {"number": slider})


def shown(sandbox):
    return sandbox._picture.value


def test_the_figure_follows_the_control(sandbox, slider):
    assert sandbox.state == 3
    before = shown(sandbox)
    slider.value = 7
    assert sandbox.state == 7
    assert sandbox.figure.alt == "the number 7"
    assert shown(sandbox) == picture(sandbox.figure) != before


def test_a_refused_state_is_said_and_the_figure_stays(sandbox, slider):
    before = shown(sandbox)
    slider.value = -1
    assert sandbox.message == "number must not be negative; got -1"
    assert (sandbox.state, shown(sandbox)) == (3, before)
    slider.value = 4
    assert (sandbox.message, sandbox.state) == ("", 4)


def test_a_bug_in_draw_is_raised(sandbox, slider):
    with pytest.raises(RuntimeError, match="a bug"):
        slider.value = 13


def test_a_bad_start_is_refused(slider):
    slider.value = -2
    with pytest.raises(ValueError, match="got -2"):
        Sandbox(draw, lambda number: number, {"number": slider})


def test_many_changes_of_a_dragging_hand_are_drawn_once(slider):
    drawn = []
    sandbox = Sandbox(lambda n: drawn.append(n) or draw(n), lambda number: number, {"number": slider})

    async def drag():
        for number in range(4, 12):
            slider.value = number
        assert sandbox.controls["number"][0].value == 11
        await asyncio.sleep(0.2)

    asyncio.run(drag())
    assert drawn == [3, 11]


def test_who_asks_for_the_state_does_not_get_an_old_one(sandbox, slider):
    async def change():
        slider.value = 9
        return sandbox.state

    assert asyncio.run(change()) == 9


def test_the_picture_says_in_words_what_it_shows_and_its_words_are_no_html():
    figure = draw(1)
    figure.alt = 'a category called "><img src=x onerror=alert(1)>'
    assert 'alt="a category called &quot;&gt;&lt;img src=x onerror=alert(1)&gt;"' in picture(figure)


def test_without_widgets_there_is_a_picture_and_a_sentence(sandbox):
    data, metadata = sandbox._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert metadata["image/png"]["alt"] == "the number 3"
    assert "JupyterLab" in data["text/plain"]
    assert data["image/png"] != sandbox.figure._repr_png_()  # the sentence is in the picture too
    assert "application/vnd.jupyter.widget-view+json" in data


@pytest.mark.parametrize(("boxes", "message"), [
    ([[0, 0, 1]], "4 finite numbers"),
    ([[0, 0, float("nan"), 1]], "4 finite numbers"),
    ([["a", 0, 1, 1]], "4 finite numbers"),
    ([[5, 0, 1, 1]], "x1 <= x2"),
])  # fmt: skip
def test_handles_refuse_what_is_no_box(boxes, message):
    handles = Handles((10, 10), boxes=[[1, 1, 2, 2]])
    with pytest.raises(TraitError, match=message):
        handles.boxes = boxes
    assert handles.boxes == [[1, 1, 2, 2]]


def test_handles_stay_inside_the_picture():
    handles = Handles((10, 5), boxes=[[-1, 2, 30, 40]], points=[[3, 9]])
    assert handles.boxes == [[0, 2, 10, 5]]
    assert handles.points == [[3, 5]]


def test_of_two_threads_that_change_a_control_the_last_one_is_shown(slider):
    drawing = threading.Event()

    def slowly(number):
        if number == 5:
            drawing.set()
            time.sleep(0.3)
        return draw(number)

    sandbox = Sandbox(slowly, lambda number: number, {"number": slider})
    first = threading.Thread(target=setattr, args=(slider, "value", 5))
    first.start()
    assert drawing.wait(10)
    slider.value = 6
    first.join()
    assert sandbox.state == 6
    assert shown(sandbox) == picture(draw(6))
