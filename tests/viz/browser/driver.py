"""The explorer as a person uses it: where to point, what to press, and what then stands on the page."""

import re
from itertools import pairwise


class Driver:
    """`page` is a Playwright page with one explorer on it."""

    def __init__(self, page):
        self.page = page
        self.root = page.locator(".ddetr-explorer").first
        self.canvas = self.root.locator(".stage canvas").first

    def data(self, name):
        return self.root.get_attribute(f"data-{name}")

    def wait(self, **values):
        """Until the explorer says so: `wait(drawn="encoder 1 40")`; raises if it does not."""
        wanted = {name: str(value) for name, value in values.items()}
        self.page.wait_for_function(
            "([root, wanted]) => Object.entries(wanted).every(([name, value]) => root.dataset[name] === value)",
            arg=[self.root.element_handle(), wanted],
            timeout=10_000,
        )

    def settle(self):
        """Until what follows a pause (tables, the spoken sentence) is there too."""
        self.wait(moving="false")
        self.page.wait_for_timeout(300)

    def place(self, x, y):
        """A pixel of the image -> a point of the window."""
        left, top, scale = map(float, self.data("frame").split())
        box = self.canvas.bounding_box()
        return box["x"] + (float(x) - left) * scale, box["y"] + (float(y) - top) * scale

    def move(self, x, y):
        self.page.mouse.move(*self.place(x, y))

    def click(self, x, y):
        self.page.mouse.click(*self.place(x, y))

    def press(self, *keys):
        self.canvas.focus()
        for key in keys:
            self.page.keyboard.press(key)

    def button(self, label):
        return self.root.get_by_role("button", name=re.compile(f"^{re.escape(label)}"))

    def pressed(self, label):
        return self.button(label).get_attribute("aria-pressed") == "true"

    def field(self, name):
        return self.root.locator(f'[data-field="{name}"]').inner_text()

    def numbers(self, name):
        return [float(number) for number in self.field(name).split(",")]

    def table(self):
        """Every shown point, heaviest first: head, level, point, x, y, weight, where it falls."""
        details = self.root.locator("details", has_text="The points as a table")
        if details.get_attribute("open") is None:
            details.locator("summary").press("Enter")
        self.settle()
        rows = details.locator("tbody").evaluate(
            "body => [...body.rows].map(r => [...r.cells].map(c => c.textContent))"
        )
        return [(int(h), int(m), int(p), float(x), float(y), float(w), where) for h, m, p, x, y, w, where in rows]

    def colour(self, x, y):
        """The upper canvas's colour at a pixel of the image: (red, green, blue, alpha)."""
        left, top, scale = map(float, self.data("frame").split())
        code = """(canvas, [x, y]) => {
            const ratio = canvas.width / canvas.getBoundingClientRect().width;
            return [...canvas.getContext("2d").getImageData(Math.round(x * ratio), Math.round(y * ratio), 1, 1).data];
        }"""
        place = [(float(x) - left) * scale, (float(y) - top) * scale]
        return tuple(self.root.locator(".stage canvas").nth(1).evaluate(code, place))


def assert_same_points(table, points):
    """The page's table against what Python computed: to a tenth of a pixel, the heaviest first."""
    texts = ["on the image", "on padding", "outside the map"]
    assert len(table) == len(points.x)
    weights = [row[5] for row in table]
    assert all(first >= second for first, second in pairwise(weights))
    expected = {
        (int(points.head[i]), int(points.level[i]), int(points.point[i])): (
            points.x[i], points.y[i], points.weight[i], texts[points.where[i]],
        )
        for i in range(len(points.x))
    }  # fmt: skip
    assert {row[:3] for row in table} == set(expected)
    for head, level, point, x, y, weight, where in table:
        px, py, share, text = expected[head, level, point]
        assert abs(x - px) < 0.1, (head, level, point, x, px)
        assert abs(y - py) < 0.1, (head, level, point, y, py)
        assert abs(weight - share) < 1e-4
        assert where == text
