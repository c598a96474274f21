# %% [markdown]
# # 05 · Sampling offsets
#
# **Where does it look, and how hard?**
#
# After this page you can
#
# * draw the star that a fresh network looks at, and say why it has one ray for each head;
# * turn offsets into places on a map and in your image, from a point or from a box;
# * write the whole attention module by hand and draw the paper's figure 6.

# %%
import math

import torch
import torch.nn.functional as F
from IPython.display import display
from PIL import Image

from ddetr import load_pretrained
from ddetr.course import check
from ddetr.data import prepare_image, toy_scene
from ddetr.engine.schedule import Recipe
from ddetr.models.deform_attention import MSDeformAttn
from ddetr.ops import bilinear_sample, choose_backend, ms_deform_attn
from ddetr.viz import SamplingExplorer, coordinate_sandboxes, figures, offsets, sampling
from ddetr.viz.attention import AttentionState
from ddetr.viz.attention_playground import attention_playground

torch.manual_seed(0)
model = load_pretrained("tiny").eval()
image, tall = (prepare_image(Image.fromarray(toy_scene(seed).image), 160) for seed in (105, 7))
trace = model.trace([image])
print(f"device cpu · operator {choose_backend()} · weights tiny, tiny_two_stage · data ToyCOCO")

# %%
display(figures.pipeline_map(["encoder", "decoder"]))

# %% [markdown]
# ## Four linear layers
#
# A token stands at its reference point. Everything else that this attention has is four linear layers:

# %%
attention = model.encoder.layers[1].self_attn
C, M, L, P = 128, 8, 4, 4  # channels, heads, levels, points; C = 256 in the paper
for name, layer in attention.named_children():
    print(f"{name:18} {layer.in_features} -> {layer.out_features}")

# %% [markdown]
# **Predict.** Why 256 numbers from `sampling_offsets`, and why 128 from `attention_weights`?

# %%
assert attention.sampling_offsets.out_features == M * L * P * 2  # an (x, y) for each point
assert attention.attention_weights.out_features == M * L * P  # a number for each point
query = trace["encoder.layer1.attention_query"]  # (B, S, C), position already added
with torch.no_grad():
    by_hand = F.linear(query, attention.sampling_offsets.weight, attention.sampling_offsets.bias)  # (B, S, 256)
by_hand = by_hand.view(1, -1, M, L, P, 2)
torch.testing.assert_close(by_hand, trace["encoder.layer1.sampling_offsets"], rtol=1e-4, atol=1e-4)
print(f"largest deviation: {(by_hand - trace['encoder.layer1.sampling_offsets']).abs().max():.0e}")

# %% [markdown]
# So 128 places for each token: 8 heads, 4 levels, 4 points. `value_proj` makes what is read there, `output_proj` mixes
# the heads.
#
# ## The star
#
# **Predict.** In a fresh network the weights of `sampling_offsets` are zero: only the bias counts. Where should 8 heads
# of 4 points look first?

# %%
fresh = MSDeformAttn(embed_dim=C)
star = fresh.sampling_offsets.bias.detach().view(M, L, P, 2)
assert fresh.sampling_offsets.weight.abs().max() == 0
assert torch.equal(star, star[:, :1].expand_as(star))  # the same on all levels
display(offsets.star(star[:, 0], "a fresh network, any level"))

# %% [markdown]
# One ray for each head, points at 1, 2, 3 and 4 cells. By hand:

# %%
angle = torch.arange(M) * 2 * math.pi / M  # (M,)
direction = torch.stack([angle.cos(), angle.sin()], -1)  # (M, 2)
direction = direction / direction.abs().amax(-1, keepdim=True)  # onto a square: diagonals go to (1, 1)
by_hand = direction[:, None] * torch.arange(1, P + 1)[:, None]  # (M, 1, 2) * (P, 1) -> (M, P, 2)
torch.testing.assert_close(by_hand, star[:, 0])
print(f"largest deviation: {(by_hand - star[:, 0]).abs().max():.0e}")

# %% [markdown]
# The square makes them land on cell centres: on its own level a token starts by reading whole cells.
#
# Why a direction for each *head*? **Break it**: give every head points all around. At the start all weights are equal,
# so a head sees the mean of its points. Where does that lie?

# %%
around = direction[::2].expand(M, P, 2) * torch.arange(1, M + 1)[:, None, None]  # point p in direction p
for name, points in (("over heads", star[:, 0]), ("over points", around)):
    means = [f"({x:.1f}, {y:.1f})" for x, y in (points.mean(1) + 1e-6).round(decimals=1) + 0.0]
    print(f"{name:12}", *means[:5], "...")

# %% [markdown]
# Over points, every head sees a blur around the token; none can tell left from right. Over heads, "what is to my right"
# has channels of its own from the first step.
#
# Is it trained?

# %%
assert fresh.sampling_offsets.bias.requires_grad
print("yes, at", Recipe().slow_factor, "of the learning rate")

# %% [markdown]
# A point learns from the slope of the map under it *(page 06)*. That slope holds only between two neighbouring cells, so
# a point must move in small steps.
#
# ## How hard? A softmax without keys
#
# In dense attention a query meets a key, and the product says how hard to look. **Predict.** What does the query meet
# here?

# %%
with torch.no_grad():
    logits = attention.attention_weights(query).view(1, -1, M, L, P)  # (B, S, C) -> (B, S, M, L, P)
weights = logits.flatten(-2).softmax(-1).view_as(logits)  # over the 16 points of a head
torch.testing.assert_close(weights, trace["encoder.layer1.attention_weights"], rtol=1e-4, atol=1e-5)
torch.testing.assert_close(weights.sum((-2, -1)), torch.ones(1, 727, M))
print(f"largest deviation: {(weights - trace['encoder.layer1.attention_weights']).abs().max():.0e}")

# %% [markdown]
# Nothing. The weights are decided *before* anything is read. Keys would have to be fetched from 128 places first, and
# the query chose those places itself, so it can say at once what each is worth. What it finds there can change its mind
# only in the next layer. One token, on the clock:

# %%
view = sampling.SamplingView.from_trace(trace, image, names=[c["name"] for c in model.categories])
token = sampling.token_at(view, level=0, x=164, y=135)
display(offsets.weights_by_head(weights[0, token], f"token {token}: what each head spends where"))

# %% [markdown]
# Each bar is one head and 1 long: 16 points compete, on all levels at once.
#
# ### Exercise: attention weights
#
# `attention_weights(logits)`: (B, Q, M, L, P) -> the same shape. A head's points sum to 1, over all its levels.


# %%
def attention_weights(logits):
    raise NotImplementedError


check("05.attention_weights", attention_weights)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def attention_weights(logits):
    return logits.flatten(-2).softmax(-1).view_as(logits)  # (B, Q, M, L * P) and back


check("05.attention_weights", attention_weights)

# %% [markdown]
# ## Divide by (W, H)
#
# Offsets count cells; the operator wants [0, 1]. So each is divided by its level's (W, H). **Predict**: four cells to
# the right, is that equally far in the image on all levels? **Touch**: drag the reference point.

# %%
sizes = tuple(trace.level_sizes)
coordinate_sandboxes.offsets_sandbox(image, sizes)

# %% [markdown]
# No. On level 0 it is a seventh of the image's width, on level 3 all of it. Near and fine, far and coarse. Hollow
# points are outside.
#
# **Break it.** `spatial_shapes` are (H, W). Divide by them as they come:

# %%
playground = offsets.OffsetsState(reference=(0.5, 0.5), level_sizes=sizes)
display(offsets.draw(playground._replace(swapped=True, head=0)))
h, w = sizes[0]
print(f"level 0: head 0's last point, meant for 4 cells to the right, goes {4 / h * w:.1f}")

# %% [markdown]
# The star is stretched one way and squeezed the other (grey: the other heads). On square images nothing is wrong, so a
# test at 640 x 640 passes. In one line, with the axes in the right place:

# %%
reference = trace["encoder.layer1.attention_reference_points"]  # (B, S, L, 2)
steps = trace["encoder.layer1.sampling_offsets"]  # (B, S, M, L, P, 2)
wh = torch.tensor(sizes).flip(-1)  # (L, 2): (h, w) -> (w, h)
locations = reference[:, :, None, :, None] + steps / wh[:, None]  # (B, S, 1, L, 1, 2) + (B, S, M, L, P, 2) / (L, 1, 2)
torch.testing.assert_close(locations, trace["encoder.layer1.sampling_locations"])
print(f"largest deviation: {(locations - trace['encoder.layer1.sampling_locations']).abs().max():.0e}")

# %% [markdown]
# ### Exercise: sampling locations
#
# `sampling_locations(reference_points, offsets, spatial_shapes)`: (B, Q, L, 2), (B, Q, M, L, P, 2) in cells, and (L, 2)
# as (h, w). Returns (B, Q, M, L, P, 2).


# %%
def sampling_locations(reference_points, offsets, spatial_shapes):
    raise NotImplementedError


check("05.sampling_locations", sampling_locations)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def sampling_locations(reference_points, offsets, spatial_shapes):
    wh = spatial_shapes.flip(-1)  # (L, 2)
    return reference_points[:, :, None, :, None] + offsets / wh[:, None]


check("05.sampling_locations", sampling_locations)

# %% [markdown]
# ## With a box: parts of its half sides
#
# With refinement a query looks from a box (cx, cy, w, h). The formula is now offset / P * (w, h) * 0.5. **Predict**:
# where does the star end?

# %%
box = (0.55, 0.5, 0.4, 0.6)
display(offsets.draw(playground._replace(reference=box)))

# %%
centre, sides = torch.tensor(box).split(2)
by_hand = centre + star / P * sides * 0.5  # (M, L, P, 2)
torch.testing.assert_close(by_hand, offsets.locate(playground._replace(reference=box)))
outermost = ((by_hand[:, :, -1] - centre).abs() / sides).amax(-1)  # (M, L), in sides of the box
torch.testing.assert_close(outermost, torch.full((M, L), 0.5))
print(f"the last point of every head: {outermost.min():.2f} box sides from the centre")

# %% [markdown]
# On the border of the box, half a side from its centre: P makes the last ring 1, and 0.5 takes half of the side.
# Without the two the star would be eight boxes wide. It is the same on all levels: a box says how large its object is,
# so the level need not. *(To drag the box: `coordinate_sandboxes.offsets_sandbox(image, sizes, box)`.)*
#
# ### Exercise: locations in a box
#
# `box_locations(boxes, offsets)`: (B, Q, L, 4) as (cx, cy, w, h) and (B, Q, M, L, P, 2) -> (B, Q, M, L, P, 2).


# %%
def box_locations(boxes, offsets):
    raise NotImplementedError


check("05.box_locations", box_locations)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def box_locations(boxes, offsets):
    centre, sides = boxes[:, :, None, :, None].split(2, -1)  # (B, Q, 1, L, 1, 2) each
    return centre + offsets / offsets.shape[4] * sides * 0.5


check("05.box_locations", box_locations)

# %% [markdown]
# ## Outside the map
#
# Nothing holds a point inside. **Predict.** On a map of ones, what is read a quarter of a cell beyond the border?

# %%
ones = torch.ones(5, 7, 1)  # (h, w, D)
for x in (0.5, 0.25, 0.0, -0.25, -0.5):
    print(f"x = {x:5.2f} cells: {bilinear_sample(ones, x, 2.5).item():.2f}")

# %% [markdown]
# It fades over one cell, half of it inside, and is zero from there on. How often does the trained network look there?

# %%
for layer in range(2):
    places = trace[f"encoder.layer{layer}.sampling_locations"]
    strength = trace[f"encoder.layer{layer}.attention_weights"]
    outside = ((places < 0) | (places > 1)).any(-1)  # (B, S, M, L, P)
    of_points = outside.float().mean((0, 1, 2, 4))  # (L,)
    of_weight = (strength * outside).sum((0, 1, 2, 4)) / strength.sum((0, 1, 2, 4))
    assert (of_weight[:2] < of_points[:2]).all()
    assert of_weight[3] > of_points[3]
    for name, share in (("points", of_points), ("weight", of_weight)):
        print(f"layer {layer}, {name} outside by level:", *(f"{s:.0%}" for s in share))
    print(f"layer {layer}, weight outside in all: {(strength * outside).sum() / strength.sum():.0%}")

# %% [markdown]
# Plainly: of all that the trained encoder looks with, half in the first layer and a third in the second falls off the
# map, where nothing is read, or next to nothing. On small maps most of it does: four cells lead out of level 3 from
# anywhere. There it is more than bad luck: on the two fine levels less of the weight is outside than of the points, on
# the coarsest more. A softmax must spend its 1 somewhere: outside, a head can spend it and read nothing.
#
# ## From sampling locations to pixels
#
# `sampling_locations` are not the reference points, they lie around them. And they are of the *padded* map: divide by
# the valid ratio, multiply by the image's size. In a batch, with padding:

# %%
pair = model.trace([image, tall])
places = pair["encoder.layer1.sampling_locations"][0]  # (S, M, L, P, 2), the first image
ratios = pair["multi_scale.valid_ratios"][0]  # (L, 2)
pixels = places / ratios[:, None] * torch.tensor([212, 160])  # (x, y) in pixels of the image
on_clock = 16 * 27 + 20  # level 0, row 16, column 20
heaviest = pair["encoder.layer1.attention_weights"][0, on_clock].argmax().item()  # of 128
x, y = places[on_clock].flatten(0, 2)[heaviest].tolist()
x_pixel, y_pixel = pixels[on_clock].flatten(0, 2)[heaviest].tolist()
print(f"({x:.3f}, {y:.3f}) of the map is pixel ({x_pixel:.1f}, {y_pixel:.1f}) of the image")

# %% [markdown]
# (As the network counts: the mask has 21 of 30 rows for an image that fills 20 *(page 03)*, so what is read there lies a
# few pixels lower. Below, where the image is alone, the same dot is at y = 136.)
#
# The package's `sampling.points_of` does the same for all points of a token, heaviest last:

# %%
points = sampling.points_of(sampling.SamplingView.from_trace(pair, image), "encoder", 1, on_clock)
theirs = torch.from_numpy(points.y)
ours = pixels[on_clock, points.head, points.level, points.point, 1]
torch.testing.assert_close(ours, theirs)
print(f"largest deviation: {(ours - theirs).abs().max():.0e} pixels")

# %% [markdown]
# ## The paper's figure 6
#
# Draw it: the token on the clock, all its heads and levels. A dot grows with its weight.

# %%
display(SamplingExplorer(view=view, layer=1, token=token))

# %% [markdown]
# The cross is the reference point. The heavy points sit around the rim of the clock. Move over the image; arrow keys
# move the token, [ and ] the layer. For a model of yours: `SamplingExplorer(model, image)`. Without a notebook,
# `sampling.sampling_points(view, "encoder", 1, token)` draws the same picture. *(The decoder's: below, and page 08.)*
#
# ## One head, in your hands
#
# All of it at once, for one head of this token. **Predict**: lower one logit. Which weights change? **Touch**: choose a
# level, drag its points, slide their logits.

# %%
start = AttentionState(
    figures.pixels_of(image), trace["encoder.layer1.value"][0], sizes, reference[0, token], steps[0, token],
    logits[0, token], head=4,
)  # fmt: skip
attention_playground(start)

# %% [markdown]
# All 16, since they share 1. A dragged point changes no weight, but reads another vector. The bars at the bottom are
# what `output_proj` gets from this head; outlined, what the network made.
#
# ## Points on a line
#
# Many people see this in their own models: the points of one head lie on a line. Take every fifth token, on level 0:

# %%
steps = trace["encoder.layer1.sampling_offsets"][0]  # (S, M, L, P, 2)
strength = trace["encoder.layer1.attention_weights"][0]
display(offsets.learnt_offsets(steps[::5, :, 0], strength[::5, :, 0], 0, "encoder layer 1, level 0; circles: the star"))

# %% [markdown]
# **Predict.** Throw four points onto a plane at random. What share of their spread lies along one line? And of a
# head's four?


# %%
def along_a_line(points):  # (..., P, 2) -> what share of their spread lies along one line
    spread = torch.linalg.svdvals(points - points.mean(-2, keepdim=True)).square()  # (..., 2)
    return (spread[..., 0] / spread.sum(-1)).mean()


moved = (steps - star).norm(dim=-1).mean()
assert moved < 0.5
print(f"{along_a_line(steps):.0%}; four points thrown at random: {along_a_line(torch.randn(10000, 4, 2)):.0%}")
print(f"mean distance from the star: {moved:.2f} cells")

# %% [markdown]
# That is normal: they start on a line and learn slowly. The *weights* learn faster, from 1/16 each to this:

# %%
heaviest = weights.flatten(-2).amax(-1)  # (B, S, M)
print(f"the heaviest of a head's 16 points: {heaviest.mean():.2f} on average; 1/16 = {1 / 16:.2f}")

# %% [markdown]
# So a head slides along its ray by choosing among its points. With boxes a ray starts out as long as half the box, and
# after training the heaviest points fill the object's:

# %%
refined = load_pretrained("tiny_two_stage").eval()
refined_trace = refined.trace([image])
refined_view = sampling.SamplingView.from_trace(refined_trace, image, names=[c["name"] for c in refined.categories])
best = int(refined_view.scores[-1].argmax())
display(sampling.sampling_points(refined_view, "decoder", 2, best, heaviest=40))

# %% [markdown]
# ## All of it, by hand
#
# Four linear layers, one softmax, one division, one sum. On the padded batch, with the trained weights:


# %%
def attend(module, query, reference, tokens, sizes, mask):  # -> (B, Q, C)
    value = module.value_proj(tokens).masked_fill(mask[..., None], 0)  # (B, S, C), padding reads zero
    value = value.view(*value.shape[:2], M, -1)  # -> (B, S, M, D)
    steps = module.sampling_offsets(query).view(*query.shape[:2], M, L, P, 2)
    logits = module.attention_weights(query).view(*query.shape[:2], M, L * P)
    weights = logits.softmax(-1).view(*query.shape[:2], M, L, P)
    wh = torch.tensor(sizes).flip(-1)
    locations = reference[:, :, None, :, None] + steps / wh[:, None]
    out = ms_deform_attn(value, sizes, None, locations, weights)  # the sum: page 06
    return module.output_proj(out)


# %%
query, reference = (pair[f"encoder.layer1.attention_{name}"] for name in ("query", "reference_points"))
tokens, mask = pair["encoder.layer0.output"], pair["multi_scale.mask"]
with torch.no_grad():
    ours = attend(attention, query, reference, tokens, pair.level_sizes, mask)
    theirs = attention(query, reference, tokens, pair.level_sizes, mask)
assert ours.shape == (2, 1092, 128)
torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
torch.testing.assert_close(theirs, pair["encoder.layer1.attention_output"], rtol=1e-4, atol=1e-5)
print(f"largest deviation: {(ours - theirs).abs().max():.0e}")

# %% [markdown]
# ## Take with you
#
# * A query asks no key: two linear layers say where to look and how hard, before anything is read.
# * Offsets count cells, so divide by (W, H); with a box they count P-ths of its half sides.
# * Each head starts with a direction and keeps it. Points outside read zero, and here up to half of the weight goes there.
#
# Questions answered here: 1 (figure 6), 2 (where the encoder looks; the decoder is on page 08), 3 (locations to
# pixels), 4 (points on a line), 7 (outside the map), 12 (the star), 13 (why (W, H)), 14 (boxes), 15 (no key).
#
# ## In other code bases
#
# | here | mmdetection | official | Hugging Face |
# |---|---|---|---|
# | `MSDeformAttn` | `MultiScaleDeformableAttention` of mmcv | `MSDeformAttn` | `DeformableDetrMultiscaleDeformableAttention` |
# | `reset_parameters`, the star | `init_weights` | `_reset_parameters` | `_init_weights` |
# | (w, h) in `sampling_locations` | `offset_normalizer` | `offset_normalizer` | `offset_normalizer` |
# | softmax over L * P | `attention_weights.softmax(-1)` | `F.softmax(attention_weights, -1)` | the same |
# | `slow_factor=0.1` | `lr_mult=0.1` | `--lr_linear_proj_mult 0.1` | the caller's optimiser |
#
# Next: *How is it computed, and why a kernel?* (06 · The attention operator)
