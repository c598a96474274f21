import itertools

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from drawn_text import texts

from ddetr.engine import ErrorBreakdown, GroupScore, Outcome, PrecisionRecall
from ddetr.viz.evaluation import error_bars, precision_recall_curves, score_bars
from ddetr.viz.figures import LINE_STYLES, plain_text

ODD_NAMES = ["$x_$", "<img src=x onerror=alert(1)>", "_hidden", "$", r"\$\frac{1$", "a\nb\x1b[31m"]


def curves(names, value=0.5):
    """One category without objects, the last."""
    precision = np.full((10, 101, len(names)), value)
    precision[..., -1] = -1
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    return PrecisionRecall(precision, np.linspace(0.5, 0.95, 10), np.linspace(0, 1, 101), categories)


def groups(*names):
    scored = [GroupScore(name, 3, 0.25, 0.5, 0.25, 0.3, i) for i, name in enumerate(names)]
    return [*scored, GroupScore("nothing", 0, -1, -1, -1, -1, 99)]


def test_curves_name_their_average_precision():
    figure = precision_recall_curves(curves(["cat", "dog", "none"]))
    assert {"cat: 0.500", "dog: 0.500", "IoU 0.75: 0.500", "recall (share of objects found)"} <= texts(figure)
    assert not any("none" in text for text in texts(figure))
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("iou", [None, 0.75])
def test_curves_at_other_thresholds(iou):
    title = "each category at IoU " + ("0.50 to 0.95" if iou is None else "0.75")
    assert title in texts(precision_recall_curves(curves(["cat", "none"]), iou))


def test_curves_of_many_categories_name_the_best_and_the_worst():
    made = curves([f"c{i:02}" for i in range(81)])
    made.precision[..., :80] *= np.linspace(1, 0.1, 80)
    named = sorted(text[:3] for text in texts(precision_recall_curves(made)) if text.startswith("c"))
    assert named == [f"c{i:02}" for i in (0, 1, 2, 3, 4, 5, 74, 75, 76, 77, 78, 79)]


def test_curves_without_any_object():
    assert {"no objects", "IoU 0.50: -"} <= texts(precision_recall_curves(curves(["none"])))


def test_bars_show_scores_and_counts():
    shown = texts(score_bars(groups("cat", "dog")))
    assert {"cat", "dog", "nothing", "-", "0.250 / 0.500   3 objects", "- / -   0 objects"} <= shown
    assert score_bars([])._repr_png_()


def test_bars_of_many_groups_only_count_the_empty_ones():
    shown = texts(score_bars(groups(*(f"c{i}" for i in range(40)))))
    assert "nothing" not in shown
    assert any("1 more without objects" in text for text in shown)


def outcome(is_detection, kind):
    return Outcome(is_detection, kind, 1, 3, [0, 0, 9, 9], 0.5)


def test_error_bars_show_every_kind_and_its_share():
    detections = [outcome(True, kind) for kind in ("correct", "correct", "correct", "background")]
    breakdown = ErrorBreakdown(0.3, detections, [outcome(False, "missed")])
    shown = texts(error_bars(breakdown))
    assert {"4 detections with a score above 0.3", "1 objects", "poor box", "duplicate", "missed"} <= shown
    assert {" 3 (75%)", " 1 (25%)", " 1 (100%)"} <= shown
    assert "crowd" not in shown
    crowded = ErrorBreakdown(0.3, [outcome(True, "crowd")], [])
    assert "crowd" in texts(error_bars(crowded))
    assert error_bars(ErrorBreakdown(0.5, [], []))._repr_png_()


def drawn_letters(figure, monkeypatch):
    """What reaches the renderer as plain letters; a formula fails."""
    from matplotlib.backends.backend_agg import RendererAgg

    letters = []

    def draw_text(self, gc, x, y, s, *rest, ismath=False, **named):
        assert not ismath, s
        letters.append(s)

    monkeypatch.setattr(RendererAgg, "draw_text", draw_text)
    figure._repr_png_()
    return letters


def test_names_are_drawn_letter_by_letter(monkeypatch):
    bars = drawn_letters(score_bars(groups(*ODD_NAMES)), monkeypatch)
    expected = {"$x_$", "<img src=x onerror=alert(1)>", " _hidden", "$", r"\$\frac{1$", "a b [31m"}
    assert expected <= set(bars)
    legend = drawn_letters(precision_recall_curves(curves([*ODD_NAMES, "none"])), monkeypatch)
    shown = {text.removesuffix(": 0.500") for text in legend}
    assert {"$x_$", " _hidden", "$", r"\$\frac{1$"} <= shown
    assert any(text.startswith("<img src=x onerror") for text in shown)


def test_long_names_are_cut():
    assert len(plain_text("x" * 1000)) == 32


def test_neighbouring_curves_differ_in_colour_and_line():
    assert len(set(LINE_STYLES)) == 28
    for (colour, line), (next_colour, next_line) in itertools.pairwise(LINE_STYLES):
        assert colour != next_colour
        assert line != next_line
