import json
import threading
from types import SimpleNamespace

import pytest
import torch
from toy_data import make_coco

from ddetr import build_model, load_pretrained
from ddetr.checkpoints import CheckpointError
from ddetr.data import CocoDetection, Resolution, coco_layout, train_transform
from ddetr.engine import TINY_RECIPE, TrainOptions, evaluate, train
from ddetr.engine.batches import StepBatches, mix_seed, train_loader


@pytest.fixture
def toy(tmp_path):
    folder = make_coco(tmp_path / "toy", count=5)
    transform = train_transform(Resolution.around(64))
    return CocoDetection(*coco_layout(folder, "train"), transform)


def fresh(dropout=0.1, **changes):
    torch.manual_seed(1)
    return build_model("tiny_two_stage", num_classes=3, dropout=dropout, encoder_layers=1, decoder_layers=2, **changes)


def options(**changes):
    return TrainOptions(**{"epochs": 2, "batch_size": 2, "recipe": TINY_RECIPE, "log_every": 1} | changes)


MEASURED = {"minutes", "images_per_second", "memory_mib"}


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_writes_weights_checkpoint_and_log(tmp_path, toy):
    model = fresh()
    state = train(model, toy, options(), tmp_path / "run", val=toy, progress=False)
    assert state.step == 6  # 5 images in batches of 2: the last of each epoch is short
    assert not state.stopped
    log = lines(tmp_path / "run")
    assert [line["step"] for line in log if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "loss_class", "loss_bbox_enc", "lr", "grad_norm", "epoch", "minutes"} <= log[0].keys()
    assert log[0]["loss"] == pytest.approx(sum(v for k, v in log[0].items() if k.startswith("loss_")), rel=1e-5)
    assert log[-1]["kind"] == "eval"
    assert "AP50" in log[-1]
    loaded = load_pretrained(tmp_path / "run")
    for name, tensor in loaded.state_dict().items():
        assert tensor.equal(model.state_dict()[name])


def test_training_lowers_the_loss(tmp_path, toy):
    model = fresh(0.0, proposals_per_object=1)  # on so few tokens, four keep the encoder's loss high
    state = train(model, toy, options(epochs=15), tmp_path / "run", progress=False)
    log = lines(tmp_path / "run")
    first, last = (sum(line["loss"] for line in part) / 5 for part in (log[:5], log[-5:]))
    assert state.step == 45
    assert last < 0.7 * first


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path, toy):
    whole = fresh()
    train(whole, toy, options(), tmp_path / "whole", progress=False)

    broken = fresh()
    stop_after = {2, 5}

    class Stop(Exception):
        pass

    def interrupt(state, line):
        if line["step"] in stop_after:
            stop_after.discard(line["step"])
            raise Stop

    for attempt in range(3):
        model = broken if attempt == 0 else fresh()
        try:
            train(model, toy, options(save_every=0), tmp_path / "broken", resume=attempt > 0, callbacks=[interrupt],
                  progress=False)  # fmt: skip
        except Stop:
            continue
    for name, tensor in model.state_dict().items():
        assert tensor.equal(whole.state_dict()[name]), name
    compared = [
        [{k: v for k, v in line.items() if k not in MEASURED} for line in lines(tmp_path / run)]
        for run in ("whole", "broken")
    ]
    assert compared[0] == compared[1]


def test_workers_do_not_change_the_batches(toy):
    batches = [
        [images for images, _ in train_loader(toy, 2, seed=3, workers=workers, first_step=1, last_step=5)]
        for workers in (0, 2)
    ]
    assert len(batches[0]) == 4
    for a, b in zip(*batches, strict=True):
        assert all(x.equal(y) for x, y in zip(a, b, strict=True))


def test_batches_cover_each_epoch_and_start_anywhere():
    shapes = [1.5, 0.7, 1.0, 1.5, 0.6]
    whole = list(StepBatches(shapes, 2, seed=0, first_step=0, last_step=6))
    for epoch in range(2):
        drawn = [key for batch in whole[3 * epoch : 3 * epoch + 3] for key in batch]
        assert sorted(drawn) == [(epoch, i) for i in range(5)]
    assert list(StepBatches(shapes, 2, seed=0, first_step=2, last_step=6)) == whole[2:]
    assert [[i for _, i in batch] for batch in whole[:3]] != [[i for _, i in batch] for batch in whole[3:]]
    assert mix_seed(0, 1) != mix_seed(1, 0)


def test_images_of_like_shape_share_a_batch():
    shapes = torch.linspace(0.6, 1.7, 64).tolist()
    batches = [[i for _, i in batch] for batch in StepBatches(shapes, 4, seed=0, first_step=0, last_step=16)]
    spread = sum(max(shapes[i] for i in batch) - min(shapes[i] for i in batch) for batch in batches) / 16
    assert spread < 0.2  # 0.66 at random
    narrow = [shapes[batch[0]] < 1.1 for batch in batches]
    assert 0 < sum(narrow[:8]) < 8  # and the narrow ones do not all come first


def test_a_callback_may_wait_before_a_step_and_that_is_no_training_time(tmp_path, toy, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)

    class Patient:
        steps = []

        def __call__(self, state, line): ...

        def before_step(self, state):
            self.steps.append(state.step)
            clock.now += 100
            state.stopped = state.step == 2

    state = train(fresh(), toy, options(), tmp_path / "run", callbacks=[Patient()], progress=False)
    assert Patient.steps == [0, 1, 2]
    assert (state.step, state.stopped, state.seconds) == (2, True, 0)


def test_ctrl_c_ends_with_a_checkpoint(tmp_path, toy):
    import signal

    def press(state, line):
        if line["step"] == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    state = train(fresh(), toy, options(), tmp_path / "run", callbacks=[press], progress=False)
    assert state.stopped
    assert state.step == 2
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 2


def test_a_callback_sees_the_run_and_can_stop_it(tmp_path, toy):
    seen = []

    def watch(state, line):
        seen.append(line)
        assert state.model is model
        state.stopped = state.step == 4

    model = fresh()
    state = train(model, toy, options(eval_every=1), tmp_path / "run", val=toy, callbacks=[watch], progress=False)
    assert state.stopped
    assert [(line["kind"], line["step"]) for line in seen] == [
        ("train", 1), ("train", 2), ("train", 3), ("eval", 3), ("train", 4),
    ]  # fmt: skip
    assert {"loss", "lr", "grad_norm", "images_per_second", "padded"} <= seen[0].keys()
    assert 0 <= seen[3]["AP"] <= seen[3]["AP50"]
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["step"] == 4


def test_a_finished_run_is_not_evaluated_again(tmp_path, toy):
    for _ in range(2):
        train(fresh(), toy, options(), tmp_path / "run", val=toy, resume=(tmp_path / "run").exists(), progress=False)
    kinds = [line["kind"] for line in lines(tmp_path / "run")]
    assert kinds == ["train"] * 6 + ["eval"]


def test_an_evaluation_that_was_cut_off_is_made_up_for(tmp_path, toy):
    class Killed(Exception):
        pass

    def kill(state, line):
        if line["kind"] == "eval":
            raise Killed

    run = (fresh(), toy, options(eval_every=1), tmp_path / "run")
    with pytest.raises(Killed):
        train(*run, val=toy, callbacks=[kill], progress=False)
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_text("".join(line for line in log.open() if "eval" not in line))
    train(*run, val=toy, resume=True, progress=False)
    assert [line["step"] for line in lines(tmp_path / "run") if line["kind"] == "eval"] == [3, 6]


def test_the_log_says_what_a_step_costs(tmp_path, toy):
    train(fresh(), toy, options(log_every=2), tmp_path / "run", progress=False)
    log = lines(tmp_path / "run")
    assert [line["step"] for line in log] == [2, 4, 6]
    for line in log:
        assert line["images_per_second"] > 0
        assert 0 <= line["padded"] < 1
        assert "memory_mib" not in line or 100 < line["memory_mib"] < 100_000
    assert any(line["padded"] > 0 for line in log)


def test_tensorboard_gets_the_numbers_of_the_log(tmp_path, toy):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from ddetr.engine.log import tensorboard

    folder = tmp_path / "run" / "tensorboard"
    for epochs in (1, 2):
        train(fresh(), toy, options(epochs=epochs), tmp_path / "run", val=toy, resume=epochs == 2,
              callbacks=[tensorboard(folder)], progress=False)  # fmt: skip
    events = accumulator.EventAccumulator(str(folder)).Reload()
    log = lines(tmp_path / "run")
    for tag, kind, name in (("loss/loss", "train", "loss"), ("train/lr", "train", "lr"), ("eval/AP50", "eval", "AP50")):
        wanted = [(line["step"], pytest.approx(line[name], rel=1e-5)) for line in log if line["kind"] == kind]
        assert [(event.step, event.value) for event in events.Scalars(tag)] == wanted


def test_without_tensorboard_one_sentence_says_so(tmp_path, monkeypatch):
    import sys

    from ddetr.engine.log import tensorboard

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="TensorBoard is not installed: pip install"):
        tensorboard(tmp_path)


def test_training_in_another_thread(tmp_path, toy):
    errors = []

    def work():
        try:
            train(fresh(), toy, options(epochs=1), tmp_path / "run", progress=False)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


def test_a_run_in_minutes_ends(tmp_path, toy):
    state = train(fresh(), toy, options(epochs=None, minutes=0.02), tmp_path / "run", progress=False)
    assert state.step >= 1
    assert state.seconds >= 1.2
    again = train(fresh(), toy, options(epochs=None, minutes=0.02), tmp_path / "run", resume=True, progress=False)
    assert again.step == state.step


def test_snapshots_are_kept_along_the_run(tmp_path, toy):
    model = fresh()
    train(model, toy, options(keep_every=0.5), tmp_path / "run", progress=False)
    files = sorted((tmp_path / "run" / "snapshots").iterdir())
    assert [file.name for file in files] == [f"step_{step:06d}.safetensors" for step in (0, 2, 3, 5, 6)]
    first, last = (load_pretrained(file).state_dict() for file in (files[0], files[-1]))
    assert all(tensor.equal(last[name]) for name, tensor in model.state_dict().items())
    assert all(tensor.equal(first[name]) for name, tensor in fresh().state_dict().items())


def test_a_run_in_minutes_is_evaluated_every_so_many_minutes(tmp_path, toy):
    train(fresh(), toy, options(epochs=None, minutes=0.04, eval_every=0.01), tmp_path / "run", val=toy, progress=False)
    evaluated = [line["minutes"] for line in lines(tmp_path / "run") if line["kind"] == "eval"]
    assert 2 <= len(evaluated) <= 4
    assert evaluated == sorted(evaluated)


def test_a_checkpoint_of_another_model_is_refused(tmp_path, toy):
    train(fresh(), toy, options(epochs=1), tmp_path / "run", progress=False)
    other = build_model("tiny", num_classes=3)
    with pytest.raises(CheckpointError, match="two_stage=True, not False"):
        train(other, toy, options(), tmp_path / "run", resume=True, progress=False)
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        train(fresh(), toy, options(), tmp_path / "new", resume=True, progress=False)


def test_bad_images_are_skipped_in_training_and_evaluation(tmp_path):
    folder = make_coco(tmp_path / "toy", count=4)
    (folder / "train2017" / "000000000101.png").write_bytes(b"broken")
    images, annotations = coco_layout(folder, "train")
    lenient = CocoDetection(images, annotations, train_transform(Resolution.around(64)), skip_bad_images=True)
    assert train(fresh(), lenient, options(batch_size=1, epochs=1), tmp_path / "run", progress=False).step == 4
    evaluation = evaluate(fresh(), lenient, progress=False)
    assert {result["image_id"] for result in evaluation.results} == {100, 102, 103}


def test_evaluation_puts_the_mode_back_and_does_not_depend_on_the_batch(tmp_path, toy):
    from ddetr.data import eval_transform

    toy.transform = eval_transform(Resolution.around(64))
    model = fresh(0.0)
    train(model, toy, options(epochs=8), tmp_path / "run", progress=False)
    one, three = (evaluate(model, toy, batch_size=size, progress=False).metrics for size in (1, 3))
    assert model.training
    assert one["AP50"] == pytest.approx(three["AP50"], abs=0.1)


def test_nan_predictions_are_no_perfect_score(toy):
    model = fresh()
    model.heads.box_embed[-1].register_forward_hook(lambda module, inputs, output: output * float("nan"))
    with pytest.raises(FloatingPointError, match="predicts NaN or infinity on image id 100"):
        evaluate(model, toy, progress=False)


def test_evaluation_of_a_model_for_other_classes(toy):
    with pytest.raises(ValueError, match=r"the model has 2 classes, .* 3"):
        evaluate(build_model("tiny", num_classes=2), toy, progress=False)


def test_evaluation_leaves_every_module_in_its_own_mode(toy):
    model = fresh()
    model.train()
    model.backbone.eval()
    evaluate(model, toy, progress=False)
    assert model.training
    assert not model.backbone.training


def test_ctrl_c_during_evaluation_keeps_what_was_trained(tmp_path, toy):
    import signal

    class Impatient(CocoDetection):
        def __getitem__(self, index):
            if index == 2:
                signal.raise_signal(signal.SIGINT)
            return super().__getitem__(index)

    val = Impatient(toy.image_dir, toy.annotation_file, toy.transform)
    for every, steps in ((1, 3), (None, 6)):  # during the run, and at its end
        out = tmp_path / f"run{every}"
        state = train(fresh(), toy, options(eval_every=every), out, val=val, progress=False)
        assert state.stopped
        assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == state.step == steps
        assert not any(line["kind"] == "eval" for line in lines(out))


def test_a_run_that_could_read_no_image_says_so(tmp_path, toy):
    for file in toy.image_dir.iterdir():
        file.write_bytes(b"broken")
    toy.skip_bad_images = True
    with pytest.raises(ValueError, match="none of the 5 images could be read"):
        train(fresh(), toy, options(), tmp_path / "run", progress=False)


@pytest.mark.parametrize("contents", [b"", b"hello", None])
def test_a_damaged_checkpoint_is_named(tmp_path, toy, contents):
    train(fresh(), toy, options(epochs=1), tmp_path / "run", progress=False)
    file = tmp_path / "run" / "checkpoint.pt"
    if contents is None:
        torch.save({"a": 1}, file)
    else:
        file.write_bytes(contents)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt"):
        train(fresh(), toy, options(), tmp_path / "run", resume=True, progress=False)


def test_a_damaged_log_does_not_hinder(tmp_path, toy):
    train(fresh(), toy, options(epochs=1), tmp_path / "run", progress=False)
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_bytes(log.read_bytes() + b'{"step": "x"}\n\xff\xfe\n{"step": 1, "ki')
    train(fresh(), toy, options(), tmp_path / "run", resume=True, progress=False)
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


def test_a_checkpoint_of_a_run_is_weights_too(tmp_path, toy):
    model = fresh()
    model.categories = toy.categories
    train(model, toy, options(epochs=1), tmp_path / "run", progress=False)
    loaded = load_pretrained(tmp_path / "run" / "checkpoint.pt")
    assert loaded.config == model.config
    assert loaded.categories == toy.categories
