# %% [markdown]
# # 10 · Matching and loss
#
# **Who is responsible for which object?**
#
# After this page you can
#
# * compute the cost of every query for every object, and read the assignment off it;
# * compute the three losses by hand, and say what they are divided by;
# * tell a wrong label, an empty image and a NaN apart by what they do to the loss.

# %%
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from IPython.display import display
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_iou

from ddetr import PRESETS, build_model, load_pretrained
from ddetr.course import check
from ddetr.course.timelapse import SCENE_SEED, scene_target
from ddetr.data import prepare_image, toy_scene
from ddetr.data.coco_categories import COCO_NAMES, coco_categories
from ddetr.losses import Criterion, HungarianMatcher, cxcywh_to_xyxy
from ddetr.models.outputs import DetrOutput, LayerOutput
from ddetr.ops import choose_backend
from ddetr.viz import figures, matching
from ddetr.viz.matching_playground import matching_playground

torch.manual_seed(0)
model = load_pretrained("tiny").eval()
print(f"device cpu · operator {choose_backend()} · weights tiny · data ToyCOCO")

# %%
display(figures.pipeline_map(["heads"]))

# %% [markdown]
# ## Fifty answers, six objects
#
# **Predict.** 50 queries answer for a scene of 6 objects. How many boxes have an IoU above 0.5 with each?


# %%
def look_at(seed):
    scene = toy_scene(seed)
    return scene, prepare_image(Image.fromarray(scene.image), 160), scene_target(model, scene)


scene, image, target = look_at(SCENE_SEED)
with torch.no_grad():
    out = model.forward_raw([image])
logits, boxes = out.pred_logits[0], out.pred_boxes[0]  # (Q, K), (Q, 4)
names = [model.categories[label]["name"] for label in target.labels]
iou = box_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(target.boxes))  # (Q, N)
assert iou.shape == (50, 6)
print(dict(zip(enumerate(names), (iou > 0.5).sum(0).tolist(), strict=True)))

# %% [markdown]
# Most have several. Yet nobody removes duplicates afterwards. So training must choose: **one** query is responsible for
# each object, and all the others must say no.
#
# ## What a query costs
#
# Three terms. The first: what would the focal loss change if this query were given this object's class?


# %%
def class_cost_of(p):  # p: the query's score for the object's class
    as_object = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
    as_background = 0.75 * p**2 * -(1 - p + 1e-8).log()
    return as_object - as_background


for p in (0.05, 0.5, 0.95):
    print(f"a score of {p}: {class_cost_of(torch.tensor(p)):+.2f}")
class_cost = class_cost_of(logits.sigmoid()[:, target.labels])  # (Q, K) -> (Q, N)

# %% [markdown]
# A query that is sure of the class is glad to have the object. The second, L1: how far the four numbers are apart.

# %%
bbox_cost = (boxes[:, None] - target.boxes[None]).abs().sum(-1)  # (Q, 1, 4) - (1, N, 4) -> (Q, N)

# %% [markdown]
# L1 counts large boxes' errors more than small ones'. So the third is an overlap, and does not care for size.
#
# ### Exercise: GIoU
#
# `generalized_iou(a, b)`: corners (N, 4) and (M, 4) -> (N, M). The IoU of each pair, minus the share of their hull (the
# smallest box around both) that neither fills. Where a box without area makes 0 / 0, count 0.


# %%
def generalized_iou(a, b):
    raise NotImplementedError


check("10.generalized_iou", generalized_iou)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def generalized_iou(a, b):
    a, b = a[:, None], b[None]  # (N, 1, 4), (1, M, 4)
    area = lambda low, high: (high - low).clamp(min=0).prod(-1)  # noqa: E731
    inter = area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    hull = area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    union = area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - inter
    return inter / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)


check("10.generalized_iou", generalized_iou)

# %% [markdown]
# The sum, with the paper's weights 2, 5, 2, against the package's:

# %%
giou_cost = -generalized_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(target.boxes))
cost = 2 * class_cost + 5 * bbox_cost + 2 * giou_cost  # (Q, N)
matcher = model.criterion.matcher
torch.testing.assert_close(cost, matcher.cost(logits, boxes, target))
print(f"largest deviation: {(cost - matcher.cost(logits, boxes, target)).abs().max():.0e}")

# %% [markdown]
# The two cheapest queries of each object, term by term. Light is cheap; the frames are the assignment, which comes next.


# %%
picture = np.asarray(Image.fromarray(scene.image).reduce(2))  # about as large as the model sees it


def state_of(queries, objects=range(6)):  # plain values, for the view
    chosen = [target.labels[i].item() for i in objects]
    return matching.MatchingState(
        boxes[queries].tolist(), logits[queries].sigmoid().tolist(), target.boxes[list(objects)].tolist(), chosen,
        [category["name"] for category in model.categories], picture=picture, queries=[str(q) for q in queries],
    )  # fmt: skip


cheapest = cost.topk(2, dim=0, largest=False).indices.unique().tolist()  # (2, N) -> a list
display(matching.draw_terms(state_of(cheapest)))

# %% [markdown]
# ## The assignment
#
# **Predict.** Three queries, two objects. Who takes which?

# %%
small = torch.tensor([[1.0, 2.0], [3.0, 9.0], [8.0, 7.0]])  # (Q, N)
query, index = linear_sum_assignment(small)
pairs = list(zip(query.tolist(), index.tolist(), strict=True))
print("pairs (query, object):", pairs, "cost", small[query, index].sum().item())

# %% [markdown]
# Query 0 is the best for both, and gets the object where it is *not* the cheapest: 2 + 3 beats 1 + 7. The sum decides.
#
# ### Exercise: the matcher
#
# `match(cost)`: (Q, N) -> a list of min(Q, N) pairs (query, object), sorted by query, with the lowest sum. Q and N are
# small: try them all. `itertools.permutations` helps.


# %%
def match(cost):
    raise NotImplementedError


check("10.match", match)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def match(cost):
    from itertools import permutations

    Q, N = cost.shape
    if N > Q:
        return sorted((q, t) for t, q in match(cost.T))
    price = lambda rows: sum(cost[q, t].item() for t, q in enumerate(rows))  # noqa: E731
    best = min(permutations(range(Q), N), key=price)  # best[t] is the query of object t
    return sorted((q, t) for t, q in enumerate(best))


check("10.match", match)

# %% [markdown]
# The scene's, by scipy and by the package:

# %%
query, index = linear_sum_assignment(cost)
(paired,) = matcher(logits[None], boxes[None], [target])  # one Match(query, target) for each image
assert paired.query.tolist() == query.tolist()
assert paired.target.tolist() == index.tolist()
display(matching.draw(state_of(cheapest)))

# %% [markdown]
# Each column has one frame; the bars are the loss of these queries alone.
#
# ## Break the weights
#
# **Predict.** Leave L1 out. Do the assignments change? For a fresh network, and for the trained one:


# %%
def assign(predicted, target, weights):  # -> the query of each object, (N,)
    names = ("class_weight", "bbox_weight", "giou_weight")
    config = model.config.replace(**dict(zip(names, weights, strict=True)))
    (paired,) = HungarianMatcher(config)(predicted.pred_logits, predicted.pred_boxes, [target])
    return paired.query[paired.target.argsort()]


fresh = build_model("tiny", num_classes=12).eval()
looks = [look[1:] for look in map(look_at, range(100, 112)) if len(look[2].labels)]
for name, network in (("fresh", fresh), ("trained", model)):
    with torch.no_grad():
        seen = [(network.forward_raw([image]), target) for image, target in looks]
    for weights in ((2.0, 0.0, 2.0), (2.0, 5.0, 0.0), (0.0, 5.0, 2.0)):
        changed = torch.cat([assign(*look, weights) != assign(*look, (2.0, 5.0, 2.0)) for look in seen])
        print(f"{name:8} weights {weights}: {int(changed.sum())} of {len(changed)} objects get another query")

# %% [markdown]
# Without L1 (the first line of each three) a fresh network's assignments change often, a trained one's hardly: there,
# each box term can do without the other. A fresh network scores all classes nearly alike, so the box terms decide. A
# trained one knows its classes; without that term (the last line) many objects go to another query. Such as a stop sign
# in the most crowded scene. The two that want it:

# %%
crowd_out, crowd_target = max(seen, key=lambda look: len(look[1].labels))
sign = 6
fits = box_iou(cxcywh_to_xyxy(crowd_out.pred_boxes[0]), cxcywh_to_xyxy(crowd_target.boxes))[:, sign]
scores = crowd_out.pred_logits[0, :, crowd_target.labels[sign]].sigmoid()
total = matcher.cost(crowd_out.pred_logits[0], crowd_out.pred_boxes[0], crowd_target)[:, sign]
winner, loser = total.topk(2, largest=False).indices.tolist()
for q in (winner, loser):
    print(f"query {q}: IoU {fits[q]:.2f}, score {scores[q]:.2f}, sum of costs {total[q]:+.2f}")
assert fits[loser] > fits[winner]
assert assign(crowd_out, crowd_target, (2.0, 5.0, 2.0))[sign] == winner
assert assign(crowd_out, crowd_target, (0.0, 5.0, 2.0))[sign] == loser

# %% [markdown]
# The second's box fits better, and it still loses: it is less sure of the stop sign. Without the class it wins.
#
# Your turn: drag a box, move a weight or a score, watch who takes over. *(Without a kernel, this is a picture.)*

# %%
rivals = cost[:, [1, 3, 4]].topk(2, dim=0, largest=False).indices.unique().tolist()
playground = matching_playground(state_of(rivals, objects=[1, 3, 4]))
display(playground)

# %% [markdown]
# ## Three losses
#
# The pairs are fixed: no gradient goes through the choice. Then the same three terms are the loss.
#
# ### Exercise: focal loss
#
# `focal_loss(logits, onehot)`: with p the probability given to the *right* answer (yes where onehot is 1, no where it
# is 0), `-weight * (1 - p) ** 2 * log(p)` of each logit; weight 0.25 for a yes, 0.75 for a no. Must survive a logit of 120.


# %%
def focal_loss(logits, onehot):
    raise NotImplementedError


check("10.focal_loss", focal_loss)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def focal_loss(logits, onehot):
    entropy = F.binary_cross_entropy_with_logits(logits, onehot, reduction="none")  # -log(p), at any logit
    p = logits.sigmoid()
    wrong = torch.where(onehot > 0, 1 - p, p)
    return torch.where(onehot > 0, 0.25, 0.75) * wrong**2 * entropy


check("10.focal_loss", focal_loss)

# %% [markdown]
# All three by hand, against the criterion:

# %%
onehot = torch.zeros_like(logits)  # (Q, K)
onehot[paired.query, target.labels[paired.target]] = 1
mine, wanted = boxes[paired.query], target.boxes[paired.target]  # (N, 4)
overlap = generalized_iou(cxcywh_to_xyxy(mine), cxcywh_to_xyxy(wanted)).diagonal()
by_hand = {
    "loss_class": 2 * focal_loss(logits, onehot).sum() / 6,
    "loss_bbox": 5 * (mine - wanted).abs().sum() / 6,
    "loss_giou": 2 * (1 - overlap).sum() / 6,
}
losses = model.criterion.layer_losses(logits[None], boxes[None], [target], num_boxes=6)
for name, value in by_hand.items():
    torch.testing.assert_close(value, losses[name])
    print(f"{name:10} {value:.4f}, deviation {(value - losses[name]).abs():.0e}")

# %% [markdown]
# 600 numbers go into the class loss: 6 wanted, 594 to be denied. Boxes are judged for 6 queries only; an unmatched
# query's may be anything.
#
# ## Divided by what?
#
# By 6, the number of objects; not of queries, not of images. In a batch, by all its objects together, at least 1.
#
# ### Exercise: the box loss of a batch
#
# `box_loss(boxes, targets, pairs)`: boxes (B, Q, 4), for each image targets (N, 4) and pairs of index tensors (query,
# object) -> the sum of |difference|, divided by the number of objects in the batch, at least 1.


# %%
def box_loss(boxes, targets, pairs):
    raise NotImplementedError


check("10.box_loss", box_loss)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def box_loss(boxes, targets, pairs):
    total = boxes.new_zeros(())
    for own, target, (query, index) in zip(boxes, targets, pairs, strict=True):
        total = total + (own[query] - target[index]).abs().sum()
    return total / max(sum(len(target) for target in targets), 1)


check("10.box_loss", box_loss)

# %% [markdown]
# **Predict.** Put an empty image beside the scene. What happens to the loss of the boxes?

# %%
none = torch.zeros(0, dtype=torch.int64)
scene_alone = 5 * box_loss(boxes[None], [target.boxes], [paired])
with_empty = 5 * box_loss(boxes.expand(2, -1, -1), [target.boxes, target.boxes[:0]], [paired, (none, none)])
torch.testing.assert_close(scene_alone, losses["loss_bbox"])
print(f"alone {scene_alone:.4f}, beside an empty image {with_empty:.4f}")

# %% [markdown]
# Nothing. A mean over images would halve it, and an object would count less for its neighbour's emptiness.
#
# ## Every layer is asked
#
# One loss at the end would leave the first layers guessing. So each layer is matched and judged by itself. **Predict**:
# how many losses has the paper's two-stage model, with 6 layers and an encoder?

# %%
guesses = [LayerOutput(torch.randn(1, 300, 91), torch.rand(1, 300, 4)) for _ in range(7)]  # 6 layers, and the encoder
output = DetrOutput(*guesses[5], aux=guesses[:5], memory=None, hidden_states=None, reference_points=[])
output = output._replace(enc_logits=guesses[6].pred_logits, enc_boxes=guesses[6].pred_boxes)
losses = Criterion(PRESETS["r50_two_stage"])(output, [target])
assert len(losses) == 3 * 7
print(len(losses), "losses:", ", ".join(name for name in losses if "class" in name), "and as many of boxes, twice")

# %% [markdown]
# Their sum is what `backward` is called on. And do the layers agree on who is responsible? In the crowded scene, from
# layer to layer, and in all the scenes of the table above:


# %%
def responsible(out, target):  # -> the query of each object, by each layer (layers, N)
    layers = [*out.aux, LayerOutput(out.pred_logits, out.pred_boxes)]
    return torch.stack([assign(layer, target, (2.0, 5.0, 2.0)) for layer in layers])


by_layer = responsible(crowd_out, crowd_target)
for label, queries in zip(crowd_target.labels, by_layer.T.tolist(), strict=True):
    print(f"{model.categories[label]['name']:<13}", " -> ".join(f"{q:>2}" for q in queries))
everywhere = torch.cat([responsible(*look) for look in seen], dim=1)  # (layers, all objects)
handed_over = (everywhere[1:] != everywhere[:-1]).sum(1).tolist()
for n, count in enumerate(handed_over, start=1):
    print(f"layer {n} hands over {count} of {everywhere.shape[1]} objects")
car = 3
assert by_layer[0, car] != by_layer[-1, car]
assert (by_layer[0] == by_layer[-1]).sum() > len(crowd_target.labels) / 2
assert handed_over[-1] < handed_over[0] < everywhere.shape[1] / 3

# %% [markdown]
# Mostly, and the later, the more. But the car changes hands: what looked best to the first layer does not to the last.
# That is what a matching for each layer is for.
#
# ## An image without objects
#
# **Predict.** No object, no pair. Is the loss zero?

# %%
empty = toy_scene(11)
assert not empty.annotations
nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
model.train()
losses = model([prepare_image(Image.fromarray(empty.image), 160)], [nothing])
sum(losses.values()).backward()
model.eval()
print({name: round(value.item(), 3) for name, value in losses.items() if not name[-1].isdigit()})
print("the class head has a gradient:", bool(model.heads.class_embed[0].weight.grad.any()))

# %% [markdown]
# Not zero: all 600 answers should be no, and that is worth learning. There is no box loss, and the division is by 1.
# Give boxes of shape (0, 4). Both reference implementations train on empty images too.
#
# ## 80, 90 or 91 classes
#
# COCO has 80 categories. Their ids have gaps:

# %%
missing = sorted(set(range(91)) - set(COCO_NAMES))
print(len(COCO_NAMES), "categories, ids", min(COCO_NAMES), "to", max(COCO_NAMES), "· never used:", missing)

# %% [markdown]
# The official code uses the id as the label: 91 classes, since ids up to 90 need one more from 0; 11 never occur.
# mmdetection counts the 80 from 0. Both work. Mixed, nothing fails either:

# %%
official, mmdet = coco_categories(91), coco_categories(80)
same = sum(official[label]["name"] == mmdet[label]["name"] for label in range(80))
print(f"label 16: official {official[16]['name']!r}, mmdetection {mmdet[16]['name']!r}. The same in both: {same} of 80")
assert same == 0

# %% [markdown]
# That is the silent one: train with one and evaluate with the other, and the loss falls, every name is wrong, and AP
# stays near 0. A label out of range is louder here. Labels counted from 1, and ids not mapped:

# %%
h, w = image.shape[1:]
good = {"boxes": cxcywh_to_xyxy(target.boxes) * torch.tensor([w, h, w, h]), "labels": target.labels}


def attempt(**change):
    try:
        model.train()([image], [{**good, **change}])
    except (ValueError, FloatingPointError) as error:
        print(f"{type(error).__name__}: {error}\n")


print("largest label:", target.labels.max().item())
attempt(labels=target.labels + 1)
attempt(labels=torch.tensor([13, 13, 16, 85, 9, 44]))

# %% [markdown]
# The first is noticed only because this scene has the last class: keep K exact. Elsewhere a label goes straight to the
# matcher, as an index. By hand:

# %%
scores = logits.sigmoid()
try:
    scores[:, 12]
except IndexError as error:
    print("label 12:", error)
print("label -1: no error, and the cost is that of class", int((scores[:, -1] == scores.T).all(1).nonzero()))

# %% [markdown]
# On a GPU the first is a "device-side assert", reported far from its cause. The second says nothing at all.
#
# ## NaN, and the GIoU assertion
#
# Other code bases check in GIoU that `x2 >= x1`. **Predict.** Sizes come out of a sigmoid. How can a prediction fail?

# %%
nan = torch.tensor(float("nan"))
print("nan >= nan:", bool(nan >= nan), "· smallest width predicted:", f"{boxes[:, 2].min():.3f}")

# %% [markdown]
# Only by being NaN. The assertion is where it is noticed, not where it comes from. Make one, with a learning rate far
# too high:

# %%
blown = build_model("tiny", num_classes=12).train()
optimizer = torch.optim.SGD(blown.parameters(), lr=1e5)
try:
    for _ in range(5):
        optimizer.zero_grad()
        sum(blown([image], [good]).values()).backward()
        optimizer.step()
except FloatingPointError as error:
    print(f"{type(error).__name__}: {error}")

# %% [markdown]
# A *target* can fail it too: sizes given as corners, a NaN in the file. Here they do not reach the loss, nor do boxes
# that are not in pixels:

# %%
corners = good["boxes"]
attempt(boxes=torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1))  # (x, y, w, h)
attempt(boxes=corners * float("nan"))
attempt(boxes=corners / torch.tensor([w, h, w, h]))

# %% [markdown]
# And GIoU itself makes a NaN where two boxes without area meet, unless 0 / 0 is caught:

# %%
point = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
theirs = torchvision.ops.generalized_box_iou(point, point)
print("torchvision:", theirs.item(), "· here:", generalized_iou(point, point).item())

# %% [markdown]
# ## Take with you
#
# * One query for each object, by the lowest sum of class, L1 and GIoU costs; all others learn to say no.
# * Every layer is matched anew, and every loss is divided by the batch's number of objects.
# * Labels are 0 to K - 1. An image without objects trains too: all its answers should be no.
#
# Questions answered here: 26 (classes and labels), 27 (empty images), 33 (GIoU assertion, NaN).
#
# ## In other code bases
#
# | here | mmdetection | official | Hugging Face |
# |---|---|---|---|
# | `HungarianMatcher` | `HungarianAssigner` | `HungarianMatcher` | `DeformableDetrHungarianMatcher` |
# | `class_cost`, `bbox_cost`, `giou_cost` | `FocalLossCost`, `BBoxL1Cost`, `IoUCost` | `cost_class`, `cost_bbox`, `cost_giou` | `class_cost`, `bbox_cost`, `giou_cost` |
# | `Criterion` | `DeformableDETRHead.loss` | `SetCriterion` | `DeformableDetrForObjectDetectionLoss` |
# | `loss_class`, `loss_bbox`, `loss_giou` | `loss_cls`, `loss_bbox`, `loss_iou` | `loss_ce`, `loss_bbox`, `loss_giou` | as the official |
# | `loss_class_0`, ... | `d0.loss_cls`, ... | `loss_ce_0`, ... | `loss_ce_0`, ..., if `auxiliary_loss` |
# | `loss_class_enc` | `enc_loss_cls` | `loss_ce_enc` | none |
# | weights 2, 5, 2 in costs and losses | the same | the same | 1, 5, 2: the class counts half |
#
# Next: *Does it learn?* (11 · Train on a COCO subset)
