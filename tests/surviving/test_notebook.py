"""A reader at work on a real kernel: Ctrl-C in the middle of training, restart, Run All."""

import re
import sys
import time

import pytest
from jupyter_client.manager import start_new_kernel
from toy_data import make_coco

from ddetr.course import pages

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

SET_UP = """
import torch
from ddetr import build_model, load_pretrained
from ddetr.data import CocoDetection, Resolution, coco_layout, eval_transform
from ddetr.engine import TINY_RECIPE, TrainOptions, train
data = CocoDetection(*coco_layout("toy", "train"), eval_transform(Resolution.around(32)))
torch.manual_seed(0)
model = build_model("tiny", num_classes=3, encoder_layers=1, decoder_layers=1, num_queries=10, test_size=32)

def work(epochs, **more):
    options = TrainOptions(epochs=epochs, batch_size=2, recipe=TINY_RECIPE, log_every=1)
    state = train(model, data, options, "run", progress=False, **more)
    saved = load_pretrained("run").state_dict()
    same = all(tensor.equal(saved[name]) for name, tensor in model.state_dict().items())
    print("stopped" if state.stopped else "whole", "saved" if same else "not saved", state.step)
"""
DIGEST = "print(sum(tensor.double().abs().sum().item() for tensor in model.state_dict().values()))"
FOREVER = "work(10**6)"


class Kernel:
    """A kernel in `folder`, as a front end drives it."""

    def __init__(self, folder):
        self.folder = folder
        self.manager, self.client = start_new_kernel(cwd=str(folder), startup_timeout=300)

    def start(self, source):
        """Run a cell; returns at once."""
        return self.client.execute(source)

    def outcome(self, cell):
        """Wait for a cell to end; what it printed, errors included."""
        said = []
        while True:
            message = self.client.get_iopub_msg(timeout=300)
            if message["parent_header"].get("msg_id") != cell:
                continue
            content = message["content"]
            if message["msg_type"] == "stream":
                said.append(content["text"])
            elif message["msg_type"] == "error":
                said.append(f"{content['ename']}: {content['evalue']}")
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return "".join(said)

    def run(self, source):
        return self.outcome(self.start(source))

    def wait_for_steps(self, count):
        """Until the training that runs now has logged so many steps."""
        log = self.folder / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") >= count):
            time.sleep(0.05)

    def restart(self):
        self.manager.restart_kernel(now=True)
        self.client.wait_for_ready(timeout=300)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    make_coco(folder / "toy")
    kernel = Kernel(folder)
    yield kernel
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)


def test_ctrl_c_in_the_middle_of_training_and_on(kernel):
    """The stop button ends the run, with a checkpoint; the next cell goes on; elsewhere it is as before."""
    assert kernel.run(SET_UP) == ""
    cell = kernel.start(FOREVER)
    kernel.wait_for_steps(3)
    kernel.manager.interrupt_kernel()
    verdict, saved, step = kernel.outcome(cell).split()
    assert (verdict, saved) == ("stopped", "saved")
    assert int(step) >= 3
    epochs = (int(step) + 5) // 2
    assert kernel.run(f"work({epochs}, resume=True)").split() == ["whole", "saved", str(2 * epochs)]
    cell = kernel.start("import time; print('waiting'); time.sleep(300)")
    assert kernel.client.get_iopub_msg(timeout=60)
    time.sleep(0.5)
    kernel.manager.interrupt_kernel()
    assert "KeyboardInterrupt" in kernel.outcome(cell)  # the button works as before


def test_restart_in_the_middle_and_run_all(kernel):
    """What an earlier run left in the folder does not matter: the same cells print the same."""
    kernel.restart()
    said = [[kernel.run(cell) for cell in (SET_UP, "work(2)", DIGEST)]]
    assert said[0][:2] == ["", "whole saved 4\n"]
    kernel.start(FOREVER)
    kernel.wait_for_steps(6)
    kernel.restart()
    said.append([kernel.run(cell) for cell in (SET_UP, "work(2)", DIGEST)])
    assert said[1] == said[0]


def test_restart_and_run_all_of_a_page_and_again(kernel):
    """A second Run All, without a restart, finds what the first has left in the kernel, and says the same."""
    cells = [cell.source for cell in pages.read_page("02_neck").cells if cell.cell_type == "code"]
    kernel.restart()
    first, second = ([kernel.run(cell) for cell in cells] for _ in range(2))
    assert "not attempted yet" in "".join(first)
    assert not [text for text in first if re.search(r"^\w+Error: ", text, re.MULTILINE)]
    assert second == first
