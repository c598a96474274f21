# %% [markdown]
# # 09 · Heads and refinement
#
# **How does a vector become a box?**
#
# After this page you can
#
# * decode scores and a box by hand, with refinement and without;
# * say what -2, -4.6 and each `detach` are for, and which loss trains the encoder;
# * follow a box from the token that proposed it through every layer.

# %%
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from IPython.display import display
from matplotlib.cbook import get_sample_data
from PIL import Image
from torch import Tensor, nn

from ddetr import build_model, load_pretrained
from ddetr.course import check
from ddetr.course.timelapse import SCENE_SEED, scene_target
from ddetr.data import normalize_image, prepare_image, toy_scene
from ddetr.losses import Target, sigmoid_focal_loss
from ddetr.models.reference_points import decoder_reference_points
from ddetr.models.two_stage import token_proposals
from ddetr.ops import choose_backend
from ddetr.viz import figures, refinement

torch.manual_seed(0)
plain, model = load_pretrained("tiny").eval(), load_pretrained("tiny_two_stage").eval()
print(f"device cpu · operator {choose_backend()} · weights tiny and tiny_two_stage · data ToyCOCO, matplotlib's photo")

# %%
display(figures.pipeline_map(["pre_decoder", "heads"]))

# %% [markdown]
# ## Two heads
#
# **Predict.** The paper's model has 6 decoder layers, 300 queries and 91 classes. Which shapes do the heads give for
# one image?

# %%
with get_sample_data("grace_hopper.jpg") as file:
    portrait = Image.open(file).convert("RGB")
photo = normalize_image(portrait.crop((0, 20, 512, 470)).resize((546, 480)))  # (3, 480, 546)
r50 = build_model("r50").eval()
with torch.no_grad():
    out = r50.forward_raw([photo])
    logits, boxes = r50.heads(list(out.hidden_states), out.reference_points)  # N of (B, Q, C) -> (N, B, Q, K | 4)
assert logits.shape == (6, 1, 300, 91)
assert boxes.shape == (6, 1, 300, 4)
print(tuple(out.hidden_states.shape), "->", tuple(logits.shape), "and", tuple(boxes.shape))

# %% [markdown]
# Every layer is read. Now a network that has learnt something:

# %%
scene = toy_scene(SCENE_SEED)
image = prepare_image(Image.fromarray(scene.image), 160)
with torch.no_grad():
    out = plain.forward_raw([image])
hidden = out.hidden_states[-1]  # (B, Q, C)
assert hidden.shape == (1, 50, 128)
class_head, box_head = plain.heads.class_embed[0], plain.heads.box_embed[0]
print(class_head)
print(box_head)

# %% [markdown]
# One matrix for the classes, three for the box. By hand:

# %%
first, second, last = box_head[0], box_head[2], box_head[4]
with torch.no_grad():
    logits = hidden @ class_head.weight.T + class_head.bias  # (1, 50, 128) -> (1, 50, 12)
    x = F.relu(hidden @ first.weight.T + first.bias)
    x = F.relu(x @ second.weight.T + second.bias)
    delta = x @ last.weight.T + last.bias  # (1, 50, 128) -> (1, 50, 4)
torch.testing.assert_close(logits, out.pred_logits)
torch.testing.assert_close(delta, box_head(hidden))
print(f"largest deviation: {(logits - out.pred_logits).abs().max():.0e}")

# %% [markdown]
# Twelve classes, twelve sigmoids: each says yes or no by itself, and there is no background class.
#
# ## An offset, not a box
#
# **Predict.** The four numbers in `delta`: are they the box, after a sigmoid?

# %%
target = scene_target(plain, scene)
match = plain.criterion.matcher(out.pred_logits, out.pred_boxes, [target])[0]
reference = out.reference_points[-1]  # (1, 50, 2): where each query looked from
for name, x in (("truth", target.boxes[match.target]), ("sigmoid(delta)", delta[0, match.query].sigmoid())):
    print(f"{name:15} centres x", [f"{v:.2f}" for v in x[:, 0]])
print(f"{'reference':15} centres x", [f"{v:.2f}" for v in reference[0, match.query, 0]])

# %% [markdown]
# No. The query sampled *around its reference*: it knows how far to go from there, not where "there" is. So the
# reference must be added, and the sum must stay in [0, 1]. Add where there are no borders, in inverse-sigmoid space:

# %%
point = torch.log(reference / (1 - reference))  # (1, 50, 2) in [0, 1] -> any number
centre, size = (point + delta[..., :2]).sigmoid(), delta[..., 2:].sigmoid()
by_hand = torch.cat([centre, size], -1)  # -> (1, 50, 4)
torch.testing.assert_close(by_hand, out.pred_boxes)
print(f"largest deviation: {(by_hand - out.pred_boxes).abs().max():.0e}")
print(f"{'reference+delta':15} centres x", [f"{v:.2f}" for v in by_hand[0, match.query, 0]])

# %% [markdown]
# Why not simply add? Look at what an offset does to three references:

# %%
display(refinement.offset_curves([0.05, 0.5, 0.95]))

# %% [markdown]
# The thin lines add in [0, 1] and leave the image at once. The curves cannot. An offset of 0 says "leave it". And the
# same answer moves a small size less: +1 turns a width of 0.05 into 0.13, and 0.5 into 0.73.
#
# ### Exercise: inverse sigmoid
#
# `inverse_sigmoid(x)`: log(x / (1 - x)). Hold x in [0, 1] first, then x and 1 - x each at 1e-5 or more: references on
# the border, or on padding, must stay finite.


# %%
def inverse_sigmoid(x):
    raise NotImplementedError


check("09.inverse_sigmoid", inverse_sigmoid)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def inverse_sigmoid(x):
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=1e-5) / (1 - x).clamp(min=1e-5))


check("09.inverse_sigmoid", inverse_sigmoid)

# %% [markdown]
# ### Exercise: decode a box
#
# `decode_box(delta, reference)`. A reference of (B, Q, 2) is a point, and the head's last two numbers are the size by
# themselves. One of (B, Q, 4) is a box, and all four are corrections: that is refinement. `torch.logit(x, 1e-5)` is
# an inverse sigmoid too.


# %%
def decode_box(delta, reference):
    raise NotImplementedError


check("09.decode_box", decode_box)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def decode_box(delta, reference):
    known = torch.logit(reference, 1e-5)  # (B, Q, 2 | 4)
    delta = delta.clone()
    delta[..., : known.shape[-1]] += known  # a point adds nothing to the size
    return delta.sigmoid()


check("09.decode_box", decode_box)

# %% [markdown]
# ## Where it starts: -4.6 and -2
#
# Two biases are set by hand in a fresh model. **Predict.** What are sigmoid(-4.6) and sigmoid(-2)?

# %%
fresh = build_model("tiny", num_classes=12).eval()
class_bias, box_bias = fresh.heads.class_embed[0].bias, fresh.heads.box_embed[0][-1].bias
print(f"class bias {class_bias[0]:.3f} -> a score of {class_bias[0].sigmoid():.3f}")
print("box bias  ", box_bias.tolist(), f"-> a side of {box_bias[3].sigmoid():.3f}")

# %% [markdown]
# Nearly all (query, class) pairs are empty. If each starts at 0.5, their losses drown the objects'. For 300 queries and
# 91 classes with nothing to find:

# %%
nothing = torch.zeros(300, 91)
for bias in (0.0, -math.log(99)):
    loss = sigmoid_focal_loss(nothing + bias, onehot=nothing).sum()
    print(f"class bias {bias:5.2f}: focal loss {loss:.2f}")

# %% [markdown]
# So all start at 1 per cent. And -2 is a first guess of the size. With and without both:


# %%
def first_look(detector):  # -> losses of a fresh model by name, and its first six boxes
    with torch.no_grad():
        out = detector.forward_raw([image])
    losses = detector.criterion.layer_losses(out.pred_logits, out.pred_boxes, [target], len(target.labels))
    print({name.removeprefix("loss_"): round(value.item(), 2) for name, value in losses.items()})
    return out.pred_boxes[0, :6]


guess = first_look(fresh)
with torch.no_grad():
    class_bias.zero_()
    box_bias.zero_()
display(refinement.box_panels(image, {"bias -2": guess, "bias 0": first_look(fresh)}))

# %% [markdown]
# Few objects are half an image wide. With 0.12 the L1 loss starts at about half; GIoU, which likes any overlap, is a
# little worse.
#
# With refinement only the *first* box head has the -2: the others are given a box. With two-stage none has it.
# **Why?**

# %%
for variant in ({}, {"box_refine": True}, {"box_refine": True, "two_stage": True}):
    heads = build_model("tiny", **variant).heads.box_embed
    print(f"{', '.join(variant) or 'plain':21}", [head[-1].bias[2].item() for head in heads])

# %% [markdown]
# Because a proposal has a size already.
#
# ## Two-stage: a box for each token
#
# Learned queries are the same for every image. Two-stage asks the encoder. Each token starts from a square around its
# own cell: 0.05 of the image on level 0, twice that on each next level.
#
# ### Exercise: the grid of proposals
#
# `proposals(mask, level)`: mask (B, h, w) of that level, True where padding -> (B, h * w, 4) as (cx, cy, w, h). Centres
# of cells, divided by the number of *valid* columns and rows; row by row. The side is 0.05 * 2**level.


# %%
def proposals(mask, level):
    raise NotImplementedError


check("09.proposals", proposals)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def proposals(mask, level):
    B, h, w = mask.shape
    valid_w, valid_h = (~mask[:, 0]).sum(-1), (~mask[:, :, 0]).sum(-1)  # (B,)
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    cx = x.flatten() / valid_w[:, None]  # (h * w,) -> (B, h * w)
    cy = y.flatten() / valid_h[:, None]
    side = torch.full_like(cx, 0.05 * 2**level)
    return torch.stack([cx, cy, side, side], -1)


check("09.proposals", proposals)

# %% [markdown]
# Not every token may propose: each of the four numbers must lie between 0.01 and 0.99, and padding is out.
# **Predict**: how many of the portrait's 5532 tokens are out?

# %%
sizes = [(60, 69), (30, 35), (15, 18), (8, 9)]
_, valid = token_proposals(None, sizes, batch_size=1)  # (B, S)
print([int((~level).sum()) for level in valid[0].split([h * w for h, w in sizes])])
padded = torch.ones(1, 60, 69, dtype=torch.bool)
padded[:, :50] = False  # rows 50 to 59 are padding
grid, valid = token_proposals(padded.flatten(1), sizes[:1], batch_size=1)
torch.testing.assert_close(grid, proposals(padded, 0))
print("with ten rows of padding:", int((~valid).sum()))

# %% [markdown]
# Level 0's outermost ring: its centres are less than 0.01 from the border. Tokens that are out have their memory set to
# zero and their box to infinity, which the sigmoid makes 1.
#
# ## From memory to queries
#
# One look at a scene, kept for later:


# %%
class Look(NamedTuple):
    image: Tensor
    target: Target
    tokens: NamedTuple  # of all levels, from the neck
    memory: Tensor  # (B, S, C)
    queries: NamedTuple  # what the decoder starts from


def look_at(seed):
    scene = toy_scene(seed)
    image = prepare_image(Image.fromarray(scene.image), 160)
    tokens = model.pre_transformer(model.batch_images([image]))
    memory = model.encoder(tokens)
    return Look(image, scene_target(model, scene), tokens, memory, model.pre_decoder(memory, tokens))


with torch.no_grad():
    look = look_at(SCENE_SEED)
print(tuple(look.memory.shape), "->", tuple(look.queries.reference_points.shape))

# %% [markdown]
# A linear layer, a norm, and heads like the decoder's, on every token. **Predict**: which level will send the most
# queries?

# %%
stage, (tokens, memory) = model.queries, look[2:4]
grid, valid = token_proposals(tokens.mask, tokens.level_sizes, batch_size=1)
assert valid.all()  # a small image has no cell that near to its border
with torch.no_grad():
    features = stage.enc_output_norm(stage.enc_output(memory))
    enc_logits = stage.class_embed(features)  # (B, S, C) -> (B, S, K)
    enc_boxes = (stage.box_embed(features) + torch.logit(grid)).sigmoid()  # -> (B, S, 4)
torch.testing.assert_close(enc_logits, look.queries.enc_logits)
torch.testing.assert_close(enc_boxes, look.queries.enc_boxes)
print(f"largest deviation: {(enc_boxes - look.queries.enc_boxes).abs().max():.0e}")

# %%
chosen = look.queries.proposal_index[0]  # (Q,): which tokens became queries
torch.testing.assert_close(look.queries.reference_points[0], enc_boxes[0, chosen])
display(refinement.proposals(look.image, tokens.level_sizes, grid[0], valid[0], chosen))

# %% [markdown]
# Dots are the cells' centres, the square is where one of them starts, rings mark the tokens that became queries. Here
# all are on the two finest levels.
#
# ## Class 0 alone
#
# Of 727 tokens the best 50 become queries. Best in what? `class_embed` gives twelve scores for each token. **Predict**:
# which classes score high in a scene with signs, a boat, a bird, a bottle and a clock?

# %%
for label, score in enumerate(enc_logits[0].sigmoid().amax(0).tolist()):
    print(f"class {label:2} {model.categories[label]['name']:14} best token {score:.4f}")

# %% [markdown]
# A car? There is none. In the encoder's loss *every object is given the label 0*. There, class 0 means "object", and the
# eleven others learn one thing: no. So the package, the official code and mmdetection rank by class 0 alone.
# **Break it**: rank by the best of all classes.

# %%
by_zero, by_any = (scores[0].topk(50).indices for scores in (enc_logits[..., 0], enc_logits.amax(-1)))
assert set(by_zero.tolist()) == set(by_any.tolist())
kept = set(by_zero.tolist()) & set(chosen.tolist())
print(f"ranked by class 0, and by the best class: the same tokens. The model's own choice shares {len(kept)} of 50")

# %% [markdown]
# Nothing changes: the eleven stay too low to win. But why does the model choose others? The tiny preset has
# `proposal_nms=0.6`: a proposal that overlaps a better one waits behind all others. The paper's presets have 0, and let the
# decoder sort them out.
#
# ## Layer by layer
#
# Each decoder layer takes a box, looks around it and corrects it; the next takes the corrected box.


# %%
def decode(look, heads=(0, 1, 2), detach=True):
    query, reference, layers = look.queries.query, look.queries.reference_points, []
    for n, layer in enumerate(model.decoder.layers):
        padded = decoder_reference_points(reference, look.tokens.valid_ratios)  # (B, Q, 4) -> (B, Q, L, 4)
        query = layer(query, look.queries.query_pos, padded, look.memory, look.tokens)
        boxes = model.heads.boxes(heads[n], query, reference)
        layers.append((model.heads.logits(n, query), boxes))
        reference = boxes.detach() if detach else boxes
    return layers


with torch.no_grad():
    layers, out = decode(look), model.forward_raw([look.image])
torch.testing.assert_close(layers[-1][1], out.pred_boxes)
print(f"largest deviation: {(layers[-1][1] - out.pred_boxes).abs().max():.0e}")

# %%
names = ["cell", "proposal", "layer 0", "layer 1", "layer 2"]


def follow(look, layers):  # -> the view's state: at each stage, the box of the query that ends up with each object
    match = model.criterion.matcher(*layers[-1], [look.target])[0]
    query = match.query[match.target.argsort()]  # (N,), by object
    cells = grid_of(look)[look.queries.proposal_index[0]]
    boxes = [cells, look.queries.reference_points[0], *(boxes[0] for _, boxes in layers)]
    labels = [model.categories[label]["name"] for label in look.target.labels]
    stages = [(name, box[query]) for name, box in zip(names, boxes, strict=True)]
    return refinement.RefinementState(look.image, stages, look.target.boxes, labels)


def grid_of(look):
    return token_proposals(look.tokens.mask, look.tokens.level_sizes, 1)[0][0]  # (S, 4)


# %%
state = follow(look, layers)
print(list(enumerate(state.names)))
display(refinement.draw(state._replace(objects=[1, 4, 5])))

# %% [markdown]
# Draw the others: `objects=[0, 2, 3]`. Not every box gains at every layer, and the clock's loses. The mean over more
# scenes:

# %%
with torch.no_grad():
    looks = [look for look in map(look_at, range(100, 114)) if len(look.target.labels)]
    iou = torch.cat([refinement.overlaps(follow(look, decode(look))) for look in looks], 1)  # (stages, objects)
mean = iou.mean(1)
assert mean[0] < mean[1] < mean[2] < mean[3]
print(f"{iou.shape[1]} objects:", ", ".join(f"{name} {value:.3f}" for name, value in zip(names, mean, strict=True)))

# %% [markdown]
# The proposal makes the leap, the first layer a step, the rest is polish.
#
# ## One head, or one for each layer?
#
# Without refinement all layers share one pair of heads: the same point, the same question. With refinement the questions
# differ. **Predict**: which layer corrects most? (In inverse-sigmoid units, the mean over all 50 queries.)

# %%
for n, head in enumerate(model.heads.box_embed):
    size = head(out.hidden_states[n]).abs().mean((0, 1))  # (B, Q, 4) -> (4,)
    print(f"box head {n}: mean correction of (cx, cy) {size[:2].mean():.3f}, of (w, h) {size[2:].mean():.3f}")

# %% [markdown]
# **Break it**: let one layer's head speak for all.

# %%
with torch.no_grad():
    for heads in ((0, 1, 2), (2, 2, 2), (0, 0, 0)):
        iou = torch.cat([refinement.overlaps(follow(look, decode(look, heads)))[-1] for look in looks])
        print(f"box heads {heads}: mean IoU {iou.mean():.3f}")
        assert iou.mean() < mean[-1] or heads == (0, 1, 2)

# %% [markdown]
# The first head's large steps spoil most. Coarse and fine work need their own weights.
#
# ## Who trains the encoder?
#
# Boxes are detached between layers, and proposals before the decoder. Is the encoder trained at all? Take each loss
# alone and see where its gradient arrives.

# %%
parts = {
    "encoder": model.encoder, "proposal heads": nn.ModuleList([stage.class_embed, stage.box_embed]),
    **{f"layer {n}": layer for n, layer in enumerate(model.decoder.layers)},
    **{f"box head {n}": head for n, head in enumerate(model.heads.box_embed)},
}  # fmt: skip


def reach(loss_of, detach=True):  # -> which parts the loss reaches, and the gradient's size on the memory
    look = look_at(SCENE_SEED)
    as_objects = Target(torch.zeros_like(look.target.labels), look.target.boxes)
    predictions = {"encoder": (look.queries.enc_logits, look.queries.enc_boxes, [as_objects])}
    predictions |= {f"layer {n}": (*layer, [look.target]) for n, layer in enumerate(decode(look, detach=detach))}
    loss = sum(model.criterion.layer_losses(*predictions[loss_of], num_boxes=len(look.target.labels)).values())
    model.zero_grad()
    look.memory.retain_grad()
    loss.backward()
    gradients = [[p.grad for p in part.parameters() if p.grad is not None] for part in parts.values()]
    return [any(bool(g.any()) for g in own) for own in gradients], look.memory.grad.norm()


# %%
def table(losses, detach):  # -> (losses, parts) bool
    print(f"{'loss of':10}{'  '.join(parts)}  |gradient on memory|")
    rows = []
    for loss_of in losses:
        reached, norm = reach(loss_of, detach)
        row = "  ".join(("yes" if yes else "-").ljust(len(name)) for name, yes in zip(parts, reached, strict=True))
        print(f"{loss_of:10}{row}  {norm:.3f}")
        rows.append(reached)
    return torch.tensor(rows)


reached = table(["encoder", "layer 0", "layer 1", "layer 2"], detach=True)
assert reached[:, 0].all()
assert not reached[1:, 1].any()

# %% [markdown]
# The first column: **every** loss reaches the encoder. The decoder's go through the *memory* that its attention samples.
# Only the way through the boxes is cut, so the proposal heads learn from the encoder's own loss and nothing else.
#
# And each layer's loss trains its own box head. **Break it**: no `detach` between layers.

# %%
reached = table(["layer 1", "layer 2"], detach=False)
assert reached[-1, -3:].all()

# %% [markdown]
# Now the last loss pulls at every box head. A correction would be blamed for what later layers make of it. Detached,
# each layer answers for its own step.
#
# ## Two-stage without refinement?

# %%
try:
    build_model("tiny", two_stage=True)
except ValueError as error:
    print(error)

# %% [markdown]
# A proposal is a box, and what a layer does with a box is correct it: that *is* refinement. The official code takes the
# encoder's heads from the refinement's list, as the last of N + 1. Without refinement there is no list, and it stops.
#
# ## Take with you
#
# * The box head says how far to go from the reference; the sum is made where there are no borders.
# * -4.6 keeps empty queries quiet at the start, -2 makes the first boxes small.
# * Boxes are detached, the memory is not: every loss trains the encoder, and each layer its own step.
#
# Questions answered here: 20 (biases), 21 (inverse sigmoid), 22 (shared heads), 23 (detached), 24 (class 0), 25
# (two-stage needs refinement).
#
# ## In other code bases
#
# | here | mmdetection | official | Hugging Face |
# |---|---|---|---|
# | `heads.class_embed` | `bbox_head.cls_branches` | `class_embed` | `class_embed` |
# | `heads.box_embed` | `bbox_head.reg_branches` | `bbox_embed` | `bbox_embed` |
# | one pair, or one for each layer | `share_pred_layer = not with_box_refine` | one module N times, or `_get_clones` | tied weights, or not |
# | `queries.class_embed`, `queries.box_embed` | the last of `cls_branches`, `reg_branches` | the last of `class_embed`, `bbox_embed` | the last of `class_embed`, `bbox_embed` |
# | `token_proposals`, `TwoStage.predict` | `gen_encoder_output_proposals` | `gen_encoder_output_proposals` | `gen_encoder_output_proposals` |
# | `encode_proposals` | `get_proposal_pos_embed` | `get_proposal_pos_embed` | `get_proposal_pos_embed` |
# | `enc_output`, `enc_output_norm` | `memory_trans_fc`, `memory_trans_norm` | `enc_output`, `enc_output_norm` | `enc_output`, `enc_output_norm` |
#
# Next: *Who is responsible for which object?* (10 · Matching and loss)
