"""More views in a real JupyterLab: one query's attention, similar tokens, and one whose drawing is broken."""

import numpy as np
import pytest
import torch
from lab import assert_nothing_went_wrong, eventually, namespace_of, opened_views
from view import KEEP, View, in_both_themes

pytest.importorskip("anywidget")

from ddetr.viz import attention, encoder

SETUP = """import json, pathlib
import ipywidgets, numpy as np, torch
from PIL import Image
from ddetr.data import prepare_image, toy_scene
from ddetr.viz import attention, attention_playground, encoder, encoder_sandbox
from ddetr.viz.figures import Figure
from ddetr.viz.sandbox import Sandbox
scene = Image.fromarray(toy_scene(105).image).reduce(2)
image = prepare_image(scene, 160)
h, w = image.shape[1:]
sizes = [(-(-h // side), -(-w // side)) for side in (8, 16, 32, 64)]
torch.manual_seed(0)
tokens = sum(h * w for h, w in sizes)
query = attention.AttentionState(
    np.asarray(scene), torch.randn(tokens, 8, 16), sizes, torch.tensor([0.4, 0.6]).expand(4, 2),
    2 * torch.randn(8, 4, 4, 2), torch.randn(8, 4, 4), head=1,
)
similar = encoder.SimilarityState(image, {"tokens": torch.randn(tokens, 16)}, sizes, 1, 0.3, 0.4)
def broken(number):
    if number > 3:
        raise RuntimeError("a bug in draw")
    return Figure(figsize=(4, 1))"""
VIEWS = {
    "attention": "attention_playground.attention_playground(query)",
    "similarity": "encoder_sandbox.similarity_sandbox(similar)",
    "broken": "Sandbox(broken, lambda number: number, {'number': ipywidgets.IntSlider(1, 0, 9, description='number')})",
}


@pytest.fixture(scope="module")
def space():
    return namespace_of(SETUP)


@pytest.fixture(scope="module")
def lab(start_lab):
    # Not under names of modules.
    cells = [f"{name}_view = {code}\n{name}_view" for name, code in VIEWS.items()]
    keep = KEEP + "".join(f"keep({name!r}, {name}_view)\n" for name in VIEWS)
    return start_lab("playgrounds.ipynb", [SETUP, *cells, keep])


@pytest.fixture(scope="module")
def opened(chromium, lab):
    with opened_views(chromium, lab, "playgrounds.ipynb", VIEWS) as opened:
        yield opened


@pytest.fixture
def view(opened, lab, request):
    """The view that the test is named after; nothing may have gone wrong at the end."""
    page, watch = opened
    view = View(page, lab, request.node.name.removeprefix("test_"), VIEWS)
    view.img.wait_for()
    yield view
    assert_nothing_went_wrong(page, watch, lab)


def test_attention(view, space):
    start = space["query"]
    H, W = start.picture.shape[:2]

    def expected():
        state = start._replace(**view.kept()["controls"])
        return attention.draw(state, attention.read(start._replace(head=state.head)).output).alt

    def changed(name):
        return (torch.tensor(view.control(name)) - getattr(start, name)).abs() > 1e-5

    view.shows(expected)
    assert "0.000 from the network's" in view.kept()["alt"]
    before = view.source
    view.root.get_by_label("points of", exact=True).select_option(index=1)
    eventually(lambda: view.handle("points 2").get_attribute("aria-label"), "point 2, arrow keys move it")
    places = attention.read(start).locations[1] * torch.tensor([W, H])
    inside = int(((places > 30) & (places < torch.tensor([W, H]) - 30)).all(1).nonzero()[0])

    def place():
        reading = attention.read(start._replace(**view.kept()["controls"]))
        return (reading.locations[1, inside] * torch.tensor([W, H])).tolist()

    _, (x, y) = view.drag(f"points {inside}", 30, -20)
    view.near(place, [x, y])
    view.shows(expected)
    assert view.source != before
    assert changed("offsets").any(-1).nonzero().tolist() == [[1, 1, inside]]
    assert not changed("logits").any()

    x, y = place()
    view.press(f"points {inside}", "ArrowLeft", "ArrowDown")
    view.near(place, [x - 2, y + 2])
    view.shows(expected)
    in_both_themes(view.page, {view.name: view.root})

    meant = view.slide("logit of 3", 0.9)
    eventually(lambda: view.control("logits")[1][1][3], lambda found: abs(found - meant) <= 0.2)
    view.shows(expected)
    assert changed("logits").nonzero().tolist() == [[1, 1, 3]]
    assert "heaviest is point 3 of level 1" in view.kept()["alt"]

    view.root.get_by_label("head", exact=True).select_option(label="head 5")
    eventually(lambda: view.control("head"), 5)
    view.shows(expected)
    assert "0.000 from the network's" in view.kept()["alt"]  # this head's points were not touched


def test_similarity(view, space):
    start = space["similar"]
    H, W = start.image.shape[1:]

    def expected():
        x, y = view.control("points")[0]
        return encoder.draw_similarity(start._replace(x=x / W, y=y / H, level=view.control("level"))).alt

    view.shows(expected)
    before = view.source
    _, (x, y) = view.drag("points 0", 70, 40)
    view.near(lambda: view.control("points")[0], [x, y])
    view.shows(expected)
    assert view.source != before
    x, y = view.control("points")[0]
    view.press("points 0", "ArrowLeft", "Shift+ArrowUp")
    eventually(lambda: np.allclose(view.control("points")[0], [x - 4, max(y - 40, 0)]), True)
    view.shows(expected)
    before = view.source
    view.root.get_by_label("level", exact=True).select_option(index=2)
    eventually(lambda: view.control("level"), 2)
    view.shows(expected)
    assert view.source != before
    in_both_themes(view.page, {view.name: view.root})


def test_an_error_in_a_callback_is_seen(opened, lab):
    """The last one: afterwards nothing on this page passes any more."""
    page, watch = opened
    view = View(page, lab, "broken", VIEWS)
    view.img.wait_for()
    assert_nothing_went_wrong(page, watch, lab)
    view.slide("number", 0.9)

    eventually(lambda: watch.errors, bool)
    assert "RuntimeError: a bug in draw" in watch.errors[-1]
