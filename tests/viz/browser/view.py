"""A view of a notebook in JupyterLab: used as a person does, and what the kernel says of it."""

import json

import numpy as np
from conftest import SCREENSHOTS
from lab import choose_theme, eventually

KEEP = """def keep(name, sandbox):
    def write(_=None):
        controls = {key: getattr(widget, trait) for key, (widget, trait) in sandbox.controls.items()}
        text = json.dumps({"controls": controls, "alt": sandbox.figure.alt, "message": sandbox.message})
        new = pathlib.Path(name + ".new")
        new.write_text(text)
        new.replace(name + ".json")
    for shown in sandbox.children[-2:]:  # the refusal and the picture
        shown.observe(write, "value")
    write()
"""
# When the hand lets go, and when the last picture after that is there to be painted.
STOPWATCH = """(root) => {
    const times = {};
    root.addEventListener("pointerup", () => times.up = performance.now(), {once: true, capture: true});
    const observer = new MutationObserver(async () => {
        await root.querySelector(".widget-html img")?.decode();
        times.shown = performance.now();
    });
    window.stop = () => {
        observer.disconnect();
        return times.shown - times.up;
    };
    observer.observe(root.querySelector(".widget-html").parentNode, {childList: true, subtree: true});
}"""


class View:
    """One view as a person uses it, and what the kernel says of it."""

    def __init__(self, page, lab, name, views):
        self.page, self.lab, self.name, self.timed = page, lab, name, False
        self.cell = page.locator(".jp-Notebook .jp-Cell").nth(1 + list(views).index(name))
        self.root = self.cell.locator(".jp-OutputArea")
        self.svg = self.root.locator("svg[role=group]")
        self.img = self.root.locator(".widget-html img")

    def kept(self):
        return json.loads((self.lab.folder / f"{self.name}.json").read_text())

    def control(self, name):
        return self.kept()["controls"][name]

    def shows(self, expected):
        """Until the kernel has drawn `expected()`, from what it says of its controls, and that picture is shown."""
        eventually(lambda: self.kept()["alt"] == expected(), True)
        alt = self.kept()["alt"]
        eventually(lambda: self.img.get_attribute("alt"), alt)
        assert self.img.evaluate("async (img) => { await img.decode(); return img.naturalWidth }") > 300
        assert self.kept()["message"] == ""
        if self.timed:
            self.timed = False
            took = self.page.evaluate("window.stop()")
            print(f"measured: {self.name}: {took:.0f} ms from the end of a drag to its picture")

    @property
    def source(self):
        return self.img.get_attribute("src")

    def handle(self, name):
        return self.root.locator(f'[data-handle="{name}"]')

    def centre(self, name):
        self.handle(name).hover()  # scrolls there, and waits until the outputs above it have their height
        box = self.handle(name).bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def in_picture(self, x, y):
        """A point of the window -> the coordinates of the handles, as the browser has them."""
        code = """(svg, [x, y]) => {
            const {x: left, y: top} = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM().inverse());
            return [left, top];
        }"""
        return self.svg.evaluate(code, [x, y])

    def pixel(self):
        """How much of the handles' coordinates a pixel of the window is."""
        return self.svg.evaluate("svg => 1 / svg.getScreenCTM().a")

    def drag(self, name, dx, dy):
        """By (dx, dy) pixels of the window; where the pointer took it from and left it, in the handles' coordinates."""
        x, y = self.centre(name)
        self.root.evaluate(STOPWATCH)
        self.timed = True
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + dx, y + dy, steps=8)
        ends = self.in_picture(x, y), self.in_picture(x + dx, y + dy)
        self.page.mouse.up()
        return ends

    def press(self, name, *keys):
        self.handle(name).focus()
        for key in keys:
            self.page.keyboard.press(key)

    def near(self, read, wanted):
        """Until what the kernel has is within a pixel of the window of what was meant."""
        eventually(read, lambda found: np.abs(np.subtract(found, wanted)).max() <= 1.01 * self.pixel())

    def slide(self, label, fraction):
        """Drag a slider's knob to a fraction of its length; the value there, before the step."""
        slider = self.root.locator(".widget-slider", has_text=label)
        slider.scroll_into_view_if_needed()
        knob, base = slider.locator(".noUi-handle"), slider.locator(".noUi-base").bounding_box()
        box = knob.bounding_box()
        low, high = (float(knob.get_attribute(f"aria-value{end}")) for end in ("min", "max"))
        self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self.page.mouse.down()
        self.page.mouse.move(base["x"] + fraction * base["width"], base["y"] + base["height"] / 2, steps=5)
        self.page.mouse.up()
        return low + fraction * (high - low)


def in_both_themes(page, shown):
    """Their pictures, name -> what is shown, and whether all of their words can be read."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for theme in ("Dark", "Light"):
        choose_theme(page, f"JupyterLab {theme}")
        page.wait_for_selector(f'body[data-jp-theme-light="{str(theme == "Light").lower()}"]', state="attached")
        for name, root in shown.items():
            root.screenshot(path=SCREENSHOTS / f"{name}_lab_{theme.lower()}.png")
            for text in root.locator(".widget-label:visible, .widget-button:visible").all():
                if text.inner_text().strip():
                    assert contrast(text) > 4.5, (name, theme, text.inner_text())


def contrast(text):
    """How much brighter the letters are than what lies behind them, or the other way round, as WCAG counts it."""
    code = """(node) => {
        const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
        const clear = (node) => numbers(getComputedStyle(node).backgroundColor)[3] === 0;
        let behind = node;
        while (clear(behind) && behind.parentElement) behind = behind.parentElement;
        return [getComputedStyle(node).color, getComputedStyle(behind).backgroundColor].map(numbers);
    }"""

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.divide(colour[:3], 255)]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    low, high = sorted(luminance(colour) for colour in text.evaluate(code))
    return (high + 0.05) / (low + 0.05)
