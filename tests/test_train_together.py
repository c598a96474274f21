"""How the shipped weights are made: one encoder under two decoders."""

import importlib.util
from pathlib import Path

import pytest
import torch

from ddetr.checkpoints import load_pretrained
from ddetr.data import make_toycoco

SCRIPT = Path(__file__).parents[1] / "data" / "train_together.py"


@pytest.fixture(scope="module")
def together():
    spec = importlib.util.spec_from_file_location("train_together", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_losses_are_those_of_both_models_on_one_encoder(together):
    two_stage, one_stage = load_pretrained("tiny_two_stage").train(), load_pretrained("tiny").train()
    one_stage.load_state_dict(
        {k: v for k, v in two_stage.state_dict().items() if k.split(".")[0] in together.ENCODER}, strict=False
    )
    images = [torch.randn(3, 64, 80, generator=torch.Generator().manual_seed(0))]
    targets = [{"boxes": torch.tensor([[5.0, 5, 40, 40]]), "labels": torch.tensor([1])}]
    wanted = two_stage(images, targets)
    wanted |= {f"one_stage_{name}": loss for name, loss in one_stage(images, targets).items()}
    losses = together.Together(two_stage, one_stage).train()(images, targets)
    assert losses.keys() == wanted.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, wanted[name])


def test_boxes_shrink_with_their_images(together):
    image, boxes = torch.zeros(3, 60, 80), torch.tensor([[20.0, 30, 60, 60]])
    image[:, 30:, 20:60] = 1
    (small,), (target,) = together.shrunk([image], [{"boxes": boxes, "labels": torch.tensor([0])}], [0.5])
    assert small.shape == (3, 30, 40)
    assert target["boxes"].tolist() == [[10, 15, 30, 30]]
    assert small[:, 16:, 11:29].min() > 0.99
    assert small[:, :14].max() < 0.01


def test_a_run_becomes_two_that_load_by_themselves(together, tmp_path, monkeypatch, capsys):
    data = make_toycoco(tmp_path / "toy", train=2, val=1, workers=1, progress=False)
    run = tmp_path / "run"
    options = ["--size", "48", "--smallest", "32", "--minutes", "0.002", "--keep-every", "0.001"]
    monkeypatch.setattr("sys.argv", ["train_together", "--data", str(data), "--out", str(run), *options])
    together.main()
    monkeypatch.setattr("sys.argv", ["train_together", "--split", str(run)])
    together.main()
    for name, two_stage in (("tiny_two_stage", True), ("tiny", False)):
        model = load_pretrained(run / name)
        assert (model.config.two_stage, model.config.test_size) == (two_stage, 48)
        assert model.state_dict().keys() == load_pretrained(name).state_dict().keys()
        assert list((run / name / "snapshots").iterdir())
    alike = [load_pretrained(run / name).encoder.state_dict() for name in ("tiny_two_stage", "tiny")]
    assert all(tensor.equal(alike[1][key]) for key, tensor in alike[0].items())
