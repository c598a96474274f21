"""A real browser. Without one these tests are skipped, and say how to get it."""

import contextlib
import re
import shutil
from pathlib import Path

import pytest

HOW = 'needs a browser: pip install "ddetr[test]", and apt-get install chromium or playwright install chromium'
SCREENSHOTS = Path(__file__).parents[3] / "build" / "screenshots"
NOT_ERRORS = ("log", "debug", "info", "warning", "startGroup", "endGroup", "timeEnd")


# Not for the whole session: while Playwright is there its event loop counts as running, for all other tests too.
@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason=HOW)
    with sync_api.sync_playwright() as playwright:
        path = None  # Playwright's own first, which it is made for
        if not Path(playwright.chromium.executable_path).exists():
            path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
            if path is None:
                pytest.skip(HOW)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def start_lab(chromium, tmp_path_factory):
    """A JupyterLab of the module's own, with a notebook of these cells."""
    pytest.importorskip("jupyterlab", reason='needs JupyterLab: pip install "ddetr[course]"')
    import lab

    with contextlib.ExitStack() as stack:

        def start_lab(name, cells):
            folder = tmp_path_factory.mktemp("lab")
            lab.write_notebook(folder / name, cells)
            return stack.enter_context(lab.started(folder))

        yield start_lab


class Watch:
    """What must not happen on a page: errors in its console or its kernel, and requests that leave the machine.

    JupyterLab shows what a widget's callback raises or logs nowhere on the page, so the kernel's messages are read.
    """

    KERNEL_ERRORS = re.compile(rb'"msg_type": ?"error"|"name": ?"stderr".*Traceback', re.DOTALL)

    def __init__(self, page):
        self.errors, self.requests = [], []
        page.on("console", lambda message: self.errors.append(message.text) if self.is_error(message) else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("websocket", lambda socket: socket.on("framereceived", self._read))

    def _read(self, frame):
        frame = frame.encode() if isinstance(frame, str) else frame
        if self.KERNEL_ERRORS.search(frame):
            self.errors.append(frame.decode(errors="replace")[:4000])

    @staticmethod
    def is_error(message):
        return message.type not in NOT_ERRORS

    def outside(self):
        return [url for url in self.requests if not url.startswith(("file:", "blob:", "data:"))]


@pytest.fixture
def open_page(chromium):
    """Open an exported page from its file, with the network off; at the end nothing may have gone wrong on it."""
    contexts, watches = [], []

    def open_page(path, *, scheme="light", width=1120, height=860, ready=".ddetr-explorer[data-drawn]"):
        viewport = {"width": width, "height": height}
        context = chromium.new_context(offline=True, color_scheme=scheme, viewport=viewport)
        page = context.new_page()
        watches.append(Watch(page))
        contexts.append(context)
        page.goto(path.as_uri())
        page.wait_for_selector(ready)
        return page

    yield open_page
    for context in contexts:
        context.close()
    for watch in watches:
        assert watch.errors == []
        assert watch.outside() == []


@pytest.fixture
def screenshot():
    """Keep a picture of the page under build/screenshots, which git ignores, to be looked at."""

    def screenshot(page, name):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    return screenshot
