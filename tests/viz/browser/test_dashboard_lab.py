"""The training dashboard in a real JupyterLab: paused, resumed and stopped while its cell runs, then played again."""

import json

import pytest
from conftest import SCREENSHOTS, Watch
from lab import assert_nothing_went_wrong, eventually, run_all
from view import in_both_themes

pytest.importorskip("anywidget")

SETUP = """import json, pathlib, threading
import torch
from ddetr import build_model
from ddetr.data import CocoDetection, Resolution, coco_layout, eval_transform, make_toycoco
from ddetr.engine import TINY_RECIPE, TrainOptions, train
from ddetr.viz import dashboard
run = pathlib.Path("run")
make_toycoco(run / "toy", train=1, val=1, workers=0, progress=False, seed=15)
data = CocoDetection(*coco_layout(run / "toy", "train"), eval_transform(Resolution.around(48)))
torch.manual_seed(0)
model = build_model("tiny_two_stage", num_classes=data.num_classes, test_size=48)
model.categories = data.categories
options = TrainOptions(epochs=100_000, batch_size=1, recipe=TINY_RECIPE, log_every=1, keep_every=2)
class Board(dashboard.Dashboard):
    def pause(self):
        (run / "thread").write_text(threading.current_thread().name)
        super().pause()"""
TRAIN = """with Board(model, *data[0], title="<b>one</b> image", every=1) as board:
    state = train(model, data, options, run, callbacks=[board], progress=False)"""
AFTER = """saved = torch.load(run / "checkpoint.pt", weights_only=True)
more = TrainOptions(epochs=state.step + 1, batch_size=1, recipe=TINY_RECIPE)
other = build_model(model.config)
other.categories = data.categories
resumed = train(other, data, more, run, resume=True, progress=False)
result = {"step": state.step, "stopped": state.stopped, "saved": saved["step"], "resumed": resumed.step}
(run / "result.json").write_text(json.dumps(result))"""
REPLAY = """again = dashboard.replay(dashboard.read_run(run, *data[0], title="again"))
def keep(_=None):
    step = again.controls["step"][0].value
    (run / "replay.json").write_text(json.dumps({"step": step, "alt": again.figure.alt}))
again.children[-1].observe(keep, "value")
keep()
again"""
OVER_SUBSHELLS = {"default": {}, "disabled": {"commsOverSubshells": "disabled"}}
"""JupyterLab's setting: widgets' messages go to a thread of the kernel, or wait while its main thread runs a cell."""


@pytest.fixture(params=OVER_SUBSHELLS)
def lab(start_lab, request):
    lab = start_lab("training.ipynb", [SETUP, TRAIN, AFTER, REPLAY])
    setting = "@jupyterlab/apputils-extension/kernels-settings.jupyterlab-settings"
    (lab.folder / "settings" / setting).write_text(json.dumps(OVER_SUBSHELLS[request.param]))
    return lab


@pytest.fixture
def page(chromium, lab):
    context = chromium.new_context(viewport={"width": 1300, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(90_000)
    watch = Watch(page)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    yield page
    page.screenshot(path=SCREENSHOTS / "dashboard_lab_end.png")
    assert_nothing_went_wrong(page, watch, lab)
    context.close()


def steps_of(run):
    return len((run / "metrics.jsonl").read_text().splitlines())


def test_dashboard(page, lab, request):
    over_subshells = request.node.callspec.params["lab"] == "default"
    run = lab.folder / "run"
    run_all(page, lab, "training.ipynb")
    cell = page.locator(".jp-Notebook .jp-Cell").nth(1)
    eventually(lambda: steps_of(run), lambda steps: steps >= 2, seconds=200)
    figure = cell.locator(".jp-OutputArea img")

    def button(name):
        return cell.get_by_role("button", name=name)

    first = figure.get_attribute("src")
    button("Pause").click()
    cell.get_by_text("Paused after step").wait_for()
    before = figure.get_attribute("src")
    assert before != first
    stood = steps_of(run)
    cell.get_by_text(f"Paused after step {stood}", exact=True).wait_for()
    if not over_subshells:  # with them it depends on the versions
        assert (run / "thread").read_text() == "MainThread"
    in_both_themes(page, {"dashboard": cell})
    assert steps_of(run) == stood
    assert not (run / "result.json").exists()

    button("Go on").click()
    eventually(lambda: steps_of(run), lambda steps: steps >= stood + 2)
    cell.get_by_text("Running", exact=True).wait_for()

    button("Pause").press("Enter")
    cell.get_by_text("Paused after step").wait_for()
    button("Stop").press("Enter")
    result = eventually(lambda: json.loads((run / "result.json").read_text()), bool)
    steps = result["step"]
    assert result == {"step": steps, "stopped": True, "saved": steps, "resumed": steps + 1}
    cell.get_by_text(f"Stopped after step {steps}.").wait_for()
    assert button("Pause").count() == 0
    assert steps >= stood + 2
    assert figure.get_attribute("src") != before

    if over_subshells:
        again = page.locator(".jp-Notebook .jp-Cell").nth(3)
        replayed(page, run, again)
        in_both_themes(page, {"dashboard_replay": again})


def replayed(page, run, cell):
    """To the start with the keyboard, then played to the end; what is shown is what Python drew."""

    def kept():
        return json.loads((run / "replay.json").read_text())

    def shows(step):
        eventually(lambda: kept()["step"], step)
        eventually(lambda: cell.locator(".widget-html img").get_attribute("alt") == kept()["alt"], True)

    eventually(lambda: kept()["step"], lambda step: step > 2)
    end = kept()["step"]
    shows(end)
    knob = cell.locator(".noUi-handle")
    knob.focus()
    page.keyboard.press("Home")
    shows(0)
    page.keyboard.press("ArrowRight")
    shows(1)
    cell.locator(".widget-play button").first.click()
    shows(end)
