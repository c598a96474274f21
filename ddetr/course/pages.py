"""Pages are written as text (notebooks/src, jupytext's percent format) and executed into notebooks.

python -m ddetr.course.pages --out build/notebooks [PAGE ...]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with jupytext

SOURCES = Path(__file__).parents[2] / "notebooks" / "src"


def repository(pyproject: Path = SOURCES.parents[1] / "pyproject.toml") -> str:
    """The address under which the package is published, `Repository` of [project.urls]; "" where there is none."""
    if not pyproject.is_file():
        return ""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "")


COLAB_CELL = """\
# Where ddetr is installed, this does nothing.
import importlib.util
import subprocess
import sys

repository = {repository!r}  # where ddetr is published: Repository in its pyproject.toml
if importlib.util.find_spec("ddetr") is None:
    if "google.colab" in sys.modules and repository:
        package = f"ddetr[course] @ git+{{repository}}"
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)
    else:
        print('ddetr is missing here: bring its repository to this machine (clone or upload it), run '
              '%pip install "FOLDER[course]" in a cell, with its folder, and go on below.')"""

BUDGET_SECONDS = 600
"""A page that takes longer than this is stuck."""

_WIDGET = "application/vnd.jupyter.widget-view+json"


def page_names() -> list[str]:
    """The series in order. FileNotFoundError where the repository's notebooks are not at hand."""
    names = sorted(source.stem for source in SOURCES.glob("[0-9]*.py"))
    if not names:
        raise FileNotFoundError(f"no pages in {SOURCES}: run this from a checkout of the repository")
    return names


def read_page(name: str) -> nbformat.NotebookNode:
    """A page's text as a notebook without outputs, with the cell for Colab behind its title.

    The same text gives the same notebook.
    """
    page = jupytext.read(SOURCES / f"{name}.py")
    page.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(page.cells):
        cell.id = f"cell-{number:03d}"  # jupytext draws new ids each time
    page.cells.insert(1, _colab_cell())
    return page


def _colab_cell() -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell(COLAB_CELL.format(repository=repository()), id="colab")
    cell.metadata = nbformat.from_dict({"jupyter": {"source_hidden": True}, "tags": ["colab"]})
    return cell


def execute(page: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Run every cell, from `folder`; returns the page with its outputs. CellExecutionError if one fails."""
    client = NotebookClient(
        page, timeout=BUDGET_SECONDS, startup_timeout=BUDGET_SECONDS,  # a first start, from a slow disk, takes long
        kernel_name="python3", resources={"metadata": {"path": str(folder)}},
        record_timing=False, coalesce_streams=True,  # or a busy machine cuts a text in two
        store_widget_state=False, extra_arguments=["--log-level=40"],  # errors only
    )  # fmt: skip
    return _with_stills(client.execute())


def _with_stills(page: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The page with each widget as its still picture: without a kernel a widget would be an empty frame."""
    for cell in page.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data.pop(_WIDGET, None)
    return page


def main(argv: list[str] | None = None) -> int:
    """Execute pages, and say how far it is."""
    parser = argparse.ArgumentParser(prog="python -m ddetr.course.pages", description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="such as 00_tour; default: all")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the notebooks go")
    args = parser.parse_args(argv)
    try:
        known = page_names()
    except FileNotFoundError as error:
        parser.error(str(error))
    unknown = set(args.pages) - set(known)
    if unknown:
        parser.error(f"no page {sorted(unknown)[0]!r}; pages are {', '.join(known)}")
    names = args.pages or known
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"{args.out} cannot be made ({error.strerror}): name another folder by --out")
    failed = []
    for number, name in enumerate(names, start=1):
        print(f"[{number}/{len(names)}] {name} ...", end=" ", flush=True)
        started = time.monotonic()
        page = read_page(name)
        try:
            page = execute(page, args.out)
            print(f"{time.monotonic() - started:.0f} s", flush=True)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            failed.append(name)
            print(f"failed\n{error}", flush=True)
        if name not in failed:
            nbformat.write(page, args.out / f"{name}.ipynb")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    print(f"{len(names)} pages in {args.out}: open them with `make lab`, or read them in any notebook viewer.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
