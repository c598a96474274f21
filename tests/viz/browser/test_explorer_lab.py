"""The explorer in a real JupyterLab: run a notebook, drive the widget, and read its traits back in the kernel."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from conftest import Watch
from driver import Driver, assert_same_points
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

pytest.importorskip("anywidget")
pytest.importorskip("jupyterlab")

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


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab of its own on a free port: its folder, address and token."""
    folder = tmp_path_factory.mktemp("lab")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    page = new_notebook(cells=[new_code_cell(cell) for cell in [*CELLS, ""]], metadata=kernel)
    nbformat.write(page, folder / "page.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    here = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
    own = {name: str(folder / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    environment = {**os.environ, **own, "PYTHONPATH": here, "PATH": path}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}",
                f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}", "--ServerApp.ip=127.0.0.1",
                "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
                f"--LabApp.workspaces_dir={folder / 'workspaces'}", f"--LabApp.user_settings_dir={folder / 'settings'}",
            ],
            env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, token, server, folder / "server.log")
        yield folder, address, token
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait_for(address, token, server, log):
    for _ in range(120):
        if server.poll() is not None:
            pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")
        try:
            return ask(address, token, "/api/status")
        except OSError:
            time.sleep(1)
    pytest.fail("JupyterLab did not answer within two minutes")


def ask(address, token, path, method="GET"):
    request = urllib.request.Request(address + path, method=method, headers={"Authorization": f"token {token}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or "null")


def eventually(read, wanted, seconds=20):
    """Until `read()` is `wanted`; fails with what it was last."""
    end = time.monotonic() + seconds
    while True:
        try:
            found = read()
        except (OSError, ValueError):
            found = None
        if found == wanted or time.monotonic() > end:
            break
        time.sleep(0.2)
    assert found == wanted


@pytest.fixture(scope="module")
def view():
    model = load_pretrained("tiny").eval()
    return SamplingExplorer(model, Image.fromarray(toy_scene(SCENE_SEED).image)).view


@pytest.fixture
def page(chromium, screenshot):
    """A window, whose last sight is kept."""
    context = chromium.new_context(viewport={"width": 1500, "height": 1000})
    page = context.new_page()
    yield page
    screenshot(page, "explorer_lab_end")
    context.close()


def test_in_jupyterlab(page, lab, view, screenshot):
    folder, address, token = lab
    watch = Watch(page)
    page.goto(f"{address}/lab/tree/page.ipynb?token={token}")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90_000)
    # Run before that, and JupyterLab asks which kernel to start.
    page.get_by_text("| Idle").wait_for(timeout=90_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_selector(".ddetr-explorer[data-drawn]", timeout=120_000)
    driver = Driver(page)

    def state(name):
        return json.loads((folder / "state.json").read_text())[name]

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

    # JupyterLab's theme, whatever the system's is.
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.locator(".lm-Menu-itemLabel").get_by_text("Theme", exact=True).first.hover()
    page.locator(".lm-Menu-itemLabel").get_by_text("JupyterLab Dark", exact=True).click()
    driver.wait(theme="dark")
    driver.root.scroll_into_view_if_needed()
    driver.settle()
    screenshot(page, "explorer_lab_dark")

    # Nothing went wrong in the kernel: no error, nothing on stderr in any output.
    for kind in ("stderr", "error"):
        assert page.locator(f'.jp-OutputArea-output[data-mime-type*="{kind}"]').count() == 0

    # The kernel goes; the view stays alive.
    (session,) = ask(address, token, "/api/sessions")
    errors = len(watch.errors)
    assert errors == 0, watch.errors
    ask(address, token, f"/api/kernels/{session['kernel']['id']}", method="DELETE")
    page.wait_for_timeout(2000)
    driver.press("e", "0")
    driver.move(150, 121)
    row = token_at(view, 0, 150, 121)
    driver.wait(drawn=f"encoder 1 {row}")
    driver.root.get_by_role("spinbutton").fill("")
    assert_same_points(driver.table(), points_of(view, "encoder", 1, row, levels=[0, 1, 2]))
    assert not [text for text in watch.errors if "ddetr" in text]
