# %% [markdown]
# # 00 · Tour
#
# **What goes in, what comes out, and what happens between?**
#
# After this page you can
#
# * name the stages between pixels and boxes, in order;
# * say the shape that each one hands to the next, for an image of any size;
# * look up any intermediate tensor of the network by name.

# %%
import os
from pathlib import Path

import torch
from IPython.display import display
from matplotlib.cbook import get_sample_data
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from ddetr import build_model
from ddetr.data import CocoDetection, coco_layout, normalize_image, prepare_image
from ddetr.ops import choose_backend
from ddetr.viz import figures

torch.manual_seed(0)
model = build_model("r50").eval()
millions = sum(p.numel() for p in model.parameters()) / 1e6
device = model.flatten.level_embed.device
print(
    f"device {device} · operator {choose_backend()} · weights fresh, r50 ({millions:.1f} M) · data matplotlib's photo"
)

# %% [markdown]
# These weights have learnt nothing yet, so the boxes at the end will be noise. Shapes do not care, and this page is
# about shapes.
#
# The whole detector, as a map. Every page of the series lights the stage that it explains; this one walks along all.

# %%
display(figures.pipeline_map(figures.PIPELINE))

# %% [markdown]
# ## A photograph
#
# Matplotlib ships a portrait of Grace Hopper. You cut it to 480 x 546 pixels, the size that walk-throughs of
# mmdetection's code print, so that the numbers below can be compared with theirs.

# %%
with get_sample_data("grace_hopper.jpg") as file:
    portrait = Image.open(file).convert("RGB")
photo = portrait.crop((0, 20, 512, 470)).resize((546, 480))
image = normalize_image(photo)  # (H, W, 3) in 0..255 -> (3, H, W), about -2.2 to 2.7
assert image.shape == (3, 480, 546)
display(figures.show_images([photo], ["480 x 546 pixels (height x width)"]))

# %% [markdown]
# ## Run it once, keep everything
#
# `trace` runs the network and keeps every intermediate tensor with its stage and name. An ordinary forward pass keeps
# none of them.

# %%
trace = model.trace([image])
print(len(trace), "tensors in", len(trace.stages()), "stages")

# %% [markdown]
# ## Backbone: three maps
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
# ## Neck: four maps of one width
#
# A 1x1 convolution brings each map to 256 channels. A fourth, coarser map comes from a stride-2 convolution of C5.

# %%
levels = [trace[f"neck.level{level}"] for level in range(4)]
assert all(level.shape[1] == 256 for level in levels)
print([tuple(level.shape) for level in levels])

# %% [markdown]
# ## One sequence of tokens
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
# level, and `level_start_index`, where each level starts.

# %%
print(trace["multi_scale.spatial_shapes"].tolist())
print(trace["multi_scale.level_start_index"].tolist())

# %% [markdown]
# ## Encoder: same shape, six times
#
# Dense attention among 5532 tokens would compare each with each, 30.6 million pairs a head. Here a token looks at 4
# points on each of 4 levels, with each of 8 heads: 128 places.

# %%
locations = trace["encoder.layer0.sampling_locations"]
assert locations.shape == (1, S, 8, 4, 4, 2)  # (B, S, M, L, P, (x, y))
memory = trace["encoder.memory"]
assert memory.shape == tokens.shape
print(f"{S * S / 1e6:.1f} M pairs a head, against {8 * 4 * 4} places for a token with all its heads")

# %% [markdown]
# What one layer computes, in order. The reference point is where a token looks from; offsets are added to it; the
# values found there are summed with the attention weights. *(Pages 04 to 07.)*

# %%
for entry in trace:
    if entry.stage == "encoder.layer0":
        print(f"{entry.name:28}{entry.shape}")

# %% [markdown]
# ## Decoder: 300 queries
#
# A query is a vector that may become one object. It has a content half and a position half; the position half gives
# the point that it looks from. *(Page 08.)*

# %%
assert trace["pre_decoder.query"].shape == trace["pre_decoder.query_pos"].shape == (1, 300, 256)
assert trace["pre_decoder.reference_points"].shape == (1, 300, 2)
assert trace["heads.hidden_states"].shape == (6, 1, 300, 256)  # one for each decoder layer

# %% [markdown]
# ## Heads: scores and boxes
#
# **Predict.** COCO has 80 categories. How many scores does each query get?

# %%
assert trace["heads.logits"].shape == (6, 1, 300, 91)
assert trace["heads.boxes"].shape == (6, 1, 300, 4)  # (cx, cy, w, h) in [0, 1] of the image
best = trace["heads.logits"][-1].sigmoid().max()
print(f"91 scores a query; the highest of all is {best:.3f}")

# %% [markdown]
# If you said 80, you have read mmdetection: it counts the categories in use. The official code keeps COCO's own ids,
# which run to 90, and label 0 stays empty: 91. Both are a `num_classes` here. There is no "background" class.
#
# ## Detections
#
# The 100 best of 300 x 91 (query, class) pairs, in pixels of the image. No non-maximum suppression.

# %%
detections = trace.detections[0]
assert detections["boxes"].shape == (100, 4)  # (x1, y1, x2, y2)
assert detections["scores"].shape == detections["labels"].shape == (100,)
print({name: tuple(tensor.shape) for name, tensor in detections.items()})

# %% [markdown]
# ## Two images in one batch
#
# **Predict.** You add a second image, 384 x 640, to the batch. The batch is one tensor. How large, and what is in the
# part that an image does not fill?

# %%
wide = normalize_image(portrait.crop((0, 100, 512, 407)).resize((640, 384)))
pair = model.trace([image, wide])
batch, mask = pair["pre_transformer.images"], pair["pre_transformer.mask"]
assert batch.shape == (2, 3, 480, 640)  # the larger height, the larger width
assert batch[1].masked_select(mask[1]).abs().max() == 0  # padding is zero
display(figures.show_images(list(batch), ["first image", "second image"]))

# %% [markdown]
# Zero is ImageNet's mean colour, the flat grey-brown. A mask says where it is, and each level sees the mask at its own
# resolution. `valid_ratios` is what part of each map is image:

# %%
masks = [pair[f"multi_scale.mask_level{level}"][1] for level in range(4)]
ratios = pair["multi_scale.valid_ratios"][1]
display(figures.level_masks(masks, ratios))

# %% [markdown]
# The image fills 0.8 of the height. Look at the coarsest level: 8 rows cannot be cut at 6.4, so its ratio is another
# one. That rounding is why `valid_ratios` has a row for each level. *(Pages 03 and 04.)*
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
    for entry in model.trace([coco_image]):
        if "layer" not in entry.stage:
            print(f"{entry.stage:16}{entry.name:20}{entry.shape}")
    print("objects:", [dataset.categories[label]["name"] for label in target["labels"].tolist()])
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
# ## In other code bases
#
# | here | mmdetection | official | Hugging Face |
# |---|---|---|---|
# | `pre_transformer` | `DeformableDETR.pre_transformer` | `DeformableDETR.forward`, `DeformableTransformer.forward` | `DeformableDetrModel.forward` |
# | `encoder` | `forward_encoder` | `DeformableTransformerEncoder` | `DeformableDetrEncoder` |
# | `pre_decoder` | `pre_decoder` | `DeformableTransformer.forward` | `DeformableDetrModel.forward` |
# | `decoder` | `forward_decoder` | `DeformableTransformerDecoder` | `DeformableDetrDecoder` |
# | `heads` | `DeformableDETRHead` | `class_embed`, `bbox_embed` | `DeformableDetrForObjectDetection` |
