"""The hands-on views in a real JupyterLab: dragged, typed at and clicked, and held against Python in the kernel."""

import numpy as np
import pytest
import torch
from conftest import SCREENSHOTS
from lab import assert_nothing_went_wrong, eventually, namespace_of, opened_views
from view import KEEP, View, in_both_themes

pytest.importorskip("anywidget")

from ddetr.viz import coordinates, feature_browser, kernel_thread, matching, offsets, padding

HACK = "<img src=x onerror='window.hacked=1'>"

SETUP = f"""import json, pathlib
import numpy as np, torch
from PIL import Image
from torch.nn.functional import avg_pool2d
from ddetr.data import prepare_image, toy_scene
from ddetr.viz import coordinate_sandboxes, coordinates, kernel_thread, matching, matching_playground, sandboxes
scene = Image.fromarray(toy_scene(105).image).reduce(2)
image = prepare_image(scene, 160)
h, w = image.shape[1:]
sizes = [(-(-h // side), -(-w // side)) for side in (8, 16, 32, 64)]
def maps(images):  # 4 channels, then 12
    grey = images.mean(1, keepdim=True)
    return [avg_pool2d(grey, 8).repeat(1, 4, 1, 1), avg_pool2d(grey, 16).repeat(1, 12, 1, 1)]
steps = torch.linspace(0.02, 0.98, 16).view(4, 2, 2)
thread = kernel_thread.ThreadState(sizes, steps, torch.full((4, 2), 1 / 8))
rungs = coordinates.LadderState((60, 90), (h, w), (237, 237), level=1)
match = matching.MatchingState(
    boxes=[(0.3, 0.4, 0.3, 0.4), (0.72, 0.5, 0.2, 0.3), (0.5, 0.75, 0.2, 0.2)],
    scores=[[0.803, 0.1], [0.2, 0.7], [0.4, 0.5]],
    target_boxes=[(0.32, 0.42, 0.3, 0.4), (0.68, 0.5, 0.25, 0.3)], target_labels=[0, 1],
    classes=[{HACK!r}, "ring"], picture=np.asarray(scene), queries=[{HACK!r}, "one", "two"],
)"""
VIEWS = {
    "padding_sandbox": "sandboxes.padding_sandbox([(512, 320), (256, 640)])",
    "feature_browser": f"sandboxes.feature_browser(maps, image, [{HACK!r}, 'coarse'])",
    "kernel_thread": "sandboxes.kernel_thread_view(thread)",
    "ladder": "coordinate_sandboxes.ladder_sandbox(image, rungs)",
    "offsets_point": "coordinate_sandboxes.offsets_sandbox(image, sizes)",
    "offsets_box": "coordinate_sandboxes.offsets_sandbox(image, sizes, box=(0.5, 0.5, 0.4, 0.3))",
    "matching_playground": "matching_playground.matching_playground(match)",
}


@pytest.fixture(scope="module")
def space():
    return namespace_of(SETUP)


@pytest.fixture(scope="module")
def lab(start_lab):
    cells = [f"{name} = {code}\n{name}" for name, code in VIEWS.items()]
    keep = KEEP + "".join(f"keep({name!r}, {name})\n" for name in VIEWS)
    return start_lab("views.ipynb", [SETUP, *cells, keep])


@pytest.fixture(scope="module")
def opened(chromium, lab):
    with opened_views(chromium, lab, "views.ipynb", VIEWS) as (page, watch):
        yield page, watch
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / "sandboxes_lab_end.png")


@pytest.fixture
def page(opened, lab):
    """The page, on which after the test nothing has gone wrong."""
    page, watch = opened
    cells = page.locator(".jp-Notebook .jp-Cell").count()
    yield page
    assert_nothing_went_wrong(page, watch, lab)
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells  # no key was taken by the notebook
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x]").count() == 0


@pytest.fixture
def view(page, lab, request):
    """The view that the test is named after."""
    view = View(page, lab, request.node.name.removeprefix("test_"), VIEWS)
    view.img.wait_for()
    return view


def test_padding_sandbox(view):
    def expected():
        sizes = [(round(y2), round(x2)) for _, _, x2, y2 in view.control("boxes")]
        return padding.draw(padding.PaddingState(sizes)).alt

    view.shows(expected)
    before = view.source
    _, end = view.drag("boxes 0 bottom right", -30, 45)
    view.near(lambda: view.control("boxes")[0], [0, 0, *end])
    view.shows(expected)
    assert view.source != before
    assert view.control("boxes")[1] == [0, 0, 640, 256]
    assert np.abs(np.subtract(view.centre("boxes 0 bottom right"), view.svg.evaluate(
        "(svg, [x, y]) => { const p = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM()); return [p.x, p.y] }", end
    ))).max() <= 1  # the knob is under the pointer  # fmt: skip

    # Both names can be read: neither lies on the other, nor outside.
    frame, *names = (node.bounding_box() for node in [view.svg, *view.svg.locator("text").all()])
    assert all(frame["x"] <= box["x"] and box["x"] + box["width"] <= frame["x"] + frame["width"] for box in names)
    assert abs(names[0]["y"] - names[1]["y"]) > 10
    assert 10 < names[0]["height"] < 30

    view.press("boxes 1 bottom right", "ArrowLeft", "ArrowDown", "Shift+ArrowDown")
    eventually(lambda: view.control("boxes")[1], [0, 0, 632, 256 + 8 + 80])
    view.shows(expected)
    assert "image 1, 344 x 632" in view.kept()["alt"]

    # Beyond the border, and to nothing: the largest and the smallest that there is.
    view.drag("boxes 1 bottom right", 400, -400)
    eventually(lambda: view.control("boxes")[1], [0, 0, 768, 8])
    view.shows(expected)


def test_feature_browser(view, space):
    image, maps = space["image"], space["maps"]
    found = [feature[0] for feature in maps(image[None])]

    def expected():
        place = tuple(round(value) for value in view.control("points")[0])
        level, channel = view.control("level"), view.control("channel")
        weight = feature_browser.what_moves(maps, image, level, place)
        chosen = None if channel < 0 else channel
        state = feature_browser.FeatureState(image, found, [HACK, "coarse"], level, chosen, place, weight)
        return feature_browser.draw(state).alt

    view.shows(expected)
    before = view.source
    _, (x, y) = view.drag("points 0", 60, -40)
    view.near(lambda: view.control("points")[0], [x, y])
    view.shows(expected)
    assert view.source != before
    assert f"row {int(round(y) // 8)}, column {int(round(x) // 8)}" in view.kept()["alt"]

    x, y = view.control("points")[0]
    view.press("points 0", "ArrowDown", "ArrowDown", "ArrowRight")
    eventually(lambda: view.control("points")[0], [x + 4, y + 8])
    view.shows(expected)

    view.root.locator("select").select_option(label="coarse")
    eventually(lambda: view.control("level"), 1)
    view.shows(expected)
    names = [name.replace("\xa0", " ") for name in view.root.locator("option").all_text_contents()]
    assert names == [HACK, "coarse"]

    # A channel that the other level does not have.
    number = view.root.locator("input[type=number]")
    number.fill("7")
    number.press("Enter")
    eventually(lambda: view.control("channel"), 7)
    view.shows(expected)
    before = view.source
    view.root.locator("select").select_option(index=0)
    said = f"{HACK} has channels 0 to 3; got 7"
    eventually(lambda: view.kept()["message"], said)
    view.root.get_by_text(said, exact=True).wait_for()
    assert view.source == before
    view.root.screenshot(path=SCREENSHOTS / "feature_browser_lab_refused.png")
    number.fill("2")
    number.press("Enter")
    view.root.get_by_text(said, exact=True).wait_for(state="hidden")
    eventually(lambda: view.control("channel"), 2)
    view.shows(expected)
    assert view.source != before


def test_kernel_thread(view, space):
    def expected():
        point, direction = view.control("point"), view.control("direction")
        return kernel_thread.draw(space["thread"]._replace(point=point, direction=direction)).alt

    view.shows(expected)
    before = view.source
    view.root.locator(".noUi-handle").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowRight"):
        view.page.keyboard.press(key)
    eventually(lambda: view.control("point"), 2)
    view.shows(expected)
    assert view.source != before
    meant = view.slide("point", 5 / 7)
    eventually(lambda: view.control("point"), round(meant))
    view.shows(expected)
    view.root.get_by_role("button", name="backward").click()
    eventually(lambda: view.control("direction"), "backward")
    view.shows(expected)
    assert "It adds to each one's gradient." in view.kept()["alt"]
    before = view.source
    view.root.locator(".widget-play button").first.click()
    eventually(lambda: view.control("point"), 7)
    view.shows(expected)
    assert view.source != before


def test_ladder(view, space):
    def expected():
        controls = view.kept()["controls"]
        (place,) = controls.pop("points")
        return coordinates.draw(space["rungs"]._replace(place=tuple(place), **controls)).alt

    view.shows(expected)
    before = view.source
    _, (x, y) = view.drag("points 0", 70, -50)
    view.near(lambda: view.control("points")[0], [x, y])
    view.shows(expected)
    assert view.source != before
    place = view.control("points")[0]
    view.press("points 0", "ArrowLeft", "ArrowUp", "ArrowUp")
    eventually(lambda: view.control("points")[0], [place[0] - 2, place[1] - 4])
    view.shows(expected)
    view.root.locator("select").select_option(label="level 3")
    eventually(lambda: view.control("level"), 3)
    view.shows(expected)
    for name in ("half_pixel", "swapped", "align_corners"):
        switch = view.root.get_by_label(name.replace("_", " "))
        wanted = not switch.is_checked()
        before = view.source
        switch.click()
        eventually(lambda name=name: view.control(name), wanted)
        view.shows(expected)
        assert view.source != before


def star(view, space, reference):
    chosen = {key: value for key, value in view.kept()["controls"].items() if key != "place"}
    return offsets.draw(offsets.OffsetsState(reference, tuple(space["sizes"]), **chosen)).alt


def test_offsets_point(view, space):
    def expected():
        x, y = view.control("place")[0]
        return star(view, space, (x / space["w"], y / space["h"]))

    view.shows(expected)
    before = view.source
    _, (x, y) = view.drag("points 0", -90, 60)
    view.near(lambda: view.control("place")[0], [x, y])
    view.shows(expected)
    assert view.source != before
    place = view.control("place")[0]
    view.press("points 0", "Shift+ArrowRight", "ArrowUp")
    eventually(lambda: view.control("place")[0], [place[0] + 20, place[1] - 2])
    view.shows(expected)
    meant = view.slide("stretch", 0.3)
    eventually(lambda: view.control("stretch"), lambda found: abs(found - meant) <= 0.05)
    view.shows(expected)
    before = view.source
    view.root.get_by_label("divide by (H, W)").click()
    eventually(lambda: view.control("swapped"), True)
    view.shows(expected)
    assert view.source != before
    view.root.locator("select").select_option(label="3")
    eventually(lambda: view.control("head"), 3)
    view.shows(expected)


def test_offsets_box(view, space):
    def expected():
        x1, y1, x2, y2 = view.control("place")[0]
        h, w = space["h"], space["w"]
        return star(view, space, ((x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h))

    view.shows(expected)
    before = view.source
    x1, y1, x2, y2 = view.control("place")[0]
    _, (x, y) = view.drag("boxes 0 top left", -25, 15)
    view.near(lambda: view.control("place")[0], [x, y, x2, y2])
    view.shows(expected)
    assert view.source != before
    x1, y1, x2, y2 = view.control("place")[0]
    start, end = view.drag("boxes 0 whole", 20, 30)
    dx, dy = np.subtract(end, start)
    view.near(lambda: view.control("place")[0], [x1 + dx, y1 + dy, x2 + dx, y2 + dy])
    view.shows(expected)
    x1, y1, x2, y2 = view.control("place")[0]
    view.press("boxes 0 bottom right", "ArrowRight", "ArrowUp")
    eventually(lambda: view.control("place")[0], [x1, y1, x2 + 2, y2 - 2])
    view.shows(expected)


def test_matching_playground(view, space):
    start = space["match"]
    H, W = start.picture.shape[:2]

    def expected():
        controls = view.kept()["controls"]
        corners = torch.tensor(controls.pop("boxes")) / torch.tensor([W, H, W, H])
        low, high = corners[:, :2], corners[:, 2:]
        boxes, scores = torch.cat([(low + high) / 2, high - low], 1).tolist(), controls.pop("scores")
        return matching.draw(start._replace(boxes=boxes, scores=scores, weights=tuple(controls.values()))).alt

    view.shows(expected)
    assert view.svg.locator("text").all_text_contents() == [HACK, "one", "two"]
    before, boxes = view.source, view.control("boxes")
    begin, end = view.drag("boxes 1 whole", -60, 10)
    dx, dy = np.subtract(end, begin)
    view.near(lambda: view.control("boxes")[1], np.add(boxes[1], [dx, dy, dx, dy]))
    view.shows(expected)
    assert view.source != before
    _, (x, y) = view.drag("boxes 2 top right", 15, -20)
    view.near(lambda: view.control("boxes")[2], [boxes[2][0], y, x, boxes[2][3]])
    view.shows(expected)
    x1, y1, x2, y2 = view.control("boxes")[0]
    view.press("boxes 0 whole", "ArrowRight", "ArrowDown", "ArrowDown")
    eventually(lambda: view.control("boxes")[0], [x1 + 2, y1 + 4, x2 + 2, y2 + 4])
    view.shows(expected)
    meant = view.slide("class", 0.9)
    eventually(lambda: view.control("class"), lambda found: abs(found - meant) <= 0.5)
    view.shows(expected)
    view.root.locator(".widget-slider", has_text="GIoU").locator(".noUi-handle").focus()
    view.page.keyboard.press("ArrowLeft")
    eventually(lambda: view.control("GIoU"), 1.5)
    view.shows(expected)
    view.root.get_by_label("query", exact=True).select_option(label="two")
    view.root.get_by_label("for class", exact=True).select_option(label="ring")
    meant = view.slide("score", 0.95)
    eventually(lambda: view.control("scores")[2][1], lambda found: abs(found - meant) <= 0.02)
    view.shows(expected)
    assert view.control("scores")[:2] == start.scores[:2]


def test_they_are_legible_in_both_themes(page, lab):
    in_both_themes(page, {name: View(page, lab, name, VIEWS).root for name in VIEWS})
