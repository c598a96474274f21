# %% [markdown]
# # 08 · Decoder and queries
#
# **What are the 300 queries?**
#
# After this page you can
#
# * say which half of the query embedding is which, and make reference points of it;
# * write a decoder layer, and say why queries talk to each other before they look;
# * see where a query looks, in one picture and over many.

# %%
import copy
import math

import torch
import torch.nn.functional as F
from IPython.display import display
from PIL import Image
from torch import nn

from ddetr import build_model, load_pretrained
from ddetr.course import ablation, check
from ddetr.course.timelapse import SCENE_SEED
from ddetr.data import prepare_image, toy_scene
from ddetr.models.reference_points import decoder_reference_points
from ddetr.ops import choose_backend
from ddetr.viz import SamplingExplorer, draw_detections, figures, queries, sampling
from ddetr.viz.ablation import ablation_bars

torch.manual_seed(0)
model = load_pretrained("tiny").eval()
two_stage = load_pretrained("tiny_two_stage").eval()
print(f"device cpu · operator {choose_backend()} · weights tiny, tiny_two_stage for moving references · data ToyCOCO")

# %%
display(figures.pipeline_map(["pre_decoder", "decoder"]))

# %% [markdown]
# The memory says what is where, in 727 vectors. The answer is to be a short list. Who writes it? The queries: a fixed
# number of them, 300 in the paper's model, 50 in the tiny one. Each may end as one object.
#
# ## A table of numbers
#
# **Predict.** The paper's model has 256 channels. What shape do its learned queries have?

# %%
print("r50: ", tuple(build_model("r50").queries.query_embed.weight.shape))
table = model.queries.query_embed.weight.detach()
assert table.shape == (50, 2 * 128)  # (Q, 2 C)
print("tiny:", tuple(table.shape))

# %% [markdown]
# If you said (300, 256): it is twice as wide. A query has two halves, a position and a content.
#
# ## Which half is which?
#
# Nothing in the table says it. What is done with it does: one half gives the reference points. Wiggle each half and see
# whether a point moves.

# %%
for name, half in (("first", slice(0, 128)), ("last", slice(128, 256))):
    wiggled = copy.deepcopy(model.queries)
    wiggled.query_embed.weight.data[:, half] += 0.1
    moved = (wiggled(1).reference_points - model.queries(1).reference_points).abs().max()
    print(f"{name} 128 channels changed: reference points move by {moved:.3f}")

# %% [markdown]
# The first half is the position, `query_pos`; the last the content, `query`. By hand:

# %%
batch_size = 2
query_pos, query = table.chunk(2, dim=-1)  # (Q, 2 C) -> (Q, C), (Q, C)
query_pos, query = (half.expand(batch_size, -1, -1) for half in (query_pos, query))  # (Q, C) -> (B, Q, C)
with torch.no_grad():
    reference_points = model.queries.reference_points(query_pos).sigmoid()  # (B, Q, C) -> (B, Q, 2)
    inputs = model.queries(batch_size)
torch.testing.assert_close((query, query_pos, reference_points), tuple(inputs[:3]))
print(f"largest deviation from the package's: {(reference_points - inputs.reference_points).abs().max():.0e}")

# %% [markdown]
# No image so far. In this model the queries are the same for every image, and so is where they look from. *(With two
# stages the image proposes them: page 09.)*

# %%
image = prepare_image(Image.fromarray(toy_scene(SCENE_SEED).image), 160)  # (3, 160, 212)
trace = model.trace([image])
scores = trace["heads.logits"][-1, 0].sigmoid()  # (Q, K)
best = scores.amax(1).topk(5).indices.tolist()
display(queries.draw_reference_points(image, reference_points[0], best))

# %% [markdown]
# Nobody told them to spread so evenly. An object anywhere must have a query near by, and training has seen to it. The
# five with numbers gave the surest answers here.
#
# ### Exercise: the decoder's inputs
#
# `decoder_inputs(embedding, weight, bias, batch_size)` -> `query`, `query_pos`, `reference_points`. Split, expand,
# and a linear layer (`F.linear`) with a sigmoid.


# %%
def decoder_inputs(embedding, weight, bias, batch_size):
    raise NotImplementedError


check("08.decoder_inputs", decoder_inputs)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def decoder_inputs(embedding, weight, bias, batch_size):
    query_pos, query = embedding.chunk(2, dim=-1)  # (Q, 2 C) -> (Q, C), (Q, C)
    reference_points = F.linear(query_pos, weight, bias).sigmoid()  # (Q, 2)
    return tuple(part.expand(batch_size, -1, -1) for part in (query, query_pos, reference_points))


check("08.decoder_inputs", decoder_inputs)

# %% [markdown]
# ## Shuffle them
#
# **Predict.** You shuffle the 50 rows of the table. What happens to the detections?

# %%
order = torch.randperm(50)
shuffled = copy.deepcopy(model)
shuffled.queries.query_embed.weight.data = table[order]
with torch.no_grad():
    boxes, boxes_shuffled = (m.forward_raw([image]).pred_boxes[0] for m in (model, shuffled))
torch.testing.assert_close(boxes[order], boxes_shuffled, rtol=1e-4, atol=1e-5)
print(f"the same boxes in another order, largest deviation {(boxes[order] - boxes_shuffled).abs().max():.0e}")

# %% [markdown]
# Nothing. Queries are a set. A query's number means nothing, and that is why training needs a matching. *(Page 10.)*
#
# ## First they talk
#
# A decoder layer begins with self-attention among the queries: the ordinary, dense kind, for 50 or 300 are few.
# Position is in the question and in the key, not in the value: q = k = query + query_pos, v = query.
#
# **Predict.** In the first layer, before any has looked at the image: does what they say to each other depend on the
# image?

# %%
other = model.trace([prepare_image(Image.fromarray(toy_scene(7).image), 160)])
for n in range(3):
    name = f"decoder.layer{n}.after_self_attn"
    print(f"layer {n}: {(trace[name] - other[name]).abs().max():.2f} between two images")
assert torch.equal(trace["decoder.layer0.after_self_attn"], other["decoder.layer0.after_self_attn"])

# %% [markdown]
# It cannot: the first round is the same for every image, to the bit. From the second on they know what they have seen.
#
# ### Exercise: query, key, value
#
# `nn.MultiheadAttention` keeps three matrices in one, `in_proj_weight` (3 C, C): q first, then k, then v.
# `query_key_value(query, query_pos, weight, bias)` -> q, k, v.


# %%
def query_key_value(query, query_pos, weight, bias):
    raise NotImplementedError


check("08.query_key_value", query_key_value)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def query_key_value(query, query_pos, weight, bias):
    asking = query + query_pos
    weights, biases = weight.chunk(3), bias.chunk(3)  # (3 C, C) -> 3 of (C, C)
    return tuple(F.linear(x, w, b) for x, w, b in zip((asking, asking, query), weights, biases, strict=True))


check("08.query_key_value", query_key_value)

# %% [markdown]
# The rest is the attention you know, eight heads side by side:

# %%
layer = model.decoder.layers[0]
attention = layer.self_attn
with torch.no_grad():
    parts = query_key_value(query, query_pos, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = (part.unflatten(-1, (8, 16)).transpose(1, 2) for part in parts)  # (B, Q, C) -> (B, M, Q, D)
    weights = (q @ k.transpose(2, 3) / math.sqrt(16)).softmax(-1)  # (B, M, Q, Q)
    heard = attention.out_proj((weights @ v).transpose(1, 2).flatten(2))  # (B, M, Q, D) -> (B, Q, C)
    expected, _ = attention(query + query_pos, query + query_pos, query)
torch.testing.assert_close(heard, expected)
print(f"largest deviation from nn.MultiheadAttention: {(heard - expected).abs().max():.0e}")

# %% [markdown]
# ## Then they look
#
# Cross-attention is the module of the encoder, with other arguments. A query asks, the memory answers, padding reads
# zero.
#
# Reference points are (B, S, L, 2) in the encoder, and here (B, Q, 2). **Predict.** Where does the L come from?

# %%
with torch.no_grad():
    tokens = model.pre_transformer(model.batch_images([image, image[:, :, :120]]))  # the second is padded
    memory = model.encoder(tokens)
padded = decoder_reference_points(reference_points, tokens.valid_ratios)  # (B, Q, 2), (B, L, 2) -> (B, Q, L, 2)
torch.testing.assert_close(padded, reference_points[:, :, None] * tokens.valid_ratios[:, None])
print(f"query 0 of the padded image: {reference_points[1, 0].numpy().round(3)} of the image, on the four padded maps")
print(padded[1, 0].numpy().round(3))

# %% [markdown]
# A token belongs to a level, and its place is worked out from the cell it stands on. A query belongs to none: it has
# one point in the *image*, and just before each layer `valid_ratios` says where that is on each padded map. After
# that the module takes both alike.
#
# ## One layer, in view
#
# Talk, look, think. Each with a sum and a norm.


# %%
def layer_by_hand(layer, query, query_pos, references):  # (B, Q, C) -> (B, Q, C)
    asking = query + query_pos
    heard, _ = layer.self_attn(asking, asking, query)
    query = layer.self_attn_norm(query + heard)
    seen = layer.cross_attn(query + query_pos, references, memory, tokens.level_sizes, tokens.mask)
    query = layer.cross_attn_norm(query + seen)
    return layer.ffn(query)


# %%
states, x = [], query
with torch.no_grad():
    for layer in model.decoder.layers:
        x = layer_by_hand(layer, x, query_pos, padded)
        states.append(x)
    decoded = model.decoder(inputs, memory, tokens, model.heads)
hidden_states, expected = torch.stack(states), torch.stack(decoded.hidden_states)
assert hidden_states.shape == (3, 2, 50, 128)  # (layers, B, Q, C)
torch.testing.assert_close(hidden_states, expected, rtol=1e-4, atol=1e-5)
print(f"three layers by hand, largest deviation {(hidden_states - expected).abs().max():.0e}")

# %% [markdown]
# The position is added twice in every layer, each time fresh. All layers' outputs are kept as `hidden_states`: in
# training each of them is asked for boxes. *(Page 10.)* At the end only the last counts.
#
# ## Do the reference points move?
#
# The function above used `padded` in all three layers. In the one-stage model that is right:

# %%
moves = model.decoder(inputs, memory, tokens, model.heads).reference_points
assert all(torch.equal(points, reference_points) for points in moves)
boxes_of = two_stage.trace([image])
steps = [boxes_of[f"decoder.reference_points{n}"] for n in range(3)] + [boxes_of["heads.boxes"][-1]]
pixels = torch.tensor([212, 160])
print("tiny:           (B, Q, 2), the same in all layers")
for n in range(3):
    moved = ((steps[n + 1] - steps[n])[..., :2] * pixels).norm(dim=-1).mean()
    print(f"tiny_two_stage: (B, Q, 4), layer {n} moves the centres by {moved:.2f} pixels on average")

# %% [markdown]
# Only with box refinement do they move: each layer looks from the box that the one before has answered. The first
# step is the largest. *(Page 09.)*
#
# ## What one query sees
#
# The paper's figure 6, for the query that found the clock: its reference point, the points it reads in the last
# layer, its box (dashed). Click the other objects; step through the layers.

# %%
names = [category["name"] for category in model.categories]
view = sampling.SamplingView.from_trace(trace, image, names=names)
winner = int(scores[:, names.index("clock")].argmax())
display(SamplingExplorer(view=view, part="decoder", layer=2, query=winner, heaviest=64))

# %% [markdown]
# How much of the attention falls into the box, in each layer? **Predict**: more from layer to layer, or less?

# %%
cx, cy, w, h = trace["heads.boxes"][-1, 0, winner]
for n in range(3):
    places, weights = (
        trace[f"decoder.layer{n}.{name}"][0, winner] for name in ("sampling_locations", "attention_weights")
    )
    inside = ((places - torch.stack([cx, cy])).abs() < torch.stack([w, h]) / 2).all(-1)  # (M, L, P)
    off_map = ((places < 0) | (places > 1)).any(-1)  # these read zero, or little
    in_box, lost = (weights[where].sum() / 8 for where in (inside, off_map))
    print(f"layer {n}: {inside.float().mean():.0%} of the points lie in the box, with {in_box:.0%} of the weight; "
          f"{lost:.0%} of the weight is off the map")  # fmt: skip
    assert in_box > 0.85 * (1 - lost)
assert lost > 0.7 * (1 - in_box)
offsets = "decoder.layer0.sampling_offsets"
assert torch.equal(trace[offsets], other[offsets])

# %% [markdown]
# The first layer reads closely around the cross. It has not seen anything yet: its offsets are the same for every
# image, as the last line asserts. In the later layers more of the weight leaves the box, most of it for places off the
# map, where there is nothing to read *(page 05)*: in the last layer over a third of what this query looks with. Of what
# it does read, about nine tenths or more lies in the box, in every layer. (A small object's box holds less.)
#
# ## Why must they talk?
#
# A query that only looks cannot know that its neighbour sees the same ball. **Predict.** Silence the self-attention
# of the trained network. Will it find fewer objects?

# %%
scenes, images = ablation.toy_set(model, range(2000, 2060))
with torch.no_grad():
    all_tokens = [model.pre_transformer(model.batch_images([picture])) for picture in images]
    memories = [model.encoder(tokens) for tokens in all_tokens]


def silenced(layers):  # the detector, self-attention of these decoder layers giving zeros
    detector = copy.deepcopy(model)
    for n in layers:
        for parameter in detector.decoder.layers[n].self_attn.out_proj.parameters():
            nn.init.zeros_(parameter)
    return detector


@torch.no_grad()
def answers(detector, memory, tokens):
    inputs = detector.pre_decoder(memory, tokens)
    return detector.predict(detector.decoder(inputs, memory, tokens, detector.heads), inputs, memory)


# %%
detectors = {
    "all layers talk": model,
    "the first is silent": silenced([0]),
    "the others are silent": silenced([1, 2]),
    "all are silent": silenced([0, 1, 2]),
}
outputs = {
    name: [answers(detector, *pair) for pair in zip(memories, all_tokens, strict=True)]
    for name, detector in detectors.items()
}
found = {name: ablation.judge(model, output, scenes) for name, output in outputs.items()}
display(ablation_bars(found))
right = {name: breakdown.object_counts()["correct"] for name, breakdown in found.items()}
again = {name: breakdown.detection_counts()["duplicate"] for name, breakdown in found.items()}
wrong = {name: len(breakdown.detections) - right[name] for name, breakdown in found.items()}
assert right["all are silent"] > 0.9 * right["all layers talk"]
assert again["all are silent"] > 1.2 * again["all layers talk"]
assert wrong["the others are silent"] > 1.5 * wrong["all layers talk"]
more = {name: count - wrong["all layers talk"] for name, count in wrong.items()}
assert more["the others are silent"] > 2 * more["the first is silent"]

# %% [markdown]
# A few. But what it finds it finds again: over a quarter more duplicates, and twice as many detections that are wrong
# otherwise. Most of these come when the rounds after a look are silent, in which queries can tell each other what they
# have seen. The first round is blind. Its silence adds less that is wrong, but loses the few objects.
#
# One of the scenes, with all detections above 0.3:

# %%
shown = 40  # of the sixty
size, pictures, titles = scenes[shown].image.shape[:2], [], []
for name in ("all layers talk", "all are silent"):
    (detections,) = model.postprocess(outputs[name][shown], [size])
    keep = detections["scores"] > 0.3
    labels = detections["labels"][keep].tolist()
    pictures.append(draw_detections(Image.fromarray(scenes[shown].image), detections["boxes"][keep], labels))
    titles.append(f"{name}: {len(labels)} above 0.3")
display(figures.show_images(pictures, titles))
assert len(labels) > 1 == len(scenes[shown].annotations)  # one object

# %% [markdown]
# There is no non-maximum suppression behind this detector. Its queries do that work, as well as they have learnt to:
# the first bar above still has duplicates.
#
# ### Exercise: count duplicates
#
# `count_duplicates(boxes, labels)`: (n, 4) as (x1, y1, x2, y2) and (n,), best detection first. How many overlap a
# better one of their class (a duplicate itself or not) with an IoU of at least 0.5?


# %%
def count_duplicates(boxes, labels):
    raise NotImplementedError


check("08.count_duplicates", count_duplicates)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def count_duplicates(boxes, labels):
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])  # (n, n, 2)
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    inter = (high - low).clamp(min=0).prod(-1)  # (n, n)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)  # (n,)
    iou = inter / (area[:, None] + area[None] - inter)
    repeats = (iou >= 0.5) & (labels[:, None] == labels[None])
    return repeats.tril(-1).any(1).sum()  # only better ones, which stand before


check("08.count_duplicates", count_duplicates)

# %% [markdown]
# ## What does a query answer for?
#
# In DETR's paper, figure 7 shows all boxes that a query gave over a data set. Here are sixty scenes and sixteen
# queries. **Predict**: does a query stand for a place, for a size, or for a class?

# %%
answered = torch.cat([output.pred_boxes for output in outputs["all layers talk"]])  # (60, Q, 4)
display(queries.draw_queries(queries.QueriesState(answered, reference_points[0], range(16))))

# %%
centres, side = answered[..., :2], (answered[..., 2] * answered[..., 3]).sqrt()
spread, all_spread = centres.std(0).mean(), centres.flatten(0, 1).std(0).mean()
print(f"place: a query's centres spread by {spread:.3f} of the image, all of them by {all_spread:.3f}")
print(f"size:  a query's sizes spread by {side.std(0).mean():.3f}, all of them by {side.std():.3f}")
assert 4 * spread < all_spread
assert side.std(0).mean() > 0.8 * side.std()

# %%
logits = torch.cat([output.pred_logits for output in outputs["all layers talk"]])  # (60, Q, K)
score, label = logits.sigmoid().max(-1)
sure = [label[:, q][score[:, q] > 0.3] for q in range(50)]
busy = [labels for labels in sure if len(labels) >= 5]
classes = sum(len(labels.unique()) for labels in busy) / len(busy)
print(f"class: queries that were sure five times or more named {classes:.1f} of {len(names)} classes on average")

# %% [markdown]
# A place. Every query keeps to its cross and takes what comes: small or large (near the border only small ones fit), of
# any class. (In DETR's figure a query also has sizes that it favours. There nothing ties it to a point; here the box is
# worked out from the reference point, page 09.)
#
# ## Take with you
#
# * A query is a row of a learned table: the first half says where it looks from, the second is its content. The image
#   comes later.
# * A decoder layer talks, looks, thinks; position goes where queries ask and are asked, never into what is said.
# * Talking helps queries not to answer for the same object; place decides who answers for which.
#
# Questions answered here: 2 (decoder part), 9 (decoder part), 10 (moving references), 11 (the two halves).
#
# ## In other code bases
#
# | here | mmdetection | official | Hugging Face |
# |---|---|---|---|
# | `queries.query_embed` | `query_embedding` | `query_embed` in `DeformableDETR` | `query_position_embeddings` |
# | `query_pos`, `query` | `query_pos`, `query` | `query_embed`, `tgt` | `object_queries_position_embeddings`, `inputs_embeds` |
# | `queries.reference_points` | `reference_points_fc` | `reference_points` | `reference_points` |
# | `Decoder` | `DeformableDetrTransformerDecoder` | `DeformableTransformerDecoder` | `DeformableDetrDecoder` |
# | `self_attn`, `cross_attn` | `self_attn`, `cross_attn` | `self_attn`, `cross_attn` | `self_attn`, `encoder_attn` |
# | the norms, in order | `norms[0]`, `norms[1]`, `norms[2]` | `norm2`, `norm1`, `norm3` | `self_attn_layer_norm`, `encoder_attn_layer_norm`, `final_layer_norm` |
# | `hidden_states` (layers, B, Q, C) | `hidden_states`, the same | `hs`, the same | `intermediate_hidden_states` (B, layers, Q, C) |
# | `reference_points`: where each layer looked from | `references`: the first, then what each layer gave | `init_reference`, then `inter_references` | `init_reference_points`, then `intermediate_reference_points` |
#
# Next: *How does a vector become a box?* (09 · Heads and refinement)
