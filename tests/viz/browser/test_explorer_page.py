"""The exported explorer, from a file with the network off, driven with mouse and keyboard and held against Python."""

import numpy as np
import pytest
import torch
from driver import Driver, assert_same_points
from matplotlib.colors import to_rgb
from PIL import Image

pytest.importorskip("anywidget")

from ddetr import load_pretrained
from ddetr.course.timelapse import SCENE_SEED
from ddetr.data import toy_scene
from ddetr.viz import SamplingExplorer
from ddetr.viz.figures import LEVEL_COLOURS
from ddetr.viz.sampling import ON_IMAGE, Attention, SamplingView, cell_of, corners, points_of, reference, token_at
from ddetr.viz.sampling_pack import query_order

HACK = "<img src=x onerror='window.hacked=1'>"


@pytest.fixture(scope="module")
def explorer():
    model = load_pretrained("tiny_two_stage").eval()
    return SamplingExplorer(model, Image.fromarray(toy_scene(SCENE_SEED).image))


@pytest.fixture(scope="module")
def page_file(explorer, tmp_path_factory):
    return explorer.to_html(tmp_path_factory.mktemp("page") / "explorer.html")


@pytest.fixture
def driver(open_page, page_file):
    return Driver(open_page(page_file))


@pytest.fixture
def view(explorer):
    return explorer.view


def test_the_token_under_the_pointer_and_its_points(driver, view):
    for x, y in ((60, 90), (150, 121), (3, 3), (211, 159)):
        driver.move(x, y)
        row = token_at(view, 0, x, y)
        driver.wait(drawn=f"encoder 0 {row}")
        assert_same_points(driver.table(), points_of(view, "encoder", 0, row))
        _, i, j = cell_of(view, row)
        heading = driver.root.locator(".heading").inner_text()
        assert heading == f"token {row}: level 0, row {i}, column {j}, encoder layer 0"
        np.testing.assert_allclose(driver.numbers("pointer"), [x, y], atol=0.5)


def test_what_is_painted_is_where_python_says(driver, view):
    spots = [(x, y) for y in range(20, 160, 20) for x in range(20, 200, 20) if heaviest_is_on_image(view, x, y)]
    for x, y in spots[:: len(spots) // 3]:
        driver.move(x, y)
        row = token_at(view, 0, x, y)
        driver.wait(drawn=f"encoder 0 {row}")
        driver.settle()
        points = points_of(view, "encoder", 0, row)
        expected = [round(255 * part) for part in to_rgb(LEVEL_COLOURS[points.level[-1]])]
        assert driver.colour(points.x[-1], points.y[-1])[:3] == pytest.approx(expected, abs=3)
        cross = reference(view, "encoder", 0, row)[0]
        assert driver.colour(*cross)[:3] == pytest.approx((0x3C, 0xFF, 0x3C), abs=25)
        assert driver.colour(-20, -20)[3] == 0


def heaviest_is_on_image(view, x, y):
    """Only points that read something are filled, and only the heaviest, painted last, has its colour in full."""
    row = token_at(view, 0, x, y)
    points = points_of(view, "encoder", 0, row)
    away = np.hypot(*(np.array([points.x[-1], points.y[-1]]) - reference(view, "encoder", 0, row)[0]))
    return points.where[-1] == ON_IMAGE and away > 10  # the cross is painted over the points


def test_keys_move_the_token_its_level_and_the_layer(driver, view):
    driver.move(60, 90)
    driver.wait(drawn=f"encoder 0 {token_at(view, 0, 60, 90)}")
    level, i, j = cell_of(view, int(driver.data("token")))
    columns = view.level_sizes[0][1]
    driver.press("ArrowRight", "ArrowRight", "ArrowUp")
    row = (i - 1) * columns + j + 2
    driver.wait(drawn=f"encoder 0 {row}")
    driver.press("]")
    driver.wait(drawn=f"encoder 1 {row}")
    assert_same_points(driver.table(), points_of(view, "encoder", 1, row))
    driver.press("]")
    assert driver.data("layer") == "1"
    x, y = reference(view, "encoder", 0, row)[0]
    driver.press("PageUp")
    coarser = token_at(view, 1, x, y)
    driver.wait(drawn=f"encoder 1 {coarser}")
    assert_same_points(driver.table(), points_of(view, "encoder", 1, coarser))
    for _ in range(9):
        driver.press("ArrowLeft")
    assert cell_of(view, int(driver.data("token")))[2] == 0
    driver.press("[")
    driver.wait(layer=0)
    assert driver.root.get_by_role("slider", name="layer").input_value() == "0"


def test_heads_levels_and_the_heaviest(driver, view):
    row = int(driver.data("token"))
    driver.press("1", "3")
    driver.wait(points=6 * 16)
    assert not driver.pressed("head 0")
    assert driver.pressed("head 1")
    assert_same_points(driver.table(), points_of(view, "encoder", 0, row, heads=[1, 3, 4, 5, 6, 7]))
    driver.press("Shift+Digit5")
    assert_same_points(driver.table(), points_of(view, "encoder", 0, row, heads=[4]))
    driver.press("0")
    driver.button("points on level 1").click()
    driver.button("points on level 3").click()
    assert_same_points(driver.table(), points_of(view, "encoder", 0, row, levels=[0, 2]))
    driver.button("points on level 2").click(modifiers=["Shift"])
    assert_same_points(driver.table(), points_of(view, "encoder", 0, row, levels=[2]))
    driver.button("points on level 0").click()
    driver.root.get_by_role("spinbutton").fill("5")
    assert_same_points(driver.table(), points_of(view, "encoder", 0, row, levels=[0, 2], heaviest=5))
    driver.root.get_by_role("spinbutton").press("ArrowUp")  # digits and arrows belong to the field while it is edited
    driver.wait(points=6)
    driver.root.get_by_role("spinbutton").fill("")
    driver.wait(points=64)


def test_the_read_outs_of_a_held_token_s_point(driver, view, explorer):
    driver.click(60, 90)
    row = token_at(view, 0, 60, 90)
    driver.wait(drawn=f"encoder 0 {row}")
    assert driver.pressed("Hold the token")
    points = points_of(view, "encoder", 0, row)
    lonely = [
        i
        for i in range(len(points.x))
        if points.where[i] == 0 and np.sort(np.hypot(points.x - points.x[i], points.y - points.y[i]))[1] > 8
    ]
    for i in lonely[:4]:
        driver.move(points.x[i], points.y[i])
        driver.settle()
        assert driver.data("token") == str(row)
        head, level, point = points.head[i], points.level[i], points.point[i]
        assert driver.field("point") == f"head {head}, level {level}, point {point}"
        assert abs(float(driver.field("weight")) - points.weight[i]) < 1e-4
        np.testing.assert_allclose(driver.numbers("pixel"), [points.x[i], points.y[i]], atol=0.1)
        location = view.encoder[0].locations[row, head, level, point].numpy()
        np.testing.assert_allclose(driver.numbers("normalised"), location, atol=5e-4)
        h, w = view.level_sizes[level]
        np.testing.assert_allclose(driver.numbers("cell"), location * [w, h], atol=0.02)
        label = driver.root.get_by_role("img").get_attribute("aria-label")
        for corner in corners(view, level, points.x[i], points.y[i]):
            assert f"column {corner.column}, row {corner.row}: " in label
            shown = float(label.split(f"column {corner.column}, row {corner.row}: ")[1].split(";")[0].split(",")[0])
            assert abs(shown - corner.weight) < 0.03
    assert len(lonely) >= 4


def test_points_by_weight_from_the_keyboard(driver, view):
    row = int(driver.data("token"))
    points = points_of(view, "encoder", 0, row)
    for rank in (1, 2, 3):
        driver.press("n")
        driver.settle()
        i = len(points.x) - 1 - rank
        assert driver.field("point") == f"head {points.head[i]}, level {points.level[i]}, point {points.point[i]}"
    driver.press("p")
    driver.settle()
    assert driver.field("point").startswith(f"head {points.head[-3]}, level {points.level[-3]}")


def test_a_detection_is_clicked(driver, view, screenshot):
    driver.press("d")
    best = query_order(view)[0]
    driver.wait(drawn=f"decoder 0 {best}")
    order = [query for query in query_order(view) if view.scores[-1, query] >= 0.3]
    for query in order[1:4]:
        x1, y1, x2, y2 = view.boxes[0, query].tolist()
        inside = [
            other
            for other in order
            if other != query and view.boxes[0, other][0] < (x1 + x2) / 2 < view.boxes[0, other][2]
            and view.boxes[0, other][1] < (y1 + y2) / 2 < view.boxes[0, other][3]
        ]  # fmt: skip
        if inside:
            continue
        driver.click((x1 + x2) / 2, (y1 + y2) / 2)
        driver.wait(drawn=f"decoder 0 {query}")
        name = view.names[int(view.labels[0, query])]
        heading = driver.root.locator(".heading").inner_text()
        assert heading == f"query {query}, decoder layer 0: {name} {view.scores[0, query]:.2f}"
        assert_same_points(driver.table(), points_of(view, "decoder", 0, query))
        driver.press("]", "]")
        driver.wait(drawn=f"decoder 2 {query}")
        assert_same_points(driver.table(), points_of(view, "decoder", 2, query))
        boxes = driver.root.locator("details", has_text="layer by layer").locator("tbody tr").all_inner_texts()
        for layer, text in enumerate(boxes):
            cells = text.split("\t")
            assert int(cells[0]) == layer
            assert abs(float(cells[2]) - view.scores[layer, query]) <= 0.006
            np.testing.assert_allclose([float(cell) for cell in cells[3:]], view.boxes[layer, query], atol=0.51)
        screenshot(driver.page, "explorer_decoder_light")
        break
    else:
        pytest.fail("no detection of this scene stands alone")


def test_queries_step_by_score(driver, view):
    driver.press("d", "ArrowRight", "ArrowDown")
    driver.wait(query=query_order(view)[2])
    driver.button("Better query").click()
    driver.wait(query=query_order(view)[1])
    driver.press("ArrowLeft", "ArrowLeft", "ArrowLeft")
    driver.wait(query=query_order(view)[0])


def test_layers_play_and_points_travel(driver, view):
    driver.press("d", "Space")
    for layer in (1, 2, 0):
        driver.wait(layer=layer)
    driver.press("Space")
    driver.settle()
    layer = int(driver.data("layer"))
    assert_same_points(driver.table(), points_of(view, "decoder", layer, int(driver.data("query"))))


def test_switches(driver):
    before = driver.root.locator(".stage canvas").first.evaluate("canvas => canvas.toDataURL()")
    for key, name in (("g", "grid"), ("l", "lines"), ("w", "weights")):
        was = driver.pressed(name)
        points = driver.root.locator(".stage canvas").nth(1).evaluate("canvas => canvas.toDataURL()")
        driver.press(key)
        driver.settle()
        assert driver.pressed(name) != was
        if name != "grid":
            assert driver.root.locator(".stage canvas").nth(1).evaluate("canvas => canvas.toDataURL()") != points
    assert driver.root.locator(".stage canvas").first.evaluate("canvas => canvas.toDataURL()") != before


def test_everything_is_reached_by_the_tab_key_and_has_a_name(driver):
    for part in ("e", "d"):
        driver.press(part)
        driver.page.evaluate("document.activeElement.blur()")
        reached = set()
        for _ in range(60):
            driver.page.keyboard.press("Tab")
            reached.add(
                driver.page.evaluate("""() => {
                const e = document.activeElement;
                return e.getAttribute("aria-label") || e.textContent;
            }""")
            )
        visible = driver.root.locator("button:visible:enabled, input:visible, summary:visible, canvas[tabindex]")
        names = visible.evaluate_all("all => all.map(e => e.getAttribute('aria-label') || e.textContent)")
        assert all(names)
        assert set(names) <= reached


def test_screen_readers_hear_what_changed(driver, view):
    driver.press("ArrowRight")
    driver.settle()
    spoken = driver.root.locator("[aria-live]").inner_text()
    row = int(driver.data("token"))
    points = points_of(view, "encoder", 0, row)
    assert f"token {row}: level 0" in spoken
    assert f"head {points.head[-1]}, level {points.level[-1]}, point {points.point[-1]}" in spoken
    assert spoken in driver.canvas.get_attribute("aria-label")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_themes_and_narrow_windows(open_page, page_file, screenshot, scheme):
    grounds = {}
    for width in (1120, 700, 380):
        driver = Driver(open_page(page_file, scheme=scheme, width=width))
        driver.move(60, 90)
        driver.settle()
        assert driver.data("theme") == scheme
        style = driver.root.evaluate("e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]")
        grounds[width] = [sum(map(int, colour[4:-1].split(","))) for colour in style]
        assert driver.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        screenshot(driver.page, f"explorer_{scheme}_{width}")
    for ink, ground in grounds.values():
        assert (ink > 600 and ground < 150) if scheme == "dark" else (ink < 150 and ground > 600)


def test_names_are_text(open_page, explorer, tmp_path):
    view = explorer.view.replace(names=[HACK] * len(explorer.view.names))
    driver = Driver(open_page(SamplingExplorer(view=view, part="decoder").to_html(tmp_path / "a.html")))
    driver.settle()
    assert HACK in driver.root.locator(".heading").inner_text()
    assert HACK in driver.root.locator("details", has_text="layer by layer").inner_text()
    assert driver.page.locator("img").count() == 0
    assert driver.page.evaluate("window.hacked") is None


def test_padding(open_page, tmp_path, screenshot):
    model = load_pretrained("tiny").eval()
    torch.manual_seed(0)
    images = [torch.randn(3, 60, 90), torch.randn(3, 128, 110)]
    explorer = SamplingExplorer.from_trace(model.trace(images), images[0])
    driver = Driver(open_page(explorer.to_html(tmp_path / "a.html")))
    row = token_at(explorer.view, 0, 85, 55)
    driver.move(85, 55)
    driver.wait(drawn=f"encoder 0 {row}")
    points = points_of(explorer.view, "encoder", 0, row)
    assert (points.where == 1).any()
    assert_same_points(driver.table(), points)
    assert f"{(points.where == 1).sum()} on padding" in driver.field("shown")
    driver.press("PageUp", "PageUp")
    driver.wait(drawn=f"encoder 0 {token_at(explorer.view, 2, *reference(explorer.view, 'encoder', 0, row)[0])}")
    assert_same_points(driver.table(), points_of(explorer.view, "encoder", 0, int(driver.data("token"))))
    screenshot(driver.page, "explorer_padding")


def test_another_model_s_attention(open_page, tmp_path):
    """No tokens on a grid, no predictions, reference points that differ from level to level."""
    draw = torch.Generator().manual_seed(0)
    locations = torch.rand(40, 3, 2, 5, 2, generator=draw) * 1.6 - 0.3
    layer = Attention(torch.rand(40, 2, 2, generator=draw), locations, torch.rand(40, 3, 2, 5, generator=draw))
    image = np.zeros((200, 300, 3), np.uint8)
    view = SamplingView(image, [(20, 30), (10, 15)], encoder=(layer,), decoder=(layer, layer))
    driver = Driver(open_page(SamplingExplorer(view=view).to_html(tmp_path / "a.html")))
    places = layer.reference_points[:, 0].numpy() * [300, 200]
    for target in (7, 23):
        driver.move(*places[target])
        driver.wait(drawn=f"encoder 0 {target}")
        assert_same_points(driver.table(), points_of(view, "encoder", 0, target))
    driver.press("d", "]", "ArrowRight")
    driver.wait(drawn="decoder 1 1")
    assert_same_points(driver.table(), points_of(view, "decoder", 1, 1))


def test_layers_that_are_not_in_the_page(open_page, explorer, tmp_path):
    room = 4 / 3 * (explorer.sizes()["encoder layer 0"] + explorer.sizes()["picture"] + 3 * 50 * 800)
    page = explorer.to_html(tmp_path / "a.html", limit_mb=room / 1e6)
    driver = Driver(open_page(page))
    assert "Left out of this page" in driver.root.locator(".notes").inner_text()
    driver.press("]")
    driver.settle()
    assert driver.root.get_by_role("status").inner_text() == "encoder layer 1 is not in this page."
    driver.press("[")
    driver.settle()
    assert driver.root.get_by_role("status").count() == 0 or driver.root.get_by_role("status").inner_text() == ""


def test_without_a_kernel_the_saved_picture_is_shown(open_page, explorer, page_file, tmp_path):
    """What a notebook shows that is opened with its outputs and not run: the module, the state, and no answers."""
    data, _ = explorer._repr_mimebundle_()
    text = page_file.read_text()
    mute = "const mute = { ...modelOf(data), send() {} }; const get = mute.get;"
    mute += f'mute.get = (name) => ({{ _still: "{explorer._still}", _alt: "in words" }})[name] ?? get(name);'
    text = text.replace("render({ model: modelOf(data),", mute + "render({ model: mute,")
    (tmp_path / "a.html").write_text(text)
    page = open_page(tmp_path / "a.html", ready=".ddetr-explorer .still")
    still = page.get_by_role("img", name="in words")
    assert still.evaluate("image => image.naturalWidth") > 500
    assert page.locator(".ddetr-explorer canvas:visible").count() == 0
