"""Set the project up and run it, on Linux, macOS and Windows: `python bootstrap.py` lists what it can do.

Needs nothing but Python. The Makefile calls it, so that each step stands here once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = Path(os.environ.get("DDETR_VENV") or ROOT / ".venv").expanduser().absolute()
PYTHON = VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
READY = VENV / ".ready"
PYPROJECT = ROOT / "pyproject.toml"
COST = (
    "Once, about 7 GB and a few minutes: most of it is CUDA for PyTorch, README.md says how to do with 2 GB."
    if sys.platform == "linux"
    else "Once, about 2 GB and a few minutes."
)

# The API reference's modules. pdoc leaves out a submodule that its package's `__all__` does not name, unless asked.
REFERENCE = (
    "ddetr ddetr.ops ddetr.models ddetr.models.backbone ddetr.models.neck ddetr.models.position_encoding"
    " ddetr.models.multi_scale ddetr.models.reference_points ddetr.models.deform_attention ddetr.models.encoder"
    " ddetr.models.decoder ddetr.models.heads ddetr.models.two_stage ddetr.models.image_batch ddetr.models.outputs"
    " ddetr.models.export ddetr.losses ddetr.data ddetr.engine ddetr.checkpoints ddetr.course ddetr.viz"
    " ddetr.viz.sampling ddetr.viz.sampling_explorer"
)

# What each task runs after setting up, its options behind the last; "python" is the environment's.
TASKS = {
    "setup": [],
    "notebooks": ["python -m ddetr.course.pages --out build/notebooks"],
    "test": ["python -m pytest -n auto --maxprocesses 8 --dist loadgroup"],
    "lab": ["python -m jupyterlab notebooks"],
    "pages": ["python -m ddetr.course.pages --out notebooks"],
    "site": ["python -m ddetr.course.site --out build/site"],
    "docs": [
        "python -m pip install --quiet --editable .[docs]",
        f"python -m pdoc --docformat google --no-show-source --output-directory build/docs {REFERENCE}",
    ],
    "lint": ["python -m ruff check .", "python -m ruff format --check .", "python -m mypy"],
    "bench": ["python benchmarks/ms_deform_attn.py"],
    "sanitize": ["bash tests/ops/sanitize.sh python"],
}

USAGE = """\
python bootstrap.py TASK [OPTION ...]     (or make TASK ARGS="OPTION ...")

  setup      an environment with all that the series and the tests need, and the fast operator if there is a compiler
  notebooks  set up, then execute the series into build/notebooks, with progress; as options the pages (00_tour ...)
  test       set up, then run the tests; options are pytest's
  lab        set up, then open the series in JupyterLab
  pages      set up, then execute notebooks/src into the committed notebooks
  site       set up, then the committed notebooks as a web site in build/site, which needs no network to be read
  docs       set up, then the API reference from the docstrings in build/docs, which needs no network to be read
  lint       set up, then check style and types
  bench      set up, then time the operator against its peers (about ten minutes, on an idle machine)
  sanitize   set up, then run the operator's tests under AddressSanitizer and UndefinedBehaviorSanitizer
  clean      remove .venv, build and dist

The environment is .venv, or the folder that DDETR_VENV names; one that is there already is used and completed."""


class Failed(Exception):
    """What ends a task; for people."""


def main(arguments: list[str]) -> int:
    """Run a task; returns the exit status of what it ran."""
    if not arguments or arguments[0] in ("help", "-h", "--help"):
        print(USAGE)
        return 0
    task, *options = arguments
    if task == "clean":
        return clean()
    if task not in TASKS:
        print(f"error: no task {task!r}; there are {', '.join(TASKS)}, clean", file=sys.stderr)
        return 2
    try:
        setup()
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if task != "lint":  # without a compiler this says so in a sentence, and the operator in plain PyTorch serves
        call([PYTHON, "-m", "ddetr.ops", "build"])
    for command in TASKS[task]:
        words = [PYTHON if word == "python" else word for word in command.split()]
        status = call(words + options if command == TASKS[task][-1] else words)
        if status:
            return status
    return 0


def setup() -> None:
    """Make the environment, or complete it. Failed if that cannot be done."""
    if sys.version_info < (3, 10):  # noqa: UP036
        raise Failed(f"this is Python {sys.version.split()[0]}; 3.10 or newer is needed (make: PYTHON=python3.12)")
    # The stamp is written last, so that an interrupted set-up is taken up again.
    for_here, wanted = (hashlib.sha256(part).hexdigest() for part in (bytes(ROOT), PYPROJECT.read_bytes()))
    stamp = READY.read_text().split() if READY.is_file() and succeeds(PYTHON, "-c", "") else []
    if stamp == [for_here, wanted]:
        return
    was_complete = stamp[:1] == [for_here]
    started, free = time.monotonic(), free_space(VENV)
    if was_complete:
        say(f"pyproject.toml has changed: bringing {VENV} up to date.")
    else:
        say(f"Setting up {VENV} with {sys.executable} ({sys.version.split()[0]}); {free / 1e9:.0f} GB are free there.")
        say(COST)
    if not succeeds(PYTHON, "-m", "pip", "--version"):
        make_environment()
    for packages in (["--quiet", "pip>=21.3"], ["--editable", ".[course,test]"]):  # older ones cannot do the second
        if call([PYTHON, "-m", "pip", "install", *packages]):
            if was_complete:  # without a network that may still do
                say("It could not be brought up to date, pip says why. Going on with what is there.")
                return
            raise Failed(pip_failed())
    READY.write_text(f"{for_here} {wanted}")
    taken = (free - free_space(VENV)) / 1e9
    say(f"Set up in {(time.monotonic() - started) / 60:.0f} min, {taken:.1f} GB.")


def make_environment() -> None:
    """An empty environment at VENV. Failed if the folder is something else, or Python cannot."""
    if VENV.is_dir() and any(VENV.iterdir()) and not (VENV / "pyvenv.cfg").is_file():
        raise Failed(f"{VENV} is no Python environment, and not empty: move it, or name another folder in DDETR_VENV")
    if call([sys.executable, "-m", "venv", "--clear", "--prompt", "ddetr", VENV]):
        raise Failed(
            f"Python could not make an environment in {VENV}, where {free_space(VENV) / 1e9:.1f} GB are free; it says"
            " why above. On Debian and Ubuntu the package python3-venv may be missing; where the folder cannot be"
            " written, DDETR_VENV=FOLDER names another."
        )


def pip_failed() -> str:
    """What to look at when pip has failed."""
    temporary = Path(tempfile.gettempdir())
    return (
        "pip could not install the packages; its last lines say why. It needs a network, and space:"
        f" {free_space(VENV) / 1e9:.1f} GB are free in {VENV}, {free_space(temporary) / 1e9:.1f} GB in {temporary},"
        " where it unpacks (TMPDIR names another folder). The same command goes on from here."
    )


def free_space(folder: Path) -> int:
    """Bytes free where `folder` is, or will be."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(there).free


def succeeds(*command: str | Path) -> bool:
    """Whether a command can be run and ends well; what it says is nobody's business."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
    except OSError:
        return False


def call(command: list[str | Path]) -> int:
    """Run a command in the repository; returns its exit status. Ctrl-C is the command's: it ends as it sees fit."""
    try:
        process = subprocess.Popen(command, cwd=ROOT)
    except OSError as error:
        print(f"error: {command[0]} could not be started: {error.strerror}", file=sys.stderr)
        return 1
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def clean() -> int:
    """Remove what was made in the repository; never an environment elsewhere."""
    for folder in (ROOT / ".venv", ROOT / "build", ROOT / "dist"):
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)
    return 0


def say(line: str) -> None:
    """Print at once, before what the next command prints."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a path may have letters that the terminal has not
    sys.exit(main(sys.argv[1:]))
