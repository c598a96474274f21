"""The same widgets in Notebook 7: they are shown, follow the keyboard, and the kernel hears of it."""

import json

import pytest
from driver import Driver
from lab import assert_no_error_output, eventually
from test_explorer_lab import CELLS
from test_sandboxes_lab import SETUP, VIEWS

pytest.importorskip("anywidget")
pytest.importorskip("notebook", minversion="7", reason='needs Notebook 7: pip install "ddetr[test]"')


def test_in_notebook_7(chromium, start_lab, screenshot):
    lab = start_lab("page.ipynb", [*CELLS, SETUP, VIEWS["ladder"]])
    page = chromium.new_page()
    page.set_default_timeout(120_000)
    page.goto(f"{lab.address}/notebooks/page.ipynb?token={lab.token}")
    page.get_by_text("Python 3 (ipykernel)").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_selector(".ddetr-explorer[data-drawn]")

    driver = Driver(page)
    driver.root.scroll_into_view_if_needed()
    driver.press("]", "1")
    driver.wait(layer=1)

    def chosen():
        state = json.loads((lab.folder / "state.json").read_text())
        return [state["layer"], state["heads"]]

    eventually(chosen, [1, list(range(1, 8))])

    picture = page.locator(".widget-html img")
    before = picture.get_attribute("alt")
    page.locator('[data-handle="points 0"]').focus()
    page.keyboard.press("Shift+ArrowRight")
    eventually(lambda: picture.get_attribute("alt") != before, True)
    assert "Pixel (80.0, 90.0)" in picture.get_attribute("alt")
    screenshot(page, "notebook_7")
    assert_no_error_output(page)
