"""How fast the attention operator is, beside its peers, in one run: `python benchmarks/ms_deform_attn.py`.

Every peer runs once in every round and the medians are reported, so that whatever else the machine does hits all of
them alike; what to read are the ratios. Errors are relative: the norm of the difference from float64 over the norm.
The tables go to the screen and to a file under benchmarks/results/.
"""

import argparse
import gc
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peers import Workload, hugging_face_model, hugging_face_module, operator_peers
from torch import Tensor

from ddetr import build_model, ops
from ddetr.models.deform_attention import MSDeformAttn

RESULTS = Path(__file__).parent / "results"
C480 = [(60, 69), (30, 35), (15, 18), (8, 9)]  # the levels of a 480x546 image
C800 = [(100, 167), (50, 84), (25, 42), (13, 21)]  # of 800x1333
TINY = [(16, 16), (8, 8), (4, 4), (2, 2)]  # of 128x128
WORKLOADS = [
    {"name": "encoder 480x546", "sizes": C480},
    {"name": "encoder 480x546, uniform", "sizes": C480, "near": False},
    {"name": "encoder 480x546, batch 4", "sizes": C480, "batch": 4},
    {"name": "encoder 800x1333", "sizes": C800},
    {"name": "encoder 800x1333, uniform", "sizes": C800, "near": False},
    {"name": "decoder 480x546", "sizes": C480, "queries": 300},
    {"name": "decoder 480x546, batch 4", "sizes": C480, "queries": 300, "batch": 4},
    {"name": "tiny encoder", "sizes": TINY, "channels": 8},
]


def medians(tasks: dict[str, Callable[[], float]], seconds: float, at_least: int = 3) -> dict[str, float]:
    """Milliseconds. Each task times itself; all run once a round, until the time is used up."""
    for task in tasks.values():
        task()
    times: dict[str, list[float]] = {name: [] for name in tasks}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < at_least:
        for name, task in tasks.items():
            times[name].append(task())
    return {name: 1e3 * statistics.median(values) for name, values in times.items()}


def timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def inference(run: Callable[[], Tensor]) -> float:
    with torch.no_grad():
        return timed(run)


def backward(run: Callable[..., Tensor], inputs: list[Tensor], grad_out: Tensor) -> float:
    out = run(*inputs)
    wanted = [t for t in inputs if t.requires_grad]
    return timed(lambda: torch.autograd.grad(out, wanted, grad_out))


def error(got: Tensor, exact: Tensor) -> float:
    return ((got.double() - exact).norm() / exact.norm()).item()


def errors(run: Callable[..., Tensor], exact: Callable[..., Tensor], inputs: list[Tensor], grad_out: Tensor):
    """(of the value, the worst of the gradients) against `exact` in float64."""
    wanted = [t for t in inputs if t.requires_grad]
    out = run(*inputs)
    grads = torch.autograd.grad(out, wanted, grad_out)
    double = [t.detach().double().requires_grad_(t.requires_grad) for t in inputs]
    exact_out = exact(*double)
    exact_grads = torch.autograd.grad(exact_out, [t for t in double if t.requires_grad], grad_out.double())
    return error(out, exact_out), max(error(a, b) for a, b in zip(grads, exact_grads, strict=True))


def operator_table(seconds: float) -> str:
    rows, missing = [], []
    for arguments in WORKLOADS:
        more, missing = operator_rows(Workload(**arguments), seconds)
        rows += more
        gc.collect()
    note = f"\nNot installed, so not measured: {', '.join(missing)}.\n" if missing else ""
    head = ["workload", "peer", "forward ms", "of ddetr", "backward ms", "of ddetr", "value error", "gradient error"]
    return "## The operator, float32\n\n" + table(head, rows) + note


def operator_rows(load: Workload, seconds: float) -> tuple[list[list[str]], list[str]]:
    peers, missing = operator_peers(load)
    inputs = load.inputs()
    forward = medians({n: lambda f=f: inference(lambda: f(*inputs)) for n, f in peers.items()}, seconds)
    back = medians({n: lambda f=f: backward(f, inputs, load.grad_out) for n, f in peers.items()}, 2 * seconds)
    rows = []
    for name, run in peers.items():
        value_error, grad_error = errors(run, peers["grid_sample"], inputs, load.grad_out)
        times = [f"{forward[name]:.2f}", f"{forward[name] / forward['ddetr cpu']:.1f}x"]
        times += [f"{back[name]:.2f}", f"{back[name] / back['ddetr cpu']:.1f}x"]
        rows.append([load.name, name, *times, f"{value_error:.0e}", f"{grad_error:.0e}"])
    return rows, missing


def dtype_table(seconds: float) -> str:
    """Our own kernel: the plain and the fused form in each dtype."""
    load = Workload("encoder 480x546", C480)
    dtypes = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    rows = [dtype_row(load, dtype, form, seconds / 4) for dtype in dtypes for form in ("plain", "fused")]
    head = ["dtype", "form", "forward ms", "backward ms", "value error", "gradient error"]
    return "## ddetr's forms and dtypes, encoder 480x546\n\n" + table(head, rows)


def dtype_row(load: Workload, dtype: torch.dtype, form: str, seconds: float) -> list[str]:
    inputs = load.inputs(dtype) if form == "plain" else load.fused_inputs(dtype)
    call = ops.ms_deform_attn if form == "plain" else ops.ms_deform_attn_fused
    grad_out = load.grad_out.to(dtype)

    def run(value, *rest, backend="cpu"):
        return call(value, load.sizes, None, *rest, backend=backend)

    def exact(value, *rest):
        return run(value, *rest, backend="grid_sample")

    forward = medians({"": lambda: inference(lambda: run(*inputs))}, seconds)[""]
    back = medians({"": lambda: backward(run, inputs, grad_out)}, seconds)[""]
    value_error, grad_error = errors(run, exact, inputs, grad_out)
    name = str(dtype).removeprefix("torch.")
    return [name, form, f"{forward:.2f}", f"{back:.2f}", f"{value_error:.0e}", f"{grad_error:.0e}"]


def module_inputs(sizes, batch=1):
    load = Workload("", sizes, batch=batch)
    query = torch.randn(batch, load.value.shape[1], 256)
    return load, query.requires_grad_(), torch.randn_like(query).requires_grad_()


def module_calls(sizes, batch=1):
    """name -> a call of the whole attention module, all with the same weights."""
    load, query, tokens = module_inputs(sizes, batch)
    ours = MSDeformAttn()
    torch.nn.init.normal_(ours.sampling_offsets.weight, std=0.02)
    torch.nn.init.normal_(ours.attention_weights.weight, std=0.1)
    theirs = hugging_face_module(ours)

    def with_grid_sample():
        value = ours.project_value(tokens)
        points = ours.sampling_points(query, load.reference_points, sizes)
        return ours.output_proj(ops.ms_deform_attn_grid_sample(value, sizes, points.locations, points.weights))

    def hugging_face():
        return theirs(
            query, encoder_hidden_states=tokens, reference_points=load.reference_points, spatial_shapes=load.shapes,
            spatial_shapes_list=sizes, level_start_index=load.starts,
        )[0]  # fmt: skip

    calls = {
        "ddetr cpu, fused": lambda: ours(query, load.reference_points, tokens, sizes),
        "ddetr grid_sample": with_grid_sample,
        "Hugging Face": hugging_face,
    }
    return calls, [query, tokens, *ours.parameters()], [query, tokens, *theirs.parameters()]


def step(call: Callable[[], Tensor], leaves: list[Tensor]) -> None:
    torch.autograd.grad(call().square().mean(), leaves)


def module_table(seconds: float) -> str:
    rows = []
    for name, sizes, batch in (
        ("encoder 480x546", C480, 1), ("encoder 480x546, batch 4", C480, 4), ("encoder 800x1333", C800, 1),
    ):  # fmt: skip
        rows += module_rows(name, sizes, batch, seconds)
    head = ["workload", "peer", "inference ms", "of ddetr", "training step ms", "of ddetr"]
    return "## The whole attention module, 256 channels\n\n" + table(head, rows)


def module_rows(name: str, sizes: list[tuple[int, int]], batch: int, seconds: float) -> list[list[str]]:
    calls, ours, theirs = module_calls(sizes, batch)
    leaves = {peer: theirs if peer == "Hugging Face" else ours for peer in calls}
    forward = medians({p: lambda f=f: inference(f) for p, f in calls.items()}, seconds)
    training = medians({p: lambda p=p, f=f: timed(lambda: step(f, leaves[p])) for p, f in calls.items()}, seconds)
    return ratios(name, forward, training)


def ratios(name: str, first: dict[str, float], second: dict[str, float]) -> list[list[str]]:
    base, other = next(iter(first.values())), next(iter(second.values()))
    return [
        [name, p, f"{first[p]:.1f}", f"{first[p] / base:.2f}x", f"{second[p]:.1f}", f"{second[p] / other:.2f}x"]
        for p in first
    ]


def model_table(seconds: float) -> str:
    """The detector on one 480x546 image, from the normalised image to logits and boxes; a step has the loss."""
    classes = 91
    ours, theirs = build_model("r50", num_classes=classes), hugging_face_model(classes)
    image = torch.randn(3, 480, 546)
    boxes = torch.tensor([[0.3, 0.4, 0.2, 0.2], [0.6, 0.5, 0.3, 0.4], [0.5, 0.5, 0.1, 0.1]])  # cx, cy, w, h
    sides = torch.tensor([546, 480, 546, 480])
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1) * sides
    labels = torch.tensor([1, 2, 3])
    pixels = {"pixel_values": image[None], "pixel_mask": torch.ones(1, 480, 546, dtype=torch.int64)}

    def training(model, loss):
        model.train()
        model.zero_grad()
        return timed(lambda: loss().backward())

    def predict(model, run):
        model.eval()
        return inference(run)

    forward = medians(
        {
            "ddetr": lambda: predict(ours, lambda: ours.forward_raw([image])),
            "Hugging Face": lambda: predict(theirs, lambda: theirs(**pixels)),
        },
        4 * seconds,
    )
    target, their_target = {"boxes": corners, "labels": labels}, {"class_labels": labels, "boxes": boxes}
    steps = medians(
        {
            "ddetr": lambda: training(ours, lambda: sum(ours([image], [target]).values())),
            "Hugging Face": lambda: training(theirs, lambda: theirs(**pixels, labels=[their_target]).loss),
        },
        6 * seconds,
    )
    head = ["workload", "peer", "inference ms", "of ddetr", "training step ms", "of ddetr"]
    return "## The whole r50 model\n\n" + table(head, ratios("480x546, batch 1", forward, steps))


def memory_table() -> str:
    """Peak memory of one training step of the module above what was there before, each in a process of its own."""
    rows = []
    for name in ("ddetr cpu, fused", "ddetr grid_sample", "Hugging Face"):
        for workload in ("480", "800"):
            command = [sys.executable, __file__, "--peak-of", name, workload]
            peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
            rows.append([f"encoder {'480x546' if workload == '480' else '800x1333'}", name, f"{float(peak):.0f}"])
    rows.sort(key=lambda row: row[0])
    return "## Peak memory of a training step of the module\n\n" + table(["workload", "peer", "MB"], rows)


def print_peak(name: str, workload: str) -> None:
    warm_calls, *warm_leaves = module_calls([(4, 4)] * 4)
    step(warm_calls[name], warm_leaves[name == "Hugging Face"])
    calls, *leaves = module_calls(C480 if workload == "480" else C800)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmRSS")
    step(calls[name], leaves[name == "Hugging Face"])
    print((resident("VmHWM") - before) / 1e3)


def resident(field: str) -> int:
    """kB, from Linux' own count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def table(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * w for w in widths], *rows]
    return (
        "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in lines)
        + "\n"
    )


def machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return (
        f"{model}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads; "
        f"{platform.system()}, Python {platform.python_version()}, PyTorch {torch.__version__}"
    )


def main() -> None:
    sections = {"operator": operator_table, "dtypes": dtype_table, "module": module_table, "model": model_table}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(sections)}, memory (default: all)")
    parser.add_argument("--seconds", type=float, default=6.0, help="spent on each row, roughly (default 6)")
    parser.add_argument("--output", type=Path, default=RESULTS / "cpu.md")
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        return print_peak(*options.peak_of)
    reason = ops.available_backends()["cpu"]
    if reason:
        sys.exit(f"the cpu back end is not there: {reason}")
    torch.manual_seed(0)
    parts = [f"# The attention operator, measured\n\n{machine()}.\n\nMade by `python benchmarks/ms_deform_attn.py`.\n"]
    for name in options.sections or [*sections, "memory"]:
        parts.append(memory_table() if name == "memory" else sections[name](options.seconds))
        print(parts[-1], flush=True)
        options.output.write_text("\n".join(parts))  # after each, so that a run that is stopped leaves what it has


if __name__ == "__main__":
    main()
