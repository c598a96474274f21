# %% [markdown]
# # 00 · Tour
#
# **What goes in, what comes out, and what happens between?**
#
# After this page you can
#
# * name the stages between pixels and boxes, in order;
# * say the shape that each one hands to the next, for an image of any size;
# * look up any tensor of the network by name, and the page that explains it.
#
# First, is everything here? The doctor looks at your machine, and if something is not right it says what to do.

# %%
from ddetr.course import doctor

doctor()

# %%
import math
import os
from pathlib import Path

import torch
from IPython.display import display
from matplotlib.cbook import get_sample_data
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from ddetr import build_model, load_pretrained
from ddetr.course import check, trace_table
from ddetr.data import CocoDetection, coco_layout, normalize_image, prepare_image, toy_scene
from ddetr.ops import choose_backend
from ddetr.viz import SamplingExplorer, figures, sampling_view
from ddetr.viz.draw import draw_detections

torch.manual_seed(0)
tiny = load_pretrained("tiny_two_stage").eval()
model = build_model("r50").eval()
print(
    f"device cpu · operator {choose_backend()} · weights tiny_two_stage, and fresh r50 for shapes · "
    "data ToyCOCO, matplotlib's photo"
)

# %% [markdown]
# The whole detector, as a map. Every page of the series lights the stage that it explains; this one walks along all.

# %%
display(figures.pipeline_map(figures.PIPELINE))

# %% [markdown]
# ## From a picture to boxes
#
# A small detector comes with the package, trained on drawn scenes with twelve of COCO's categories. Here is a scene
# that it has never seen, as it will see it:

# %%
picture = Image.fromarray(toy_scene(58).image)
toy_image = prepare_image(picture, 160)  # PIL -> (3, H, W), shorter side 160, normalised
assert toy_image.shape == (3, 160, 246)
display(figures.show_images([toy_image], ["160 x 246: a street, and six objects"], width=2.8))

# %% [markdown]
# **Predict.** Which of the six will it find, and of which will it be least sure?

# %%
found = tiny([toy_image])[0]  # {"boxes": (100, 4), "scores": (100,), "labels": (100,)}
names = [category["name"] for category in tiny.categories]
sure = int((found["scores"] > 0.4).sum())  # the best come first
labels, scores = found["labels"][:sure].tolist(), found["scores"][:sure].tolist()
captions = [f"{names[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
print(*captions, sep="\n")

# %%
boxes = found["boxes"][:sure] * picture.width / toy_image.shape[2]  # (n, 4), pixels of the picture
figure = figures.show_images([draw_detections(picture, boxes, labels, captions)], ["what comes out"], width=4.5)
figure.alt += f" A street, and a box around each of: {', '.join(captions)}."
display(figure)

# %% [markdown]
# It finds the near ones, also where one covers another. Of the small car in the distance it is least sure.
#
# ## What happens between
#
# `trace_table` runs the network once and lists every tensor on the way. B is the batch, S the tokens, Q the queries;
# the last column leads to the page that explains it. Unfold a layer and look around.

# %%
table = trace_table(tiny, [toy_image])
trace = table.trace
print(len(table), "tensors in", len(trace.stages()), "stages")
table

# %% [markdown]
# ## Where it looks
#
# Look at `sampling_locations`: a query has 8 heads, and each reads 4 places on each of 4 maps, 128 in all.
# **Predict.** The best query stands for the bus at the left. How many of its places lie in the bus's box?

# %%
best = int(trace["heads.logits"][-1, 0].amax(-1).argmax())  # (layers, B, Q, K) -> (Q, K) -> (Q,) -> which query
view = sampling_view.SamplingView.from_trace(trace, names=names)
layer = tiny.config.decoder_layers - 1
display(SamplingExplorer(view=view, part="decoder", layer=layer, query=best))

# %%
points = sampling_view.points_of(view, "decoder", layer, best)
x1, y1, x2, y2 = view.boxes[layer, best].tolist()
inside = (points.x > x1) & (points.x < x2) & (points.y > y1) & (points.y < y2)
assert points.weight[inside].sum() > 0.8 * points.weight.sum()
print(
    f"{inside.sum()} of {len(inside)} places, with {points.weight[inside].sum() / points.weight.sum():.0%} of the weight"
)

# %% [markdown]
# Most, with most of the weight. Of the others, nearly all look just beyond its edge. Nobody told the network where to
# look; it learnt that with the rest. *(Pages 05 and 08.)*
#
# **Touch.** In the view above, click other objects, and press play to see the layers.
#
# ## The same, at the size that you know
#
# Now ResNet-50, and a portrait of 480 x 546 pixels, the size that walk-throughs of mmdetection print. These weights
# are fresh, so the boxes would be noise. Shapes do not care.

# %%
with get_sample_data("grace_hopper.jpg") as file:
    portrait = Image.open(file).convert("RGB")
photo = portrait.crop((0, 20, 512, 470)).resize((546, 480))
image = normalize_image(photo)  # (H, W, 3) in 0..255 -> (3, H, W), about -2.2 to 2.7
assert image.shape == (3, 480, 546)
trace = model.trace([image])

# %% [markdown]
# ### Backbone: three maps
#
# **Predict.** ResNet-50 halves the image five times. Its last three stages have strides 8, 16 and 32. 546 is not
# divisible by 8: how wide is the first map, 68 or 69?

# %%
c3, c4, c5 = (trace[f"backbone.{name}"] for name in ("c3", "c4", "c5"))
assert c3.shape == (1, 512, 60, 69)  # 480 / 8, 546 / 8 rounded up
assert c4.shape == (1, 1024, 30, 35)
assert c5.shape == (1, 2048, 15, 18)
print(tuple(c3.shape), tuple(c4.shape), tuple(c5.shape))

# %% [markdown]
# Up: a stride-2 convolution with padding keeps the odd column. *(Page 01.)*
#
# ### Neck: four maps of one width
#
# A 1x1 convolution brings each map to 256 channels. A fourth, coarser map comes from a stride-2 convolution of C5.

# %%
levels = [trace[f"neck.level{level}"] for level in range(4)]
assert all(level.shape[1] == 256 for level in levels)
print([tuple(level.shape) for level in levels])

# %% [markdown]
# ### One sequence of tokens
#
# **Predict.** The transformer reads a sequence. If every cell of every map becomes one token, how many tokens are
# there, and which level brings most of them?

# %%
S = sum(h * w for h, w in trace.level_sizes)  # 60*69 + 30*35 + 15*18 + 8*9
tokens = trace["multi_scale.tokens"]
assert S == 5532
assert tokens.shape == (1, S, 256)
display(figures.token_counts(trace.level_sizes))

# %% [markdown]
# Three quarters come from the finest level. Two small tensors remember the layout: `spatial_shapes`, (h, w) of each
# level, and `level_start_index`, where each level starts. *(Page 03.)*

# %%
print(trace["multi_scale.spatial_shapes"].tolist())
print(trace["multi_scale.level_start_index"].tolist())

# %% [markdown]
# ### Encoder: same shape, six times
#
# Dense attention would compare each of 5532 tokens with each, in every head. Here a token looks at its 128 places,
# whatever the size of the image.
#
# **Predict.** Six layers later, how many tokens are left, and of how many channels?

# %%
locations = trace["encoder.layer0.sampling_locations"]
assert locations.shape == (1, S, 8, 4, 4, 2)  # (B, S, M, L, P, (x, y))
memory = trace["encoder.memory"]
assert memory.shape == tokens.shape
print(f"{tuple(memory.shape)}; {S * S / 1e6:.1f} M pairs a head, against {8 * 4 * 4} places a token with all its heads")

# %% [markdown]
# As many as before, 5532 of 256 channels: each has looked around, and none is dropped. *(Pages 04 to 07.)*
#
# ### Decoder: 300 queries
#
# A query is a vector that may become one object. It has a content half and a position half; the position half gives
# the point that it looks from. *(Page 08.)*

# %%
assert trace["pre_decoder.query"].shape == trace["pre_decoder.query_pos"].shape == (1, 300, 256)
assert trace["pre_decoder.reference_points"].shape == (1, 300, 2)
assert trace["heads.hidden_states"].shape == (6, 1, 300, 256)  # one for each decoder layer

# %% [markdown]
# ### Heads: scores and boxes
#
# **Predict.** COCO has 80 categories. How many scores does each query get?

# %%
assert trace["heads.logits"].shape == (6, 1, 300, 91)
assert trace["heads.boxes"].shape == (6, 1, 300, 4)  # (cx, cy, w, h) in [0, 1] of the image
highest = trace["heads.logits"][-1].sigmoid().max()
print(f"91 scores a query; the highest of all is {highest:.3f}")

# %% [markdown]
# If you said 80, you have read mmdetection: it counts the categories in use. The official code keeps COCO's own ids,
# which run to 90, and label 0 stays empty: 91. Here `num_classes` chooses. There is no "background" class.
#
# ### Exercise: three shapes
#
# `shapes(batch, height, width)` returns three shapes of this detector, for a batch of any size: of
# `multi_scale.tokens`, of `encoder.layer0.sampling_locations` and of `heads.boxes`. Read them off the trace, and ask of
# each number where it comes from.


# %%
def shapes(batch, height, width):
    raise NotImplementedError


check("00.shapes", shapes)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def shapes(batch, height, width):
    S = sum(math.ceil(height / stride) * math.ceil(width / stride) for stride in (8, 16, 32, 64))
    return [(batch, S, 256), (batch, S, 8, 4, 4, 2), (6, batch, 300, 4)]


check("00.shapes", shapes)

# %% [markdown]
# ## Detections
#
# **Predict.** 300 queries, 91 scores each. How many detections come out, and may one query give two?

# %%
detections = trace.detections[0]
assert detections["boxes"].shape == (100, 4)  # (x1, y1, x2, y2)
assert detections["scores"].shape == detections["labels"].shape == (100,)
print({name: tuple(tensor.shape) for name, tensor in detections.items()})

# %% [markdown]
# 100: the best of 300 x 91 (query, class) pairs, boxes in pixels of the image. So one query may give two, of two
# classes. No non-maximum suppression.
#
# ### Exercise: the best detection
#
# `best_detection(logits, boxes, size)` picks the first image's best detection from what the heads say: logits
# (layers, B, Q, K), boxes (layers, B, Q, 4) as (cx, cy, w, h) in [0, 1], size (h, w) in pixels. It reads the last layer
# only. A score is the sigmoid of a logit. It returns score, label, and box (x1, y1, x2, y2) in pixels.


# %%
def best_detection(logits, boxes, size):
    raise NotImplementedError


check("00.best_detection", best_detection)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def best_detection(logits, boxes, size):
    scores = logits[-1, 0].sigmoid()  # (Q, K)
    query, label = divmod(scores.argmax().item(), scores.shape[1])
    cx, cy, w, h = boxes[-1, 0, query]
    corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    return scores[query, label], label, corners * torch.tensor([size[1], size[0], size[1], size[0]])


check("00.best_detection", best_detection)

# %% [markdown]
# ## Two images in one batch
#
# **Predict.** You add a second image, 384 x 640. The batch is one tensor. How large, and what is in the part that an
# image does not fill?

# %%
wide = normalize_image(portrait.crop((0, 100, 512, 407)).resize((640, 384)))
pair = model.batch_images([image, wide])
assert pair.images.shape == (2, 3, 480, 640)  # the larger height, the larger width
assert pair.images[1].masked_select(pair.mask[1]).abs().max() == 0  # padding is zero
display(figures.show_images(list(pair.images), ["first image", "second image"], width=2.6))

# %% [markdown]
# Zero is ImageNet's mean colour, the flat grey-brown. A mask says where it is. *(Page 03.)*
#
# ## Your own photo, or one of COCO's
#
# Set `DDETR_COCO` to a folder in COCO's layout before you start Jupyter, and this cell takes its first validation
# image through the network, at the size that the paper tests with.

# %%
folder = Path(os.environ.get("DDETR_COCO", ""))
if (folder / "annotations").is_dir():
    dataset = CocoDetection(*coco_layout(folder, "val"))
    coco_image, target = dataset[0]
    print("objects:", [dataset.categories[label]["name"] for label in target["labels"].tolist()])
    display(trace_table(model, [coco_image]))
else:
    print("DDETR_COCO is not set: no COCO images here. The portrait at the paper's test size instead:")
    print(tuple(prepare_image(portrait, test_size=800).shape))

# %% [markdown]
# ## Break it
#
# Pass the photo as it comes from the file, in bytes:

# %%
try:
    model([pil_to_tensor(photo)])
except ValueError as error:
    print(*str(error).split(". "), sep="\n")

# %% [markdown]
# ## Take with you
#
# * Pixels become three maps, four maps, one sequence of tokens. The encoder keeps its shape.
# * A token looks at 128 places, whatever the size of the image.
# * 300 queries each end as a row of scores and a box; the best 100 pairs are the answer.
#
# Questions answered here, in part: 2 (where a query looks), 26 (80 or 91 classes).
#
# ## In other code bases
#
# | here | mmdetection | official | Hugging Face |
# |---|---|---|---|
# | `pre_transformer` | `DeformableDETR.pre_transformer` | `DeformableDETR.forward`, `DeformableTransformer.forward` | `DeformableDetrModel.forward` |
# | `encoder` | `forward_encoder` | `DeformableTransformerEncoder` | `DeformableDetrEncoder` |
# | `pre_decoder` | `pre_decoder` | `DeformableTransformer.forward` | `DeformableDetrModel.forward` |
# | `decoder` | `forward_decoder` | `DeformableTransformerDecoder` | `DeformableDetrDecoder` |
# | `heads` | `DeformableDETRHead` | `class_embed`, `bbox_embed` | `DeformableDetrForObjectDetection` |
#
# Next: *What does ResNet-50 hand over?* (01 · Backbone features)
