"""Several processes against one. All images have one size: a process pads its share by itself, which norms see."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_data import CATEGORIES, annotation, write_coco

from ddetr import load_pretrained
from ddetr.cli import main
from ddetr.engine.batches import StepBatches

STEPS = 6
SHORT = ["--preset", "tiny_two_stage", "--augment", "none", "--size", "64", "--set", "encoder_layers=1", "--set",
         "decoder_layers=2", "--set", "num_queries=20"]  # fmt: skip

TWO_EPOCHS = ["--epochs", "2", "--log-every", "1"]


def make_equal_sizes(folder, count=9):
    """Images of 64 x 64, every third of them with objects."""
    rng = np.random.default_rng(0)
    images, annotations, pictures = [], [], {}
    for i in range(count):
        pixels = rng.integers(90, 160, (64, 64, 3), dtype=np.uint8)
        for _ in range(0 if i % 3 else 1 + i):
            x, y, w, h = (int(v) for v in (*rng.integers(0, 30, 2), *rng.integers(10, 30, 2)))
            category = CATEGORIES[int(rng.integers(3))]["id"]
            pixels[y : y + h, x : x + w] = rng.integers(0, 255, 3)
            annotations.append(annotation(len(annotations) + 1, i, category, [x, y, w, h]))
        pictures[f"{i}.png"] = pixels
        images.append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 64})
    return write_coco(folder, {"images": images, "annotations": annotations, "categories": CATEGORIES}, pictures)


def paths(folder, count=9):
    images, annotations = make_equal_sizes(folder, count)
    return ["--images", str(images), "--annotations", str(annotations)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return paths(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=[9, 11])
def uneven(tmp_path_factory, request):
    return paths(tmp_path_factory.mktemp("uneven"), request.param)


def torchrun(arguments, processes=2, **kwargs):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return subprocess.Popen(
        [*command, "-m", "ddetr", "train", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, **kwargs,
    )  # fmt: skip


def finish(process):
    stdout, stderr = process.communicate(timeout=240)
    return process.returncode, stdout, stderr


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_steps_have_the_cases_that_they_are_to_test():
    for count, last in {9: (1, 0), 11: (2, 1)}.items():
        steps = [list(StepBatches([1.0] * count, 4, 0, 0, STEPS, rank, 2)) for rank in range(2)]
        assert tuple(len(own[STEPS // 2 - 1]) for own in steps) == last  # of an epoch
    first, second = (list(StepBatches([1.0] * 9, 4, 0, 0, STEPS, rank, 2)) for rank in range(2))
    has_objects = [[any(i % 3 == 0 for _, i in share) for share in shares] for shares in (first, second)]
    assert (True, False) in [tuple(pair) for *pair, share in zip(*has_objects, second, strict=True) if share] or (
        False, True) in zip(*has_objects, strict=True)  # fmt: skip


@pytest.fixture(scope="module")
def one(uneven, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "run"
    assert main(["train", *uneven, *SHORT, *TWO_EPOCHS, "--out", str(out), "--batch-size", "4"]) == 0
    return out


@pytest.mark.parametrize("parts", [["--batch-size", "2"], ["--batch-size", "1", "--accumulate", "2"]])
def test_two_processes_are_one(uneven, one, tmp_path, parts):
    out = tmp_path / "run"
    code, stdout, stderr = finish(torchrun([*uneven, *SHORT, *TWO_EPOCHS, "--out", str(out), *parts]))
    assert code == 0, stderr
    assert stdout.count("4 images a step (2 processes x ") == 1  # only one of them speaks
    assert len(lines(one)) == STEPS
    for line, wanted in zip(lines(out), lines(one), strict=True):
        compared = [name for name in wanted if name.startswith("loss") or name in ("grad_norm", "lr", "padded")]
        assert {name: line[name] for name in compared} == pytest.approx(
            {name: wanted[name] for name in compared}, rel=1e-5, abs=1e-7
        )
    weights, wanted = (load_pretrained(run).state_dict() for run in (out, one))
    for name, tensor in wanted.items():
        # The optimiser moved each by up to 1e-4; a gradient that is zero but for rounding it magnifies.
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_a_run_in_minutes_ends_and_is_resumed_by_one_process(data, tmp_path):
    out = tmp_path / "run"
    train = [*data, *SHORT, "--out", str(out), "--minutes", "0.02", "--batch-size", "2"]
    code, _, stderr = finish(torchrun(train))
    assert code == 0, stderr
    steps = torch.load(out / "checkpoint.pt", weights_only=True)["step"]
    assert steps >= 1
    assert main(["train", *data, "--out", str(out), "--resume", "--minutes", "0.05"]) == 1  # 2 images a step, not 4
    assert main(["train", *data, "--out", str(out), "--resume", "--minutes", "0.05", "--accumulate", "2"]) == 0
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] > steps


def test_an_interrupt_stops_all_at_the_same_step(data, tmp_path):
    out = tmp_path / "run"
    process = torchrun([*data, *SHORT, "--out", str(out), "--epochs", "100000", "--log-every", "1"])
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not ((out / "metrics.jsonl").exists() and len(lines(out)) > 2):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stdout, stderr = finish(process)
    assert stdout.count("with --resume goes on") == 1, stderr
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == lines(out)[-1]["step"]


def test_an_error_in_one_process_ends_the_others(data, tmp_path):
    broken = paths(tmp_path / "data")
    (Path(broken[1]) / "4.png").write_bytes(b"broken")
    started = time.monotonic()
    code, _, stderr = finish(torchrun([*broken, *SHORT, "--out", str(tmp_path / "run"), "--epochs", "100000"]))
    assert code != 0
    assert "error: image id 4: " in stderr
    assert "error: process" in stderr
    assert not [line for line in stderr.splitlines() if "Connection closed by peer" in line]
    assert time.monotonic() - started < 100
