import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_data import make_coco

from ddetr import build_model
from ddetr.checkpoints import save_model
from ddetr.cli import main

ROOT = Path(__file__).parents[2]
FIGURES = {"precision_recall", "categories", "sizes", "errors", "images", "misses", "false_alarms"}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp("eval") / "toy", count=6)


@pytest.fixture(scope="module")
def predictions(toy):
    """A model's detections on the toy set, as the command writes them."""
    torch.manual_seed(0)
    model = build_model("tiny_two_stage", num_classes=3, encoder_layers=1, decoder_layers=2, test_size=64)
    model.categories = [{"id": 3, "name": "car"}, {"id": 17, "name": "cat"}, {"id": 90, "name": "toothbrush"}]
    save_model(model, toy.parent / "model.safetensors")
    out = toy.parent / "evaluation.json"
    weights = ["--weights", str(toy.parent / "model.safetensors")]
    assert main(["eval", *weights, "--data", str(toy), "--out", str(out)]) == 0
    return out


def evaluate(capsys, *arguments):
    capsys.readouterr()
    status = main(["eval", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_the_tables_are_printed(predictions, toy, capsys):
    status, printed, _ = evaluate(capsys, "--predictions", predictions, "--data", toy, "--threshold", 0)
    assert status == 0
    assert f"AP {json.loads(predictions.read_text())['metrics']['AP']:.3f}" in printed
    rows = [line.split() for line in printed.splitlines()]
    for name in ("car", "cat", "toothbrush", "small", "large", "background", "missed", "all"):
        assert name in [row[0] for row in rows if row], name
    assert ["all", "600", "7"] in rows


def test_predictions_score_the_same_without_model_and_pictures(predictions, toy, tmp_path, capsys, monkeypatch):
    def refuse(*_):
        raise AssertionError("needs no model")

    monkeypatch.setattr("ddetr.commands.common.load_pretrained", refuse)
    same = make_coco(tmp_path / "same", count=6)
    for picture in same.glob("*2017/*.png"):
        picture.write_bytes(b"broken")
    out = tmp_path / "again.json"
    assert evaluate(capsys, "--predictions", predictions, "--data", same, "--out", out)[0] == 0
    before, after = (json.loads(file.read_text()) for file in (predictions, out))
    for part in ("metrics", "per_category", "per_size", "results", "image_ids", "categories"):
        assert after[part] == before[part], part


def test_without_out_nothing_is_written(predictions, toy, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert evaluate(capsys, "--predictions", predictions, "--data", toy)[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_a_list_of_another_detector(predictions, toy, tmp_path, capsys):
    results = json.loads(predictions.read_text())["results"]
    (tmp_path / "list.json").write_text(json.dumps(results))
    printed = [evaluate(capsys, "--predictions", f, "--data", toy)[1] for f in (predictions, tmp_path / "list.json")]
    assert printed[0].splitlines()[1:] == printed[1].splitlines()[1:]


def test_a_set_with_fewer_categories_than_the_model(predictions, toy, tmp_path, capsys):
    fewer = make_coco(tmp_path / "fewer", count=6)
    file = fewer / "annotations" / "instances_val2017.json"
    contents = json.loads(file.read_text())
    contents["categories"] = [c for c in contents["categories"] if c["name"] != "cat"]
    contents["annotations"] = [a for a in contents["annotations"] if a["category_id"] != 17]
    file.write_text(json.dumps(contents))
    status, printed, _ = evaluate(capsys, "--predictions", predictions, "--data", fewer)
    assert status == 0
    assert "cat " not in printed


def test_figures(predictions, toy, tmp_path, capsys):
    """With the curves of the run, where the weights are a run's folder."""
    pytest.importorskip("matplotlib")
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.safetensors").write_bytes((toy.parent / "model.safetensors").read_bytes())
    (run / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "minutes": 0.1, "loss": 9.5, "lr": 0.1}\n{"ki')
    for source, expected in (
        (["--predictions", predictions], FIGURES),
        (["--weights", run, "--out", tmp_path / "e.json"], FIGURES | {"training"}),
    ):
        out = tmp_path / source[0]
        status, printed, _ = evaluate(capsys, *source, "--data", toy, "--figures", out)
        assert status == 0
        assert {file.stem for file in out.iterdir()} == expected
        for file in out.iterdir():
            assert file.read_bytes().startswith(b"\x89PNG")
            assert str(file) in printed


def test_matplotlib_is_needed_for_figures_only(predictions, toy, tmp_path):
    """In a fresh process that cannot import it."""
    run = "import sys; sys.modules['matplotlib'] = None; from ddetr.cli import main; x = sys.argv[1:]; "
    command = ["eval", "--predictions", str(predictions), "--data", str(toy)]
    both = f"{run} print('statuses', main(x), main([*x, '--figures', {str(tmp_path / 'f')!r}]))"
    done = subprocess.run([sys.executable, "-c", both, *command], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("statuses 0 1\n"), done.stderr
    assert done.stderr.strip() == "error: --figures needs matplotlib: pip install matplotlib, or leave --figures out"
    assert not (tmp_path / "f").exists()


def test_predictions_that_do_not_fit(predictions, toy, tmp_path, capsys):
    (tmp_path / "damaged.json").write_text(predictions.read_text()[:-20])
    (tmp_path / "file").touch()
    saved = json.loads(predictions.read_text())
    saved["categories"][0]["name"] = "ship"
    (tmp_path / "ships.json").write_text(json.dumps(saved))
    (tmp_path / "strange.json").write_text(
        json.dumps([{"image_id": 200, "category_id": 4, "bbox": [0, 0, 9, 9], "score": 1}])
    )
    known = ["--predictions", predictions, "--data", toy]
    for arguments, message in (
        ([], "give --weights to run a model, or --predictions"),
        ([*known, "--weights", "w"], "not both"),
        ([*known, "--split", "train"], "for image id 200 and 5 others, which"),
        ([*known, "--limit", "3"], "--limit goes with --weights"),
        ([*known, "--size", "64"], "--size goes with --weights"),
        ([*known, "--out", predictions], "would overwrite the predictions"),
        ([*known, "--figures", tmp_path / "file" / "f"], "--figures: "),
        (["--predictions", tmp_path / "none.json", "--data", toy], "no predictions at"),
        (["--predictions", tmp_path / "damaged.json", "--data", toy], "is not JSON"),
        (["--predictions", tmp_path / "ships.json", "--data", toy], "'car'"),
        (["--predictions", tmp_path / "strange.json", "--data", toy], "for category id 4, which"),
    ):
        status, _, error = evaluate(capsys, *arguments)
        assert status == 1
        assert error.startswith("error: ")
        assert message in error
        assert len(error.splitlines()) == 1


def test_predictions_of_a_set_with_the_same_ids(predictions, toy, tmp_path, capsys, caplog):
    other = make_coco(tmp_path / "other", count=6, seed=5)
    assert evaluate(capsys, "--predictions", predictions, "--data", toy)[0] == 0
    assert "other boxes" not in caplog.text
    assert evaluate(capsys, "--predictions", predictions, "--data", other)[0] == 0
    assert "has other boxes than the annotations that these predictions were first scored on" in caplog.text


def test_names_of_categories_are_text(predictions, toy, tmp_path, capsys):
    """Neither a formula, nor markup, nor a command to the terminal."""
    pytest.importorskip("matplotlib")
    names = ["$x_$", "<img src=x onerror=alert(1)>", "_\x1b[2J$\\frac{"]
    saved = json.loads(predictions.read_text())
    odd = make_coco(tmp_path / "odd", count=6)
    file = odd / "annotations" / "instances_val2017.json"
    contents = json.loads(file.read_text())
    for categories in (contents["categories"], saved["categories"]):
        for category, name in zip(categories, names, strict=True):
            category["name"] = name
    file.write_text(json.dumps(contents))
    (tmp_path / "p.json").write_text(json.dumps(saved))
    best = sorted(result["score"] for result in saved["results"])[-5]
    command = ["--predictions", tmp_path / "p.json", "--data", odd, "--threshold", best, "--figures", tmp_path / "f"]
    status, printed, _ = evaluate(capsys, *command)
    assert status == 0
    assert "$x_$" in printed
    assert "\x1b" not in printed
    assert {file.stem for file in (tmp_path / "f").iterdir()} == FIGURES


def test_nothing_annotated_and_nothing_found(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    empty = make_coco(tmp_path / "empty", count=1)  # its only image has a crowd and no object
    (tmp_path / "none.json").write_text("[]")
    command = ["--predictions", tmp_path / "none.json", "--data", empty, "--figures", tmp_path / "f"]
    status, printed, _ = evaluate(capsys, *command)
    assert status == 0
    assert "AP -  AP50 -" in printed
    assert ["car", "0", "-", "-", "-", "-"] in [line.split() for line in printed.splitlines()]
    assert ["all", "0", "0"] in [line.split() for line in printed.splitlines()]
    assert {file.stem for file in (tmp_path / "f").iterdir()} == FIGURES
