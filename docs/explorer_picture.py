"""Record the README's animated picture of the explorer: a browser is driven as a reader would, and photographed.

python docs/explorer_picture.py [--out docs/explorer.gif]     needs Chromium and Playwright (pip install "ddetr[test]")
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from ddetr import load_pretrained
from ddetr.data import toy_scene
from ddetr.viz import SamplingExplorer
from ddetr.viz.figures import LEVEL_COLOURS
from ddetr.viz.sampling import REFERENCE_COLOUR

SCENE = 105
WIDTH, HEIGHT = 900, 690
LARGEST = 2_000_000  # bytes


def record(page: Page) -> Iterator[tuple[Image.Image, int]]:
    """Frames, each with the milliseconds that it stands."""
    canvas = page.locator(".ddetr-explorer .stage canvas").first
    left, top, scale = map(float, page.locator(".ddetr-explorer").get_attribute("data-frame").split())
    box = canvas.bounding_box()

    def frame(milliseconds: int) -> tuple[Image.Image, int]:
        page.wait_for_timeout(60)
        shot = page.screenshot(animations="disabled")
        return Image.open(io.BytesIO(shot)).convert("RGB"), milliseconds

    def move(x: float, y: float) -> None:
        page.mouse.move(box["x"] + (x - left) * scale, box["y"] + (y - top) * scale)

    for step in range(13):  # across bottle and boat
        move(95 + 6 * step, 60 + 4 * step)
        yield frame(110)
    canvas.focus()
    page.keyboard.press("]")
    page.wait_for_timeout(450)
    yield frame(900)
    page.keyboard.press("g")
    page.wait_for_timeout(100)
    yield frame(900)
    page.keyboard.press("g")
    page.keyboard.press("d")
    for _ in range(3):
        page.keyboard.press("]")
        page.wait_for_timeout(450)
        yield frame(600)
    for _ in range(4):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(100)
        yield frame(700)
    page.keyboard.press("l")
    page.wait_for_timeout(100)
    yield frame(1200)


def _with_colours(frame: Image.Image) -> Image.Image:
    """The frame above a patch of each colour that matters, however few of its pixels have it."""
    colours = [*LEVEL_COLOURS, REFERENCE_COLOUR, "#ffffff", "#000000", "#0b5cad"]
    sheet = Image.new("RGB", (frame.width, frame.height + 40 * len(colours)))
    sheet.paste(frame)
    for n, colour in enumerate(colours):
        sheet.paste(colour, (0, frame.height + 40 * n, frame.width, frame.height + 40 * (n + 1)))
    return sheet


def main() -> None:
    """Write the picture; an error if it is too large to put into a README."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("explorer.gif"))
    args = parser.parse_args()
    explorer = SamplingExplorer(load_pretrained("tiny_two_stage").eval(), Image.fromarray(toy_scene(SCENE).image))
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(explorer.to_html(Path(folder) / "explorer.html").as_uri())
        page.wait_for_selector(".ddetr-explorer[data-drawn]")
        frames, times = zip(*record(page), strict=True)
        browser.close()
    # One palette for all, without dithering: what does not move is then equal from frame to frame, and costs nothing.
    palette = _with_colours(frames[-1]).quantize(160, dither=Image.Dither.NONE)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    frames[0].save(args.out, save_all=True, append_images=frames[1:], duration=list(times), loop=0, optimize=True)
    size = args.out.stat().st_size
    print(f"{len(frames)} frames of {frames[0].width} x {frames[0].height}, {size / 1e6:.2f} MB -> {args.out}")
    if size > LARGEST:
        raise SystemExit(f"larger than {LARGEST / 1e6:g} MB")


if __name__ == "__main__":
    main()
