import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from toy_data import make_coco

from ddetr import build_model, load_pretrained
from ddetr.checkpoints import save_model
from ddetr.cli import main
from ddetr.commands.predict import _unique_names
from ddetr.engine import TINY_FROM_SCRATCH, schedule


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp("cli") / "toy")


SHORT = ["--size", "64", "--set", "encoder_layers=1", "--set", "decoder_layers=2", "--set", "num_queries=20"]


@pytest.fixture(scope="module")
def run(toy):
    out = toy.parent / "run"
    assert (
        main(["train", "--data", str(toy), "--preset", "tiny_two_stage", "--out", str(out), "--epochs", "2", *SHORT])
        == 0
    )
    return out


def test_train_writes_a_run(run):
    assert {"model.safetensors", "checkpoint.pt", "metrics.jsonl", "settings.json"} == {p.name for p in run.iterdir()}
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["kind"] == "eval"
    assert last["step"] == 2


@pytest.mark.parametrize(
    ("given", "step"),
    [
        ([], "4 images a step"),
        (["--accumulate", "2"], "4 images a step (2 parts x 2 images)"),
        (["--muon-factor", "0"], "2 images a step"),
        (["--batch-size", "1"], "1 images a step"),
        (["--preset", "tiny", "--accumulate", "8"], "8 images a step"),
    ],
)
def test_steps_with_muon_are_of_four_images(given, step, toy, tmp_path, capsys):
    train = ["train", "--data", str(toy), *SHORT, "--epochs", "1", "--out", str(tmp_path / "run")]
    assert main([*train, *given]) == 0
    assert f" {step} -> " in capsys.readouterr().out


def test_eval_prints_and_writes_twelve_numbers(run, toy, capsys, tmp_path):
    out = tmp_path / "deep" / "evaluation.json"
    assert main(["eval", "--weights", str(run), "--data", str(toy), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    written = json.loads(out.read_text())
    assert len(written["metrics"]) == 12
    for name in ("AP", "AP50", "APs", "AR100"):
        assert f"{name} {written['metrics'][name]:.3f}" in printed
    assert written["metrics"]["ARl"] == -1
    assert "ARl -" in printed  # no object of the toy set is large
    assert {r["category_id"] for r in written["results"]} <= {3, 17, 90}


def test_eval_of_any_other_layout(run, toy, tmp_path):
    paths = ["--images", str(toy / "val2017"), "--annotations", str(toy / "annotations" / "instances_val2017.json")]
    assert main(["eval", "--weights", str(run), *paths, "--limit", "2", "--out", str(tmp_path / "e.json")]) == 0


def test_predict_draws_and_writes_json(run, toy, tmp_path):
    image = toy / "val2017" / "000000000200.png"
    copy = tmp_path / "copy" / image.name
    copy.parent.mkdir()
    copy.write_bytes(image.read_bytes())
    out = tmp_path / "out"
    command = [
        "predict",
        "--weights",
        str(run / "model.safetensors"),
        "--out",
        str(out),
        "--threshold",
        "0",
        str(image),
    ]
    assert main([*command, str(copy)]) == 0
    assert len(list(out.iterdir())) == 4  # two files of one name keep apart
    written = json.loads((out / "000000000200.json").read_text())
    with Image.open(image) as original, Image.open(out / "000000000200.png") as drawn:
        assert drawn.size == original.size == (written["width"], written["height"])
        assert (np.asarray(drawn.convert("RGB")) != np.asarray(original)).any()
    assert written["detections"]
    assert {d["name"] for d in written["detections"]} <= {"car", "cat", "toothbrush"}


def test_trace_prints_the_table(toy, capsys):
    assert main(["trace", str(toy / "val2017" / "000000000200.png"), "--preset", "tiny", "--size", "64"]) == 0
    assert "encoder.layer0" in capsys.readouterr().out


def test_resume_remembers_the_run(toy, tmp_path, capsys):
    out = tmp_path / "run"
    train = ["train", "--data", str(toy), "--out", str(out)]
    assert (
        main([*train, "--preset", "tiny_two_stage", "--epochs", "1", "--batch-size", "1", "--seed", "5", *SHORT]) == 0
    )
    capsys.readouterr()
    assert main([*train, "--resume", "--epochs", "2"]) == 0
    assert "no longer the run" not in capsys.readouterr().out  # longer, but the same
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["preset"], settings["batch_size"], settings["seed"]) == ("tiny_two_stage", 1, 5)
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 8
    assert main([*train, "--resume", "--epochs", "3", "--lr", "0.001", "--seed", "5"]) == 0
    assert "From here on with lr (the default) -> 0.001: no longer the run" in capsys.readouterr().out


def test_training_on_another_data_set_from_given_weights(run, tmp_path):
    other = make_coco(tmp_path / "other", seed=1)
    out = tmp_path / "run"
    assert main(["train", "--data", str(other), "--weights", str(run), "--out", str(out), "--epochs", "1"]) == 0
    assert load_pretrained(out).config == load_pretrained(run).config


def test_given_weights_say_what_starts_afresh(run, tmp_path, capsys, caplog):
    """Other categories, from a run's checkpoint with the state of its optimiser."""
    other = make_coco(tmp_path / "other", seed=1)
    for file in (other / "annotations").iterdir():
        contents = json.loads(file.read_text())
        contents["categories"].append({"id": 91, "name": "hair brush"})
        file.write_text(json.dumps(contents))
    out = tmp_path / "run"
    before = torch.load(run / "checkpoint.pt", weights_only=True)
    weights = ["--weights", str(run / "checkpoint.pt"), "--keep-every", "1"]
    assert main(["train", "--data", str(other), *weights, "--out", str(out), "--epochs", "1", "--limit", "2"]) == 0
    assert "for 4 classes instead of 3: heads.class_embed.0, heads.class_embed.1, queries.class_embed." in caplog.text
    printed = capsys.readouterr().out
    assert "only the weights are taken; the optimiser starts afresh, also where the file holds the state" in printed
    after = torch.load(out / "checkpoint.pt", weights_only=True)
    assert {float(entry["step"]) for entry in before["optimizer"]["state"].values()} == {2}
    assert {float(entry["step"]) for entry in after["optimizer"]["state"].values()} == {1} == {after["step"]}
    first = load_pretrained(out / "snapshots" / "step_000000.safetensors").state_dict()
    changed = {name for name, tensor in before["model"].items() if not tensor.equal(first[name])}
    assert changed == {name for name in first if "class_embed" in name}


def test_a_resumed_run_remembers_its_new_length_when_it_is_cut_off(toy, tmp_path):
    out = tmp_path / "run"
    train = ["train", "--data", str(toy), "--out", str(out), "--preset", "tiny_two_stage", *SHORT]
    assert main([*train, "--epochs", "1"]) == 0
    picture = toy / "train2017" / "000000000101.png"
    pixels = picture.read_bytes()
    picture.write_bytes(b"broken")
    assert main([*train, "--resume", "--epochs", "2"]) == 1
    picture.write_bytes(pixels)
    assert main([*train, "--resume"]) == 0  # the same command, with --resume
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["epoch"] == 2


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(toy, tmp_path, capsys):
    out = tmp_path / "run"
    train = ["train", "--data", str(toy), "--out", str(out), "--preset", "tiny_two_stage", *SHORT, "--epochs", "1"]
    assert main(train) == 0
    weights = load_pretrained(out).state_dict()
    (out / "checkpoint.pt").unlink()
    (out / "model.safetensors").unlink()
    assert main([*train, "--resume"]) == 0
    assert "There is no checkpoint" in capsys.readouterr().out
    assert all(tensor.equal(weights[name]) for name, tensor in load_pretrained(out).state_dict().items())


@pytest.mark.parametrize("kept", ["model.safetensors", "snapshots/step_000200.safetensors"])
def test_weights_whose_checkpoint_was_deleted_are_not_overwritten(toy, tmp_path, capsys, kept):
    file = tmp_path / "run" / kept
    file.parent.mkdir(parents=True)
    file.write_bytes(b"an hour's work")
    assert main(["train", "--data", str(toy), "--out", str(tmp_path / "run"), "--epochs", "1", *SHORT]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.endswith(f"holds a run already ({kept.partition('/')[0]}): another --out starts a new one")
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == [file]
    assert file.read_bytes() == b"an hour's work"


@pytest.mark.parametrize("kept", ["model.safetensors", "snapshots/step_000200.safetensors"])
def test_resuming_without_the_checkpoint_does_not_start_over_the_weights(run, toy, tmp_path, capsys, kept):
    file = tmp_path / "run" / kept
    file.parent.mkdir(parents=True)
    file.write_bytes(b"an hour's work")
    shutil.copy(run / "settings.json", tmp_path / "run")
    assert main(["train", "--data", str(toy), "--out", str(tmp_path / "run"), "--resume"]) == 1
    assert "has no checkpoint.pt to go on from" in capsys.readouterr().err
    assert file.read_bytes() == b"an hour's work"


def test_a_resumed_run_may_change_its_rates_but_not_its_optimiser(toy, tmp_path, capsys):
    out = tmp_path / "run"
    train = ["train", "--data", str(toy), "--out", str(out), *SHORT]
    assert main([*train, "--epochs", "1"]) == 0
    assert main([*train, "--resume", "--epochs", "2", "--muon-factor", "0"]) == 1
    assert "leave out muon_factor=0" in capsys.readouterr().err
    assert main([*train, "--resume", "--epochs", "2", "--muon-factor", "8"]) == 0
    groups = torch.load(out / "checkpoint.pt", weights_only=True)["optimizer"]["param_groups"]
    assert {group["factor"] for group in groups if group["orthogonal"]} == {8.0}


def test_a_run_from_before_muon_goes_on_with_adamw(toy, tmp_path):
    out = tmp_path / "run"
    train = ["train", "--data", str(toy), "--out", str(out), *SHORT]
    assert main([*train, "--epochs", "1", "--muon-factor", "0"]) == 0
    settings = json.loads((out / "settings.json").read_text())
    del settings["muon_factor"]
    (out / "settings.json").write_text(json.dumps(settings))
    checkpoint = torch.load(out / "checkpoint.pt", weights_only=True)
    for group in checkpoint["optimizer"]["param_groups"]:
        del group["orthogonal"]
    del checkpoint["config"]["proposals_per_object"]  # nor was there this
    torch.save(checkpoint, out / "checkpoint.pt")
    assert main([*train, "--resume", "--epochs", "2"]) == 0
    assert json.loads((out / "settings.json").read_text())["muon_factor"] == 0


def test_a_resumed_run_keeps_the_factor_that_it_began_with(toy, tmp_path, monkeypatch):
    out = tmp_path / "run"
    train = ["train", "--data", str(toy), "--out", str(out), *SHORT]
    assert main([*train, "--epochs", "1"]) == 0
    began = json.loads((out / "settings.json").read_text())
    assert (began["muon_factor"], began["images_per_step"]) == (None, 4)
    monkeypatch.setattr(schedule, "TINY_FROM_SCRATCH", replace(schedule.TINY_FROM_SCRATCH, muon_factor=3.0))
    assert main([*train, "--resume", "--epochs", "2"]) == 0
    assert json.loads((out / "settings.json").read_text())["muon_factor"] == TINY_FROM_SCRATCH.muon_factor != 3


def test_parameters_that_were_grouped_otherwise_are_no_run_to_resume(toy, tmp_path, capsys):
    out = tmp_path / "run"
    train = ["train", "--data", str(toy), "--out", str(out), *SHORT]
    assert main([*train, "--epochs", "1"]) == 0
    before = (out / "settings.json").read_bytes()
    checkpoint = torch.load(out / "checkpoint.pt", weights_only=True)
    hidden, *_, matrices = (group["params"] for group in checkpoint["optimizer"]["param_groups"])
    hidden.append(matrices.pop())
    torch.save(checkpoint, out / "checkpoint.pt")
    assert main([*train, "--resume", "--epochs", "2"]) == 1
    assert "groups the parameters as another version did" in capsys.readouterr().err
    assert (out / "settings.json").read_bytes() == before


def test_saying_the_default_batch_is_no_change(toy, tmp_path, capsys):
    out = tmp_path / "run"
    train = ["train", "--data", str(toy), "--out", str(out), *SHORT]
    assert main([*train, "--epochs", "1"]) == 0
    assert main([*train, "--resume", "--epochs", "2", "--batch-size", "4"]) == 0
    assert "From here on" not in capsys.readouterr().out


def test_a_borrowed_encoder_is_not_from_scratch(run, toy, tmp_path):
    out = tmp_path / "run"
    train = ["train", "--data", str(toy), "--out", str(out), *SHORT, "--epochs", "1"]
    assert main([*train, "--preset", "tiny", "--encoder-from", str(run)]) == 0
    groups = torch.load(out / "checkpoint.pt", weights_only=True)["optimizer"]["param_groups"]
    assert not any(group["orthogonal"] for group in groups)


def test_training_options_reach_the_run(toy, tmp_path, capsys):
    out = tmp_path / "run"
    train = ["train", "--data", str(toy), "--out", str(out), "--preset", "tiny_two_stage", *SHORT, "--epochs", "2"]
    given = ["--accumulate", "2", "--batch-size", "1", "--precision", "bf16", "--schedule", "cosine", "--log-every",
             "1", "--tensorboard", "--lr", "1e-3"]  # fmt: skip
    pytest.importorskip("tensorboard")
    assert main([*train, *given]) == 0
    assert "2 images a step" in capsys.readouterr().out
    log = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if line["kind"] == "train"] == [1, 2, 3, 4]
    assert log[1]["lr"] == pytest.approx(1e-3 * (1 + 0.5**0.5) / 2 * 2 / 100)  # a quarter of the run, second of 100
    assert list((out / "tensorboard").iterdir())
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["accumulate"], settings["precision"], settings["schedule"]) == (2, "bf16", "cosine")


def test_ctrl_c_says_where_the_checkpoint_is(toy, tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "ddetr", "train", "--data", str(toy), "--preset", "tiny_two_stage", "--out", str(out),
         "--epochs", "100000", *SHORT],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (out / "metrics.jsonl").exists():
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "with --resume goes on" in stdout
    assert "Traceback" not in stderr
    assert (out / "checkpoint.pt").exists()


def test_predict_never_overwrites_a_photo(run, toy, tmp_path, capsys):
    photo = tmp_path / "photo.png"
    photo.write_bytes((toy / "val2017" / "000000000200.png").read_bytes())
    before = photo.read_bytes()
    assert main(["predict", "--weights", str(run), str(photo), "--out", str(tmp_path)]) == 1
    assert "would be overwritten" in capsys.readouterr().err
    assert photo.read_bytes() == before


def test_names_stay_apart():
    assert _unique_names(["x/a.png", "y/a.png", "a_2.png", "a.jpg"]) == ["a", "a_2", "a_2_2", "a_3"]


def test_a_refused_resume_changes_nothing(toy, tmp_path, capsys):
    out = tmp_path / "run"
    train = ["train", "--data", str(toy), "--out", str(out), "--limit", "2"]
    assert main([*train, "--preset", "tiny_two_stage", "--epochs", "1", *SHORT]) == 0
    before = (out / "settings.json").read_text()
    assert main([*train, "--resume", "--epochs", "2", "--set", "dropout=0.3"]) == 1
    assert "leave out --set" in capsys.readouterr().err
    assert main(["train", "--data", str(toy), "--out", str(out), "--resume", "--epochs", "2", "--limit", "3"]) == 1
    assert "the data now has 3" in capsys.readouterr().err
    assert (out / "settings.json").read_text() == before
    assert main(["train", "--data", str(toy), "--out", str(out), "--resume", "--epochs", "2"]) == 0  # knows its limit
    (out / "checkpoint.pt").write_bytes((out / "checkpoint.pt").read_bytes()[:5000])
    assert main(["train", "--data", str(toy), "--out", str(out), "--resume", "--epochs", "3"]) == 1
    assert "checkpoint.pt is not a PyTorch checkpoint" in capsys.readouterr().err


def test_a_run_is_resumed_on_its_own_categories_and_with_its_own_encoder(toy, tmp_path, capsys):
    out = tmp_path / "run"
    train = ["train", "--data", str(toy), "--out", str(out), "--limit", "1", "--epochs", "1"]
    assert main([*train, *SHORT]) == 0
    before = (out / "settings.json").read_text()
    other = make_coco(tmp_path / "other")
    for file in (other / "annotations").iterdir():
        file.write_text(file.read_text().replace('"toothbrush"', '"hair drier"'))
    capsys.readouterr()
    assert main(["train", "--data", str(other), "--out", str(out), "--resume", "--epochs", "2"]) == 1
    error = capsys.readouterr().err
    assert "trained on the categories car, cat, toothbrush; the data now has the categories car, cat, hair" in error
    assert main([*train, "--resume", "--encoder-from", "tiny"]) == 1
    assert "a resumed run keeps its model: leave out --encoder-from" in capsys.readouterr().err
    assert (out / "settings.json").read_text() == before


def test_a_held_out_set_without_images_is_said_before_training(tmp_path, capsys):
    data, out = make_coco(tmp_path / "data"), tmp_path / "run"
    file = data / "annotations" / "instances_val2017.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"images": [], "annotations": []}))
    assert main(["train", "--data", str(data), "--out", str(out), *SHORT]) == 1
    assert f"no images to evaluate on in {file}" in capsys.readouterr().err
    assert not list(out.iterdir())


def test_fine_tuning_keeps_the_weights_resolution_and_recipe(toy, tmp_path, capsys):
    model = build_model("r50", backbone="resnet18", num_classes=3, encoder_layers=1, decoder_layers=1, num_queries=10,
                        test_size=48)  # fmt: skip
    save_model(model, tmp_path / "w.safetensors")
    out = tmp_path / "run"
    command = ["train", "--data", str(toy), "--weights", str(tmp_path / "w.safetensors"), "--out", str(out)]
    assert main([*command, "--epochs", "1", "--limit", "2"]) == 0
    assert "shorter side 48 px" in capsys.readouterr().out
    optimizer = torch.load(out / "checkpoint.pt", weights_only=True)["optimizer"]
    assert {group["name"]: group["factor"] for group in optimizer["param_groups"]}["backbone"] == 0.1


def test_a_bad_image_in_a_loading_process_is_one_sentence(run, toy, tmp_path, capsys):
    broken = make_coco(tmp_path / "broken")
    (broken / "val2017" / "000000000201.png").unlink()
    command = ["eval", "--weights", str(run), "--data", str(broken), "--out", str(tmp_path / "e.json")]
    assert main([*command, "--workers", "1"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: image id 201: ")
    assert "is missing" in error
    for name in ("200", "202", "203"):
        (broken / "val2017" / f"000000000{name}.png").unlink()
    assert main([*command, "--skip-bad-images"]) == 1
    assert "could be evaluated" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [["--device", "foo"], ["--limit", "0"], ["--size", "-3"], ["--eval-every", "0"], ["--accumulate", "0"],
     ["--precision", "fp8"], ["--schedule", "linear"], ["--save-every", "-1"], ["--seed", str(2**70)],
     ["--workers", "-1"], ["--minutes", "inf"]],
    ids=lambda option: option[0],
)  # fmt: skip
def test_values_out_of_range_are_refused(toy, tmp_path, capsys, option):
    with pytest.raises(SystemExit) as done:
        main(["train", "--data", str(toy), "--out", str(tmp_path / "run"), *option])
    assert done.value.code == 2
    assert option[0] in capsys.readouterr().err


MISTAKES = [
    (["train", "--out", "OUT"], "say where the data is"),
    (["train", "--data", "nowhere", "--out", "OUT"], "nowhere is not in COCO's layout"),
    (["train", "--data", "TOY", "--out", "OUT", "--set", "num_querys=3"], "did you mean 'num_queries'"),
    (["train", "--data", "TOY", "--out", "OUT", "--set", "dropout"], "--set takes name=value"),
    (["train", "--data", "TOY", "--out", "RUN"], "--resume goes on with it"),
    (["train", "--data", "TOY", "--out", "OUT", "--resume"], "holds no run to resume"),
    (["train", "--images", "TOY", "--out", "OUT"], "--images and --annotations go together"),
    (["train", "--data", "TOY", "--images", "TOY", "--annotations", "TOY", "--out", "OUT"], "they name two data sets"),
    (["train", "--data", "TOY", "--out", "OUT", "--epochs", "1", "--minutes", "1"], "not both"),
    (["train", "--data", "TOY", "--out", "OUT", "--set", "two_stage=no"], "two_stage must be True or False; got 'no'"),
    (["train", "--data", "TOY", "--out", "OUT", "--set", "num_classes=5"], "num_classes is not set by hand"),
    (["train", "--data", "TOY", "--out", "OUT", "--preset", "tiny", "--weights", "RUN"], "--preset or --weights"),
    (["train", "--data", "TOY", "--out", "FILE/run"], "cannot be a folder to write into"),
    (["eval", "--weights", "RUN", "--data", "TOY", "--out", "TOY"], "is a folder"),
    (["eval", "--weights", "gone.pth", "--data", "TOY"], "no weights at gone.pth"),
    (["predict", "--weights", "RUN", "gone.jpg", "--out", "OUT"], "gone.jpg is missing"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_mistakes_get_one_sentence(run, toy, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)  # the default of eval's --out is here, and the checkout may be read-only
    (tmp_path / "file").touch()
    places = {
        "OUT": str(tmp_path / "out"),
        "TOY": str(toy),
        "RUN": str(run),
        "FILE/run": str(tmp_path / "file" / "run"),
    }
    assert main([places.get(argument, argument) for argument in arguments]) == 1
    printed = capsys.readouterr()
    (sentence,) = [line for line in printed.err.splitlines() if "tensors loaded" not in line]
    assert sentence.startswith("error: ")
    assert message in sentence


def test_help_of_every_command(capsys):
    for command in ("train", "eval", "predict", "trace"):
        with pytest.raises(SystemExit) as done:
            main([command, "--help"])
        assert done.value.code == 0
        assert "--weights" in capsys.readouterr().out
