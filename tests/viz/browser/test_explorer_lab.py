"""The explorer in a real JupyterLab: run a notebook, drive the widget, and read its traits back in the kernel."""

import json
import re

import pytest
from conftest import Watch
from driver import Driver, assert_same_points
from lab import ask, assert_no_error_output, choose_theme, eventually, run_all, save
from PIL import Image

pytest.importorskip("anywidget")

from ddetr import load_pretrained
from ddetr.course.timelapse import SCENE_SEED
from ddetr.data import toy_scene
from ddetr.viz import SamplingExplorer
from ddetr.viz.sampling import points_of, token_at

CELLS = [
    f"""from PIL import Image
from ddetr import load_pretrained
from ddetr.data import toy_scene
from ddetr.viz import SamplingExplorer
model = load_pretrained("tiny").eval()
scene = Image.fromarray(toy_scene({SCENE_SEED}).image)
explorer = SamplingExplorer(model, scene)
explorer""",
    """import json, pathlib
def keep(change):
    state = {name: getattr(explorer, name) for name in explorer.CHOICES} | {"bytes": explorer.bytes_sent}
    pathlib.Path("state.json").write_text(json.dumps(state))
explorer.observe(keep, explorer.CHOICES)
keep(None)""",
]
FROM_PYTHON = """explorer.part = "decoder"
explorer.layer = 2
explorer.heads = [1, 6]
explorer.heaviest = 7"""
SANDBOX = """from ddetr.viz import sandboxes
sandboxes.padding_sandbox([(512, 320), (256, 640)])"""


@pytest.fixture(scope="module")
def lab(start_lab):
    return start_lab("page.ipynb", [*CELLS, "", SANDBOX])


@pytest.fixture(scope="module")
def view():
    model = load_pretrained("tiny").eval()
    return SamplingExplorer(model, Image.fromarray(toy_scene(SCENE_SEED).image)).view


@pytest.fixture
def page(chromium, screenshot):
    """A window, whose last sight is kept."""
    context = chromium.new_context(viewport={"width": 1500, "height": 1000})
    yield context.new_page()
    screenshot(context.pages[-1], "explorer_lab_end")
    context.close()


def test_in_jupyterlab(page, lab, view, screenshot):
    watch = Watch(page)
    run_all(page, lab, "page.ipynb")
    page.wait_for_selector(".ddetr-explorer[data-drawn]", timeout=120_000)
    driver = Driver(page)

    def state(name):
        return json.loads((lab.folder / "state.json").read_text())[name]

    # In the browser first: the pointer, keys that JupyterLab has other plans for, and buttons.
    eventually(lambda: state("layer"), 0, seconds=60)
    driver.root.scroll_into_view_if_needed()
    driver.move(60, 90)
    row = token_at(view, 0, 60, 90)
    driver.wait(drawn=f"encoder 0 {row}")
    eventually(lambda: state("token"), row)
    assert_same_points(driver.table(), points_of(view, "encoder", 0, row))
    cells = page.locator(".jp-Notebook .jp-Cell").count()
    driver.press("]", "1", "d")  # JupyterLab: heading 1, delete
    driver.wait(part="decoder", layer=1)
    driver.press("d", "e", "b", "a", "x")  # delete, insert below, insert above, cut
    driver.wait(part="encoder", layer=1)
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells
    eventually(lambda: [state("part"), state("layer"), state("heads")], ["encoder", 1, list(range(1, 8))])
    driver.button("points on level 3").click()
    eventually(lambda: state("levels"), [0, 1, 2])
    sizes = SamplingExplorer(view=view).sizes()
    assert 0 < state("bytes") <= sum(sizes.values())
    screenshot(page, "explorer_lab_light")

    # Then from Python: the view follows.
    cell = page.locator(".jp-Notebook .jp-Cell").nth(2).locator(".cm-content")
    cell.click()
    page.keyboard.insert_text(FROM_PYTHON)
    page.keyboard.press("Shift+Enter")
    driver.wait(part="decoder", layer=2, points=7)
    query = int(driver.data("query"))
    expected = points_of(view, "decoder", 2, query, heads=[1, 6], levels=[0, 1, 2], heaviest=7)
    assert_same_points(driver.table(), expected)

    choose_theme(page, "JupyterLab Dark")
    driver.wait(theme="dark")
    driver.root.scroll_into_view_if_needed()
    driver.settle()
    screenshot(page, "explorer_lab_dark")

    assert_no_error_output(page)
    save(page, lab, "page.ipynb")

    # The kernel goes; the view stays alive.
    (session,) = ask(lab, "/api/sessions")
    errors = len(watch.errors)
    assert errors == 0, watch.errors
    ask(lab, f"/api/kernels/{session['kernel']['id']}", method="DELETE")
    page.wait_for_timeout(2000)
    driver.press("e", "0")
    driver.move(150, 121)
    row = token_at(view, 0, 150, 121)
    driver.wait(drawn=f"encoder 1 {row}")
    driver.root.get_by_role("spinbutton").fill("")
    assert_same_points(driver.table(), points_of(view, "encoder", 1, row, levels=[0, 1, 2]))
    assert not [text for text in watch.errors if "ddetr" in text]

    page.close()
    assert_reopened_it_shows_the_stills(page.context.new_page(), lab)


def assert_reopened_it_shows_the_stills(page, lab):
    """Of the file that was saved, where no kernel knows its widgets; none is run again."""
    assert ask(lab, "/api/kernels") == []
    watch = Watch(page)
    page.goto(f"{lab.address}/lab/tree/page.ipynb?token={lab.token}", timeout=90_000)
    for words in ("Sampling points", "Padding on each level"):
        still = page.get_by_role("img", name=re.compile(words))
        still.wait_for(timeout=90_000)
        assert still.evaluate("image => image.naturalWidth") > 500
    assert page.locator(".ddetr-explorer canvas:visible").count() == 0
    assert watch.errors == []
