"""What the series needs, what of it is here, and one line of advice for each thing that is not right."""

from __future__ import annotations

import html
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..checkpoints import SHIPPED, load_pretrained, shipped_file
from ..data import DataError, coco_layout
from ..ops import available_backends, choose_backend, ms_deform_attn

FINE, ADVICE, MISSING = "fine", "advice", "missing"
"""All right; works, and could be better; a page will stop here."""

NOTEBOOK_PACKAGES = {"matplotlib": (3, 8), "ipywidgets": (8, 1), "jupyterlab": (4, 2), "ipykernel": (6, 29)}
"""What the pages import or run in, with the versions that pyproject.toml asks for."""

INSTALL = 'pip install -e ".[course]" in the repository'
LEAST_MEMORY = 4.0  # GiB; the pages with ResNet-50 need about half of it


class Finding(NamedTuple):
    """One thing that was looked at: its name, one of the three states, what was found, and what to do about it."""

    name: str
    state: str
    found: str
    advice: str = ""


class Report(Sequence[Finding]):
    """The findings, as a text, and in a notebook as a table.

    In a notebook the plain form is the verdict alone, which is the same on every machine that can run the series.
    """

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, index: Any) -> Any:
        return self.findings[index]

    @property
    def complete(self) -> bool:
        """Whether every page will run."""
        return all(finding.state != MISSING for finding in self)

    @property
    def verdict(self) -> str:
        """One sentence: whether every page will run, and if not, what is missing."""
        if self.complete:
            return "Every page of the series runs here."
        missing = ", ".join(finding.name for finding in self if finding.state == MISSING)
        return f"Some pages will not run here. Missing: {missing}."

    def __str__(self) -> str:
        width = max(len(finding.name) for finding in self)
        lines = []
        for name, state, found, advice in self:
            lines.append(f"{name:{width}}  {state:7}  {found}")
            lines += [f"{'':{width}}  {'':7}  -> {advice}"] if advice else []
        return "\n".join([*lines, "", self.verdict])

    __repr__ = __str__

    def _repr_mimebundle_(self, **_options: Any) -> dict[str, str]:
        rows = []
        for finding in self:
            name, state, found, advice = map(html.escape, finding)
            mark = {FINE: "&#10003;", ADVICE: "&#9679;", MISSING: "&#10007;"}[finding.state]
            advice = f"<br><b>{advice}</b>" if advice else ""
            rows.append(
                f'<tr><td style="text-align:left">{name}</td><td style="text-align:left">{mark} {state}</td>'
                f'<td style="text-align:left">{found}{advice}</td></tr>'
            )
        table = f"<p>{html.escape(self.verdict)}</p><table><tbody>{''.join(rows)}</tbody></table>"
        return {"text/plain": self.verdict, "text/html": table}


def doctor() -> Report:
    """Look at everything that the series needs. Nothing raises: a check that fails is a finding."""
    checks: dict[str, Callable[[], Finding | list[Finding]]] = {
        "Python": _python, "PyTorch": _torch, "device": _device, "operator": _operator, "pages": _packages,
        "widgets": _widgets, "weights": _weights, "data": _data, "memory": _memory,
    }  # fmt: skip
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            found = check()
        except Exception as error:
            advice = "this could not be looked at; if a page stops here too, the message says where to begin"
            found = Finding(name, ADVICE, f"{type(error).__name__}: {error}", advice)
        findings += found if isinstance(found, list) else [found]
    return Report([finding._replace(found=_tilde(finding.found)) for finding in findings])


def _python() -> Finding:
    return Finding("Python", FINE, f"{platform.python_version()}, {platform.system()} {platform.machine()}")


def _torch() -> Finding:
    import torchvision

    found = f"{torch.__version__}, torchvision {torchvision.__version__}, {torch.get_num_threads()} threads"
    if _numbers(torch.__version__) < (2, 6):
        return Finding("PyTorch", MISSING, found, "PyTorch 2.6 or newer: pip install --upgrade torch torchvision")
    return Finding("PyTorch", FINE, found)


def _device() -> Finding:
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return Finding("device", FINE, ", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in gpus))
    found = f"CPU, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}; no GPU, and no page needs one"
    if shutil.which("nvidia-smi"):
        why = "was built without CUDA" if torch.version.cuda is None else "cannot use its driver"
        advice = f"there seems to be an NVIDIA GPU, but this PyTorch {why}: pytorch.org names the build for it"
        return Finding("device", ADVICE, found, advice)
    if torch.backends.mps.is_available():
        found = "CPU; Apple's GPU (mps) works too, with the operator in plain PyTorch"
    return Finding("device", FINE, found)


def _operator() -> list[Finding]:
    findings = []
    for name, reason in available_backends().items():
        title = f"operator {name}"
        if reason is None:
            findings.append(_agreement(title, name))
        elif name == "cuda" and not torch.cuda.is_available():
            findings.append(Finding(title, FINE, f"no: {reason}"))
        else:
            findings.append(Finding(title, ADVICE, f"no: {reason}", _build_advice(name)))
    try:
        findings.append(Finding("operator used", FINE, choose_backend()))
    except (ValueError, RuntimeError) as error:
        advice = "unset DDETR_OP_BACKEND, and the fastest there is serves"
        findings.append(Finding("operator used", MISSING, str(error), advice))
    return findings


def _agreement(title: str, name: str) -> Finding:
    """Run the back end once, beside the loop that defines the operator."""
    device = "cuda" if name == "cuda" else "cpu"
    numbers = torch.Generator().manual_seed(0)
    value = torch.rand(1, 8, 2, 8, generator=numbers)
    locations = torch.rand(1, 3, 2, 2, 2, 2, generator=numbers)
    weights = torch.rand(1, 3, 2, 2, 2, generator=numbers)
    shapes = [(2, 3), (1, 2)]
    expected = ms_deform_attn(value, shapes, None, locations, weights, backend="loop")
    on_device = (tensor.to(device) for tensor in (value, locations, weights))
    value, locations, weights = on_device
    got = ms_deform_attn(value, shapes, None, locations, weights, backend=name).cpu()
    deviation = (got - expected).abs().max().item()
    if deviation > 1e-4:
        advice = f"do not use this build: python -m ddetr.ops build {name} --force"
        return Finding(title, MISSING, f"wrong by {deviation:.1e}", advice)
    return Finding(title, FINE, "yes" if name == "loop" else f"yes, {deviation:.0e} from the loop")


def _build_advice(name: str) -> str:
    command = f"python -m ddetr.ops build {name}"
    if name == "cuda":
        return f"{command} compiles it, if you have NVIDIA's nvcc"
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    if any(map(shutil.which, compilers)):
        return f"{command} compiles it in a few seconds; without it everything works, more slowly"
    return (
        f"install a C++ compiler ({' or '.join(compilers)}), then {command}; without it everything works, more slowly"
    )


def _packages() -> list[Finding]:
    return [_package(name, least) for name, least in NOTEBOOK_PACKAGES.items()]


def _package(name: str, least: tuple[int, ...]) -> Finding:
    asked = ".".join(map(str, least))
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if name == "jupyterlab":
            return Finding(name, ADVICE, "not installed", f"any front end will do, this one comes with {INSTALL}")
        return Finding(name, MISSING, "not installed", INSTALL)
    if _numbers(version) < least:
        return Finding(name, ADVICE, version, f"{asked} or newer is what the pages were made with: {INSTALL}")
    return Finding(name, FINE, version)


def _widgets() -> Finding:
    """The half of ipywidgets that runs in the browser, and anywidget, which some views prefer."""
    if "google.colab" in sys.modules:
        return Finding("widgets", FINE, "Colab's own")
    found = []
    for name in ("jupyterlab_widgets", "anywidget"):
        if importlib.util.find_spec(name):
            found.append(f"{name} {importlib.metadata.version(name)}")
    if not any(line.startswith("jupyterlab_widgets") for line in found):
        advice = "pip install jupyterlab_widgets where JupyterLab runs, or read the static figures; VS Code has its own"
        return Finding("widgets", ADVICE, ", ".join(found) or "no front end in this environment", advice)
    return Finding("widgets", FINE, ", ".join(found))


def _weights() -> list[Finding]:
    findings = []
    for name in SHIPPED:
        title = f"weights {name}"
        try:
            model = load_pretrained(name)
        except (OSError, ValueError) as error:
            advice = "fetch data/weights again: with git lfs, if your copy came without it, or from a fresh clone"
            findings.append(Finding(title, MISSING, str(error), advice))
            continue
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        findings.append(Finding(title, FINE, f"{millions:.1f} M parameters, {model.config.num_classes} classes"))
    try:
        size = shipped_file("timelapse.npz").stat().st_size
        findings.append(Finding("time-lapse", FINE, f"{size / 1e6:.1f} MB"))
    except FileNotFoundError as error:
        findings.append(Finding("time-lapse", MISSING, str(error), "fetch data/weights/timelapse.npz again"))
    return findings


def _data() -> Finding:
    folder = os.environ.get("DDETR_COCO")
    if not folder:
        return Finding("data", FINE, "ToyCOCO, which the package draws; DDETR_COCO=FOLDER takes your COCO as well")
    try:
        for split in ("train", "val"):
            coco_layout(folder, split)
    except DataError as error:
        return Finding(
            "data", ADVICE, str(error).split(". ")[0], "set DDETR_COCO to a folder in COCO's layout, or unset it"
        )
    return Finding("data", FINE, f"ToyCOCO, which the package draws, and COCO in {folder}")


def _memory() -> Finding:
    total, free = memory()
    found = f"{free:.1f} of {total:.1f} GiB free"
    if free < LEAST_MEMORY:
        advice = f"close something: pages with ResNet-50 are at ease with {LEAST_MEMORY:.0f} GiB"
        return Finding("memory", ADVICE, found, advice)
    return Finding("memory", FINE, found)


def memory() -> tuple[float, float]:
    """GiB that this process could have at most, and GiB that are free; a container's limit counts."""
    try:
        import psutil
    except ImportError:  # total and free alike, where there is no better
        total = free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        machine = psutil.virtual_memory()
        total, free = machine.total, machine.available
    limit, used = (_number_in(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit is not None and limit < total:
        total, free = limit, min(free, limit - (used or 0))
    return total / 2**30, free / 2**30


def _number_in(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # there is none, or it says "max"
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())


def _tilde(text: str) -> str:
    """A notebook is passed on: the reader's home folder is nobody's business."""
    home = os.path.expanduser("~")  # "~" itself for a user without a home
    return text.replace(home, "~") if len(home) > 1 else text
