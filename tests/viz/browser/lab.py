"""A JupyterLab of the tests' own: started on a free port, opened in a browser, its notebook run."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from conftest import Watch
from nbformat.v4 import new_code_cell, new_notebook

HERE = Path(__file__).parents[3]


class Lab(NamedTuple):
    """What a test needs of it: where its notebooks lie, where it answers, and what it asks for."""

    folder: Path
    address: str
    token: str


def write_notebook(path, cells):
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata=kernel), path)


@contextlib.contextmanager
def started(folder):
    """A JupyterLab that serves `folder` and keeps nothing elsewhere."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    kept = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    own = {name: str(folder / name.lower()) for name in kept}
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    environment = {**os.environ, **own, "PYTHONPATH": str(HERE), "PATH": path}
    # Or it asks, in front of everything, whether to fetch news.
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    # Which the package brings to the environment that it is installed in.
    defaults = folder / "defaults" / "overrides.d"
    defaults.mkdir(parents=True)
    shutil.copy(HERE / "ddetr" / "viz" / "jupyterlab_settings.json", defaults)
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}",
                f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}", "--ServerApp.ip=127.0.0.1",
                "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
                f"--LabApp.workspaces_dir={folder / 'workspaces'}", f"--LabApp.user_settings_dir={folder / 'settings'}",
                f"--LabApp.app_settings_dir={folder / 'defaults'}",
            ],
            env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder,
        )  # fmt: skip
    lab = Lab(folder, f"http://127.0.0.1:{port}", token)
    try:
        _wait_for(lab, server)
        yield lab
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait_for(lab, server):
    for _ in range(120):
        if server.poll() is not None:
            pytest.fail(f"JupyterLab did not start:\n{(lab.folder / 'server.log').read_text()[-2000:]}")
        try:
            return ask(lab, "/api/status")
        except OSError:
            time.sleep(1)
    pytest.fail("JupyterLab did not answer within two minutes")


def ask(lab, path, method="GET"):
    request = urllib.request.Request(lab.address + path, method=method, headers={"Authorization": f"token {lab.token}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or "null")


def eventually(read, wanted, seconds=90):
    """Until `read()` is `wanted`, or where `wanted` is a function, until it says so; fails with what it was last."""
    holds = wanted if callable(wanted) else lambda found: found == wanted
    end = time.monotonic() + seconds
    while True:
        try:
            found = read()
        except (OSError, ValueError):
            found = None
        if (found is not None and holds(found)) or time.monotonic() > end:
            break
        time.sleep(0.2)
    assert found is not None
    assert holds(found), found if callable(wanted) else (found, wanted)
    return found


def run_all(page, lab, name):
    """Open a notebook and run its cells, as its menu does."""
    page.goto(f"{lab.address}/lab/tree/{name}?token={lab.token}", timeout=90_000)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90_000)
    # Run before that, and JupyterLab asks which kernel to start.
    page.get_by_text("| Idle").wait_for(timeout=90_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def save(page, lab, name):
    """Save a notebook, and wait until it lies there with what its widgets hold."""
    page.keyboard.press("Control+s")
    eventually(lambda: "widgets" in json.loads((lab.folder / name).read_text())["metadata"], True)


def choose_theme(page, name):
    """JupyterLab's theme, whatever the system's is: "JupyterLab Light" or "JupyterLab Dark"."""
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.locator(".lm-Menu-itemLabel").get_by_text("Theme", exact=True).first.hover()
    page.locator(".lm-Menu-itemLabel").get_by_text(name, exact=True).click()


def assert_no_error_output(page):
    """Nothing went wrong in the kernel: no error, nothing on stderr in any output."""
    for kind in ("stderr", "error"):
        assert page.locator(f'.jp-OutputArea-output[data-mime-type*="{kind}"]').count() == 0


def assert_nothing_went_wrong(page, watch, lab):
    """In the browser's console, in the kernel, in the server."""
    assert watch.errors == []
    assert_no_error_output(page)
    assert "Traceback" not in (lab.folder / "server.log").read_text()


def namespace_of(code):
    """What a notebook's first cell makes, here."""
    names = {}
    exec(code, names)
    return names


@contextlib.contextmanager
def opened_views(chromium, lab, name, views):
    """A window in which the notebook has run, once each of its views has told its state; and what went wrong in it."""
    context = chromium.new_context(viewport={"width": 1500, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(90_000)
    watch = Watch(page)
    run_all(page, lab, name)
    eventually(lambda: all((lab.folder / f"{view}.json").exists() for view in views), True, seconds=400)
    yield page, watch
    context.close()
