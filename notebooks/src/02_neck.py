# %% [markdown]
# # 02 · Neck
#
# **How do three maps become four of 256 channels?**
#
# After this page you can
#
# * build the neck in ten lines, with the paper's fourth map;
# * say what GroupNorm averages over, and why it is not batch norm;
# * show that no level hears of another here, as it would in an FPN.

# %%
import torch
import torch.nn.functional as F
from IPython.display import display
from matplotlib.cbook import get_sample_data
from PIL import Image
from torch import nn
from torchvision.ops import FeaturePyramidNetwork

from ddetr import build_model, load_pretrained
from ddetr.course import check
from ddetr.data import normalize_image, prepare_image, toy_scene
from ddetr.models.backbone import BackboneFeatures
from ddetr.ops import choose_backend
from ddetr.viz import features, figures, tables

torch.manual_seed(0)
model = build_model("r50").eval()
neck = model.neck
tiny = load_pretrained("tiny_two_stage").eval()
print(
    f"device cpu · operator {choose_backend()} · weights fresh r50 for shapes, tiny_two_stage for what is learnt · "
    "data matplotlib's photo, ToyCOCO"
)

# %%
display(figures.pipeline_map(["neck"]))

# %% [markdown]
# The encoder mixes tokens of all levels, so all must have the same width. The backbone's have 512, 1024 and 2048
# channels.

# %%
with get_sample_data("grace_hopper.jpg") as file:
    portrait = Image.open(file).convert("RGB")
images = normalize_image(portrait.crop((0, 20, 512, 470)).resize((546, 480)))[None]  # (1, 3, 480, 546)
with torch.no_grad():
    c3, c4, c5 = backbone_maps = model.backbone(images)
    maps = neck(backbone_maps)
for name, feature in zip(("C3", "C4", "C5"), backbone_maps, strict=True):
    print(name, tuple(feature.shape))

# %% [markdown]
# **Predict.** Three maps go in. Four come out. How large is the fourth?

# %%
assert [tuple(level.shape) for level in maps] == [(1, 256, 60, 69), (1, 256, 30, 35), (1, 256, 15, 18), (1, 256, 8, 9)]
for level, feature in enumerate(maps):
    print(f"level {level}: {tuple(feature.shape)}")

# %% [markdown]
# Half of C5 in each direction, rounded up: stride 64. It adds only 72 tokens to 5460.
#
# ## Three levels: a matrix for each cell
#
# A 1 x 1 convolution looks at one cell only. So it is one matrix, 512 -> 256, used 4140 times. Check one cell:

# %%
conv, norm = neck.levels[0]
with torch.no_grad():
    projected = conv(c3)  # (1, 512, 60, 69) -> (1, 256, 60, 69)
    cell = F.linear(c3[0, :, 10, 20], conv.weight[:, :, 0, 0], conv.bias)  # (512,) -> (256,)
torch.testing.assert_close(cell, projected[0, :, 10, 20], rtol=1e-4, atol=1e-5)
print(f"largest deviation at row 10, column 20: {(cell - projected[0, :, 10, 20]).abs().max():.0e}")

# %% [markdown]
# ## The fourth level
#
# A 3 x 3 convolution with stride 2 makes it. **Predict.** From C5 as it comes, with 2048 channels, or from its
# projection, with 256?

# %%
conv4, norm4 = neck.levels[3]
print(conv4)
with torch.no_grad():
    fourth = norm4(conv4(c5))  # (1, 2048, 15, 18) -> (1, 256, 8, 9)
torch.testing.assert_close(fourth, maps[3])
print(f"largest deviation from the neck's own: {(fourth - maps[3]).abs().max():.0e}")

# %% [markdown]
# From C5 itself. The projection would be eight times cheaper, and it is a common slip: the output has the same shape.
# Count what it costs:

# %%
for level, block in enumerate(neck.levels):
    print(f"level {level}: {sum(p.numel() for p in block.parameters()) / 1e6:.2f} M parameters")

# %% [markdown]
# The level with 72 of 5532 tokens has five times the parameters of the other three together.
#
# ## GroupNorm
#
# The three maps come from different depths, and every block of a ResNet adds to what it is given. **Predict.** Which
# of C3, C4 and C5 has the largest numbers, with these fresh weights? And after
# the neck?


# %%
def channel_sizes(group, names):  # (1, C, h, w) each -> name: (C,)
    return {name: level[0].square().mean((1, 2)).sqrt() for name, level in zip(names, group, strict=True)}


before, after = channel_sizes(backbone_maps, ["C3", "C4", "C5"]), channel_sizes(maps, [f"level {n}" for n in range(4)])
display(tables.spread(before, after))

# %% [markdown]
# C5. After the neck all levels speak about equally loud, and one attention can weigh them against each other.
#
# GroupNorm takes the mean and variance over a group of channels *and* all cells, of one image. 256 channels in 32
# groups makes 8 channels each:

# %%
with torch.no_grad():
    groups = projected.view(1, 32, 8, 60 * 69)  # (B, C, h, w) -> (B, groups, C / groups, h*w)
    mean = groups.mean((2, 3), keepdim=True)
    variance = groups.var((2, 3), keepdim=True, unbiased=False)
    by_hand = ((groups - mean) / (variance + norm.eps).sqrt()).view_as(projected)
    by_hand = by_hand * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
torch.testing.assert_close(by_hand, maps[0], rtol=1e-4, atol=1e-5)
print(f"largest deviation: {(by_hand - maps[0]).abs().max():.0e}")

# %% [markdown]
# No mean over the batch: an image gets the same map beside any other of its size. That is why GroupNorm can learn
# where batch norm had to be frozen. But the mean does run over *all cells*, and padding is cells too. **Break it**:
# put the portrait into a wider batch. Columns 0 to 9 are too far left for a convolution to bring them anything of the
# padding. Do they change?

# %%
wide = F.pad(images, (0, 300))  # zeros at the right
with torch.no_grad():
    padded_maps = neck(model.backbone(wide))
inside = padded_maps[2][..., :10] - maps[2][..., :10]  # columns far from the border
print(f"level 2, columns 0 to 9: mean change {inside.abs().mean():.3f}, mean size {maps[2].abs().mean():.3f}")

# %% [markdown]
# They do: the padding moved the mean. Both reference implementations do the same. An image's scores depend a little on
# what shares its batch, and this is one reason. *(Page 03 shows how much.)*
#
# ### Exercise: GroupNorm by hand
#
# `group_norm(x, groups)` for x (B, C, h, w): each group of neighbouring channels gets mean 0 and variance 1, with
# 1e-5 added to the variance. No scale, no shift. Without `F.group_norm`, of course.


# %%
def group_norm(x, groups):
    raise NotImplementedError


check("02.group_norm", group_norm)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def group_norm(x, groups):
    grouped = x.reshape(x.shape[0], groups, -1)  # (B, C, h, w) -> (B, groups, C / groups * h * w)
    mean = grouped.mean(-1, keepdim=True)
    variance = grouped.var(-1, keepdim=True, unbiased=False)
    return ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)


check("02.group_norm", group_norm)

# %% [markdown]
# ## Does the bias matter?
#
# mmdetection leaves the convolutions' bias out; the official code has it. In front of a batch norm a bias is useless,
# for the mean takes it away again. **Predict**: in front of a GroupNorm too?

# %%
groups32 = nn.GroupNorm(32, 256)
one_channel, whole_group = torch.zeros(2, 256).view(2, 1, 256, 1, 1)
one_channel[:, 0] = 1  # a bias for channel 0 alone
whole_group[:, :8] = 1  # the same for all eight of its group
with torch.no_grad():
    for name, bias in (("one channel", one_channel), ("whole group", whole_group)):
        change = groups32(projected + bias) - groups32(projected)
        print(f"bias of 1 for {name}: the output changes by {change.abs().max():.4f}")

# %% [markdown]
# Not useless. The mean is over eight channels, so it takes away what they have in common, and no more. `neck_bias` in
# the config chooses; a checkpoint needs the choice that it was trained with.
#
# ## Who hears whom
#
# An FPN adds each coarse map to the next finer one. Look for it here: for each level, which of C3, C4 and C5 has a
# gradient? A corner of each map is enough. **Predict** the table: four levels by three maps.


# %%
def hears(build, inputs):  # -> (levels, 3) bool: which input moves which output
    inputs = [feature.clone().requires_grad_() for feature in inputs]
    rows = []
    for level in build(inputs):
        gradients = torch.autograd.grad(level.square().sum(), inputs, retain_graph=True, allow_unused=True)
        rows.append([gradient is not None and bool(gradient.any()) for gradient in gradients])
    return torch.tensor(rows).numpy()


# %%
fpn = FeaturePyramidNetwork([512, 1024, 2048], 256)
corners = [feature[..., :size, :size] for feature, size in zip(backbone_maps, (12, 6, 3), strict=True)]


def fpn_levels(inputs):
    levels = list(fpn(dict(enumerate(inputs))).values())
    return [*levels, F.max_pool2d(levels[-1], 1, 2)]


# %%
heard = {
    "this neck": hears(lambda inputs: neck(BackboneFeatures(*inputs)), corners),
    "an FPN, and a stride-2 level": hears(fpn_levels, corners),
}
assert heard["this neck"].sum() == 4
display(tables.dependence(heard, [f"level {level}" for level in range(4)], ["C3", "C4", "C5"]))

# %% [markdown]
# One "yes" a row at the left. The levels meet in the encoder, where every token looks at all four. The paper tried an
# FPN in front of it: no gain (section 5.2 and Table 2).
#
# And what the four levels of a trained detector, the tiny one, hold of a toy scene. The colours are not those of page
# 01, since the channels are mixed anew; the places are, on the finer two. The coarse ones show mostly their border:

# %%
scene = toy_scene(105)
toy_image = prepare_image(Image.fromarray(scene.image), test_size=160)
with torch.no_grad():
    toy_out = tiny.neck(tiny.backbone(toy_image[None]))
display(features.feature_colours(toy_image, [level[0] for level in toy_out], [f"level {n}" for n in range(4)]))

# %% [markdown]
# ### Exercise: the neck in ten lines
#
# `neck_of(in_channels, width)` returns a module. It takes the list C3, C4, C5 and returns four maps of `width`
# channels: 1 x 1 convolutions, then the 3 x 3 with stride 2 and padding 1, all with bias; a GroupNorm of 32 groups
# behind each. Give check the function, or a class in its place.


# %%
def neck_of(in_channels, width):
    raise NotImplementedError


check("02.neck", neck_of)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
class TenLineNeck(nn.Module):
    def __init__(self, in_channels, width):
        super().__init__()
        convs = [nn.Conv2d(channels, width, 1) for channels in in_channels]
        convs.append(nn.Conv2d(in_channels[-1], width, 3, stride=2, padding=1))
        self.levels = nn.ModuleList(nn.Sequential(conv, nn.GroupNorm(32, width)) for conv in convs)

    def forward(self, maps):
        return [level(x) for level, x in zip(self.levels, [*maps, maps[-1]], strict=True)]


check("02.neck", TenLineNeck)

# %% [markdown]
# ## Take with you
#
# * Each level is one convolution and one GroupNorm: 1 x 1 three times, then 3 x 3 with stride 2 on C5 itself.
# * GroupNorm's mean is over channels and cells of one image, padding included.
# * Nothing is fused. Mixing levels is the encoder's work.
#
# Question answered here, in part: 32 (why scores depend on the batch).
#
# ## In other code bases
#
# | here | mmdetection | official | Hugging Face |
# |---|---|---|---|
# | `Neck` | `ChannelMapper` | `input_proj` in `DeformableDETR` | `input_proj` in `DeformableDetrModel` |
# | `neck.levels[3]` | `extra_convs`, `num_outs=4` | `input_proj[3]` | `input_proj[3]` |
# | GroupNorm of 32 | `norm_cfg=dict(type='GN', num_groups=32)` | `nn.GroupNorm(32, hidden_dim)` | `nn.GroupNorm(32, d_model)` |
# | `neck_bias=True` | no bias: `ConvModule` drops it before a norm | bias | bias |
#
# Next: *How do images of different sizes share a batch?* (03 · Masks and level embeddings)
