"""What `ddetr.ops.patch` gains on a CPU: Hugging Face's Deformable DETR (ResNet-50, fresh weights, nothing downloaded)
before and after, in one run: `python benchmarks/patch.py`.

The same model takes turns, so that whatever else the machine does hits both alike; what to read are the ratios. CPU
time is the process's own, which waiting for a core does not lengthen. The table goes to the screen and to a file under
benchmarks/results/.
"""

import argparse
import contextlib
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from ms_deform_attn import RESULTS, machine, table
from peers import hugging_face_model

from ddetr import ops

SIZES = {"480x546": (480, 546), "800x1333": (800, 1333)}


def measure(run: Callable[[], object], model: torch.nn.Module, rounds: int) -> dict[bool, tuple[float, float]]:
    """patched or not -> median seconds, on the clock and of the CPU."""
    times = {False: [], True: []}
    for measured in [False] + rounds * [True]:  # the first round warms up
        for patched in times:
            with ops.patch(model) if patched else contextlib.nullcontext():
                clock, cpu = time.perf_counter(), time.process_time()
                run()
                spent = time.perf_counter() - clock, time.process_time() - cpu
            if measured:
                times[patched].append(spent)
    return {patched: tuple(map(statistics.median, zip(*spent, strict=True))) for patched, spent in times.items()}


def largest_deviation(model: torch.nn.Module, pixels: dict[str, torch.Tensor]) -> float:
    with torch.no_grad():
        before = model(**pixels)
        with ops.patch(model):
            after = model(**pixels)
    return ((after.logits - before.logits).abs().max() / before.logits.abs().max()).item()


def rows(name: str, model: torch.nn.Module, rounds: int) -> list[list[str]]:
    h, w = SIZES[name]
    pixels = {"pixel_values": torch.randn(1, 3, h, w), "pixel_mask": torch.ones(1, h, w, dtype=torch.int64)}
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.3, 0.2]])}]

    def inference() -> None:
        with torch.no_grad():
            model(**pixels)

    def training_step() -> None:
        model.zero_grad()
        model(**pixels, labels=labels).loss.backward()

    made = []
    for what, run in (("inference", inference), ("training step", training_step)):
        model.train(run is training_step)
        times = measure(run, model, rounds)
        (clock, cpu), (our_clock, our_cpu) = times[False], times[True]
        made.append([f"{what}, {name}", f"{clock:.2f} s", f"{our_clock:.2f} s", f"{clock / our_clock:.1f}x"])
        made[-1] += [f"{cpu:.2f} s", f"{our_cpu:.2f} s", f"{cpu / our_cpu:.1f}x"]
    model.eval()
    print(f"{name}: logits deviate by {largest_deviation(model, pixels):.0e} of the largest")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES), help="images (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, whose median counts (default 5)")
    parser.add_argument("--output", type=Path, default=RESULTS / "patch.md")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = hugging_face_model(91)
    made = [row for name in options.sizes for row in rows(name, model, options.rounds)]
    head = ["one image", "as it is", "patched", "ratio", "CPU time", "patched", "ratio"]
    load = f"{os.getloadavg()[1]:.1f}" if hasattr(os, "getloadavg") else "unknown"  # Windows has none
    text = (
        f"# Hugging Face's Deformable DETR, patched\n\n{machine()}. Operator: {ops.choose_backend()}. Load average "
        f"of the last five minutes, on {os.cpu_count()} cores: {load}.\n\n"
        f"Made by `python benchmarks/patch.py`, medians of {options.rounds} runs.\n\n{table(head, made)}"
    )
    print(text)
    options.output.write_text(text)


if __name__ == "__main__":
    main()
