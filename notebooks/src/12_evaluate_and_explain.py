# %% [markdown]
# # 12 · Evaluate and explain
#
# **How good is it, and why did it miss?**
#
# After this page you can
#
# * compute average precision by hand, and say what each of COCO's twelve numbers means;
# * say why an object was missed: no box that fits, another class, or a score too low;
# * name what the paper's numbers cost: schedule, batch, hardware, hours.

# %%
import tempfile
from collections import Counter

import torch
from IPython.display import display
from matplotlib.cbook import get_sample_data
from PIL import Image
from torchvision.ops import box_convert, box_iou

from ddetr import load_pretrained
from ddetr.course import check
from ddetr.course.made_up import Found, Thing, judge
from ddetr.course.real_weights import real_weights
from ddetr.data import CocoDetection, Resolution, eval_transform, make_toycoco, prepare_image
from ddetr.engine import (
    PAPER_RECIPE,
    error_breakdown,
    evaluate,
    format_metrics,
    score,
)
from ddetr.engine.misses import open_cases
from ddetr.ops import choose_backend
from ddetr.viz import SamplingExplorer, figures, misses, scenes
from ddetr.viz import average_precision as figures_of_ap
from ddetr.viz import evaluation as figures_of_scores
from ddetr.viz.sampling_view import SamplingView, points_of

torch.manual_seed(0)
model = load_pretrained("tiny_two_stage")
print(f"device cpu · operator {choose_backend()} · weights tiny_two_stage · data ToyCOCO, 40 images of a new seed")

# %%
display(figures.pipeline_map(["detections"]))

# %% [markdown]
# Forty images that the network has never seen, drawn on the spot, in COCO's format:

# %%
folder = make_toycoco(tempfile.mkdtemp(), train=1, val=40, seed=34, workers=1, progress=False)
dataset = CocoDetection(
    folder / "val2017",
    folder / "annotations" / "instances_val2017.json",
    eval_transform(Resolution.around(model.config.test_size)),
    categories=model.categories,
)
evaluation = evaluate(model, dataset, progress=False)
print(f"{evaluation.num_images} images, {len(evaluation.results)} detections")

# %% [markdown]
# ## Twelve numbers
#
# A hundred detections an image, most with hardly a score. All are handed in. The judge is COCO's own, pycocotools:

# %%
print(format_metrics(evaluation.metrics))

# %% [markdown]
# * **AP**: average precision, the mean over categories and over ten IoU thresholds, 0.50, 0.55, ... 0.95. **AP50** and
#   **AP75**: at one threshold. 50 asks whether it was found, 75 for a good box.
# * **APs**, **APm**, **APl**: of small objects (below 32 x 32 pixels by the mask's area), medium and large ones (above
#   96 x 96), in pixels of the file, not of the resized image.
# * **AR1**, **AR10**, **AR100**: recall with so many detections an image; false alarms cost nothing. **ARs**, **ARm**,
#   **ARl**: the last by size.
#
# **Predict.** AP is the mean of ten numbers. How do they run from 0.50 to 0.95?

# %%
curves = evaluation.precision_recall
by_iou = [curves.curve(iou=threshold).mean() for threshold in curves.iou_thresholds]
for threshold, ap in zip(curves.iou_thresholds, by_iou, strict=True):
    print(f"IoU {threshold:.2f}: {ap:.3f}")
assert abs(sum(by_iou) / 10 - evaluation.metrics["AP"]) < 1e-9

# %% [markdown]
# Down, and off a cliff. An AP of 0.7 does not mean that 70% of anything is right.
#
# ## AP by hand
#
# One picture, four objects A to D, five detections:

# %%
things = [Thing([10, 10, 40, 40]), Thing([60, 10, 30, 30]), Thing([10, 60, 30, 30]), Thing([60, 60, 30, 30])]
found = [
    Found([12, 10, 40, 40], 0.9),
    Found([10, 10, 40, 38], 0.8),
    Found([66, 10, 30, 30], 0.7),
    Found([40, 44, 18, 12], 0.6),
    Found([10, 63, 30, 30], 0.4),
]
boxes, truth = (box_convert(torch.tensor([x.bbox for x in group]).float(), "xywh", "xyxy") for group in (found, things))
iou = box_iou(boxes, truth)  # (D, 4) and (G, 4) -> (D, G)

# %% [markdown]
# **First, who takes whom** at IoU 0.5. By falling score, each detection takes the free object that it overlaps most.
# **Predict**: on A, detection 2 has the better box, detection 1 the better score. Who gets it?

# %%
taken, free = [], [True] * 4
for row in iou:  # best score first
    best = max((g for g in range(4) if free[g]), key=lambda g: row[g])
    taken.append(best if row[best] >= 0.5 else -1)
    if taken[-1] >= 0:
        free[best] = False
names = [f"{n}: score {box.score}" for n, box in enumerate(found, start=1)]
display(figures_of_ap.matching(iou.numpy(), taken, names, ["A", "B", "C", "D"]))

# %% [markdown]
# Detection 1. Its rival is a duplicate, a false alarm like number 4. DETR suppresses none, and AP charges for them.
#
# **Then count.** After each detection: what share was right so far, what share of the four is found?

# %%
is_true = torch.tensor([g >= 0 for g in taken])
hits = is_true.cumsum(0)  # (D,)
precision = hits / torch.arange(1, 6)
recall = hits / len(things)
print("precision", [f"{p:.2f}" for p in precision], "· recall", [f"{r:.2f}" for r in recall])

# %% [markdown]
# **Then fill the dips.** At each recall COCO takes the best precision at that recall or a higher one.
#
# ### Exercise: the envelope
#
# `envelope(precision)`, (D,) -> (D,): at each place the best precision from there on.


# %%
def envelope(precision):
    raise NotImplementedError


check("12.envelope", envelope)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def envelope(precision):
    return precision.flip(0).cummax(0).values.flip(0)  # the best so far, from the end


check("12.envelope", envelope)

# %% [markdown]
# **Last, read the envelope** at recall 0, 0.01, ... 1, and take the mean. D is never found: the last quarter reads 0.

# %%
places = torch.linspace(0, 1, 101, dtype=torch.float64)
read = [float(envelope(precision)[recall >= place].max()) if (recall >= place).any() else 0 for place in places]
by_hand = sum(read) / 101
display(figures_of_ap.staircase(is_true.tolist(), len(things)))

# %% [markdown]
# And the judge's verdict on the same picture:

# %%
verdict = judge(things, found).metrics["AP50"]
assert abs(verdict - by_hand) < 1e-6
print(f"by hand {by_hand:.6f}, pycocotools {verdict:.6f}, deviation {abs(verdict - by_hand):.0e}")

# %% [markdown]
# ### Exercise: matching
#
# `match(iou, scores, threshold)`, overlaps (D, G) and scores (D,) in any order, -> (D,) true or false, in the order
# given: by falling score, each detection takes the free object that it overlaps most, if by the threshold or more.


# %%
def match(iou, scores, threshold):
    raise NotImplementedError


check("12.match", match)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def match(iou, scores, threshold):
    is_true = torch.zeros(len(scores), dtype=torch.bool)
    left = iou.clone()
    for d in scores.argsort(descending=True).tolist():
        if left.shape[1] and left[d].max() >= threshold:
            is_true[d] = True
            left[:, left[d].argmax()] = -1  # taken, for all that follow
    return is_true


check("12.match", match)

# %% [markdown]
# ### Exercise: average precision
#
# `average_precision(scores, is_true, num_objects)`: scores and verdicts (D,) in any order, and how many objects there
# are, -> the mean of the envelope's precision at recall 0, 0.01, ... 1.


# %%
def average_precision(scores, is_true, num_objects):
    raise NotImplementedError


check("12.average_precision", average_precision)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def average_precision(scores, is_true, num_objects):
    hits = is_true[scores.argsort(descending=True)].cumsum(0).double()
    precision, recall = hits / torch.arange(1, len(hits) + 1), hits / num_objects
    precision = precision.flip(0).cummax(0).values.flip(0)
    places = torch.linspace(0, 1, 101, dtype=torch.float64) - 1e-9  # a hair's breadth for the rounding of recall
    at = torch.searchsorted(recall, places)  # the first detection that reaches each place
    return float(torch.cat([precision, precision.new_zeros(1)])[at].mean())


check("12.average_precision", average_precision)

# %% [markdown]
# ## Do not throw away low scores
#
# **Predict.** You keep only scores above 0.5, for cleaner results. What happens to AP?

# %%
for least in (0, 0.1, 0.3, 0.5):
    kept = [result for result in evaluation.results if result["score"] > least]
    metrics = score(dataset.coco, kept, evaluation.image_ids).metrics
    print(f"score above {least:.1f}: {len(kept):5d} detections, AP {metrics['AP']:.3f}, AR100 {metrics['AR100']:.3f}")

# %% [markdown]
# It falls with every step. High recall is won with low scores, and a false alarm at the end of the line costs next to nothing.
# Choose a threshold to *show* detections, never to judge them.
#
# ## Crowds
#
# COCO marks what nobody wants to count, thirty people on a stand, as one box with `iscrowd`. Here one object, and a crowd
# that catches three detections. **Predict**: what do those three cost?

# %%
one, crowd = Thing([0, 0, 30, 30]), Thing([50, 0, 60, 60], crowd=True)
inside = [Found([x, 10, 15, 30], 0.9) for x in (52, 70, 90)]
right = Found([0, 0, 30, 30], 0.5)
for name, objects in (("with the crowd", [one, crowd]), ("without", [one])):
    print(f"{name}: AP50 {judge(objects, [*inside, right]).metrics['AP50']:.2f}")

# %% [markdown]
# Nothing. What lies half or more inside a crowd counts, at an IoU of 0.5, neither for nor against. Training leaves crowds out.
#
# ## By category and size
#
# One number hides everything. **Predict**: which of the twelve categories is the worst? And are large objects the
# easiest?

# %%
ranked = sorted(evaluation.per_category, key=lambda group: -group.ap)
display(figures_of_scores.score_bars([*ranked, *evaluation.per_size]))

# %% [markdown]
# Birds. And small objects are the hardest by far. That large ones beat medium ones says little: there are seven.
# Look at the counts before you believe a bar.

# %%
display(figures_of_scores.precision_recall_curves(curves))

# %% [markdown]
# From the left: the surest detections are nearly all right. A curve drops to zero where the rest is never found.
#
# ## What kind of errors?
#
# Now we do need a threshold. Each detection with a score above 0.5, and each object, gets exactly one label. A *poor box*
# overlaps an object of its class, at an IoU of 0.1 to 0.5; a *wrong class* fits an object of another; *both wrong* is both;
# a *duplicate* comes second to an object; *background* is on nothing, *crowd* inside one. **Predict**: does this model invent more, or miss more?

# %%
breakdown = error_breakdown(dataset.coco, evaluation.results, evaluation.image_ids, threshold=0.5)
counts = breakdown.object_counts()
assert counts["missed"] > 0.9 * (sum(counts.values()) - counts["correct"])
display(figures_of_scores.error_bars(breakdown))

# %% [markdown]
# What it says is nearly always right. Its weakness is silence. Two images: four objects that it kept silent about, and
# the one that it took for something else, a bird at the edge:

# %%
display(scenes.draw_scenes(scenes.image_scenes(dataset, breakdown, [1000018, 1000019]), columns=2))

# %% [markdown]
# ## Why did it miss?
#
# Ask its queries. A box *fits* at an IoU of 0.5. Of the queries that fit an object, one gives its class the highest score:
# our witness. If none fits, the nearest.

# %%
names = [category["name"] for category in model.categories]
silent = [case for case in breakdown.objects if case.kind != "correct"]
opened = {}
for one in open_cases(model, dataset, [case for case in silent if case.image_id in (1000018, 1000019)]):
    why, name = one.why, names[one.label]
    opened[name] = one
    best = f"{names[why.best_label]} {why.best_score:.2f}"
    print(
        f"{name:11} {why.reason:13} · query {why.query:2d}, IoU {why.iou:.2f}, gives it {why.score:.2f}, best: {best}"
    )

# %% [markdown]
# Two of three reasons. Three of the objects: dashed the object, blue its witness, below what that query thinks, the right
# class in orange.

# %%
display(misses.draw([misses.MissState.of(opened[name], names) for name in ("bus", "bird", "umbrella")]))

# %% [markdown]
# * The bus: the right box, the right class, 0.42. Nothing is wrong but the confidence.
# * The bird: the edge of the image cuts off its tail. "Umbrella," it says, and loudly enough to be counted.
# * The umbrella: large, half of it in the open, and the box reaches far below it. Why?
#
# ## Lost before the decoder
#
# Two-stage starts from the 50 best tokens, those that overlap a better one put last *(page 09)*. **Predict**: did no token
# see the umbrella better?

# %%
umbrella, trace = opened["umbrella"], opened["umbrella"].trace
every_box = box_convert(trace["pre_decoder.enc_boxes"][0], "cxcywh", "xyxy")  # (S, 4)
scores = trace["pre_decoder.enc_logits"][0, :, 0].sigmoid()  # (S,), "is there an object?"
token = int(box_iou(every_box, umbrella.box[None])[:, 0].argmax())
last = trace["pre_decoder.proposal_index"][0, -1]
print(f"token {token}: IoU {box_iou(every_box, umbrella.box[None])[token, 0]:.2f}, score {scores[token]:.3f}")
print(f"the last of the 50 proposals: score {scores[last]:.3f}")

# %% [markdown]
# One did, with a fine box, and stayed outside: its score is too low. No weight depends on the number of queries. **Predict**:
# what becomes of the umbrella if we let in fewer, or more?

# %%
whys = {}
for count in (20, 50, 80):
    model.queries.num_queries = count
    (again,) = open_cases(model, dataset, [umbrella.case])
    whys[count] = why = again.why
    print(f"{count} queries: {why.reason:13} · query {why.query:2d}, IoU {why.iou:.2f}, umbrella {why.score:.2f}")
model.queries.num_queries = 50
assert whys[20].reason == "no box fits"
assert names[whys[80].best_label] == "umbrella"

# %% [markdown]
# With 20 the third reason: nobody who could know was let in. With more it is found and named, without conviction. Is that
# how most get lost?

# %%
everybody = Counter(one.why.reason for one in open_cases(model, dataset, silent))
for reason, count in everybody.most_common():
    print(f"{reason:13} {count}")
assert everybody["score too low"] > sum(everybody.values()) / 2

# %% [markdown]
# More than half of them have a query with the right box and class that does not dare. The other reasons are rarer. This
# network was trained for hours, not for days: more training is the first thing to try.
#
# ## Where did the bird's query look?
#
# **Predict.** 128 points, on a bird whose tail is outside of the image. Where do the heaviest lie?

# %%
bird = opened["bird"]
view = SamplingView.from_trace(bird.trace, bird.image, names=names)
display(SamplingExplorer(view=view, part="decoder", layer=2, query=bird.why.query))

# %%
points = points_of(view, "decoder", 2, bird.why.query)
x1, y1, x2, y2 = bird.box.tolist()  # of the image, 0 to 1
h, w = bird.image.shape[1:]
inside = (points.x > x1 * w) & (points.x < x2 * w) & (points.y > y1 * h) & (points.y < y2 * h)
print(f"weight on what the image shows of the bird: {points.weight[inside].sum() / points.weight.sum():.0%}")
print(f"right of the image: {points.weight[points.x > w].sum() / points.weight.sum():.1%}")
assert points.weight[inside].sum() > 0.5 * points.weight.sum()

# %% [markdown]
# In the box that it was given or just beside it, hardly beyond the image: offsets are counted in box sides. It looked in
# the right place, and the tail is not there to be seen. Perhaps that is why it does not say bird.
#
# ## Batch 1, batch 2
#
# Page 02 saw GroupNorm read the padding, page 03 saw scores move with the batch. **Predict**: does AP move, too?

# %%
in_pairs = []
for start in range(0, len(dataset), 2):
    pair = [dataset[start], dataset[start + 1]]  # of any two sizes: padded
    images, targets = zip(*pair, strict=True)
    sizes = [target["orig_size"] for target in targets]
    with torch.no_grad():
        for detections, target in zip(model.postprocess(model.forward_raw(images), sizes), targets, strict=True):
            in_pairs += dataset.to_results(detections, target)
padded = score(dataset.coco, in_pairs, evaluation.image_ids).metrics["AP"]
same_size = evaluate(model, dataset, batch_size=4, progress=False).metrics["AP"]
print(f"AP: batch 1 {evaluation.metrics['AP']:.4f}, padded pairs {padded:.4f}, same-size batches of 4 {same_size:.4f}")

# %% [markdown]
# Padding moves AP, though this network met some in its training. So `evaluate` lets only images of one size share a batch.
# With other code, say the batch size beside the AP, or evaluate one by one.
#
# ## The paper's numbers
#
# 50 epochs on COCO train2017, 32 images a step. AP on val2017 in percent, as the authors' repository reports it (the
# paper's table 1 has 43.8, 45.4 and 46.2):
#
# | variant | preset | AP | small | medium | large | GPU hours (V100) |
# |---|---|---|---|---|---|---|
# | multi-scale | `r50` | 44.5 | 27.1 | 47.6 | 59.6 | 325 |
# | + box refinement | `r50_refine` | 46.2 | 28.3 | 49.2 | 61.5 | 325 |
# | + two-stage | `r50_two_stage` | 46.9 | 29.6 | 50.1 | 61.6 | 340 |
#
# mmdetection (2.x) gives 44.5, 46.1 and 46.8, and warns of 0.2 to 0.3 from run to run. What does it cost?

# %%
recipe = PAPER_RECIPE
steps = 50 * -(-118_287 // 32)  # epochs x batches of train2017
print(f"{steps} steps, lr {recipe.lr:g}, times {recipe.slow_factor:g} for the sampling offsets, ", end="")
print(f"times {recipe.backbone_factor:g} for the backbone, weight decay {recipe.weight_decay:g}")
print(f"lr falls to a tenth after epoch {round(recipe.drop_at * 50)}; gradients clipped at {recipe.clip_norm}")
print(f"325 GPU hours on 8 GPUs: {325 / 8:.0f} hours; {325 * 3600 / steps / 32:.2f} GPU seconds an image")

# %% [markdown]
# The recipe is these presets' default:
#
#     torchrun --nproc_per_node 8 -m ddetr train --preset r50 --imagenet --data COCO --out RUN \
#         --epochs 50 --batch-size 4 --workers 8
#     python -m ddetr eval --weights RUN --data COCO
#
# Fewer GPUs take `--accumulate`: 32 images a step is what counts.
#
# ## Real weights
#
# Have you a checkpoint of the authors', of mmdetection or Hugging Face? Set the environment variable `DDETR_WEIGHTS` to its
# path, or with a network to a hub name, such as `SenseTime/deformable-detr`.

# %%
real, what = real_weights()
print(what)
if real is not None:
    with get_sample_data("grace_hopper.jpg") as file:
        portrait = Image.open(file).convert("RGB")
    (seen,) = real([prepare_image(portrait, real.config.test_size)])
    for label, value in zip(seen["labels"][:5].tolist(), seen["scores"][:5].tolist(), strict=True):
        print(f"{real.categories[label]['name'] if real.categories else label}: {value:.2f}")

# %% [markdown]
# ## Take with you
#
# * AP is the area under precision against recall, averaged over classes and ten IoU thresholds. A threshold on the
#   scores can only lower it.
# * A miss has a reason: no box that fits (perhaps no proposal), another class, or the right answer said too softly.
# * Two APs compare on one set, at one batch size, and by more than the noise from run to run.
#
# Questions answered here: 2 (where a query looked), 32 (batch 1 and 2), 36 (the paper's numbers).
#
# ## In other code bases
#
# | here | mmdetection | official | Hugging Face |
# |---|---|---|---|
# | `evaluate`, `score` | `CocoMetric` | `evaluate`, `CocoEvaluator` | |
# | `postprocess` | `DeformableDETRHead.predict_by_feat` | `PostProcess` | `post_process_object_detection` |
# | `dataset.to_results` | `CocoMetric.results2json` | `CocoEvaluator.prepare_for_coco_detection` | |
# | `max_detections=100` | `test_cfg=dict(max_per_img=100)` | `topk(100)` | `top_k=100` |
#
# Next: *What does a broken one look like?* (13 · Bug clinic)
