"""How fast the sampling explorer answers in a browser: pointer move to painted frame, bytes, time to first paint.

python benchmarks/explorer_latency.py [--presets tiny r50]     needs Chromium and Playwright (pip install "ddetr[test]")

Each page is exported, opened from its file, and the pointer moved 200 times across the image. A move counts from the
browser's own time stamp of the event to the first task after the frame that shows its token.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from ddetr import build_model, load_pretrained
from ddetr.data import toy_scene
from ddetr.viz import SamplingExplorer
from ddetr.viz.sampling_pack import pack_layer

SIZES = {"tiny": (160, 212), "r50": (800, 1333)}

WATCH = """() => {
  window.moves = [];
  const frame = window.requestAnimationFrame.bind(window);
  const root = document.querySelector(".ddetr-explorer");
  root.addEventListener("pointermove", (event) => {
    const at = event.timeStamp;
    // Registered after the explorer's own, so its frame's callback runs before this one's.
    frame(() => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => window.moves.push([at, performance.now(), root.dataset.token]);
      port2.postMessage(null);
    });
  });
}"""


# What the explorer's own frames cost the page's thread.
COST = """() => {
  window.cost = [];
  const frame = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = (callback) => frame((time) => {
    const start = performance.now();
    callback(time);
    window.cost.push(performance.now() - start);
  });
}"""


# Frames a second, when the pointer is somewhere else in every frame.
PACE = """() => new Promise((resolve) => {
  const canvas = document.querySelector(".ddetr-explorer .stage canvas");
  const box = canvas.getBoundingClientRect();
  const start = performance.now();
  let count = 0;
  const next = () => {
    const [x, y] = [0.15 + (0.7 * count) / 180, 0.2 + (0.6 * ((count * 7) % 180)) / 180];
    const place = { clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true };
    canvas.dispatchEvent(new PointerEvent("pointermove", place));
    count += 1;
    if (count < 180) requestAnimationFrame(next);
    else resolve((1000 * count) / (performance.now() - start));
  };
  requestAnimationFrame(next);
})"""


def explorer_of(preset: str) -> SamplingExplorer:
    """The shipped weights of a tiny preset; fresh ones of a large one, which has as many points to draw."""
    torch.manual_seed(0)
    if preset.startswith("tiny"):
        return SamplingExplorer(load_pretrained(preset).eval(), Image.fromarray(toy_scene(105).image))
    return SamplingExplorer(build_model(preset).eval(), torch.randn(3, *SIZES.get(preset, (800, 1333))))


def measure(browser: Browser, page_file: Path) -> dict[str, float]:
    """Milliseconds: first paint after opening the file, and moves (median, 95th percentile); frames a second."""
    page = browser.new_page(viewport={"width": 1120, "height": 860})
    page.goto(page_file.as_uri())
    page.wait_for_selector(".ddetr-explorer[data-drawn]:not([data-drawn=''])", timeout=120_000)
    first = page.evaluate("performance.now()")
    page.evaluate(WATCH)
    box = page.locator(".ddetr-explorer .stage canvas").first.bounding_box()
    for step in range(200):
        x, y = 0.15 + 0.7 * step / 200, 0.2 + 0.6 * (step * 7 % 200) / 200
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.wait_for_timeout(300)
    moves = page.evaluate("window.moves")
    delays = sorted(painted - at for at, painted, _ in moves)
    tokens = len({token for *_, token in moves})
    page.evaluate(COST)
    for step in range(100):
        page.mouse.move(box["x"] + (0.2 + 0.006 * step) * box["width"], box["y"] + 0.5 * box["height"])
    cost = sorted(page.evaluate("window.cost"))
    pace = page.evaluate(PACE)
    page.close()
    return {
        "first": first,
        "median": statistics.median(delays),
        "p95": delays[int(0.95 * len(delays))],
        "script": statistics.median(cost),
        "script_p95": cost[int(0.95 * len(cost))],
        "pace": pace,
        "tokens": tokens,
    }


def main() -> None:
    """One row for each preset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["tiny", "r50"])
    args = parser.parse_args()
    names = (
        "preset", "image", "a layer, encoder / decoder", "page", "Python: trace / pack a layer", "first paint",
        "frames a second", "move to painted frame: median / p95", "script a frame: median / p95",
    )  # fmt: skip
    print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for preset in args.presets:
            start = time.perf_counter()
            explorer = explorer_of(preset)
            made = time.perf_counter()
            pack_layer(explorer.view, "encoder", 0)
            packed = time.perf_counter()
            # The page holds the decoder and one layer of the encoder: what a reader's browser needs at first.
            sizes = explorer.sizes()
            needed = [n for name, n in sizes.items() if not name.startswith("encoder") or name == "encoder layer 0"]
            file = explorer.to_html(Path(folder) / f"{preset}.html", limit_mb=4 / 3 * sum(needed) / 1e6 + 0.1)
            found = measure(browser, file)
            h, w = explorer.view.size
            cells = [
                f"`{preset}`",
                f"{h} x {w}",
                f"{sizes['encoder layer 0'] / 1e6:.2f} MB / {sizes['decoder layer 0'] / 1e6:.2f} MB",
                f"{file.stat().st_size / 1e6:.1f} MB",
                f"{made - start:.1f} s / {packed - made:.2f} s",
                f"{found['first']:.0f} ms",
                f"{found['pace']:.0f}",
                f"{found['median']:.1f} / {found['p95']:.1f} ms",
                f"{found['script']:.1f} / {found['script_p95']:.1f} ms",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)
            assert found["tokens"] > 50, found
        browser.close()


if __name__ == "__main__":
    main()
