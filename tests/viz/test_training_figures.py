import json

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from drawn_text import texts

from ddetr.data import DataError
from ddetr.viz.training import _running_mean, read_metrics, training_curves


def train_line(step, **values):
    loss = {"loss": 9 / step, "loss_class": 2 / step, "loss_bbox": 1 / step, "loss_giou": 1 / step}
    return {"kind": "train", "step": step, "minutes": step / 10, "lr": 1e-4, **loss, **values}


def eval_line(step, ap):
    return {"kind": "eval", "step": step, "minutes": step / 10, "AP": ap, "AP50": min(1, 2 * ap)}


RUN = [*(train_line(step) for step in range(1, 40)), eval_line(20, 0.2), eval_line(39, 0.4)]


def drawn(axes):
    return {line.get_label(): line.get_xydata() for line in axes.lines}


def test_a_log_is_read_without_the_lines_that_are_not_whole(tmp_path):
    log = tmp_path / "metrics.jsonl"
    whole = "".join(json.dumps(line) + "\n" for line in RUN)
    log.write_bytes(whole.encode() + b'3\n{"step": 4}\n\xff\xfe\n' + json.dumps(RUN[0]).encode()[:-9])
    assert read_metrics(log) == read_metrics(tmp_path) == RUN
    log.write_text("")
    assert read_metrics(log) == []
    with pytest.raises(DataError, match="no log of a training run at"):
        read_metrics(tmp_path / "elsewhere")


def test_losses_rate_and_precision_over_minutes():
    figure = training_curves(RUN)
    losses, rate, precision = figure.axes
    assert {"sum", "class", "box, L1", "box, GIoU"} <= drawn(losses).keys()
    assert losses.get_yscale() == "log"
    assert (drawn(losses)["class"][:, 0] == np.arange(1, 40) / 10).all()
    assert rate.lines[0].get_ydata()[0] == 1e-4
    assert drawn(precision)["AP"].tolist() == [[2.0, 0.2], [3.9, 0.4]]
    assert "training time (minutes)" in texts(figure)
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_over_steps():
    figure = training_curves(RUN, x="step")
    assert drawn(figure.axes[2])["AP50"][:, 0].tolist() == [20, 39]
    assert "optimiser step" in texts(figure)


def test_a_run_that_has_just_begun():
    assert {"no evaluation yet", "no step logged yet"} <= texts(training_curves([]))
    figure = training_curves([train_line(1)])
    assert "no evaluation yet" in texts(figure)
    assert "no step logged yet" not in texts(figure)
    assert figure._repr_png_()


def test_odd_numbers_leave_gaps():
    lines = [train_line(1), train_line(2, loss=float("nan")), train_line(3, lr="fast", loss=-1), {"kind": "train"}]
    lines += [eval_line(3, -1), {"kind": "eval", "step": 4, "minutes": 0.4}]
    figure = training_curves(lines)
    assert np.isnan(drawn(figure.axes[2])["AP"][:, 1]).all()
    assert figure._repr_png_()


def test_running_mean_keeps_the_length_and_leaves_out_what_is_not_finite():
    assert _running_mean(np.ones(100)).tolist() == [1] * 100
    values = np.where(np.arange(100) == 50, np.nan, 2.0)
    assert _running_mean(values).tolist() == [2] * 100
    assert np.isnan(_running_mean(np.array([np.nan]))).all()
