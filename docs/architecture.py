"""Draw the two pictures of ARCHITECTURE.md from the code: where a tensor goes, and who imports whom.

python docs/architecture.py [--out docs]     needs import-linter (pip install "ddetr[course,test]")
"""

from __future__ import annotations

import argparse
import ast
import html
import importlib.util
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import grimp
import torch
from importlinter.api import read_configuration

import ddetr
from ddetr import DeformableDETR, build_model, ops
from ddetr.course import trace_table
from ddetr.files import write_text
from ddetr.models.outputs import postprocess

ROOT = Path(ddetr.__file__).parents[1]
WIDTH = 860
COLUMNS = {"data": 0.17, "models": 0.67, "losses": 0.5, "ops": 0.83, "files": 0.17, "config": 0.5}
"""Where in a layer a package stands, as a share of the width, if not evenly: no arrow crosses a box then."""
INK, GREY, BLUE, FACE = "#222222", "#666666", "#0072B2", "#e6f0f7"


class Step(NamedTuple):
    """A stage of the forward pass: the code behind it, which tensors of the trace leave it, or a `note` instead.

    It is drawn indented if it is called `inside` the one above.
    """

    code: Callable[..., object]
    tensors: Sequence[str] = ()
    inside: bool = False
    note: str = ""


def steps(model: DeformableDETR) -> list[Step]:
    """The way through the detector, in the order of `DeformableDETR.forward_batch`."""
    encoder, decoder = (
        [f"{layer}.layer0.{name}" for name in ("sampling_locations", "attention_weights", "attention_output")]
        for layer in ("encoder", "decoder")
    )
    reads = "reads value at the locations, sums by weight, by the fastest back end"
    return [
        Step(type(model).batch_images, ("pre_transformer.images", "pre_transformer.mask")),
        Step(type(model.backbone), ("backbone.c3", "backbone.c4", "backbone.c5")),
        Step(type(model.neck), ("neck.level0", "neck.level1", "neck.level2", "neck.level3")),
        Step(type(model.flatten), ("multi_scale.tokens", "multi_scale.pos", "multi_scale.valid_ratios")),
        Step(type(model.encoder), ("encoder.reference_points", "encoder.memory")),
        Step(type(model.encoder.layers[0].self_attn), ("encoder.layer0.value", *encoder), inside=True),
        Step(ops.ms_deform_attn_fused, inside=True, note=reads),
        Step(type(model.queries), [f"pre_decoder.{name}" for name in ("query", "query_pos", "reference_points")]),
        Step(type(model.decoder), ("heads.hidden_states",)),
        Step(type(model.decoder.layers[0].cross_attn), ("decoder.layer0.value", *decoder), inside=True),
        Step(ops.ms_deform_attn_fused, inside=True, note=reads),
        Step(type(model.heads), ("heads.logits", "heads.boxes")),
        Step(type(model.criterion), inside=True, note="in training: named losses, weighted; their sum goes backward"),
        Step(postprocess, ("detections0.boxes", "detections0.scores", "detections0.labels")),
    ]


def tensor_picture() -> str:
    """Each stage with its file, and the tensors that leave it: axes and sizes, from a trace of `tiny_two_stage`."""
    torch.manual_seed(0)
    model = build_model("tiny_two_stage")
    images = [torch.zeros(3, 160, 212), torch.zeros(3, 128, 160)]
    rows = {f"{row.stage}.{row.name}": row for row in trace_table(model, images)}
    parts, y = [_text(20, 26, "images: a list of (3, H, W); here two of 160 x 212 and 128 x 160", GREY)], 40
    for step in steps(model):
        lines = max(1.2, len(step.tensors))
        height, x = 20 * lines + 8, 44 if step.inside else 20
        name, file = step.code.__name__, Path(inspect.getsourcefile(step.code)).relative_to(ROOT)
        parts += [_box(x, y, 370 - x, height), _text(x + 10, y + 18, name, INK, bold=True)]
        parts.append(_text(360, y + 18, str(file.relative_to("ddetr").as_posix()), GREY, anchor="end"))
        parts.append(_text(388, y + 18, step.note, GREY))
        for n, tensor in enumerate(step.tensors):
            row, line = rows[tensor], y + 19 + 20 * n
            parts.append(_text(388, line, row.name, BLUE))
            parts.append(_text(535, line, row.axes))
            parts.append(_text(WIDTH - 20, line, row.shape, GREY, anchor="end"))
        y += height + 8
    return _svg(y + 6, parts, "Where a tensor goes: each stage, its file, and the tensors that leave it")


def layers() -> list[list[str]]:
    """The packages from top to bottom, as the first contract in pyproject.toml has them."""
    contract = read_configuration(str(ROOT / "pyproject.toml"))["contracts_options"][0]
    return [layer.split(" | ") for layer in contract["layers"]]


def imports() -> set[tuple[str, str]]:
    """(importer, imported) for each two packages directly below `ddetr` of which one imports the other."""
    graph = grimp.build_graph("ddetr", cache_dir=None)
    found = set()
    for module in graph.modules - {"ddetr"}:
        for imported in graph.find_modules_directly_imported_by(module) - {"ddetr"}:
            found.add((module.split(".")[1], imported.split(".")[1]))
    return {(a, b) for a, b in found if a != b}


def without_shortcuts(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Only those edges that no way over a third package replaces."""
    below: dict[str, set[str]] = {}

    def reach(name: str) -> set[str]:
        if name not in below:
            direct = {b for a, b in edges if a == name}
            below[name] = direct.union(*map(reach, direct))
        return below[name]

    return {(a, b) for a, b in edges if not any(b in reach(c) for d, c in edges if d == a and c != b)}


def import_picture() -> str:
    """The packages in their layers, each with the first words of its docstring; an arrow means "imports"."""
    places, boxes, y = {}, [], 14
    for layer in layers():
        for n, name in enumerate(layer):
            x = WIDTH * COLUMNS.get(name, (n + 0.5) / len(layer))
            places[name] = (x, y)
            purpose = _first_words(importlib.util.find_spec(f"ddetr.{name}").origin)
            boxes += [_box(x - 135, y, 270, 42), _text(x, y + 18, name, INK, bold=True, anchor="middle")]
            boxes.append(_text(x, y + 34, purpose, GREY, anchor="middle", size=11))
        y += 72
    arrows = []
    for importer, imported in sorted(without_shortcuts(imports())):
        (x1, y1), (x2, y2) = places[importer], places[imported]
        # Down to the gap above the target's layer first, past whatever stands in between.
        path = f"M{x1:g} {y1 + 42:g}V{y2 - 30:g}L{x2 + 0.1 * (x1 - x2):g} {y2 - 2:g}"
        arrows.append(f'<path d="{path}" fill="none" stroke="{GREY}" stroke-width="1.2" marker-end="url(#tip)"/>')
    return _svg(y - 16, arrows + boxes, "Who imports whom: every package in its layer, arrows point downwards")


PICTURES = {"architecture_tensors.svg": tensor_picture, "architecture_imports.svg": import_picture}


def _first_words(file: str) -> str:
    """The docstring is read, not imported: `__main__` would run."""
    docstring = ast.get_docstring(ast.parse(Path(file).read_text(encoding="utf-8")))
    return re.split(r"[.:;,]( |$)", docstring.replace("`", ""), maxsplit=1)[0].strip()


def _box(x: float, y: float, width: float, height: float) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{FACE}" stroke="{BLUE}"/>'


def _text(x: float, y: float, text: str, colour: str = INK, **style: object) -> str:
    """`bold`, `anchor` and `size` if they are not a plain line's."""
    weight = ' font-weight="bold"' if style.get("bold") else ""
    place = f'x="{x:g}" y="{y:g}" text-anchor="{style.get("anchor", "start")}" font-size="{style.get("size", 12)}"'
    return f'<text {place} fill="{colour}"{weight}>{html.escape(text)}</text>'


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" font-family="sans-serif" '
        f'role="img">\n<title>{title}</title>\n'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" '
        f'markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="{GREY}"/></marker></defs>\n'
        f'<rect width="{WIDTH}" height="{height:g}" fill="white"/>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


def main() -> None:
    """Write both pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    for name, draw in PICTURES.items():
        write_text(args.out / name, draw())
        print(args.out / name)


if __name__ == "__main__":
    main()
