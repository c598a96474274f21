# %% [markdown]
# # 01 · Backbone features
#
# **What does ResNet-50 hand over?**
#
# After this page you can
#
# * say the size of each map for an image of any size, without running anything;
# * say how much of the image one cell sees, and how much of that it uses;
# * say which parts of the backbone learn, and why its norm does not.

# %%
import torch
import torchvision
from IPython.display import display
from matplotlib.cbook import get_sample_data
from PIL import Image

from ddetr import build_model, load_pretrained
from ddetr.course import check
from ddetr.data import normalize_image, prepare_image, toy_scene
from ddetr.models.backbone import FrozenBatchNorm2d
from ddetr.ops import choose_backend
from ddetr.viz import features, figures, sandboxes

torch.manual_seed(0)
model = build_model("r50").eval()
backbone = model.backbone
tiny = load_pretrained("tiny_two_stage").eval()
print(
    f"device cpu · operator {choose_backend()} · weights fresh r50 for shapes, tiny_two_stage for what is learnt · "
    "data matplotlib's photo, ToyCOCO"
)

# %%
display(figures.pipeline_map(["backbone"]))

# %% [markdown]
# The backbone is a network for classifying images that lost its last layer. It was not made for detection; the rest
# of the detector lives with what it hands over.
#
# ## Three maps
#
# The portrait of page 00, at 480 x 546 pixels:

# %%
with get_sample_data("grace_hopper.jpg") as file:
    portrait = Image.open(file).convert("RGB")
photo = portrait.crop((0, 20, 512, 470)).resize((546, 480))
images = normalize_image(photo)[None]  # (B, 3, H, W)
assert images.shape == (1, 3, 480, 546)

# %% [markdown]
# **Predict.** C3, C4 and C5 have strides 8, 16 and 32. Which of the three holds the most numbers?

# %%
with torch.no_grad():
    c3, c4, c5 = backbone(images)
assert c3.shape == (1, 512, 60, 69)
assert c4.shape == (1, 1024, 30, 35)
assert c5.shape == (1, 2048, 15, 18)
for name, feature in (("C3", c3), ("C4", c4), ("C5", c5)):
    print(f"{name} {tuple(feature.shape)}: {feature.numel() / 1e6:.2f} million numbers")

# %% [markdown]
# The finest. Each step has a quarter of the cells and twice the channels, so half the numbers.
#
# ## Build it
#
# Nothing is hidden in `Backbone.forward`. Take torchvision's own ResNet-50, give it the same weights, and walk through
# it:

# %%
resnet = torchvision.models.resnet50(weights=None).eval()
resnet.load_state_dict(backbone.body.state_dict(), strict=False)  # it has a classifier more
with torch.no_grad():
    x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(images))))  # (1, 3, 480, 546) -> (1, 64, 120, 137)
    c2 = resnet.layer1(x)  # (1, 256, 120, 137), not handed over
    by_hand = [resnet.layer2(c2)]  # (1, 512, 60, 69)
    by_hand.append(resnet.layer3(by_hand[-1]))  # (1, 1024, 30, 35)
    by_hand.append(resnet.layer4(by_hand[-1]))  # (1, 2048, 15, 18)

# %%
for ours, theirs in zip(by_hand, (c3, c4, c5), strict=True):
    torch.testing.assert_close(ours, theirs)
largest = max((a - b).abs().max().item() for a, b in zip(by_hand, (c3, c4, c5), strict=True))
print(f"largest deviation: {largest:.0e}")

# %% [markdown]
# C2 stays behind. Each cell will become a token, and C2 has three times as many as the other maps together.

# %%
assert c2.shape == (1, 256, 120, 137)
print(f"C2: {120 * 137} cells; C3, C4 and C5 together: {60 * 69 + 30 * 35 + 15 * 18}")

# %% [markdown]
# ## Why 69 columns, and not 68
#
# 546 / 8 is 68.25. Follow the width through the layers that halve it. Each is a convolution or a pooling with stride 2
# and padding:

# %%
widths = [546]
while len(widths) < 6:
    widths.append((widths[-1] - 1) // 2 + 1)  # what stride 2 with padding does to a width
print(" -> ".join(map(str, widths)))
assert widths[3:] == [c3.shape[3], c4.shape[3], c5.shape[3]]

# %% [markdown]
# An odd column is kept, with padding beside it. So sizes round up.
#
# **Break it.** Cut two pixels off the right. How many columns does each map lose?

# %%
with torch.no_grad():
    smaller = backbone(images[..., :544])
print([tuple(feature.shape[2:]) for feature in smaller])
assert [feature.shape[3] for feature in smaller] == [68, 34, 17]

# %% [markdown]
# One each: 544 is 32 x 17, so everything fits. Two columns of pixels had paid for 60 + 30 + 15 cells. Each of those
# stands on 8, 16 or 32 columns, and only two of them are image.
#
# ### Exercise: sizes for any input
#
# `map_sizes(height, width)` returns the (h, w) of C3, C4 and C5 as a list of three pairs.


# %%
def map_sizes(height, width):
    raise NotImplementedError


check("01.map_sizes", map_sizes)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def map_sizes(height, width):
    return [(-(-height // stride), -(-width // stride)) for stride in (8, 16, 32)]  # // of a negative rounds up


check("01.map_sizes", map_sizes)

# %% [markdown]
# ## What a cell sees
#
# A cell of C5 covers 32 x 32 pixels, but it has seen many more: each 3 x 3 convolution looked at its neighbours.
#
# **Predict.** How wide is the square that a cell of C5 can see: 32 pixels, about 100, or about 500?
#
# You can ask the network. The gradient of one cell with respect to the image is zero wherever the cell does not look:


# %%
def what_moves(level, place):  # -> (H, W): how much each pixel moves the cell at `place` (x, y)
    pixels = images.clone().requires_grad_()
    feature = backbone(pixels)[level]
    stride = 8 * 2**level
    cell = feature[0, :, place[1] // stride, place[0] // stride]  # (C,)
    (gradient,) = torch.autograd.grad(cell.square().sum(), pixels)
    return gradient[0].square().sum(0).sqrt()  # (3, H, W) -> (H, W)


# %%
place = (272, 240)  # (x, y) in pixels
weights = [what_moves(level, place) for level in range(3)]
for name, weight in zip(("C3", "C4", "C5"), weights, strict=True):
    rows, columns = weight.nonzero().T
    print(f"{name}: {columns.max() - columns.min() + 1} columns, {rows.max() - rows.min() + 1} rows of 480 x 546")

# %% [markdown]
# About 500 was the nearest: 427. And the number has nothing to do with this image: it follows from kernels and strides
# alone.
#
# ### Exercise: the receptive field
#
# Start with one pixel. A layer with kernel k adds (k - 1) steps; a step is one pixel at first, and each stride
# multiplies it. `receptive_field(layers)` takes a list of (kernel, stride) and returns the width in pixels.


# %%
def receptive_field(layers):
    raise NotImplementedError


check("01.receptive_field", receptive_field)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def receptive_field(layers):
    field, step = 1, 1
    for kernel, stride in layers:
        field += (kernel - 1) * step  # the layer's own stride counts from the next layer on
        step *= stride
    return field


check("01.receptive_field", receptive_field)

# %% [markdown]
# torchvision's ResNet-50 strides in the 3 x 3 convolution of a stage's first block. Its layers as such a list:

# %%
layers = [(7, 2), (3, 2)]
fields = []
for blocks, stride in ((3, 1), (4, 2), (6, 2), (3, 2)):  # layer1 to layer4
    layers += [(3, stride)] + [(3, 1)] * (blocks - 1)  # 1 x 1 convolutions widen nothing
    fields.append(receptive_field(layers))
fields = fields[1:]  # C2 is not handed over
for weight, field in zip(weights, fields, strict=True):
    columns = weight.nonzero()[:, 1]
    assert columns.max() - columns.min() + 1 == field  # the gradient says the same
print("C3 {}, C4 {}, C5 {} pixels".format(*fields))

# %% [markdown]
# Seeing is one thing, using another. **Predict**: is the square of C5 lit evenly?

# %%
display(features.receptive_fields(images[0], weights, fields, place, ["C3", "C4", "C5"]))

# %% [markdown]
# Solid: what the cell can see. Dashed: nine tenths of what moves it. Most paths from a pixel to the cell run through
# the middle, so the middle counts most, even with these fresh weights. A cell of C5 can see most of the portrait and
# looks at the face.
#
# That is one reason why a token of the transformer must look further. *(Pages 04 and 05.)*
#
# ## What a cell holds
#
# Fresh weights hold nothing worth a picture. Here is a detector that has learnt, the tiny one, whose backbone is a
# ResNet-10. Each map has many channels; you see their three principal components (PCA) as red, green and blue.
#
# **Predict.** Where will the colours follow edges, and where objects?

# %%
scene = toy_scene(105)
toy_image = prepare_image(Image.fromarray(scene.image), test_size=160)
with torch.no_grad():
    toy_maps = tiny.backbone(toy_image[None])
display(features.feature_colours(toy_image, [feature[0] for feature in toy_maps], ["C3", "C4", "C5"]))

# %% [markdown]
# C3 follows the horizon and the outlines. C5 has 5 x 7 cells: the boat covers a few of them, and the bird would fit
# into one. That is why the detector asks for all three. Cells at the border have colours of their own: the zeros that
# the convolutions see beside the image tell them where they are.
#
# **Touch.** Drag the point, choose a level and one of its channels. Can you find a channel that likes the horizon?

# %%
browser = sandboxes.feature_browser(tiny.backbone, toy_image, ["C3", "C4", "C5"])
print(f"{(browser.state.weight > 0).float().mean():.0%} of the pixels move this cell of C3")
browser

# %% [markdown]
# All of them, a little? This backbone has another norm than ResNet-50's, and that norm is why. Read on.
#
# ## A norm that does not learn
#
# Batch norm in training subtracts the mean of the batch. Detectors train with one or two images on a device, and the
# mean of two images is a poor one.
#
# **Predict.** An image stays the same and its neighbour in the batch changes. With which norm does the image's own
# output change?

# %%
first, second, third = torch.randn(3, 64, 8, 8, generator=torch.Generator().manual_seed(0))
third = 5 * third  # a picture of more contrast
for norm in (torch.nn.BatchNorm2d(64), FrozenBatchNorm2d(64)):
    norm.train()
    beside_second = norm(torch.stack([first, second]))[0]
    beside_third = norm(torch.stack([first, third]))[0]  # (64, 8, 8)
    print(f"{type(norm).__name__:18} the first image changes by {(beside_second - beside_third).abs().max():.2f}")

# %% [markdown]
# `FrozenBatchNorm2d` keeps ImageNet's mean, deviation, scale and shift as buffers. They are loaded with the weights and
# never change, in training or evaluation. It is one multiplication and one addition for each channel:

# %%
norm = backbone.body.bn1
x = torch.randn(2, 64, 4, 4, generator=torch.Generator().manual_seed(1))
scale = norm.weight * (norm.running_var + norm.eps).rsqrt()  # (C,)
shift = norm.bias - norm.running_mean * scale
by_hand = x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
torch.testing.assert_close(by_hand, norm(x))
assert not list(norm.parameters())
print(f"largest deviation {(by_hand - norm(x)).abs().max():.0e}; parameters 0, buffers {len(list(norm.buffers()))}")

# %% [markdown]
# Without ImageNet's weights there are no statistics worth keeping. So the tiny models, which learn from scratch, use
# GroupNorm: it needs no batch at all, but its mean runs over the whole map, and so each cell feels each pixel a little.
# *(`backbone_norm` in the config; more on page 02.)*

# %%
print("r50:", model.config.backbone_norm, "· tiny:", tiny.config.backbone_norm)

# %% [markdown]
# ## Which stages learn
#
# The first filters find edges and colours, as every task needs them. `frozen_stages=1` holds the stem and layer1.
#
# **Predict.** What share of the backbone's parameters is that: a third, a tenth, or less?

# %%
counts = {}
for name, part in backbone.body.named_children():
    parameters = list(part.parameters())
    if parameters:
        counts[name] = (sum(p.numel() for p in parameters), all(p.requires_grad for p in parameters))
frozen = sum(count for count, trained in counts.values() if not trained)
print(f"frozen: {frozen / sum(count for count, _ in counts.values()):.1%} of the backbone")
display(features.stage_parameters(counts))

# %% [markdown]
# One in a hundred. It saves little memory for weights, but much for activations: C2 is large, and nothing below it
# is kept for the backward pass. What does learn, learns at a tenth of the other rate. *(Page 11.)*
#
# ### Exercise: freeze the right stages
#
# `freeze(body, stages)` switches off `requires_grad` for the stem (conv1 and bn1) and for the first `stages` of layer1
# to layer4. With 0 it freezes nothing. It returns the body.


# %%
def freeze(body, stages):
    raise NotImplementedError


check("01.freeze", freeze)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def freeze(body, stages):
    parts = [body.conv1, body.bn1, body.layer1, body.layer2, body.layer3, body.layer4]
    for part in parts[: stages + 2 if stages else 0]:
        part.requires_grad_(False)
    return body


check("01.freeze", freeze)

# %% [markdown]
# ## Take with you
#
# * ResNet-50 hands over three maps, at strides 8, 16 and 32, with 512, 1024 and 2048 channels. Sizes round up.
# * A cell can see far more than its own pixels, and uses mostly the middle.
# * The norm is frozen because detection batches are too small to measure a mean; the first stage is frozen because
#   edges are edges.
#
# Questions answered here, in part: 31 (how small a batch), 35 (a tenth of the rate).
#
# ## In other code bases
#
# | here | mmdetection | official | Hugging Face |
# |---|---|---|---|
# | `Backbone` | `ResNet`, `extract_feat` | `Backbone`, `Joiner` | `DeformableDetrConvEncoder` |
# | C3, C4, C5 | `out_indices=(1, 2, 3)` | `return_layers`, layer2 to layer4 | `out_indices` (2, 3, 4) of timm |
# | `FrozenBatchNorm2d` | `BN`, `requires_grad=False`, `norm_eval=True` | `FrozenBatchNorm2d` | `DeformableDetrFrozenBatchNorm2d` |
# | `frozen_stages=1` | `frozen_stages=1` | trains layer2, layer3, layer4 | the same, by name |
# | `dilation` | `strides`, `dilations` | `--dilation` | `dilation` |
#
# Next: *How do three maps become four of 256 channels?* (02 · Neck)
