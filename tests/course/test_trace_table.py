"""The trace as a table: every tensor of every variant has its axes and its page, and nothing is drawn as markup."""

import re
from pathlib import Path

import pytest
import torch

from ddetr import PRESETS, build_model
from ddetr.course import trace_table
from ddetr.course.series import SERIES
from ddetr.course.trace import COLUMNS, TraceTable, explain

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SMALL = {"encoder_layers": 2, "decoder_layers": 2, "num_queries": 10}


@pytest.fixture
def images():
    return [torch.zeros(3, 64, 96), torch.zeros(3, 80, 64)]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_tensor_of_every_variant_has_its_axes_and_its_page(preset, images):
    model = build_model(preset, num_classes=7, **({} if preset.startswith("tiny") else SMALL))
    table = trace_table(model, images)
    assert len(table) == len(table.trace) > 40
    for row, entry in zip(table, table.trace, strict=True):
        axes = re.findall(r"\([^)]*\)|\S+", row.axes)
        assert len(axes) == entry.tensor.ndim, row
        for axis, size in zip(axes, entry.shape, strict=True):
            if axis.startswith("("):  # (x, y): the axis is as long as what it names
                assert size == axis.count(",") + 1, row
        assert row.shape == " x ".join(map(str, entry.shape))
        assert row.link == f"{SERIES[int(row.page)]}.ipynb"


def test_letters_stand_for_one_size_each(images):
    """B, L, M, ... are the same number wherever they appear; the layers' maps have sizes and channels of their own."""
    table, sizes = trace_table(build_model("tiny_two_stage"), images), {}
    for row, entry in zip(table, table.trace, strict=True):
        for axis, size in zip(re.findall(r"\([^)]*\)|\S+", row.axes), entry.shape, strict=True):
            if axis in {"B", "S", "Q", "L", "M", "P", "D", "K", "H", "W", "layers"}:
                sizes.setdefault(axis, set()).add(size)
    assert all(len(found) == 1 for found in sizes.values()), sizes
    assert sizes["B"] == {2}
    assert sizes["L"] == sizes["P"] == {4}


def test_the_table_as_text(images):
    lines = str(trace_table(build_model("tiny"), images)).splitlines()
    assert lines[0].split() == list(COLUMNS)
    (memory,) = [line for line in lines if re.match(r"encoder +memory", line)]
    assert re.search(r"B S C +2 x \d+ x 128 +float32 +07$", memory)


def test_the_table_in_a_notebook(images):
    table = trace_table(build_model("tiny"), images)
    page = table._repr_html_()
    assert page.count("<tr>") == len(table) + page.count("<details")
    assert '<a href="05_sampling_offsets.ipynb">05</a>' in page
    assert "<details open><summary><b>encoder.layer0</b>" in page
    assert "<details><summary><b>encoder.layer1</b>" in page
    for link in set(re.findall(r'href="(.*?)"', page)):
        assert Path(link).stem in SERIES


def test_names_are_text_and_no_markup(images, monkeypatch):
    trace = build_model("tiny").trace(images)
    trace.entries = trace.entries[:1]
    trace.entries[0] = trace.entries[0]._replace(stage="<script>", name='"&')
    monkeypatch.setattr("ddetr.course.trace.explain", lambda stage, name: (3, ("B", "3", "H", "W")))
    page = TraceTable(trace)._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "&quot;&amp;" in page


def test_a_tensor_that_no_page_explains_is_named():
    with pytest.raises(KeyError, match=r"encoder\.feelings"):
        explain("encoder", "feelings")


def test_bad_images_are_refused(images):
    with pytest.raises(ValueError, match="float"):
        trace_table(build_model("tiny"), [torch.zeros(3, 64, 64, dtype=torch.uint8)])


def test_pages_have_the_names_of_the_series():
    for source in (NOTEBOOKS / "src").glob("[0-9]*.py"):
        assert source.stem in SERIES
