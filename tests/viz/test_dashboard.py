import io
import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from drawn_text import texts
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from PIL import Image

from ddetr import build_model
from ddetr.checkpoints import save_model
from ddetr.data import CocoDetection, DataError, Resolution, coco_layout, eval_transform, make_toycoco
from ddetr.engine import TrainOptions, train
from ddetr.engine.checkpoint import snapshot_path
from ddetr.viz import dashboard
from ddetr.viz.dashboard import Dashboard, DashboardState, Look, best_boxes, draw, look_at, read_run, replay
from ddetr.viz.figures import LEVEL_COLOURS
from ddetr.viz.training import runs_side_by_side

IMAGE = torch.zeros(3, 64, 80)


def look(step, score=0.5):
    boxes = np.array([[4.0, 6, 40, 30], [20, 10, 79, 60]])
    points = np.full((2, 4, 3, 2), float(step))
    return Look(step, boxes, np.array([score, 0.1]), points, np.full((2, 4, 3), 1 / 12))


def line(kind, step, **values):
    return {"kind": kind, "step": step, "loss": 9 / step, "lr": 1e-4, **values}


STATE = DashboardState(
    np.zeros((64, 80, 3), np.uint8),
    np.array([[4.0, 6, 40, 30]]),
    [line("train", 5), line("train", 10), line("eval", 10, AP=0.25, AP50=0.5)],
    [look(0), look(5), look(10, 0.9)],
    "$a_$ run",
    "that image",
)


@pytest.fixture
def shown():
    figures = []

    def show(figure):
        figures.append(figure)
        return figures.append

    return SimpleNamespace(figures=figures, show=show)


@pytest.fixture
def small(tiny_two_stage):
    tiny_two_stage.categories = [{"id": n, "name": str(n)} for n in range(3)]
    return tiny_two_stage


def test_curves_and_the_image_at_first_middle_and_last():
    figure = draw(STATE)
    losses, rate, precision, *pictures = figure.axes
    assert losses.get_yscale() == "log"
    assert rate.lines[0].get_ydata().tolist() == [1e-4, 1e-4]
    assert precision.lines[0].get_xydata().tolist() == [[10, 0.25]]
    assert {"step 0", "step 5", "step 10", "average precision on that image", r"\$a_\$ run", "0.90"} <= texts(figure)
    assert [len(axes.findobj(Rectangle)) - 1 for axes in pictures] == [3, 3, 3]  # one true, two found, the frame
    assert pictures[2].collections[0].get_offsets().mean() == 10
    colours = {tuple(colour) for colour in pictures[0].collections[0].get_facecolors()}
    assert len(colours) == len(LEVEL_COLOURS)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert "loss from 1.80 to 0.90; AP on that image 0.25" in figure.alt
    assert "steps 0, 5, 10" in figure.alt


def test_few_colours_keep_white_and_the_levels_colours():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    colours = [tuple(round(255 * part) for part in to_rgb(colour)) for colour in LEVEL_COLOURS]
    for n, colour in enumerate([(255, 255, 255), *colours]):
        pixels[:20, 20 * n : 20 * n + 20] = colour
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    small = dashboard.with_few_colours(buffer.getvalue())
    assert len(small) < len(buffer.getvalue()) / 2
    got = np.asarray(Image.open(io.BytesIO(small)).convert("RGB")).astype(int)
    assert (got[:20, :20] == 255).all()
    assert np.abs(got[:20, 20:100] - pixels[:20, 20:100]).max() <= 8
    assert np.abs(got - pixels).mean() < 25


def test_a_run_that_has_just_begun_and_one_without_a_look():
    figure = draw(STATE._replace(lines=[], looks=STATE.looks[:1]))
    assert {"no step logged yet", "no evaluation yet", "step 0"} <= texts(figure)
    assert "step 5" not in texts(figure)
    with pytest.raises(ValueError, match="at least one look"):
        draw(STATE._replace(looks=[]))


def test_a_state_until_a_step():
    earlier = STATE.until(5)
    assert [entry["step"] for entry in earlier.lines] == [5]
    assert [one.step for one in earlier.looks] == [0, 5]
    assert STATE.until(10) == STATE


def test_a_look_is_in_pixels_and_follows_the_largest_object(small, target):
    one = look_at(small, IMAGE, target, 7)
    assert one.step == 7
    assert one.boxes.shape == (2, 4)
    assert one.points.shape == (8, 4, 4, 2)
    np.testing.assert_allclose(one.weights.sum((1, 2)), 1, atol=1e-5)
    trace = small.trace([IMAGE])
    np.testing.assert_allclose(one.boxes, trace.detections[0]["boxes"][:2])
    last = trace["decoder.layer2.sampling_locations"][0] * torch.tensor([80.0, 64])  # (Q, M, L, P, 2)
    (query,) = [q for q, points in enumerate(last) if np.allclose(points, one.points)]
    # Fresh scores are all alike, so the matched query is one whose box lies near the larger of the two.
    x, y = (trace["heads.boxes"][-1, 0, query, :2] * torch.tensor([80.0, 64])).tolist()
    assert 20 <= x <= 79
    assert 10 <= y <= 60
    assert small.training


def test_an_image_without_objects(small):
    with pytest.raises(ValueError, match="choose an image that has one"):
        look_at(small, IMAGE, {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}, 0)


def test_one_figure_is_replaced_now_and_then_and_at_the_end(small, target, shown, monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(dashboard.time, "monotonic", lambda: clock.now)
    run = SimpleNamespace(model=small, stopped=False)
    with Dashboard(small, IMAGE, target, every=5, show=shown.show) as board:
        assert len(shown.figures) == 1
        board(run, line("train", 1))
        assert len(shown.figures) == 1
        clock.now += 6
        board(run, line("train", 2))
        assert len(shown.figures) == 2
        board(run, line("eval", 2, AP=0.1, AP50=0.2))
    assert len(shown.figures) == 3
    assert [one.step for one in board.state.looks] == [0, 1, 2]
    assert [entry["kind"] for entry in board.state.lines] == ["train", "train", "eval"]
    assert "AP on held-out images 0.10" in shown.figures[-1].alt


def test_drawing_may_not_eat_the_training(small, target, shown, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(dashboard.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(dashboard, "draw", lambda state: setattr(clock, "now", clock.now + 3))
    board = Dashboard(small, IMAGE, target, every=5, show=shown.show)
    board.refresh()
    clock.now += 20
    board(SimpleNamespace(model=small, stopped=False), line("train", 1))
    assert len(shown.figures) == 1
    clock.now += 20
    board(SimpleNamespace(model=small, stopped=False), line("train", 2))
    assert len(shown.figures) == 2


def test_stop_ends_the_run_and_a_stopped_run_stays_stopped(small, target, shown):
    board = Dashboard(small, IMAGE, target, show=shown.show)
    run = SimpleNamespace(model=small, stopped=False)
    board(run, line("train", 1))
    assert not run.stopped
    board.stop()
    board(run, line("train", 2))
    assert run.stopped
    other = SimpleNamespace(model=small, stopped=True)
    Dashboard(small, IMAGE, target, show=shown.show)(other, line("train", 1))
    assert other.stopped


def test_a_resumed_run_takes_back_the_steps_that_come_again(small, target, shown):
    board = Dashboard(small, IMAGE, target, show=shown.show)
    run = SimpleNamespace(model=small, stopped=False)
    for step in (2, 4, 6):
        board(run, line("train", step))
    board(run, line("train", 3))
    assert [entry["step"] for entry in board.state.lines] == [2, 3]
    assert [one.step for one in board.state.looks] == [0, 2, 3]


def test_a_pressed_button_makes_the_run_wait(small, target, shown):
    run = SimpleNamespace(model=small, stopped=False, step=4)
    with Dashboard(small, IMAGE, target, show=shown.show) as board:
        board.before_step(run)
        buttons = board.buttons
        assert (buttons.pause.description, buttons.status.value) == ("Pause", "Running")
        buttons.pause.click()
        waiting = threading.Thread(target=board.before_step, args=(run,))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        buttons.pause.click()  # which has become the one that lets it go on
        waiting.join(20)
        assert not waiting.is_alive()
        assert (run.stopped, board.paused, buttons.pause.description) == (False, False, "Pause")

        buttons.pause.click()
        assert buttons.pause.description == "Go on"
        buttons.stop.click()
        board.before_step(run)  # a run that is to end does not wait
        assert run.stopped
        assert buttons.afterwards().data == "Stopped after step 4."
    with board:
        again = SimpleNamespace(model=small, stopped=False, step=5)
        board.before_step(again)
        assert not again.stopped
        assert "buttons stood here" in board.buttons.afterwards().data
        board.pause()
        again.stopped = True  # as Ctrl-C does
        board.before_step(again)
        assert board.buttons.afterwards().data == "Stopped after step 5."


def test_a_run_ends_before_the_step_that_stop_forbids(small, tmp_path, shown):
    make_toycoco(tmp_path / "toy", train=2, val=1, workers=0, progress=False, seed=0)
    data = CocoDetection(*coco_layout(tmp_path / "toy", "train"), eval_transform(Resolution.around(48)))
    model = build_model(small.config.replace(num_classes=data.num_classes))
    model.categories = data.categories

    class Impatient(Dashboard):
        def before_step(self, run):
            if run.step == 3:
                self.stop()
            super().before_step(run)

    with Impatient(model, *data[0], show=shown.show) as board:
        state = train(model, data, TrainOptions(epochs=9, log_every=100), tmp_path, callbacks=[board], progress=False)
    assert (state.step, state.stopped) == (3, True)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 3


def test_a_finished_run_from_its_log_and_snapshots(small, target, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line("train", step)) + "\n" for step in (5, 10)))
    with pytest.raises(ValueError, match="no snapshots"):
        read_run(tmp_path, IMAGE, target)
    for step in (0, 10):
        snapshot_path(tmp_path, step).parent.mkdir(exist_ok=True)
        save_model(small, snapshot_path(tmp_path, step))
    state = read_run(tmp_path, IMAGE, target, title="again")
    assert [one.step for one in state.looks] == [0, 10]
    assert [entry["step"] for entry in state.lines] == [5, 10]
    again = replay(state)
    assert again.figure.alt == draw(state).alt
    slider, _ = again.controls["step"]
    assert slider.options == (0, 5, 10)
    slider.value = 5
    assert again.figure.alt == draw(state.until(5)).alt
    with pytest.raises(DataError, match="no log"):
        read_run(tmp_path / "elsewhere", IMAGE, target)
    with pytest.raises(ValueError, match="at least one look"):
        replay(state._replace(looks=[]))


def test_without_a_notebook_nothing_is_shown(capsys):
    dashboard.show_in_notebook(draw(STATE))(draw(STATE))
    assert capsys.readouterr().out == ""


def test_best_boxes_of_two_models():
    found = {"boxes": torch.tensor([[4.0, 6, 40, 30], [20, 10, 79, 60]]), "scores": torch.tensor([0.75, 0.5])}
    figure = best_boxes([IMAGE, IMAGE], {"old_$1$": [found, found], "new": [found, found]}, count=1)
    assert len(figure.axes) == 4
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "x (pixels)", "x (pixels)"]
    assert "0.75" in texts(figure)
    assert "0.50" not in texts(figure)
    assert "new: best box around (22, 18), (22, 18)" in figure.alt
    assert figure._repr_png_()
    with pytest.raises(ValueError, match="old: detections of 1 images for 2"):
        best_boxes([IMAGE, IMAGE], {"old": [found]})


def test_runs_side_by_side_share_their_scales():
    runs = {"$A": [line("train", 1), line("train", 2, loss=-1), line("eval", 2, AP=0.5)], "B": [line("train", 1)]}
    figure = runs_side_by_side(runs)
    losses = figure.axes[:2]
    assert losses[0].get_ylim() == losses[1].get_ylim()
    assert r"run \$A" in texts(figure)
    assert "AP 0.5 to 0.5" in figure.alt
    assert figure._repr_png_()
