# %% [markdown]
# # 03 · Masks and level embeddings
#
# **How do images of different sizes share a batch?**
#
# After this page you can
#
# * say what `mask`, `valid_ratios`, `spatial_shapes` and `level_start_index` are for;
# * compute a token's position encoding, padded or not;
# * find any cell of any level in the sequence, and back.

# %%
import math

import torch
import torch.nn.functional as F
from IPython.display import display
from matplotlib.cbook import get_sample_data
from PIL import Image

from ddetr import build_model, load_pretrained
from ddetr.course import check
from ddetr.data import normalize_image, prepare_image, toy_scene
from ddetr.models.multi_scale import get_valid_ratio, level_mask
from ddetr.models.position_encoding import sine_position_encoding
from ddetr.ops import choose_backend
from ddetr.viz import figures, padding, sandboxes, tables

torch.manual_seed(0)
model = build_model("r50").eval()
tiny = load_pretrained("tiny_two_stage").eval()
print(
    f"device cpu · operator {choose_backend()} · weights fresh r50 for shapes, tiny_two_stage for what is learnt · "
    "data matplotlib's photo, ToyCOCO"
)

# %%
display(figures.pipeline_map(["multi_scale"]))

# %% [markdown]
# ## One batch, two sizes
#
# The portrait at two sizes (height x width): 480 x 538 pixels, and 400 x 546. A batch is one tensor.
#
# **Predict.** How large is it? Where in it does each image sit?

# %%
with get_sample_data("grace_hopper.jpg") as file:
    portrait = Image.open(file).convert("RGB")
sizes = [(480, 538), (400, 546)]
images = [normalize_image(portrait.crop((0, 20, 512, 470)).resize((w, h))) for h, w in sizes]
batch = model.batch_images(images)
assert batch.images.shape == (2, 3, 480, 546)  # the larger height, the larger width
assert batch.mask.shape == (2, 480, 546)

# %% [markdown]
# 480 x 546: the larger height and the larger width. Images sit at the top left, always. By hand:

# %%
images_by_hand = torch.zeros(2, 3, 480, 546)
mask_by_hand = torch.ones(2, 480, 546, dtype=torch.bool)  # True where padding
for b, (h, w) in enumerate(sizes):
    images_by_hand[b, :, :h, :w] = images[b]
    mask_by_hand[b, :h, :w] = False
torch.testing.assert_close(images_by_hand, batch.images)
assert torch.equal(mask_by_hand, batch.mask)
deviation = (images_by_hand - batch.images).abs().max()
shares = batch.mask.float().mean((1, 2))  # (B, H, W) -> (B,)
print(f"largest deviation {deviation:.0e}; padding: {shares[0]:.1%} and {shares[1]:.1%}")

# %% [markdown]
# Nobody pads to a multiple of 32 here. Sizes round up by themselves. *(Page 01.)*
#
# ## Whose size decides the number of tokens?
#
# Some walk-throughs of mmdetection print 5532 tokens for this portrait, others 5427. **Predict**: what do they do
# differently?


# %%
def count_tokens(size):  # (H, W) of the batch -> S
    return sum(math.ceil(size[0] / stride) * math.ceil(size[1] / stride) for stride in (8, 16, 32, 64))


assert count_tokens((480, 546)) == 5532
assert count_tokens((480, 538)) == 5427
print("480 x 538 alone:", count_tokens((480, 538)), "· in this batch:", count_tokens((480, 546)))

# %% [markdown]
# One width is 546, the other 538: eight pixels, one column at three of the levels. And the batch decides: your first
# image is 538 wide, and gets 5532 tokens because its neighbour is 546 wide.
#
# So memory swings from batch to batch. One panorama makes all its neighbours as wide:

# %%
S = count_tokens((480, 546))
S_wide = count_tokens((480, 1333))  # the same two, and one of 480 x 1333
print(f"2 images: {2 * S} tokens. 3 images, one of them wide: {3 * S_wide} tokens, not {2 * S + S_wide}")

# %% [markdown]
# ## The mask, level by level
#
# A level has its own cells, so it needs its own mask. Each cell takes the pixel at its top left corner.
#
# **Predict.** 538 of 546 columns are image. On level 0, 69 columns wide, how many? And on level 1, with 35?

# %%
level_sizes = [(60, 69), (30, 35), (15, 18), (8, 9)]
masks = [level_mask(batch.mask, size) for size in level_sizes]  # L of (B, h, w)
for level, mask in enumerate(masks):
    print(
        f"level {level}: {(~mask[0, 0]).sum()} of {mask.shape[2]} columns, {(~mask[1, :, 0]).sum()} of {mask.shape[1]} rows"
    )

# %% [markdown]
# By hand: cell j of 69 takes pixel j * 546 / 69, rounded down. The last one, 68, takes pixel 538, the first of the
# padding.

# %%
rows = torch.arange(60) * 480 // 60
columns = torch.arange(69) * 546 // 69
nearest = batch.mask[:, rows][:, :, columns]  # (B, 480, 546) -> (B, 60, 69)
assert torch.equal(nearest, masks[0])
print("pixels of the last two columns:", columns[-2:].tolist())

# %% [markdown]
# ## Valid ratios
#
# What part of a map is image? Draw both images on all levels, padding in grey. **Predict.** The second image fills
# 400 / 480 = 0.8333 of the height. Is it 0.8333 on every level?

# %%
display(padding.draw(padding.PaddingState(sizes)))

# %% [markdown]
# Look along the second row. 15 rows cannot be cut at 12.5, so level 2 says 13 / 15 = 0.8667, and level 3 says
# 7 / 8 = 0.875. **Each level has its own ratio.** A point at the bottom of the image lies at
# another fraction of each map, and `valid_ratios` says which. *(Page 04 divides by it, and multiplies.)*
#
# **Touch.** Drag the lower right corners of two other images. At which sizes do all levels agree?

# %%
sandboxes.padding_sandbox([(512, 320), (256, 640)])

# %% [markdown]
# Whenever they are multiples of 64, as these are: then one number would do for all levels.
#
# ### Exercise: valid ratios
#
# `valid_ratios(mask)` takes the mask (B, h, w) of one level, True where padding. It returns (B, 2): what part of the
# width is image, and what part of the height. The first row and the first column are enough to look at.


# %%
def valid_ratios(mask):
    raise NotImplementedError


check("03.valid_ratios", valid_ratios)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def valid_ratios(mask):
    width = (~mask[:, 0, :]).float().mean(1)  # (B, w) -> (B,), along the first row
    height = (~mask[:, :, 0]).float().mean(1)  # (B, h) -> (B,), along the first column
    return torch.stack([width, height], -1)


check("03.valid_ratios", valid_ratios)

# %% [markdown]
# The package's, for the whole batch:

# %%
ratios = torch.stack([get_valid_ratio(mask) for mask in masks], 1)
assert ratios.shape == (2, 4, 2)  # (B, L, (w, h))
torch.testing.assert_close(ratios[:, 0], valid_ratios(masks[0]))
print(ratios)

# %% [markdown]
# ## Where am I? The sine encoding
#
# Attention does not know where a token comes from. So each place gets a pattern: sines and cosines of its coordinate,
# from fast to slow. The first half of the channels is y, the second x.

# %%
unpadded = torch.zeros(1, 60, 69, dtype=torch.bool)
encoding = sine_position_encoding(unpadded, 256)
assert encoding.shape == (1, 256, 60, 69)
display(padding.curves(encoding[0, :, 0], [128, 129, 144, 160, 192], "along the first row"))

# %% [markdown]
# Channel 128 is the fastest of x and goes once around. 129 is its cosine. The later ones hardly move.
#
# **Predict.** Along the first row, what do channels 0 to 127 do?

# %%
assert encoding[0, :128, 0].std(-1).max() < 1e-6  # y is the same along a row
display(padding.channel_images(encoding[0], [0, 1, 16, 128, 129, 144]))

# %% [markdown]
# Nothing: they are y. One channel by hand, cell row 10, column 20:

# %%
x = (20 + 0.5) / 69  # the cell's centre, in [0, 1]
by_hand = math.sin(2 * math.pi * x / 10000 ** (16 / 128))  # channel 16 of x, a sine
difference = abs(by_hand - encoding[0, 128 + 16, 10, 20].item())
assert difference < 1e-5
print(f"channel 144: {by_hand:.6f}, deviation {difference:.0e}")

# %% [markdown]
# **Break it.** The second image is padded below. If its rows were divided by the height of the *map*, would the
# same place in the picture still have the same code?

# %%
alone = sine_position_encoding(torch.zeros(1, 50, 69, dtype=torch.bool), 256)  # 400 / 8 rows, no padding
padded = sine_position_encoding(masks[0][1:], 256)[:, :, :50]
ignoring = encoding[:, :, :50]  # as if the padding were image
print(f"divided by the valid part: {(alone - padded).abs().max():.4f} from the image alone")
print(f"divided by the map:        {(alone - ignoring).abs().max():.4f}")

# %% [markdown]
# Divided by the valid part, the image has its own codes back, as long as its cells are counted alike. Rounding can
# add one: your first image has 34 columns on level 1 when it is alone, and 35 in this batch.
#
# ### Exercise: the sine encoding
#
# `sine_encoding(mask, channels)`, mask (B, h, w) -> (B, channels, h, w). Count valid cells with `cumsum`, take off
# half a cell, divide by the last count (plus 1e-6), times 2 pi. Channels 2i and 2i + 1 of each half are the sine and
# cosine of coordinate / 10000^(2i / half). First y, then x.


# %%
def sine_encoding(mask, channels):
    raise NotImplementedError


check("03.sine_encoding", sine_encoding)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def sine_encoding(mask, channels):
    half = channels // 2
    valid = (~mask).float()
    period = 10000 ** (2 * torch.arange(half // 2) / half)  # (half / 2,)
    parts = []
    for axis in (1, 2):  # y, then x
        place = (valid.cumsum(axis) - 0.5) / (valid.sum(axis, keepdim=True) + 1e-6) * 2 * math.pi  # (B, h, w)
        angle = place[..., None] / period
        parts.append(torch.stack([angle.sin(), angle.cos()], -1).flatten(-2))  # (B, h, w, half)
    return torch.cat(parts, -1).permute(0, 3, 1, 2)


check("03.sine_encoding", sine_encoding)

# %% [markdown]
# ## Which level am I? The level embedding
#
# Every level runs from 0 to 1. **Predict.** Do the middle cell of a map of 9 x 9 and the middle cell of one of 3 x 3
# have the same encoding?

# %%
fine, coarse = (sine_position_encoding(torch.zeros(1, n, n, dtype=torch.bool), 256)[0] for n in (9, 3))
print(f"difference: {(fine[:, 4, 4] - coarse[:, 1, 1]).abs().max():.0e}")
assert torch.allclose(fine[:, 4, 4], coarse[:, 1, 1], atol=1e-5)

# %% [markdown]
# The same place, so the same code: a token that sees a button and one that sees a bus would stand at one address.
# `level_embed` adds a learned vector for each level:

# %%
level_embed = tiny.flatten.level_embed.detach()
assert level_embed.shape == (4, 128)  # (L, C); the tiny models have C = 128
unit = F.normalize(level_embed, dim=1)
names = [f"level {level}" for level in range(4)]
display(tables.similarity(unit @ unit.T, names, "cosine between trained level embeddings"))

# %% [markdown]
# They start random, so almost at right angles, and stay so: four addresses that nobody confuses.
#
# ## One sequence
#
# Now flatten each level row by row, and put the levels one after the other. **Predict.** At which index does the
# first token of level 2 stand?

# %%
with torch.no_grad():
    maps = model.neck(model.backbone(batch.images))
    tokens = model.flatten(maps, batch.mask)
assert tokens.tokens.shape == tokens.pos.shape == (2, 5532, 256)
assert tokens.mask.shape == (2, 5532)
print("spatial_shapes   ", tokens.spatial_shapes.tolist())
print("level_start_index", tokens.level_start_index.tolist())

# %%
display(figures.token_counts(tokens.level_sizes))

# %% [markdown]
# At 5190 = 60 * 69 + 30 * 35. The two little tensors are the only way back: they say where a map ends and how to fold
# it.

# %%
level = 2
h, w = tokens.spatial_shapes[level]
start = tokens.level_start_index[level]
folded = tokens.tokens[:, start : start + h * w].transpose(1, 2).reshape(2, 256, h, w)  # (B, h*w, C) -> (B, C, h, w)
assert torch.equal(folded, maps[level])
print(f"level {level}, {h} x {w}: the map is back, largest deviation {(folded - maps[level]).abs().max():.0e}")

# %% [markdown]
# The same by hand, all of it: tokens, positions, mask.

# %%
by_hand = torch.cat([feature.flatten(2).transpose(1, 2) for feature in maps], 1)  # L of (B, C, h, w) -> (B, S, C)
pos = torch.cat(
    [
        sine_position_encoding(mask, 256).flatten(2).transpose(1, 2) + model.flatten.level_embed[level]
        for level, mask in enumerate(masks)
    ],
    1,
)
torch.testing.assert_close(by_hand, tokens.tokens)
torch.testing.assert_close(pos, tokens.pos)
assert torch.equal(torch.cat([mask.flatten(1) for mask in masks], 1), tokens.mask)
print(f"largest deviation: {(pos - tokens.pos).abs().max():.0e}")

# %% [markdown]
# ### Exercise: level_start_index
#
# `level_start_index(spatial_shapes)`: (L, 2), (h, w) of each level, -> (L,) whole numbers.


# %%
def level_start_index(spatial_shapes):
    raise NotImplementedError


check("03.level_start_index", level_start_index)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def level_start_index(spatial_shapes):
    areas = spatial_shapes.prod(1)  # (L, 2) -> (L,)
    return areas.cumsum(0) - areas  # what came before each level


check("03.level_start_index", level_start_index)

# %% [markdown]
# ## No padding, no mask?
#
# If all images have one size, the mask is False everywhere. mmdetection then passes `None`. Is that the same?

# %%
scenes = [prepare_image(Image.fromarray(toy_scene(seed).image), test_size=160) for seed in (105, 7)]
without = build_model(tiny.config, mask_unpadded=False).eval()
without.load_state_dict(tiny.state_dict())
assert without.batch_images(scenes[:1]).mask is None
with torch.no_grad():
    a, b = tiny.forward_raw(scenes[:1]), without.forward_raw(scenes[:1])
torch.testing.assert_close(a.pred_boxes, b.pred_boxes)
print(f"largest deviation: {(a.pred_boxes - b.pred_boxes).abs().max():.0e}")

# %% [markdown]
# The same numbers. `mask_unpadded` in the config chooses.
#
# ## Does an image see its neighbour?
#
# Masked tokens give nothing: their values are set to zero before anyone looks. So the same objects should be found in
# any batch. **Predict**: with exactly the same scores?

# %%
with torch.no_grad():
    (alone,), (beside, _) = tiny(scenes[:1]), tiny(scenes)
print("batch of 1:", [f"{score:.3f}" for score in alone["scores"][:5]])
print("batch of 2:", [f"{score:.3f}" for score in beside["scores"][:5]])
print("sizes:", [tuple(scene.shape[1:]) for scene in scenes])

# %% [markdown]
# Not exactly. The values of padding are zero, but the backbone's convolutions and the GroupNorms have no mask and
# read the padding. And cells cannot be cut: alone, the first image has 20 rows on level 0; in this batch 21 count as
# image, so its places shift a little. That is why AP at evaluation batch 1 and batch 2 differs. mmdetection, the
# official code and Hugging Face have no mask there either.
#
# ## Take with you
#
# * Images sit at the top left; True in the mask is padding; the batch decides how many tokens there are.
# * `valid_ratios` has a row for each level because cells cannot be cut.
# * Position encoding says where, level embedding says at which scale; `pos` is the sum of both and travels beside the
#   tokens.
#
# Questions answered here: 8 (level embedding, `level_start_index`), 32 (batch 1 and 2), 34 (memory swings).
#
# ## In other code bases
#
# | here | mmdetection | official | Hugging Face |
# |---|---|---|---|
# | `pad_images` | `DetDataPreprocessor` | `nested_tensor_from_tensor_list` | the image processor's `pad` |
# | `mask` | `mask`, True where padding | `mask`, True where padding | `pixel_mask`, **1 where image** |
# | `get_valid_ratio` | `get_valid_ratio` | `get_valid_ratio` | `get_valid_ratio` |
# | `sine_position_encoding` | `SinePositionalEncoding`, `offset=-0.5` | `PositionEmbeddingSine` | `DeformableDetrSinePositionEmbedding` |
# | `level_embed` | `level_embed` | `level_embed` | `level_embed` |
# | `mask_unpadded=False` | mask `None` when all sizes agree | | |
#
# Next: *Where does each token look from?* (04 · Reference points)
