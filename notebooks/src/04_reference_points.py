# %% [markdown]
# # 04 · Reference points
#
# **A token knows what it is. Where does it look from?**
#
# After this page you can
#
# * place any token of any level on the image, and name the four cells that are read there;
# * say why `valid_ratios` divides and then multiplies;
# * spot a half-pixel error, `align_corners` and swapped axes by eye.

# %%
import itertools
import math

import torch
import torch.nn.functional as F
from IPython.display import display
from PIL import Image

from ddetr import build_model, load_pretrained
from ddetr.course import check
from ddetr.data import prepare_image, toy_scene
from ddetr.models import reference_points
from ddetr.ops import bilinear_sample, choose_backend
from ddetr.viz import coordinate_sandboxes, coordinates, figures

torch.manual_seed(0)
model = load_pretrained("tiny").eval()
image, tall = (prepare_image(Image.fromarray(toy_scene(seed).image), 160) for seed in (105, 7))
print(f"device cpu · operator {choose_backend()} · weights tiny, tiny_two_stage · data ToyCOCO")

# %%
display(figures.pipeline_map(["encoder", "pre_decoder"]))

# %% [markdown]
# Attention here is short-sighted: a token looks at a few places *around* some place of its own. That place is its
# reference point.
#
# ## Centres
#
# One image, 160 x 212 pixels, four levels.

# %%
with torch.no_grad():
    tokens = model.pre_transformer(model.batch_images([image]))
assert tuple(image.shape) == (3, 160, 212)
print(tokens.level_sizes)

# %% [markdown]
# **Predict.** Level 3 is 3 x 4 cells. Where is the middle of the cell in row 0, column 0, as (x, y) in [0, 1]?

# %%
h, w = tokens.level_sizes[3]
x = torch.linspace(0.5, w - 0.5, w) / w  # (w,), centres: 0.5, 1.5, ...
y = torch.linspace(0.5, h - 0.5, h) / h  # (h,)
print(f"({x[0]:.4f}, {y[0]:.4f})")

# %% [markdown]
# If you said (0, 0), you are in good company: that is the corner. Deformable DETR looks from centres. And x comes
# first, although sizes are (h, w).
#
# All cells of a level, in the order of the tokens:

# %%
rows, columns = torch.meshgrid(y, x, indexing="ij")  # (h, w) each
grid = torch.stack([columns, rows], -1).reshape(-1, 2)  # (h, w, 2) -> (h*w, 2), row by row
assert grid.shape == (12, 2)
print([f"({x:.3f}, {y:.3f})" for x, y in grid[:5]])

# %% [markdown]
# All levels, one after the other. The package's function also wants the valid ratios; nothing is padded, so they are 1.


# %%
def centres(level_sizes):  # L pairs (h, w) -> (S, 2)
    grids = []
    for h, w in level_sizes:
        rows, columns = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
        grids.append(torch.stack([columns, rows], -1).reshape(-1, 2))
    return torch.cat(grids)


points = reference_points.encoder_reference_points(tokens.level_sizes, tokens.valid_ratios)
assert points.shape == (1, 727, 4, 2)  # (B, S, L, (x, y))
ours = centres(tokens.level_sizes)
torch.testing.assert_close(ours[None, :, None].expand(-1, -1, 4, -1), points)
print(f"largest deviation: {(ours[:, None] - points[0]).abs().max():.0e}")

# %% [markdown]
# The third axis, L, is idle so far: four times the same point.
#
# **Predict.** Draw all four levels over the image. Do tokens of two levels ever share a place?

# %%
pixels = torch.tensor([212, 160])  # (w, h)


def by_level(points, level_sizes, levels=(0, 1, 2, 3)):  # (S, 2) in [0, 1] -> {level: (h*w, 2)} in pixels
    parts = (points * pixels).split([h * w for h, w in level_sizes])
    return {level: parts[level] for level in levels}


assert len(torch.unique((ours * 1e4).round(), dim=0)) == 727  # all different
display(coordinates.places_on_image(image, by_level(ours, tokens.level_sizes), title="every token's reference point"))

# %% [markdown]
# Not here (9 x 9 and 3 x 3 cells would share their middle: page 03). But all live in one square from 0 to 1. The same
# fraction is the same place at every level: a token of level 3 can look into level 0 without knowing how many cells
# there are. That is the point of normalising.
#
# ## From a pixel to four cells
#
# A place lies between the centres of cells, so reading means mixing four of them.
#
# **Predict.** Level 2 has 5 rows of 7 cells for these 160 x 212 pixels. Which four are read at pixel (x, y) = (190, 30),
# and which of them counts most? Here is the whole ladder:

# %%
ladder = coordinates.LadderState(place=(190, 30), image_size=(160, 212), padded_size=(160, 212), level=2)
display(coordinates.draw(ladder, image))

# %% [markdown]
# Each rung is one line. (Nothing is padded, and `grid_sample`'s own rung waits for the next section.)

# %%
h, w = tokens.level_sizes[2]
x, y = 190 / 212, 30 / 160  # pixel -> [0, 1]
x, y = x * w - 0.5, y * h - 0.5  # -> cells -> counted from the first cell's centre
left, top = math.floor(x), math.floor(y)
dx, dy = x - left, y - top
for row, column, weight in (
    (top, left, (1 - dx) * (1 - dy)),
    (top, left + 1, dx * (1 - dy)),
    (top + 1, left, (1 - dx) * dy),
    (top + 1, left + 1, dx * dy),
):
    print(f"row {row}, column {column}: {weight:.3f}")

# %% [markdown]
# ### Exercise: four corners
#
# `four_corners(place, size)`: place (x, y) in [0, 1] of a map of size (h, w). Return a list of four (row, column,
# weight): top left, top right, bottom left, bottom right. Keep corners beyond the map.


# %%
def four_corners(place, size):
    raise NotImplementedError


check("04.four_corners", four_corners)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def four_corners(place, size):
    h, w = size
    x, y = place[0] * w - 0.5, place[1] * h - 0.5
    left, top = math.floor(x), math.floor(y)
    dx, dy = x - left, y - top
    return [
        (top, left, (1 - dx) * (1 - dy)),
        (top, left + 1, dx * (1 - dy)),
        (top + 1, left, (1 - dx) * dy),
        (top + 1, left + 1, dx * dy),
    ]


check("04.four_corners", four_corners)

# %% [markdown]
# ## `align_corners`, half pixels: which is right?
#
# Take a ruler: a map whose cells hold the x of their own centres, in pixels. Whoever reads it at pixel 190 should get
# 190. **Predict.** With `align_corners=True`, or with `False`?

# %%
ruler = ((torch.arange(w) + 0.5) / w * 212).expand(1, 1, h, w)  # (B, C, h, w)
place = torch.tensor([190 / 212, 30 / 160])
grid = (2 * place - 1).view(1, 1, 1, 2)  # [0, 1] -> [-1, 1], as grid_sample wants it
for align_corners in (False, True):
    read = F.grid_sample(ruler, grid, align_corners=align_corners).item()
    print(f"align_corners={align_corners}: {read:.1f}")

# %% [markdown]
# `False` is right, because our 0 and 1 are the *edges* of the map. With `True`, -1 and 1 are the centres of the border
# cells.
#
# **Touch.** Drag the place, choose a level, throw a switch. Where does `align_corners=True` do no harm?

# %%
by_hand = bilinear_sample(ruler[0].permute(1, 2, 0), place[0] * w, place[1] * h).item()  # the package's definition
assert abs(by_hand - 190) < 1e-3
coordinate_sandboxes.ladder_sandbox(image, ladder._replace(align_corners=True))

# %% [markdown]
# At the centre. Every place shrinks towards it, by half a cell at the border. The coarser the map, the more pixels that
# is.
#
# **Break it.** Two other classics: one forgets the half pixel, one hands over (y, x). Which is which?

# %%
display(coordinates.draw(ladder._replace(swapped=True), image))
display(coordinates.draw(ladder._replace(half_pixel=False), image))

# %% [markdown]
# Swapped axes mirror at the diagonal: far off, but only where x and y differ. A lost half pixel leads to the bottom
# right, everywhere by the same half cell.
#
# ## A batch: the image ends before the map does
#
# Put a tall image into the batch. The first now has padding below.

# %%
with torch.no_grad():
    pair = model.pre_transformer(model.batch_images([image, tall]))
H, W = 237, 212
print("levels:", pair.level_sizes)
print("valid part of the height:", [f"{ratio:.4f}" for ratio in pair.valid_ratios[0, :, 1]])

# %% [markdown]
# **Predict.** Run the same code. The token in the middle of the *picture*: does it still say 0.5?

# %%
naive = centres(pair.level_sizes)
display(
    coordinates.places_on_image(
        image, by_level(naive, pair.level_sizes, (2, 3)), (H, W), "divided by the map: squeezed upwards"
    )
)

# %% [markdown]
# No. All rows of the map, padding included, are squeezed into the picture. So divide by the valid part of the token's
# own level:

# %%
valid = torch.cat([pair.valid_ratios[0, level].expand(h * w, 2) for level, (h, w) in enumerate(pair.level_sizes)])
places = naive / valid  # (S, 2), of the image
display(
    coordinates.places_on_image(
        image, by_level(places, pair.level_sizes, (2, 3)), (H, W), "divided by the valid part: in place"
    )
)
print(f"largest y: {places[:, 1].max():.3f}")

# %% [markdown]
# The tokens of the image are in place. Those of the padding say more than 1.
#
# ## Why divide, and then multiply?
#
# The operator knows no image, only padded maps. So the place becomes one of the map *looked into*: times that level's
# ratio. Follow the token in the middle of the picture. **Predict.** Are its four rows, one for each level, equal?

# %%
token = 10 * 27 + 13  # level 0, row 10, column 13
assert torch.allclose(places[token], torch.tensor([0.5, 0.5]))
points = reference_points.encoder_reference_points(pair.level_sizes, pair.valid_ratios)
print("looks into   reference y   pixel   with level 0's y   pixel")
for level in range(4):
    ratio, y, own = pair.valid_ratios[0, level, 1], points[0, token, level, 1], points[0, token, 0, 1]
    print(f"level {level}      {y:.4f}        {y / ratio * 160:5.1f}   {own:.4f}             {own / ratio * 160:5.1f}")

# %% [markdown]
# The rows are not all equal. With one number for all levels the token would look 5.3 of 160 pixels too high on two of
# them, because 21 of 30 rows and 3 of 4 round the padding differently. That difference is the whole reason for
# `valid_ratios`, and for the L in (B, S, L, 2). In one line:

# %%
by_hand = places[:, None] * pair.valid_ratios[0]  # (S, 1, 2) * (L, 2) -> (S, L, 2)
torch.testing.assert_close(by_hand, points[0])
assert abs(160 / 2 - points[0, token, 0, 1] / pair.valid_ratios[0, 3, 1] * 160 - 5.33) < 0.01
print(f"largest deviation: {(by_hand - points[0]).abs().max():.0e}")

# %% [markdown]
# ### Exercise: encoder reference points, with padding
#
# `encoder_reference_points(level_sizes, valid_ratios)`: L pairs (h, w), and (B, L, 2) as (w, h). Returns (B, S, L, 2):
# each token's centre, divided by the ratio of its own level, times the ratio of each level.


# %%
def encoder_reference_points(level_sizes, valid_ratios):
    raise NotImplementedError


check("04.encoder_reference_points", encoder_reference_points)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def encoder_reference_points(level_sizes, valid_ratios):
    places = []
    for level, (h, w) in enumerate(level_sizes):
        rows, columns = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
        grid = torch.stack([columns, rows], -1).reshape(-1, 2)  # (h*w, 2)
        places.append(grid / valid_ratios[:, None, level])  # (B, h*w, 2)
    return torch.cat(places, 1)[:, :, None] * valid_ratios[:, None]  # (B, S, 1, 2) * (B, 1, L, 2)


check("04.encoder_reference_points", encoder_reference_points)

# %% [markdown]
# ## More than 1: does it matter?
#
# **Break it.** Send the tokens of the padding anywhere, up to a hundred maps away, and run the encoder.


# %%
def run_encoder(points):  # (B, S, L, 2) -> memory (B, S, C)
    x = pair.tokens
    for layer in model.encoder.layers:
        x = layer(x, pair, points)
    return x


with torch.no_grad():
    anywhere = torch.where(pair.mask[..., None, None], 100 * torch.rand_like(points), points)
    change = (run_encoder(anywhere) - run_encoder(points)).abs().amax(-1)  # (B, S)
assert change[~pair.mask].max() == 0
print(f"change in padding tokens: up to {change[pair.mask].max():.1f}; in the image's: {change[~pair.mask].max():.0f}")

# %% [markdown]
# It does not. They see rubbish and hold rubbish, and nobody reads it: their values are set to zero in every layer.
#
# ## The decoder: a place without a cell
#
# A query is no cell. It has a vector, `query_pos`, and a linear layer reads a place off it.

# %%
queries = model.queries
query_pos, _ = queries.query_embed.weight.chunk(2, -1)  # (Q, 2 C) -> (Q, C)
with torch.no_grad():
    by_hand = queries.reference_points(query_pos).sigmoid()  # (Q, C) -> (Q, 2), in (0, 1)
    trace = model.trace([image])
learned = trace["pre_decoder.reference_points"]
assert learned.shape == (1, 50, 2)  # (B, Q, 2); 300 in the paper
torch.testing.assert_close(by_hand, learned[0])
print(f"largest deviation: {(by_hand - learned[0]).abs().max():.0e}")

# %% [markdown]
# No image was asked. A fresh network throws its points at random. **Predict.** Where do they lie after training?

# %%
scores = trace["heads.logits"][-1, 0].sigmoid().amax(-1)  # (Q, K) -> (Q,)
boxes = trace["heads.boxes"][-1, 0]
display(coordinates.queries_on_image(image, learned[0], boxes, scores, threshold=0.3))


# %%
def to_neighbour(points):  # (Q, 2) -> each point's distance to the nearest other one
    return (torch.cdist(points, points) + 9 * torch.eye(len(points))).amin(1)


with torch.no_grad():
    fresh = build_model(model.config).queries(1).reference_points[0]
assert to_neighbour(learned[0]).min() > to_neighbour(fresh).median()
for name, distances in (("fresh", to_neighbour(fresh)), ("trained", to_neighbour(learned[0]))):
    print(f"{name:8} distance to the nearest neighbour: {distances.min():.3f} to {distances.max():.3f}")

# %% [markdown]
# They have shared the image out among them, nearly evenly. In the figure an arrow leads from a query's point to the
# middle of the box that it found. Is the finder always the nearest of the 50?

# %%
found = scores > 0.3
from_box = torch.cdist(boxes[found, :2], learned[0])  # box centre to every reference point
ranks = (from_box < from_box.gather(1, found.nonzero())).sum(1) + 1
assert (ranks == 1).float().mean() > 0.5
print("rank of the finder among 50, by distance:", ranks.tolist())

# %% [markdown]
# Mostly (rank 1), or one of the next. Here two claim the upper stop sign, and two the bird in front of it (duplicates:
# page 08). A query is responsible for its neighbourhood, and corrects from there. *(Pages 08 and 09.)*
#
# ## Do they change from layer to layer?
#
# **Predict.** Three decoder layers, each of which might look from somewhere else. Which of the two shipped models lets
# its points move?

# %%
refined = load_pretrained("tiny_two_stage").eval().trace([image])
for name, run in (("tiny", trace), ("tiny_two_stage", refined)):
    steps = [run[f"decoder.reference_points{n}"][0] for n in range(3)]  # (Q, 2 | 4) of each layer
    assert run is refined or all(torch.equal(step, steps[0]) for step in steps)
    moved = [f"{(b - a).abs().max():.3f}" for a, b in itertools.pairwise(steps)]
    print(f"{name:15} {tuple(steps[0].shape)} moved by up to {', '.join(moved)}")

# %% [markdown]
# Without refinement, never: all layers look from the same place. With it, each looks from the *box* that the one before
# found, and the points become (cx, cy, w, h). *(Page 09.)*
#
# ## Why (B, S, L, 2) here and (B, Q, 2) there?
#
# One module takes both. **Predict.** What turns (B, Q, 2) into what it takes?

# %%
to_maps = learned[:, :, None] * pair.valid_ratios[:, None]  # (1, Q, 1, 2) * (B, 1, L, 2) -> (B, Q, L, 2)
torch.testing.assert_close(to_maps, reference_points.decoder_reference_points(learned, pair.valid_ratios))
assert to_maps.shape == (2, 50, 4, 2)
encoder_too = reference_points.decoder_reference_points(places[None], pair.valid_ratios[:1])
torch.testing.assert_close(encoder_too, points[:1])
print(f"largest deviation: {(encoder_too - points[:1]).abs().max():.0e}")

# %% [markdown]
# The same multiplication, for queries and for tokens. A query's place is of the image from the start, so nothing is
# divided. Both end as (B, N, L, 2). The encoder makes its own once; the decoder's may move, and are multiplied anew in
# every layer.
#
# ### Exercise: decoder reference points, for boxes too
#
# `decoder_reference_points(reference_points, valid_ratios)`: (B, Q, 2) as (x, y) or (B, Q, 4) as (cx, cy, w, h) of the
# image, and (B, L, 2) as (w, h). Returns (B, Q, L, 2) or (B, Q, L, 4), of each level's map. A box's sides scale as its
# centre does.


# %%
def decoder_reference_points(reference_points, valid_ratios):
    raise NotImplementedError


check("04.decoder_reference_points", decoder_reference_points)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def decoder_reference_points(reference_points, valid_ratios):
    scale = valid_ratios.repeat(1, 1, reference_points.shape[-1] // 2)  # (w, h), or (w, h, w, h)
    return reference_points[:, :, None] * scale[:, None]


check("04.decoder_reference_points", decoder_reference_points)

# %% [markdown]
# ## Take with you
#
# * A token looks from its cell's centre, a query from a place that it has learnt.
# * Divide by your own level's ratio to reach the image, multiply by the other's to reach its map.
# * 0 and 1 are edges, values sit half a cell in: that is `align_corners=False`.
#
# Questions answered here: 5 (`valid_ratios`), 6 (beyond 1), 9 (two shapes), 10 (layer to layer), 17 (`align_corners`,
# half pixels; the operator's side is on page 06).
#
# ## In other code bases
#
# | here | mmdetection | official | Hugging Face |
# |---|---|---|---|
# | `encoder_reference_points` | `DeformableDetrTransformerEncoder.get_encoder_reference_points` | `DeformableTransformerEncoder.get_reference_points` | `DeformableDetrEncoder.get_reference_points` |
# | `decoder_reference_points` | `reference_points_input` in `DeformableDetrTransformerDecoder.forward` | `reference_points_input` in `DeformableTransformerDecoder.forward` | `reference_points_input` in `DeformableDetrDecoder.forward` |
# | `LearnedQueries.reference_points` | `reference_points_fc` | `DeformableTransformer.reference_points` | `DeformableDetrModel.reference_points` |
#
# Next: *Where does it look, and how hard?* (05 · Sampling offsets)
