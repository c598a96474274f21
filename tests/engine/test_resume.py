"""A run that is killed at any moment and resumed ends with the same weights, to the bit, as one that is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_data import make_coco

from ddetr import load_pretrained

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
TRAIN = ["--preset", "tiny_two_stage", "--epochs", "4", "--batch-size", "1", "--save-every", "0", "--log-every", "1",
         "--eval-every", "2", "--keep-every", "1", "--size", "64", "--set", "dropout=0.1", "--set", "encoder_layers=1",
         "--set", "decoder_layers=2", "--set", "num_queries=20"]  # fmt: skip
MEASURED = {"minutes", "images_per_second", "memory_mib"}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp("resume") / "toy", count=5)


def run(toy, out, seed, kills):
    """Train into `out`, killed so often; how many processes were, and how many of them while they wrote a file."""
    command = [sys.executable, str(Path(__file__).parent / "killer.py"), str(seed), str(kills), str(out)]
    done = subprocess.run(
        [*command, "train", "--data", str(toy), *TRAIN], capture_output=True, text=True, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


def log(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in MEASURED} for line in lines]


@pytest.fixture(scope="module")
def whole(toy):
    out = toy.parent / "whole"
    assert run(toy, out, 0, 0) == [0, 0]
    return out


def test_killed_at_any_moment(toy, whole, tmp_path):
    out = tmp_path / "run"
    killed, writing = run(toy, out, 0, 6)
    assert killed >= 3
    assert writing >= 1
    names = {str(path.relative_to(whole)) for path in whole.rglob("*")}
    assert {str(path.relative_to(out)) for path in out.rglob("*")} == names  # nothing half-written is left
    assert log(out) == log(whole)
    for name in sorted(name for name in names if name.endswith(".safetensors")):
        weights, wanted = (load_pretrained(run / name).state_dict() for run in (out, whole))
        assert all(tensor.equal(wanted[key]) for key, tensor in weights.items()), name
    states = [torch.load(run / "checkpoint.pt", weights_only=True)["optimizer"]["state"] for run in (out, whole)]
    assert all(value.equal(states[1][key][name]) for key, entry in states[0].items() for name, value in entry.items())
