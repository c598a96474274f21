import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_data import make_coco

from ddetr import build_model, load_pretrained
from ddetr.checkpoints import CheckpointError, save_model, save_training_state
from ddetr.cli import main
from ddetr.engine import TINY_FROM_SCRATCH, TrainOptions
from ddetr.engine.checkpoint import check_resumable, read_training_state, remove_leftovers, save_run
from ddetr.engine.train import start_state

ROOT = Path(__file__).parents[2]
SHORT = ["--preset", "tiny_two_stage", "--size", "64", "--set", "encoder_layers=1", "--set", "decoder_layers=2",
         "--set", "num_queries=20"]  # fmt: skip

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from ddetr.cli import main
sys.exit(main(sys.argv[2:]))
"""


def limited(limit, *arguments):
    """The command line where no file can grow beyond `limit` bytes, as on a disk that is full."""
    pytest.importorskip("resource")
    command = [sys.executable, "-c", LIMITED, str(limit), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)


def test_a_full_disk_leaves_the_former_checkpoint_and_log(tmp_path):
    toy, out = make_coco(tmp_path / "toy"), tmp_path / "run"
    assert main(["train", "--data", str(toy), "--out", str(out), "--epochs", "1", *SHORT]) == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    limit = len(before[out / "checkpoint.pt"]) // 2  # the weights fit, the checkpoint does not
    done = limited(limit, "train", "--data", str(toy), "--out", str(out), "--epochs", "2", "--resume")
    assert done.returncode == 1
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "checkpoint.pt could not be written: PyTorch's writer failed; the disk may be full" in error
    assert "left as it was" in error
    assert (out / "checkpoint.pt").read_bytes() == before[out / "checkpoint.pt"]
    assert (out / "metrics.jsonl").read_bytes() == before[out / "metrics.jsonl"]
    assert {path.name for path in out.iterdir()} == {path.name for path in before}
    assert main(["train", "--data", str(toy), "--out", str(out), "--epochs", "2", "--resume"]) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_while_logging(tmp_path):
    from ddetr.engine.log import RunLog

    model = build_model("tiny", num_classes=3)
    log = RunLog(tmp_path / "metrics.jsonl", start_state(model, 4, TrainOptions(epochs=1)), [])
    log.path = Path("/dev/full")
    with pytest.raises(OSError, match="/dev/full could not be written: No space left"):
        log.write("train", loss=1.0)


def test_no_permission_is_said_before_training(tmp_path, capsys):
    if not Path("/proc/self").is_dir():
        pytest.skip("needs a folder in which even root cannot write")
    toy = make_coco(tmp_path / "toy")
    assert main(["train", "--data", str(toy), "--out", "/proc/self", *SHORT]) == 1
    assert "--out: /proc/self cannot be a folder to write into" in capsys.readouterr().err


def test_a_refused_write_names_the_file(tmp_path):
    model = build_model("tiny", num_classes=3)
    for save in (lambda path: save_model(model, path), lambda path: save_training_state({"a": 1}, path)):
        with pytest.raises(OSError, match="nowhere"):
            save(tmp_path / "nowhere" / "file")


def state_of(num_images=4, **options):
    torch.manual_seed(0)
    return start_state(build_model("tiny", num_classes=3), num_images, TrainOptions(**{"epochs": 1} | options))


def test_a_run_is_resumed_with_as_many_images_a_step(tmp_path):
    save_run(state_of(batch_size=4), tmp_path)
    contents = read_training_state(tmp_path / "checkpoint.pt")
    check_resumable(contents, state_of(batch_size=2, accumulate=2))
    with pytest.raises(CheckpointError, match="took 4 images a step, and would now take 2"):
        check_resumable(contents, state_of(batch_size=2))
    with pytest.raises(CheckpointError, match=r"with AdamW, and would not from here on: muon_factor=0"):
        check_resumable(contents, state_of(batch_size=4, recipe=TINY_FROM_SCRATCH))
    (tmp_path / "muon").mkdir()
    save_run(state_of(batch_size=4, recipe=TINY_FROM_SCRATCH), tmp_path / "muon")
    with pytest.raises(CheckpointError, match=r"with Muon, and would not from here on: leave out muon_factor=0"):
        check_resumable(read_training_state(tmp_path / "muon" / "checkpoint.pt"), state_of(batch_size=4))
    with pytest.raises(CheckpointError, match="trained on 4 images; the data now has 5"):
        check_resumable(contents, state_of(num_images=5, batch_size=4))


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "snapshots").mkdir()
    keep = ["checkpoint.pt", "notes.txt", ".hidden", "snapshots/step_000002.safetensors",
            "snapshots/step_best.safetensors", "snapshots/mystep_9.safetensors"]  # fmt: skip
    remove = [".checkpoint.pt.abc", ".model.safetensors.xyz", ".metrics.jsonl.1", "snapshots/step_000003.safetensors",
              "snapshots/.step_000003.safetensors.abc"]  # fmt: skip
    for name in keep + remove:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, 2)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(keep)


@pytest.mark.parametrize(("preset", "before", "after"), [("tiny_two_stage", 1, 2), ("tiny", 80, 3)])
def test_other_classes_start_exactly_the_class_heads_afresh(tmp_path, caplog, preset, before, after):
    model = build_model(preset, num_classes=before, encoder_layers=1, decoder_layers=2)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "class_embed" in name:
                tensor.fill_(0.5)
    save_model(model, tmp_path / "old.safetensors")
    new = load_pretrained(tmp_path / "old.safetensors", num_classes=after)
    heads = ["heads.class_embed.0", "heads.class_embed.1", "queries.class_embed"][: 3 if preset != "tiny" else 1]
    assert f"for {after} classes instead of {before}: {', '.join(heads)}. Everything else is kept" in caplog.text
    old, changed = model.state_dict(), new.state_dict()
    assert old.keys() == changed.keys()
    assert {name for name in old if old[name].shape != changed[name].shape or not old[name].equal(changed[name])} == {
        f"{head}.{kind}" for head in heads for kind in ("weight", "bias")
    }
    for head in heads:
        assert changed[f"{head}.bias"].sigmoid().tolist() == pytest.approx([0.01] * after)
        assert changed[f"{head}.weight"].shape == (after, model.config.embed_dim)
        assert changed[f"{head}.weight"].std() > 0
