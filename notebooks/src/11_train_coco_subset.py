# %% [markdown]
# # 11 · Train on a COCO subset
#
# **Does it learn?**
#
# After this page you can
#
# * climb the ladder 1, 8, 64 images, and know at each rung what should happen;
# * say what to look at when the loss falls and AP stays 0;
# * fine-tune on your own classes, stop, resume, and take the same run to a cluster.

# %%
import copy
import logging
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from IPython.display import display

from ddetr import build_model, load_pretrained
from ddetr.course import bad_runs, check, checklist, memory
from ddetr.course.timelapse import shipped_timelapse
from ddetr.data import (
    HELD_OUT_CATEGORIES,
    CocoDetection,
    Resolution,
    carve_subset,
    coco_layout,
    eval_transform,
    light_transform,
    make_toycoco,
    toy_scene,
)
from ddetr.engine import TINY_RECIPE, TrainOptions, build_optimizer, evaluate, schedule, train, train_step
from ddetr.engine.train import start_state
from ddetr.ops import choose_backend
from ddetr.viz import dashboard, figures, timelapse, training

FAST = os.environ.get("DDETR_FAST") == "1"  # a few steps each, for tests: nothing is learnt then
EPOCHS = {1: 3, 8: 1, 64: 1, "tune": 2} if FAST else {1: 120, 8: 80, 64: 18, "tune": 8}
SIZE = 64 if FAST else 96  # pixels of the shorter side
COCO = os.environ.get("DDETR_COCO")  # your own folder in COCO's layout
SCRATCH = tempfile.TemporaryDirectory()  # put a folder of yours here to keep the runs
FOLDER = Path(SCRATCH.name)
print(
    f"device cpu · operator {choose_backend()} · weights fresh tiny_two_stage, then the shipped ones · data ToyCOCO, for "
    f"fine-tuning {'DDETR_COCO' if COCO else 'ToyCOCO with held-out categories'} · budgets {'fast' if FAST else 'full'} "
    "(DDETR_FAST=1: a few steps each, other numbers)"
)

# %%
display(figures.pipeline_map(figures.PIPELINE))

# %% [markdown]
# ## What it costs
#
# This page trains. What to expect is the same on any machine, only the minutes are yours.
#
# | run | steps | minutes, one slow core, idle or busy | expect |
# |---|---|---|---|
# | 1 image | 120 | 0.2 to 0.5 | AP near 1 |
# | 8 images | 320 | 0.9 to 2 | AP50 well above 0.5 |
# | 64 images | 288 | 1 to 4 | AP50 above 0.1, and rising |
# | fine-tuning, 64 images | 256 | 0.7 to 5 | other images improve too |
#
# The data is drawn on the spot; `val` is held out:

# %%
drawn = {"train": 12 if FAST else 64, "val": 4 if FAST else 16, "workers": 1, "progress": False}
make_toycoco(FOLDER / "toy", **drawn, seed=15)


def toy(split, limit=None, transform=eval_transform, folder="toy", size=SIZE):
    return CocoDetection(*coco_layout(FOLDER / folder, split), transform(Resolution.around(size)), limit=limit)


for split in ("train", "val"):
    objects = [len(target["labels"]) for _, target in toy(split)]
    print(f"{split}: {len(objects)} images, {sum(objects)} objects, {objects.count(0)} images without any")

# %% [markdown]
# ## One step
#
# Losses, backward, clip, update. Nothing else:

# %%
torch.manual_seed(0)
data = toy("train", limit=2)
by_hand = build_model("tiny_two_stage", num_classes=data.num_classes, test_size=SIZE).train()
packaged = copy.deepcopy(by_hand)
images, targets = zip(*data, strict=True)

optimizer = build_optimizer(by_hand, TINY_RECIPE)
losses = by_hand(list(images), list(targets))  # a dict, weighted: their sum is the loss
sum(losses.values()).backward()
norm = schedule.clip_gradients(by_hand.parameters(), TINY_RECIPE.clip_norm)
schedule.set_learning_rate(optimizer, TINY_RECIPE, step=0, progress=0)
optimizer.step()
print(f"{len(losses)} losses; gradient norm {norm:.1f}, clipped to {TINY_RECIPE.clip_norm}")

# %% [markdown]
# The package's step, from the same weights:

# %%
options = TrainOptions(epochs=1, batch_size=2, recipe=TINY_RECIPE)
run = start_state(packaged, len(data), options)
schedule.set_learning_rate(run.optimizer, TINY_RECIPE, step=0, progress=0)
train_step(run, list(images), list(targets), options)
pairs = list(zip(by_hand.parameters(), packaged.parameters(), strict=True))
for ours, theirs in pairs:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
print(f"largest deviation: {max((a - b).abs().max().item() for a, b in pairs):.0e}")

# %% [markdown]
# ## First rung: one image
#
# A detector that cannot learn one image by heart has a bug, in it or in the data. Fresh weights, no augmentation, AP on
# the same image.
#
# **Predict.** The image has 3 objects, the model 50 queries. What falls first: the class loss or the box losses?


# %%
def climb(count, batch_size):
    data = toy("train", limit=count)
    torch.manual_seed(0)
    model = build_model("tiny_two_stage", num_classes=data.num_classes, test_size=SIZE)
    model.categories = data.categories
    recipe = replace(TINY_RECIPE, lr=1e-3, warmup=20, augment="none")
    steps, quarter = EPOCHS[count] * math.ceil(count / batch_size), EPOCHS[count] / 4
    options = TrainOptions(
        epochs=EPOCHS[count], batch_size=batch_size, recipe=recipe, log_every=max(1, steps // 24),
        eval_every=quarter, keep_every=quarter,
    )  # fmt: skip
    with dashboard.Dashboard(model, *data[0], title=f"images: {count}", scored_on="the same images") as board:
        train(model, data, options, FOLDER / f"rung_{count}", val=data, callbacks=[board], progress=False)
    return model, board.state


def last(state, key):
    return next(line[key] for line in reversed(state.lines) if key in line)


# %%
one, seen = climb(1, batch_size=1)

# %%
steps = [line for line in seen.lines if line["kind"] == "train"]
start, quarter = steps[0], steps[len(steps) // 4]
left = {name: quarter[name] / start[name] for name in ("loss_class", "loss_bbox", "loss_giou")}
for name, share in left.items():
    print(f"{name} at step {quarter['step']}: {share:.2f} of what it was at step {start['step']}")
assert FAST or left["loss_class"] < min(left["loss_bbox"], left["loss_giou"])
assert FAST or last(seen, "AP") > 0.7
print(f"AP {last(seen, 'AP'):.2f}, AP50 {last(seen, 'AP50'):.2f} on its one image; loss {last(seen, 'loss'):.2f}")
print(f"measured: {last(seen, 'minutes'):.2f} minutes")

# %% [markdown]
# The class loss falls first, unevenly. That most queries should say no need not be learnt *(the bias of -4.6, page
# 09)*, and three names are easier than three times four exact numbers. Look at the car's sampling points: a fresh star,
# then a net over the car.
#
# ## Second rung: eight images
#
# One image can be learnt without looking at it: always give the same three boxes. With eight, the model has to look.
# **Predict**: 320 steps for eight images, 120 for one. Will AP reach 1 again?

# %%
eight, seen = climb(8, batch_size=2)

# %%
assert FAST or last(seen, "AP50") > 0.5
print(f"AP {last(seen, 'AP'):.2f}, AP50 {last(seen, 'AP50'):.2f} on its eight images; loss {last(seen, 'loss'):.2f}")
print(f"measured: {last(seen, 'minutes'):.2f} minutes")

# %% [markdown]
# Not yet. AP50 is ahead of AP: most objects are found, their boxes do not fit tightly.
#
# ## Every image gets the same boxes
#
# For a while that is normal. Train a fresh one-stage `tiny` for 24 steps, and ask how far each query's box moves from
# image to image. **Predict** the number for the fresh model.

# %%
data = toy("train", limit=8)
pictures = [image for image, _ in data]
torch.manual_seed(0)
young = build_model("tiny", num_classes=data.num_classes, test_size=SIZE)
young.categories = data.categories
spread = {"fresh": checklist.spread_across_images(young, pictures)}
recipe = replace(TINY_RECIPE, warmup=5, augment="none")
train(young, data, TrainOptions(epochs=1 if FAST else 6, recipe=recipe), FOLDER / "young", progress=False)
spread["after some steps"] = checklist.spread_across_images(young, pictures)
grown = load_pretrained("tiny", test_size=SIZE)
spread["the shipped tiny"] = checklist.spread_across_images(grown, pictures)
for name, value in spread.items():
    print(f"{name}: boxes move by {value:.4f} of the image")
assert spread["fresh"] < 1e-5
assert spread["after some steps"] < spread["the shipped tiny"] / 2

# %%
with torch.no_grad():
    found = {"after some steps": young.eval()(pictures[:3]), "the shipped tiny": grown(pictures[:3])}
display(dashboard.best_boxes(pictures[:3], found))

# %% [markdown]
# In a fresh one-stage model nothing of the image reaches the boxes: the last layer of the box branch starts at zero.
# After some steps (first row) each picture has other best queries, but their own boxes hardly move: the image decides
# who speaks, not yet what is said.
#
# If the number stays small after thousands of steps, suspect that the image does not arrive: wrong normalisation, a
# mask that is True everywhere, a frozen backbone without weights. Page 13 finds the place.
#
# ## Third rung: sixty-four
#
# **Predict.** The loss will fall again. And AP on 16 images that it never saw?

# %%
many, seen = climb(64, batch_size=4)

# %%
held_out = evaluate(many, toy("val"), progress=False).metrics
print(f"the 64 images: AP {last(seen, 'AP'):.2f}, AP50 {last(seen, 'AP50'):.2f}; loss {last(seen, 'loss'):.2f}")
print(f"16 others:     AP {held_out['AP']:.2f}, AP50 {held_out['AP50']:.2f}")
print(f"measured: {last(seen, 'minutes'):.2f} minutes")
assert FAST or (last(seen, "AP50") > 0.1 and held_out["AP"] < last(seen, "AP"))

# %% [markdown]
# Not by heart yet, and worse on others. To do well there, the shipped weights took thousands of drawings and hours of a
# slow core (`data/weights/tiny_two_stage.md`). The ladder is no training: it finds bugs while they are cheap.
#
# ## The loss falls and AP stays 0: a checklist
#
# Seven questions, cheapest first, and three models to ask: the shipped weights, the same with every class moved by one
# (the 91-or-80 slip of page 10), and fresh ones.

# %%
val = toy("val", limit=4, size=160)
good = load_pretrained("tiny_two_stage")
slipped = copy.deepcopy(good)
for name, parameter in slipped.named_parameters():
    if "class_embed" in name:
        parameter.data = parameter.data.roll(1, 0)
torch.manual_seed(0)
fresh = build_model("tiny_two_stage", num_classes=12)
columns = {"shipped": good, "classes off by one": slipped, "fresh": fresh}
print(checklist.as_table({name: checklist.why_is_ap_zero(model, val) for name, model in columns.items()}))

# %% [markdown]
# The first NO of a column is where to dig. If only the last row says NO, most boxes are right and the names are wrong:
# count your labels. If all rows from the scores on do, it is too early, or nothing reaches the heads. The fourth row
# scores the *truth*, as if a model had said it; if that is not 1, no model can be.
#
# ## A run that is over
#
# The dashboard can be drawn again from a run's log and snapshots, also of a run on your cluster. Play it:

# %%
state = dashboard.read_run(FOLDER / "rung_8", *toy("train")[0], title="images: 8", scored_on="the same images")
steps = [look.step for look in state.looks]
assert steps == sorted(steps)
print(f"{len(state.lines)} lines of log, {len(steps)} snapshots, steps {steps[0]} to {steps[-1]}")
dashboard.replay(state)

# %% [markdown]
# ## Hours in four seconds
#
# Several runs made the shipped weights, each from where the last stopped. These are snapshots of the first and, at the
# end, of two later ones, which saw larger pictures. (Steps of the runs between are not counted.) Watch the boat.
# **Predict**: will the token at its centre end up looking wider, or closer?

# %%
frames = shipped_timelapse()
view = timelapse.TimelapseState.from_frames(frames, toy_scene(int(frames["scene"])).image, follow=4)
display(timelapse.stills(view, [0, 4, 32, -1]))

# %%
display(timelapse.player(view, [0, 1, 2, 4, 8, 12, 16, 24, 32, 36, 40, -1], title="The shipped runs, their boat:"))

# %%
for title in view.points:
    shares = timelapse.spread_of(view, title)[[0, 1, 4, 32, -1]]
    print(f"{title}: mean distance from their middle {' -> '.join(f'{share:.2f}' for share in shares)} of the picture")
assert shares[-1] < shares[-2] < shares[0] < shares[1]  # the encoder's

# %% [markdown]
# The encoder's token starts as a star that weighs everything alike, looks wider still, and ends with its weight on sail
# and hull. (The drop to its last number is mostly not learnt: offsets are counted in cells, and in a larger picture a
# cell is a smaller part.) The decoder's points fill their query's box: about as wide as at the start, but mostly on the
# boat.
#
# ## Who learns slowly
#
# Which parameters get a tenth of the learning rate?

# %%
for group in schedule.parameter_groups(build_model("r50"), replace(TINY_RECIPE, backbone_factor=0.1)):
    size = sum(parameter.numel() for parameter in group["params"])
    print(
        f"{group['name']:<11} rate x {group['factor']:<3} {len(group['params']):>4} tensors, {size / 1e6:.1f} M numbers"
    )

# %% [markdown]
# The backbone, because it comes trained from ImageNet. (`tiny` starts from nothing: there it takes the full rate, and
# the command `train` leaves its matrices to another optimiser, Muon: 1.7 times the AP50 from the same images.) And
# `sampling_offsets` and `reference_points`: *slow*. Why? Give them the full rate for one step, and measure how far the
# sampling points jump:


# %%
def jump(factor):
    data = toy("train", limit=2)
    model = load_pretrained("tiny_two_stage", test_size=SIZE).train()
    recipe = replace(TINY_RECIPE, slow_factor=factor, warmup=0)
    run = start_state(model, len(data), TrainOptions(epochs=1, recipe=recipe))
    images, targets = zip(*data, strict=True)
    before = model.trace(list(images))["encoder.layer0.sampling_offsets"]  # (B, S, M, L, P, 2), in cells
    others = {n: p.detach().clone() for n, p in model.named_parameters() if "sampling_offsets" not in n}
    train_step(run, list(images), list(targets), TrainOptions(epochs=1, recipe=recipe))
    model.load_state_dict(others, strict=False)  # only the offsets have moved
    return (model.trace(list(images))["encoder.layer0.sampling_offsets"] - before).abs().mean().item()


tenth, full = jump(0.1), jump(1.0)
print(f"one step moves each point by {full:.3f} cells at the full rate, {tenth:.3f} at a tenth")
assert full > 5 * tenth

# %% [markdown]
# AdamW moves each weight by about the rate, however small its gradient. A point's offset is a sum over 128 inputs, so
# 128 small steps add up. A hundredth of a cell is little; but after a hundred steps the same way, the point is a whole
# cell further, 64 pixels on level 3. It reads something else there, and what the layers above have learnt about it is
# void.
#
# ### Exercise: the parameter groups
#
# `parameter_groups(parameters)`: a list of `(name, trainable)` -> a dict of three lists of names. `"backbone"`: begins
# with `backbone.`; `"slow"`: contains `sampling_offsets` or `reference_points`; `"transformer"`: the rest. What is not
# trainable is in none.


# %%
def parameter_groups(parameters):
    raise NotImplementedError


check("11.parameter_groups", parameter_groups)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def parameter_groups(parameters):
    groups = {"transformer": [], "backbone": [], "slow": []}
    for name, trainable in parameters:
        if not trainable:
            continue
        slow = "sampling_offsets" in name or "reference_points" in name
        groups["backbone" if name.startswith("backbone.") else "slow" if slow else "transformer"].append(name)
    return groups


check("11.parameter_groups", parameter_groups)

# %% [markdown]
# ## Your own classes
#
# With `DDETR_COCO` set, this takes your folder's three most frequent categories; otherwise four that the shipped
# weights have never seen.

# %%
if COCO:
    source = CocoDetection(*coco_layout(COCO, "train")).coco
    boxes = Counter(annotation["category_id"] for annotation in source.anns.values())
    names = [source.cats[number]["name"] for number, _ in boxes.most_common(3)]
    carve_subset(COCO, FOLDER / "tune", names, train=48, val=16)
else:
    make_toycoco(FOLDER / "tune", **drawn, seed=5, categories=HELD_OUT_CATEGORIES)
size = 192 if COCO else SIZE
tune_data = toy("train", transform=light_transform, folder="tune", size=size)
tune_val = toy("val", folder="tune", size=size)
print("classes:", ", ".join(category["name"] for category in tune_data.categories))

# %% [markdown]
# **Predict.** 12 classes become 4. Which of the 191 tensors must start afresh?

# %%
logging.getLogger("ddetr.checkpoints").handlers = [logging.StreamHandler(sys.stdout)]
torch.manual_seed(0)
tuned = load_pretrained("tiny_two_stage", num_classes=tune_data.num_classes, test_size=size)
tuned.categories = tune_data.categories
before, after = good.state_dict(), tuned.state_dict()
kept = [name for name in after if after[name].shape == before[name].shape and torch.equal(after[name], before[name])]
print(f"{len(kept)} tensors kept; afresh: {sorted(set(after) - set(kept))[:2]}, ... ({len(after) - len(kept)} in all)")
assert all("class_embed" in name for name in set(after) - set(kept))

# %% [markdown]
# Only the class heads: one for each decoder layer, and the proposals' own, which people forget.
#
# Train, and stop in the middle. Setting `stopped` does what Ctrl-C does: the step is finished, a checkpoint written.

# %%
tune_options = TrainOptions(
    epochs=EPOCHS["tune"], batch_size=2, recipe=replace(TINY_RECIPE, warmup=20), log_every=2 if FAST else 16, save_every=1e9,
    eval_every=EPOCHS["tune"] / 4,
)  # fmt: skip
index = next(i for i in range(len(tune_data)) if 2 <= len(tune_data[i][1]["labels"]) <= 5)
sample = toy("train", folder="tune", size=size)[index]
board = dashboard.Dashboard(tuned, *sample, title="fine-tuning, stopped and resumed")


def stop_half_way(run, line):
    run.stopped = run.progress(tune_options) >= 0.5


job = {"options": tune_options, "out": FOLDER / "tune_run", "val": tune_val, "progress": False}
halted = train(tuned, tune_data, **job, callbacks=[board, stop_half_way])
assert halted.stopped
assert halted.progress(tune_options) < 1
print(f"stopped at step {halted.step}; on disk: {sorted(path.name for path in (FOLDER / 'tune_run').iterdir())}")

# %% [markdown]
# Now go on, as after a reboot: another model object, other weights, `resume=True`.

# %%
tuned = build_model(tuned.config)
tuned.categories = tune_data.categories
with board:
    train(tuned, tune_data, **job, resume=True, callbacks=[board])

# %%
print(f"AP {last(board.state, 'AP'):.2f}, AP50 {last(board.state, 'AP50'):.2f} on {len(tune_val)} held-out images")
print(f"measured: {last(board.state, 'minutes'):.2f} minutes")
assert FAST or COCO or last(board.state, "AP") > held_out["AP"]

# %% [markdown]
# As many images as the third rung, fewer steps, classes that it had never seen, and yet better on held-out images.
# (Four classes are also easier to tell apart than twelve.) What transfers is everything but the names.
#
# And on a CPU the resumed weights are, to the bit, those of a run that never stopped: whatever is random depends on the
# seed and the step's number alone.

# %% [markdown]
# ## The same run from the command line, and by torchrun
#
# The command line outlives a notebook. torchrun (`python -m torch.distributed.run`) starts it in several processes,
# each with its share of a step's images.

# %%
options = "-m ddetr train --data toy --limit 4 --augment none --size 64 --epochs 1 --log-every 1 --device cpu"
commands = {
    "one process": f"python {options} --batch-size 4 --out one",
    "two processes": f"python -m torch.distributed.run --standalone --nproc_per_node 2 {options} --batch-size 2 --out two",
}
for name, command in commands.items():
    words = [sys.executable, *command.split()[1:]]
    done = subprocess.run(words, cwd=FOLDER, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    print(f"{name}: {command}")

# %%
logs = {name: training.read_metrics(FOLDER / name.split()[0])[0] for name in commands}
for name, line in logs.items():
    print(f"{name}: {line['kind']} step {line['step']}, loss {line['loss']:.3f}")
assert abs(logs["one process"]["loss"] / logs["two processes"]["loss"] - 1) < 0.05

# %% [markdown]
# Four images a step in both, divided by the objects of all four: the same loss. (Each process pads its own two images,
# which may show in later digits.) On eight GPUs, all of COCO is one line:
#
#     torchrun --nproc_per_node 8 -m ddetr train --preset r50 --imagenet --data COCO --out RUN --epochs 50 --batch-size 4
#
# ## How small can it be?
#
# Data: one image to test the code, dozens to fine-tune. Batch: 1 works, because frozen batch norms and group norms ask
# no other image. If you want the steps of a larger one, `accumulate=4` makes one step of four batches. Memory can be
# told from shapes alone. **Predict**: does the paper's model fit into 6 GiB, at two photos of 800 x 1066?

# %%
print("weights, gradients, AdamW + what backward needs = sum")
for preset, batch, h, w in (
    ("tiny", 8, 160, 212), ("r50", 1, 480, 640), ("r50", 2, 800, 1066), ("r50", 1, 800, 1066), ("r50", 2, 600, 800),
):  # fmt: skip
    print(f"{preset:<5} {batch} images of {h} x {w:<4} {memory.training_memory(preset, batch, h, w)}")
print(f"measured: {last(board.state, 'memory_mib')} MiB at most for all of this kernel, Python and figures included")

# %% [markdown]
# No, but with one photo it does, and with two of 600 x 800: what backward needs goes with the area. `--precision bf16`
# keeps much of it in two bytes instead of four. (The allocator and a GPU's libraries come on top.)
#
# ## Which run is sick?
#
# Five runs like the page's fine-tuning: training loss, AP on held-out images. One is `healthy`, one `overfitting`, one
# `diverging`; one has a `rate too high`, one a `rate too low`.

# %%
display(training.runs_side_by_side(bad_runs.bad_runs()))

# %% [markdown]
# ### Exercise: spot the bad run
#
# `spot_the_bad_run(run)` takes a letter and returns one of the five, as written above. A dict is enough.


# %%
def spot_the_bad_run(run):
    raise NotImplementedError


check("11.spot_the_bad_run", spot_the_bad_run)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def spot_the_bad_run(run):
    found = {"A": "rate too high", "B": "overfitting", "C": "healthy", "D": "diverging", "E": "rate too low"}
    return found[run]


check("11.spot_the_bad_run", spot_the_bad_run)

# %% [markdown]
# ## Take with you
#
# * Overfit one image first: a detector that cannot has a bug, and you find it in a minute.
# * When AP stays 0, score the truth, then look at boxes and names apart.
# * Fine-tuning keeps everything but the class heads; offsets and reference points learn at a tenth.
#
# Questions answered here: 28 (loss falls, AP 0), 29 (the same boxes), 30 (own classes), 31 (how small), 35 (a tenth of the
# rate).
#
# ## In other code bases
#
# | here | mmdetection | official | Hugging Face |
# |---|---|---|---|
# | `parameter_groups` | `paramwise_cfg`, `custom_keys` with `lr_mult=0.1` | `lr_backbone_names`, `lr_linear_proj_names`, `lr_linear_proj_mult` | yours to make |
# | `clip_norm=0.1` | `clip_grad=dict(max_norm=0.1)` | `clip_max_norm` | `max_grad_norm` of `TrainingArguments` |
# | `drop_at=0.8` | `MultiStepLR`, `milestones=[40]` | `lr_drop=40` | `lr_scheduler_type` |
# | `num_classes=` of `load_pretrained` | `bbox_head.num_classes` | `num_classes` | `ignore_mismatched_sizes=True` |
# | `resume=True` | `resume` | `--resume` | `resume_from_checkpoint` |
# | `images_per_step` | `auto_scale_lr.base_batch_size` | `batch_size` x processes | `per_device_train_batch_size` x devices |
#
# Next: *How good is it, and why did it miss?* (12 · Evaluate and explain)
