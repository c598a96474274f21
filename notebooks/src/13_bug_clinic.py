# %% [markdown]
# # 13 · Bug clinic
#
# **What does a broken one look like?**
#
# After this page you can
#
# * tell ten common faults of a Deformable DETR by what they show;
# * find the first tensor that is wrong, instead of reading code;
# * say what to check, and in which order, when AP is 0 or every image gets the same boxes.

# %%
import torch
from IPython.display import display
from torchvision.ops import box_convert

from ddetr import build_model
from ddetr.course import check, clinic
from ddetr.ops import choose_backend
from ddetr.viz import figures, patients

torch.manual_seed(0)
healthy = clinic.healthy()
print(f"device cpu · operator {choose_backend()} · weights tiny_two_stage, and tiny for patient 4 · data ToyCOCO")

# %%
display(figures.pipeline_map(figures.PIPELINE))

# %% [markdown]
# Ten detectors wait. All have good weights, all run without an error, every shape is right. In each, one line of code is
# wrong. The ten faults are among these twelve suspects; two are innocent:

# %%
print(clinic.suspects())

# %% [markdown]
# Three of ten scenes, as a healthy detector sees them, with scores above 0.3. Healthy, not perfect: yellow is what it
# misses, orange what it makes up, such as two birds in one.

# %%
well = clinic.look(healthy)
display(patients.draw({"healthy": well}))
print(f"AP on the ten scenes: {clinic.judge(well).metrics['AP']:.3f}")

# %% [markdown]
# ## Ward 1: a picture first
#
# Never start with the loss, nor with AP. Draw what it says.
#
# ### Patient 1

# %%
display(patients.draw({"patient 1": clinic.look(clinic.patient(1), 2)}))

# %% [markdown]
# Look at the names, then at the boxes. Which are right? Return a suspect's name, as it is printed above.


# %%
def patient_1():
    raise NotImplementedError


check("13.patient_1", patient_1)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def patient_1():
    return "boxes read as corners"


check("13.patient_1", patient_1)

# %% [markdown]
# ### Patient 2

# %%
display(patients.draw({"patient 2": clinic.look(clinic.patient(2), 2)}))


# %%
def patient_2():
    raise NotImplementedError


check("13.patient_2", patient_2)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def patient_2():
    return "labels off by one"


check("13.patient_2", patient_2)

# %% [markdown]
# ### Patient 3
#
# It says nothing above 0.3, so listen from 0.1 on.

# %%
display(patients.draw({"patient 3": clinic.look(clinic.patient(3), 2)}, threshold=0.1))

# %% [markdown]
# A healthy detector's boxes can be anywhere, of any size. **Predict**, then ask: how small does patient 3 ever get?

# %%
for name, model in (("healthy", healthy), ("patient 3", clinic.patient(3))):
    boxes = model.trace(clinic.pair())["heads.boxes"]  # (layers, B, Q, 4)
    sizes = [f"{layer[..., 2:].median():.2f}" for layer in boxes]
    print(f"{name:9}: median side after each layer {sizes}, smallest of all {boxes[..., 2:].min():.3f}")


# %%
def patient_3():
    raise NotImplementedError


check("13.patient_3", patient_3)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def patient_3():
    return "no inverse sigmoid"


check("13.patient_3", patient_3)

# %% [markdown]
# ### Patient 4
#
# A one-stage detector, `tiny`. It says nothing above 0.3 either, so listen to its five surest.

# %%
seen = clinic.look(clinic.patient(4), 3)
fifth, sixth = seen.detections[0]["scores"].sort(descending=True).values[4:6].tolist()
display(patients.draw({"patient 4": seen}, threshold=(fifth + sixth) / 2))

# %% [markdown]
# Compare the pictures with each other. More than one suspect can do this, so ask before you accuse.
#
# ### Every image gets the same boxes: why?
#
# Somewhere on the way the difference between two images dies. Where? Two scenes, and how much each tensor differs
# between them, as a share of its size: read each column downwards to the first zero. A fresh model beside them:
# **predict** its last row.

# %%
stages = ["pre_transformer.images", "backbone.c5", "encoder.layer0.value", "encoder.memory", "decoder.layer0.value",
          "heads.logits", "heads.boxes"]  # fmt: skip
models = {"healthy": clinic.healthy("tiny"), "fresh": build_model("tiny").eval(), "patient 4": clinic.patient(4)}
columns = {name: clinic.variation(model, stages) for name, model in models.items()}
print(f"{'':22}" + "".join(f"{name:>11}" for name in columns))
for stage in stages:
    print(f"{stage:22}" + "".join(f"{column[stage]:11.3f}" for column in columns.values()))
assert columns["fresh"]["heads.boxes"] == 0
assert columns["patient 4"]["decoder.layer0.value"] == 0

# %% [markdown]
# In patient 4's column, which tensor is the first that does not know one image from the other? Which suspect can do that?


# %%
def patient_4():
    raise NotImplementedError


check("13.patient_4", patient_4)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def patient_4():
    return "mask inverted"


check("13.patient_4", patient_4)

# %% [markdown]
# What the columns say:
#
# * Patient 4: the images arrive, the backbone sees them, and no value ever leaves the encoder's tokens. The memory still
#   differs, because the residual passes each token on; but the decoder reads it through values, and those are zero as well.
# * Fresh: all arrives, and the box head's last layer is zero. The boxes are the queries' reference points, the same for
#   every image. So early in training this is *normal*: give it time, or better weights to start from.
# * Zero from the pixels on: how are images loaded? From the backbone on: its weights? If nothing is zero and all is small
#   at the end, it has settled on an average scene: more training, a lower rate, or both.
#
# ## Ward 2: well alone, ill in company
#
# Six scenes at batch 1, then each beside a larger, blank image. **Predict**: does the healthy one lose, too?

# %%
print(f"{'':11}  alone  in company")
for name, model in (("healthy", healthy), ("patient 5", clinic.patient(5)), ("patient 6", clinic.patient(6))):
    alone, company = (clinic.judge(seen(model, 6)).metrics["AP"] for seen in (clinic.look, clinic.in_company))
    print(f"{name:11}  {alone:.3f}  {company:.3f}")

# %% [markdown]
# The healthy one loses a little: GroupNorm reads the blank (page 02). Patient 5 loses clearly more, patient 6 nearly all.
# Both must have to do with padding. But how?
#
# ### Patient 5
#
# Now a tool. The healthy one is the reference: the same weights, in code that is right. Run both, walk down the trace,
# and stop at the first tensor that differs by more than rounding. Two scenes of different sizes in one batch:


# %%
def compare(number, images):
    weights = clinic.PATIENTS[number - 1].weights
    theirs, ours = clinic.patient(number).trace(images), clinic.healthy(weights).trace(images)
    change = clinic.first_difference(theirs, ours)
    print(f"patient {number}: " + (f"{change.name}, by {change.largest:.2g}" if change else "no tensor differs"))


compare(5, clinic.pair()[:1])
compare(5, clinic.pair())

# %% [markdown]
# The reference points come before this one in the trace. They are healthy.


# %%
def patient_5():
    raise NotImplementedError


check("13.patient_5", patient_5)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def patient_5():
    return "padding not masked"


check("13.patient_5", patient_5)

# %% [markdown]
# ### Patient 6
#
# Where do its queries look? Image 0 of the batch fills the width, and 160 of 237 rows: 0.68.

# %%
print("batch:", [tuple(image.shape[1:]) for image in clinic.pair()])
for name, model in (("healthy", healthy), ("patient 6", clinic.patient(6))):
    points = model.trace(clinic.pair())["decoder.layer0.attention_reference_points"]  # (B, Q, L, 4), on the padded maps
    x, y = points[0, :, 0, :2].amax(0).tolist()
    print(f"{name:9}: at most x = {x:.2f}, y = {y:.2f}")

# %% [markdown]
# If that does not tell you: `compare(6, clinic.pair())`.


# %%
def patient_6():
    raise NotImplementedError


check("13.patient_6", patient_6)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def patient_6():
    return "valid_ratios forgotten"


check("13.patient_6", patient_6)

# %% [markdown]
# ## Ward 3: worse, and still at work
#
# The dangerous ones. They find objects, and nobody would notice without a number to compare with:

# %%
print(f"healthy    AP {clinic.judge(well).metrics['AP']:.3f}")
for number in (7, 8, 9, 10):
    print(f"patient {number:2d} AP {clinic.judge(clinic.look(clinic.patient(number))).metrics['AP']:.3f}")

# %% [markdown]
# A network that is trained with such a fault may even learn around it. You find it by comparing tensors, or never.
#
# ### Patient 7

# %%
compare(7, clinic.pair()[:1])

# %% [markdown]
# The very first tensor of the trace. So draw it.

# %%
images = [model.trace(clinic.pair()[:1])["pre_transformer.images"][0] for model in (healthy, clinic.patient(7))]
figure = figures.show_images(images, ["healthy", "patient 7"])
figure.compact = True
display(figure)


# %%
def patient_7():
    raise NotImplementedError


check("13.patient_7", patient_7)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def patient_7():
    return "red and blue swapped"


check("13.patient_7", patient_7)

# %% [markdown]
# ### Patient 8

# %%
compare(8, clinic.pair()[:1])
theirs, ours = (model.trace(clinic.pair()[:1]) for model in (clinic.patient(8), healthy))
missing = ours["multi_scale.pos"] - theirs["multi_scale.pos"]  # (1, S, C)
print("different vectors that are missing:", len(missing[0].mul(1e4).round().unique(dim=0)))
print("levels:", len(ours.level_sizes))


# %%
def patient_8():
    raise NotImplementedError


check("13.patient_8", patient_8)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def patient_8():
    return "no level embedding"


check("13.patient_8", patient_8)

# %% [markdown]
# ### Patient 9

# %%
compare(9, clinic.pair()[:1])
theirs, ours = (model.trace(clinic.pair()[:1]) for model in (clinic.patient(9), healthy))
for name in ("value", "sampling_locations", "attention_weights", "attention_output"):
    name = f"encoder.layer0.{name}"
    print(f"{name}: largest difference {(theirs[name] - ours[name]).abs().max():.1e}")

# %% [markdown]
# What stands between values, places and weights on one side, and their sum on the other?


# %%
def patient_9():
    raise NotImplementedError


check("13.patient_9", patient_9)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def patient_9():
    return "align_corners=True"


check("13.patient_9", patient_9)

# %% [markdown]
# ### Patient 10
#
# One scene as it is, and a square piece of it:

# %%
compare(10, clinic.pair()[:1])
compare(10, clinic.square())


# %%
def patient_10():
    raise NotImplementedError


check("13.patient_10", patient_10)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def patient_10():
    return "offsets divided by (h, w)"


check("13.patient_10", patient_10)

# %% [markdown]
# Two suspects are left, innocent. Visit them: `clinic.with_fault("levels in another order")`. Its shapes are right, too.
#
# ## 80, 90 or 91 classes?
#
# Patient 2 had the classic among these. Its cause is nearly always that two files count differently, so look at both
# lists side by side:

# %%
for label in (0, 1, 11):
    category = healthy.categories[label]
    print(f"label {label:2d} · COCO id {category['id']:2d} · {category['name']}")
print("labels", len(healthy.categories), "· largest id", max(c["id"] for c in healthy.categories))

# %% [markdown]
# Inside, labels are 0 to K - 1. COCO's ids live at the data set's edge. Where a network's outputs are ids, as in the
# official code, there are 91: the largest id is 90.
#
# ## AP 0: what do I check, and in which order?
#
# **First the judge.** Hand in the truth itself. **Predict** its AP, and what is left of it after three common slips:

# %%
truth = clinic.truth(healthy)
slips = {
    "the truth": lambda found: found,
    "labels from 1": lambda found: {**found, "labels": (found["labels"] + 1) % 12},
    "(x, y, w, h) for corners": lambda found: {**found, "boxes": box_convert(found["boxes"], "xyxy", "xywh")},
    "pixels of the resized image": lambda found: {**found, "boxes": found["boxes"] * 0.5},
}
for name, slip in slips.items():
    ap = clinic.judge(truth._replace(detections=[slip(found) for found in truth.detections])).metrics["AP"]
    print(f"{name:28} AP {ap:.3f}")

# %% [markdown]
# Anything below 1.000 is a fault between annotation file and judge, and no training will mend it.
#
# The list, cheapest first:
#
# 1. Score the truth: 1.000. Labels, box format, image ids, sizes.
# 2. Draw what the network gets: tensor and targets, *after* the augmentation.
# 3. The first class loss: a few units? Tens mean that the class bias of -4.6 is lost (page 09).
# 4. Overfit one image, and evaluate that image. AP must reach 1 (page 11). If not, it is the code, not the data.
# 5. Draw detections from 0.05 on. No box over 0.05: too little training, or a rate too small. The same boxes
#    everywhere: see above.
# 6. Batch 1 against a padded batch.
# 7. The same weights in a code that works, tensor by tensor, down to the first that differs.
# 8. Only now: learning rate, schedule, patience. A falling loss and AP 0 are normal in the first minutes (page 11).
#
# ## Take with you
#
# * Draw first, then compare numbers, then read code.
# * Test with two images, of different sizes, not square: three of these faults hide from anything less.
# * The first tensor that differs names the line; the last one only complains.
#
# Questions answered here: 26 (80, 90 or 91), 28 (AP 0), 29 (the same boxes).
#
# ## In other code bases
#
# Where each fault lives, if it lives in yours:
#
# | fault | mmdetection | official | Hugging Face |
# |---|---|---|---|
# | red and blue | `DetDataPreprocessor(bgr_to_rgb=True)` | PIL, RGB | the image processor |
# | mask | `mask`, True where padding | `NestedTensor.mask`, True where padding | `pixel_mask`, 1 where image |
# | labels | `num_classes=80`, `cat_ids[label]` | `num_classes=91`, label = id | `config.id2label` |
#
# That was the last page. *What will you build?*
