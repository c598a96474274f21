# %% [markdown]
# # 06 · The attention operator
#
# **How is it computed, and why a kernel?**
#
# After this page you can
#
# * compute one query's attention by hand, and its gradients;
# * read the CUDA kernel, and say what each of its threads reads and writes;
# * say what goes wrong with half pixels, half precision, and two threads at one number.

# %%
import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import display
from PIL import Image

from ddetr import load_pretrained
from ddetr.course import check
from ddetr.course.measure import measure, seconds
from ddetr.course.source import excerpt
from ddetr.data import prepare_image, toy_scene
from ddetr.ops import available_backends, choose_backend, ms_deform_attn
from ddetr.viz import conventions, cost, figures, kernel_thread, sandboxes

torch.manual_seed(0)
tiny = load_pretrained("tiny").eval()
scene = toy_scene(105)
image = prepare_image(Image.fromarray(scene.image), 160)
print(f"device cpu · operator {choose_backend()} · weights tiny · data ToyCOCO")

# %%
display(figures.pipeline_map(["encoder", "decoder"]))

# %% [markdown]
# ## One query, by hand
#
# Page 05 left us with two tensors: where each query looks, and how hard. Take the last decoder layer's.

# %%
trace = {(entry.stage, entry.name): entry.tensor.detach() for entry in tiny.trace([image])}
value = trace["decoder.layer2", "value"]  # (B, S, M, D): what the tokens have to say, head by head
locations = trace["decoder.layer2", "sampling_locations"]  # (B, Q, M, L, P, 2) as (x, y) in [0, 1]
weights = trace["decoder.layer2", "attention_weights"]  # (B, Q, M, L, P)
sizes = [tuple(size) for size in trace["multi_scale", "spatial_shapes"].tolist()]  # L of (h, w)
starts = trace["multi_scale", "level_start_index"].tolist()
(B, S, M, D), (Q, L, P) = value.shape, (locations.shape[1], *locations.shape[3:5])
assert (B, S, M, D, Q, L, P) == (1, 727, 8, 16, 50, 4, 4)
q = trace["heads", "logits"][-1, 0].amax(1).argmax().item()  # (Q, K) -> the query that is surest of its object
m = 4
print(f"value {tuple(value.shape)} · query {q}, head {m}: {L * P} points")

# %% [markdown]
# The paper's equation 3, for one head of one query: over all levels and points, add up weight times the value at the
# location. A location lies between the centres of four cells, and reads their mean, the nearer the more.


# %%
def corners(x, y, h, w):  # (x, y) in [0, 1] -> (row, column, share) of the cells around it that exist
    x, y = x * w - 0.5, y * h - 0.5  # in cells, counted from the centre of the first
    left, top = math.floor(x), math.floor(y)
    dx, dy = x - left, y - top
    four = [
        (top, left, (1 - dy) * (1 - dx)), (top, left + 1, (1 - dy) * dx),
        (top + 1, left, dy * (1 - dx)), (top + 1, left + 1, dy * dx),
    ]  # fmt: skip
    return [(row, column, share) for row, column, share in four if 0 <= row < h and 0 <= column < w]


# %% [markdown]
# **Predict.** How many numbers does one head read to make its 16?


# %%
def reads(b, q, m):  # every (token, level, point, share) of one head of one query
    for level, (h, w) in enumerate(sizes):
        for p in range(P):
            for row, column, share in corners(*locations[b, q, m, level, p].tolist(), h, w):
                yield starts[level] + row * w + column, level, p, share


by_hand = torch.zeros(D)
for token, level, p, share in reads(0, q, m):
    by_hand += weights[0, q, m, level, p] * share * value[0, token, m]  # (D,)
out = ms_deform_attn(value, sizes, starts, locations, weights)  # (B, Q, M * D)
package = out.view(B, Q, M, D)[0, q, m]
torch.testing.assert_close(by_hand, package)
count = len(list(reads(0, q, m)))
print(f"{count} cells of {D} numbers: {count * D} read. Largest deviation {(by_hand - package).abs().max():.0e}")

# %% [markdown]
# At most 16 points x 4 corners x 16 channels = 1024, less what lies outside the map. That sum is the whole operator.
# Step through its 16 points: cells read so far are coloured, those of this point framed. (Why it follows four
# of the 16 channels, you see below.)

# %%
point = 4
state = kernel_thread.ThreadState(sizes, locations[0, q, m], weights[0, q, m], point, "forward", q, m, (8, 12))
display(sandboxes.kernel_thread_view(state))

# %% [markdown]
# ### Exercise: read one place
#
# `bilinear_sample(image, x, y)`: image (h, w, D), a place in *cells from the top left corner of the map* -> (D,).
# Outside the map is zero.


# %%
def bilinear_sample(image, x, y):
    raise NotImplementedError


check("06.bilinear_sample", bilinear_sample)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def bilinear_sample(image, x, y):
    h, w, channels = image.shape
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)  # the cell whose centre is at or before the place
    dx, dy = x - 0.5 - left, y - 0.5 - top
    out = torch.zeros(channels)
    for row, share_y in ((top, 1 - dy), (top + 1, dy)):
        for column, share_x in ((left, 1 - dx), (left + 1, dx)):
            if 0 <= row < h and 0 <= column < w:
                out = out + share_y * share_x * image[row, column]
    return out


check("06.bilinear_sample", bilinear_sample)

# %% [markdown]
# ## Is grid_sample the same thing?
#
# PyTorch has a function that reads maps between cells. One call a level, then the weights:

# %%
samples = []
for level, (h, w) in enumerate(sizes):
    maps = value[:, starts[level] : starts[level] + h * w].permute(0, 2, 3, 1).reshape(B * M, D, h, w)
    grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).reshape(B * M, Q, P, 2)  # [0, 1] -> [-1, 1]
    samples.append(F.grid_sample(maps, grid, align_corners=False))  # (B*M, D, Q, P)
samples = torch.stack(samples, 3).flatten(3)  # (B*M, D, Q, L*P)
summed = (samples * weights.transpose(1, 2).reshape(B * M, 1, Q, L * P)).sum(-1)  # (B*M, D, Q)
summed = summed.view(B, M * D, Q).transpose(1, 2)
torch.testing.assert_close(summed, out)
print(f"largest deviation: {(summed - out).abs().max():.0e}")

# %% [markdown]
# Yes. The package has four back ends: a Python loop, `grid_sample`, C++ ("cpu") and CUDA. The loop, in float64, is the
# judge of all, in value *and* gradient:


# %%
def run(backend, dtype, device="cpu"):  # value and three gradients, for the first four queries
    inputs = [t.to(device, dtype, copy=True).requires_grad_() for t in (value, locations[:, :4], weights[:, :4])]
    result = ms_deform_attn(inputs[0], sizes, None, *inputs[1:], backend=backend)
    target = torch.linspace(-1, 1, result.numel(), dtype=dtype, device=device).view_as(result)
    return [result, *torch.autograd.grad(result, inputs, target)]


judge = run("loop", torch.float64)
for name, missing in available_backends().items():
    if missing:
        print(f"measured: {name:11}  not here: {missing}")
        continue
    device = "cuda" if name == "cuda" else "cpu"
    got = [t.cpu().double() for t in run(name, torch.float32, device)]
    spent = seconds(lambda name=name, device=device: run(name, torch.float32, device))
    errors = [((a - b).norm() / b.norm()).item() for a, b in zip(got, judge, strict=True)]
    assert max(errors) < 1e-4
    print(f"measured: {name:11}  value {errors[0]:.0e}  gradients: value {errors[1]:.0e}, "
          f"locations {errors[2]:.0e}, weights {errors[3]:.0e}  in {1e3 * spent:.1f} ms")  # fmt: skip

# %% [markdown]
# The errors are relative, and no more than float32's rounding. Nothing below needs a compiler or a GPU.
#
# ## Why does it not run on the CPU elsewhere?
#
# Nobody wrote it: the official C++ for the CPU only raises "Not implement on cpu". mmcv and Hugging Face fall back to
# `grid_sample`. So do we, but only where neither C++ nor CUDA serves, as on a Mac's GPU ("mps"):

# %%
for device in ("cpu", "cuda", "mps"):
    print(f"measured: tensors on {device:4} are served by {choose_backend(device_type=device)}")

# %% [markdown]
# ## So why a kernel?
#
# Look at `samples` again: `(B*M, D, Q, L*P)`, every read of every query, written down before anyone adds it up. In the
# encoder, the portrait of page 01 asks with 5532 queries, 8 heads, 32 channels.
#
# **Predict.** How much larger than the result?

# %%
samples_bytes = 4 * (8 * 32 * 5532 * 16)  # (B*M, D, Q, L*P) float32
result_bytes = 4 * (5532 * 256)  # (B, Q, M*D)
assert samples_bytes == L * P * result_bytes
print(f"samples {samples_bytes / 1e6:.0f} MB, result {result_bytes / 1e6:.1f} MB")

# %% [markdown]
# L * P = 16 times, and stacking and weighting make copies. A *kernel* is one function that does the whole operator: it
# adds each read to a sum and forgets it. The sum is in a register, one of the few numbers that a processor keeps
# inside.
#
# **Predict.** Four times the tokens, forward and backward: what happens to time and memory?

# %%
portrait = ((60, 69), (30, 35), (15, 18), (8, 9))  # the levels of 480 x 546 pixels
ladder = [[(math.ceil(h / k), math.ceil(w / k)) for h, w in portrait] for k in (8, 4, 2, 1)]
token_counts = [sum(h * w for h, w in levels) for levels in ladder]


def both_ways(levels, backend, device):  # random inputs -> a call that runs forward and backward
    s = sum(h * w for h, w in levels)
    shapes = (1, s, 8, 32), (1, s, 8, 4, 4, 2), (1, s, 8, 4, 4)
    inputs = [torch.rand(shape, device=device, requires_grad=True) for shape in shapes]

    def call():
        result = ms_deform_attn(inputs[0], levels, None, *inputs[1:], backend=backend)
        return torch.autograd.grad(result.sum(), inputs)

    return call


# %%
def told(costs):  # name -> a line for each number of tokens
    for name, line in costs.items():
        numbers = [f"{n}: {1e3 * c.seconds:.1f} ms {c.peak_bytes / 1e6:.1f} MB"
                   for n, c in zip(token_counts, line, strict=True)]  # fmt: skip
        print(f"measured: {name:11}  {' · '.join(numbers)}")


here = [name for name in ("grid_sample", "cpu") if available_backends()[name] is None]
costs = {name: [measure(both_ways(levels, name, "cpu"), repeats=3) for levels in ladder] for name in here}
told(costs)
assert all(g.peak_bytes > 10 * c.peak_bytes for g, c in zip(costs["grid_sample"], costs.get("cpu", []), strict=False))
display(cost.curves(token_counts, costs, "forward and backward on the processor, 8 heads of 32 channels"))

# %% [markdown]
# Time and memory grow with the tokens. `grid_sample`'s tensors hold more than ten times as much as the kernel's, and on
# a large map it takes several times as long. An image of 800 x 1333 has four times these tokens, and the encoder six
# layers. On a GPU:

# %% tags=["gpu"]
if torch.cuda.is_available():
    gpu = [name for name in ("grid_sample", "cuda") if available_backends()[name] is None]
    costs = {name: [measure(both_ways(levels, name, "cuda")) for levels in ladder] for name in gpu}
    told(costs)
    display(cost.curves(token_counts, costs, f"forward and backward on {torch.cuda.get_device_name()}"))
else:
    print("No GPU here. On a machine that has one, this cell draws the same two curves for it.")

# %% [markdown]
# ## One thread
#
# A GPU runs thousands of *threads*: the same function, each with a number of its own. They come in *blocks*, here of
# 256. In a block, 32 neighbours are a *warp*, and run in step: all at the same line. Your program starts all threads
# with one call, `forward_kernel<<<blocks, 256>>>(...)`. This is ours; the words are below it:

# %%
print(excerpt("cuda/ms_deform_attn.cu", "forward_kernel"))

# %% [markdown]
# | it says | it means |
# |---|---|
# | `template <int N, int SIZE, ...>` | one kernel for each case: N channels a thread, SIZE threads a head, each type of number |
# | `__global__`, `__launch_bounds__` | runs on the GPU, in blocks of at most `kBlock` = 256 threads |
# | `__grid_constant__ Layout`, `Sampling` | S, M, D, Q, L, P, and where locations and weights lie: one copy for all threads |
# | `scalar_t* value`, `scalar_t* out` | addresses: where `value` begins in memory, and where the result goes |
# | `active` | false for threads past the last of all `heads`: the last block is rarely full |
# | `forward_head`, `WarpGroup<SIZE>` | the work, in another file; what lets a head's threads talk to each other |
#
# All that tells one thread from another is `blockIdx.x`, which block, and `threadIdx.x`, which thread in it. So the
# line to read twice is `index = ...`: from these two it works out which head of which query is its own. A thread takes
# 16 bytes, four channels, so the tiny model's 16 channels need SIZE = 4 threads a head.
#
# **Predict.** Which head of which query is thread 32's?

# %%
N, SIZE, BLOCK = 4, 4, 256  # channels a thread, threads a head, threads a block


def who_am_i(block, thread):  # -> image, query, head, first of four channels
    index = (block * BLOCK + thread) // SIZE  # counts (b, q, m)
    return index // M // Q, index // M % Q, index % M, thread % SIZE * N


for thread in (0, 1, 2, 3, 4, 31, 32, 255):
    print(f"block 0, thread {thread:3}: b, q, m, d = {who_am_i(0, thread)}")
blocks = -(-B * Q * M * SIZE // BLOCK)
print(f"{B * Q * M} heads x {SIZE} threads = {B * Q * M * SIZE}: {blocks} blocks, {blocks * BLOCK} threads")

# %% [markdown]
# What a thread does for each of its head's points:

# %%
print(excerpt("cuda/head.h", "gather"))

# %% [markdown]
# | it says | it means |
# |---|---|
# | `point` | one of the 16: its top left token, the four shares, its attention weight |
# | `token_stride` | M * D: how far it is from one token's numbers to the next one's |
# | `load_pack<N>` | reads N neighbouring numbers in one go |
# | `T (&sum)[N]` | this thread's N sums, in registers; `&`: the caller's own, not a copy |
#
# The loop over k is our `corners`, the loop over c our `by_hand +=`. In Python, one thread after the other:

# %%
numbers, strength = value.numpy(), weights.numpy()


def kernel(block, thread, result):
    b, q, m, d = who_am_i(block, thread)
    if b >= B:
        return  # past the last head
    total = np.zeros(N, np.float32)  # in registers: no memory is written until the end
    for token, level, p, share in reads(b, q, m):
        total += strength[b, q, m, level, p] * share * numbers[b, token, m, d : d + N]
    result[b, q, m, d : d + N] = total


result = np.full((B, Q, M, D), np.nan, np.float32)
for block, thread in itertools.product(range(blocks), range(BLOCK)):
    kernel(block, thread, result)
torch.testing.assert_close(torch.from_numpy(result).view(B, Q, M * D), out)
print(f"largest deviation: {np.abs(result.reshape(B, Q, M * D) - out.numpy()).max():.0e}")

# %% [markdown]
# You have run a kernel, every thread of it. The real one is cleverer in one thing: your four threads of a head each
# worked out the corners of all 16 points. There, each does so for four, and hands them to the others.
#
# And its file, `head.h`, needs no GPU: `DDETR_HOST_DEVICE` has it compiled for the CPU too, where ordinary threads take
# the place of CUDA's:

# %%
reason = available_backends()["cpu"]  # it is in the same library
if reason is None:
    flat = [n for size in sizes for n in size]
    head = value[:, :, 4:5], flat, None, locations[:, q : q + 1, 4:5], weights[:, q : q + 1, 4:5]  # one query, head 4
    on_host = torch.ops.ddetr.cuda_on_host(*head, SIZE).flatten()  # (D,)
    torch.testing.assert_close(on_host, by_hand)
    print(f"measured: head.h on this processor, largest deviation {(on_host - by_hand).abs().max():.0e}")
else:
    print(f"measured: head.h on this processor: {reason}")

# %% [markdown]
# ### Exercise: thread to number
#
# The official kernel has one thread for each number of the output (B, Q, M, D); neighbouring threads take neighbouring
# numbers in memory. Write `thread_address(block, thread, block_size, Q, M, D)` -> `(b, q, m, d)`.


# %%
def thread_address(block, thread, block_size, Q, M, D):
    raise NotImplementedError


check("06.thread_address", thread_address)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def thread_address(block, thread, block_size, Q, M, D):
    index = block * block_size + thread  # counts (b, q, m, d), d fastest
    return index // (D * M * Q), index // (D * M) % Q, index // D % M, index % D


check("06.thread_address", thread_address)

# %% [markdown]
# ## Why neighbouring threads take neighbouring channels
#
# Memory comes in sectors of 32 bytes: who reads one number gets eight. Query `q`'s 8 heads x 4 threads are one warp.
# All are at their head's first corner, and each reads its four channels: 32 x 16 bytes.
#
# **Predict.** How many sectors? And if `value` lay as `grid_sample` has it, a whole map for each channel?

# %%
tokens = [next(reads(0, q, m))[0] for m in range(M)]  # each head's first corner
asked = [(tokens[m], m, d + c) for _, _, m, d in (who_am_i(0, t) for t in range(32)) for c in range(N)]
layouts = {
    "value (S, M, D), channels last": [4 * ((token * M + m) * D + d) for token, m, d in asked],
    "maps (M, D, S), channels first": [4 * ((m * D + d) * S + token) for token, m, d in asked],
}
display(kernel_thread.warp_reads(layouts))

# %% [markdown]
# Each box is a sector; blue is what was asked for. Channels last, every byte is: the reads are *coalesced*.
#
# ## Backward: two threads at one number
#
# Forward, each thread *gathers*: it reads many cells, and writes numbers that are its own. Backward, it *scatters*: it
# adds its gradient, in shares, to the cells that it read. Take our query and its three nearest, one thread each, on
# level 3.
#
# **Predict.** Does any cell get additions from all four?

# %%
level, m = 3, 4
middles = locations[0, :, m, level].mean(1)  # (Q, P, 2) -> (Q, 2)
near = (middles - middles[q]).norm(dim=-1).argsort()[:4].tolist()
theirs = [{query: tensor[0, query, m, level] for query in near} for tensor in (locations, weights)]
display(kernel_thread.scatter(sizes[level], starts[level], *theirs, level, m))

# %% [markdown]
# Where it says 4. At the right, each arrow is one addition to the framed cell. For one channel, all lead to the same
# number in memory: nobody owns a cell.
#
# Now all 50 queries, one head. **Predict**: on which level do strangers, threads of other queries, meet most?

# %%
m = 0
counts = [torch.zeros(size, dtype=torch.int64) for size in sizes]
for token, level, _, _ in itertools.chain.from_iterable(reads(0, q, m) for q in range(Q)):
    counts[level].view(-1)[token - starts[level]] += 1
display(kernel_thread.collisions(counts, f"{Q} queries, head {m}"))

# %% [markdown]
# On the coarsest: as many points, on fewer cells. (A query's points may share a cell, so a count can pass 50.)
#
# Adding is three steps: read, add, write. If two threads read before either writes, one addition is lost. Give every
# query a thread, all in step, for one channel. **Predict**: how much of level 3's gradient will be missing?

# %%
d = 0
gradient = torch.linspace(-1, 2, Q * M * D).view(1, Q, M * D)  # of the output, as backward receives it
mine = gradient.view(Q, M, D)[:, m, d].tolist()
additions = [
    [(token, (weights[0, q, m, level, p] * share * mine[q]).item()) for token, level, p, share in reads(0, q, m)]
    for q in range(Q)
]


def scatter_all(atomic):
    grad_value = np.zeros(S)
    for step in itertools.zip_longest(*additions):  # one addition of every thread at a time
        where, what = (np.array(part) for part in zip(*filter(None, step), strict=True))
        if atomic:
            np.add.at(grad_value, where, what)  # one after the other
        else:
            grad_value[where] = grad_value[where] + what  # all read, then all write: the last one stays
    return grad_value


# %%
inputs = [value.clone().requires_grad_(), locations.clone().requires_grad_(), weights.clone().requires_grad_()]
grads = torch.autograd.grad(ms_deform_attn(inputs[0], sizes, None, *inputs[1:]), inputs, gradient)
exact = grads[0][0, :, m, d].double().numpy()
np.testing.assert_allclose(scatter_all(atomic=True), exact, rtol=1e-3, atol=1e-5)
lost = np.abs(scatter_all(atomic=False) - exact)
print(f"atomic: largest deviation from the package {np.abs(scatter_all(True) - exact).max():.0e}")
shares = [lost[a:b].sum() / np.abs(exact[a:b]).sum() for a, b in itertools.pairwise([*starts, S])]
print("not atomic, missing on each level:", ", ".join(f"{share:.0%}" for share in shares))
assert shares[3] > 0.1

# %% [markdown]
# The coarser the level, the more is lost, and no error is raised. (PyTorch's `grad[where] += what` loses too;
# `index_add_` does not.) CUDA's cure is `atomicAdd`: read, add and write in one step that nobody can interrupt. The
# price is order: threads arrive as they like, and a sum of floats depends on who comes first:

# %%
a, b, c = (np.float32(x) for x in (1e8, -1e8, 1.0))
print(f"(a + b) + c = {(a + b) + c}, a + (b + c) = {a + (b + c)}")
assert (a + b) + c != a + (b + c)

# %% [markdown]
# So two CUDA runs differ in the last digits. (`torch.use_deterministic_algorithms(True)` refuses this backward pass.)
#
# **The CPU version does without.** It cuts the *cells* among its threads, not the queries: there is one task for each
# image, head and level, and it goes through all queries. Do two tasks ever meet?

# %%
owner = np.full((B, S, M, D), -1)
for task in range(B * M * L):
    image_, head, level = task // L // M, task // L % M, task % L
    part = owner[image_, starts[level] : starts[level] + math.prod(sizes[level]), head]
    assert (part == -1).all()  # nobody was here before
    part[:] = task
assert (owner >= 0).all()
print(f"{B * M * L} tasks, {owner.size} numbers: each number has one owner")

# %% [markdown]
# Never: it needs no atomics, and always adds in the same order. But a GPU needs thousands of tasks, not 32.
#
# ### The other two gradients
#
# A location and a weight belong to one point of one query: no strangers meet. But their gradients are sums over D
# channels, and a thread holds four: a head's threads add theirs up, and one writes. By hand:

# %%
m, level, p = 4, 2, 1
(h, w), g = sizes[level], gradient.view(Q, M, D)[q, m]  # (D,)
four = kernel_thread.corners_of(locations[0, q, m, level, p].tolist(), sizes[level], starts[level])
# How well the output's gradient agrees with each corner's value; outside, token is None.
dots = [0.0 if corner.token is None else (g @ value[0, corner.token, m]).item() for corner in four]
grad_weight = sum(corner.weight * dot for corner, dot in zip(four, dots, strict=True))
dy = four[2].weight + four[3].weight  # how far below the upper centres
slope_x = (1 - dy) * (dots[1] - dots[0]) + dy * (dots[3] - dots[2])  # right minus left
grad_x = slope_x * weights[0, q, m, level, p].item() * w  # times w: from a cell to the whole map

package_x, package_weight = grads[1][0, q, m, level, p, 0].item(), grads[2][0, q, m, level, p].item()
print(f"weight:     {grad_weight:+.5f} by hand, {package_weight:+.5f} by the package")
print(f"location x: {grad_x:+.5f} by hand, {package_x:+.5f} by the package")
assert math.isclose(grad_weight, package_weight, rel_tol=1e-3, abs_tol=1e-6)
assert math.isclose(grad_x, package_x, rel_tol=1e-3, abs_tol=1e-6)

# %% [markdown]
# A location learns from differences between neighbouring cells, and from nothing else.
#
# ### Exercise: scatter
#
# `scatter(grads, places, size)`: `grads` (N, D) are the gradients of what `bilinear_sample` read at the N `places`
# (N, 2), each (x, y) in cells. Returns the gradient of the map, (h, w, D); `size` is (h, w).


# %%
def scatter(grads, places, size):
    raise NotImplementedError


check("06.scatter", scatter)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def scatter(grads, places, size):
    h, w = size
    out = torch.zeros(h, w, grads.shape[1])
    for grad, (x, y) in zip(grads, places.tolist(), strict=True):
        left, top = math.floor(x - 0.5), math.floor(y - 0.5)
        dx, dy = x - 0.5 - left, y - 0.5 - top
        for row, share_y in ((top, 1 - dy), (top + 1, dy)):
            for column, share_x in ((left, 1 - dx), (left + 1, dx)):
                if 0 <= row < h and 0 <= column < w:
                    out[row, column] += share_y * share_x * grad  # add: others may have been here
    return out


check("06.scatter", scatter)

# %% [markdown]
# ## Half a pixel: align_corners
#
# Why the 0.5 in `corners`? A map of w cells covers [0, 1], and a value sits at its cell's *centre*. The first is half a
# cell in, so a location x is x * w - 0.5 cells from it. `grid_sample` counts from -1 to 1. With `align_corners=False`
# these are the outer edges of the map, with `True` the centres of its first and last cell:

# %%
display(conventions.draw(conventions.ConventionState(4, 0.2)))

# %% [markdown]
# **Predict.** A map of 4 cells, of 20, of 160: does the mistake grow? Read a ruler, whose cells hold their own place:


# %%
def read_place(x, cells, align_corners):
    ruler = (torch.arange(cells) + 0.5).view(1, 1, 1, cells)
    return F.grid_sample(ruler, torch.tensor([2 * x - 1, 0.0]).view(1, 1, 1, 2), align_corners=align_corners).item()


for cells in (4, 20, 160):
    right, wrong = read_place(0.2, cells, False), read_place(0.2, cells, True)
    print(f"{cells:3} cells: x = 0.2 is read at {right:7.3f} and at {wrong:7.3f}, off by {wrong - right:+.3f} cells")
    assert math.isclose(wrong - right, 0.5 - 0.2, abs_tol=1e-3)

# %% [markdown]
# No: it is 0.5 - x cells on any map, at most half. But a cell of level 3 is 64 pixels wide. `False` is right here:
# reference points are (column + 0.5) / w. *(Page 04.)* Train with one and read with the other, and the boxes move, while
# no error is raised: patient 9 of page 13.
#
# ### Exercise: the bug, fixed
#
# Somebody's export can only do `align_corners=True`. Their grid is `2 * locations - 1`. Write `grid(locations, size)`:
# what to give instead. locations (..., 2) as (x, y), size (h, w).


# %%
def grid(locations, size):
    raise NotImplementedError


check("06.grid", grid)


# %% jupyter={"source_hidden": true, "outputs_hidden": true} tags=["solution"]
# Solution
def grid(locations, size):
    width_height = torch.tensor(size).flip(0)  # (h, w) -> (w, h)
    cells = locations * width_height - 0.5  # from the centre of the first cell
    return 2 * cells / (width_height - 1) - 1  # the centre of the last one is at 1


check("06.grid", grid)

# %% [markdown]
# ## What happens outside the map?
#
# Nothing bounds a location. Walk across the left border of a map of ones. **Predict**: where does the reading begin to
# fall, and where is it zero?

# %%
cells = torch.linspace(-1.5, 2, 141)  # from the left edge of the map
places = torch.stack([cells / 4, torch.full_like(cells, 0.5)], 1).view(1, -1, 1, 1, 1, 2).requires_grad_()
ones = ms_deform_attn(torch.ones(1, 12, 1, 1), [(3, 4)], None, places, torch.ones(places.shape[:-1])).flatten()
slopes = torch.autograd.grad(ones.sum(), places)[0].flatten(0, -2)[:, 0] / 4  # by x, in cells
display(conventions.border(cells, ones, slopes))

# %% [markdown]
# It falls over one cell, half of it inside, and is zero from there on. Is it a rare case?

# %%
width_height = torch.tensor(sizes).flip(-1)[:, None]  # (L, 1, 2)
away = ((locations * width_height - width_height / 2).abs() > width_height / 2 + 0.5).any(-1)  # (B, Q, M, L, P)
assert (grads[1][away] == 0).all()
lost = weights[away].sum() / weights.sum()
print(f"in its last layer {away.float().mean():.0%} of the trained decoder's points read nothing and have no gradient; "
      f"they hold {lost:.0%} of the attention")  # fmt: skip

# %% [markdown]
# Not rare, on maps this small. Such a point gets no gradient of its own: it moves only when others move the layer that
# all offsets come from. And a location of NaN, or infinity?

# %%
for bad in (float("nan"), float("inf"), -1e30):
    nowhere = torch.full((1, 1, 1, 1, 1, 2), bad)
    read = ms_deform_attn(torch.ones(1, 12, 1, 1), [(3, 4)], None, nowhere, torch.ones(1, 1, 1, 1, 1))
    print(f"a location of {bad} reads {read.item()}")

# %% [markdown]
# ## im2col_step, and a batch of 65
#
# The official code starts its kernel once for every `im2col_step` = 64 images (a name from deformable convolution,
# whose buffers had to fit). First it checks batch % min(batch, 64) == 0:

# %%
refused = [batch for batch in range(1, 140) if batch % min(batch, 64)]
print(f"refused: {refused[0]} to {refused[62]}, then {refused[63]}, ...")
many = torch.rand(65, 9, 2, 4), torch.rand(65, 5, 2, 1, 3, 2), torch.rand(65, 5, 2, 1, 3)
whole = ms_deform_attn(many[0], [(3, 3)], None, *many[1:])
single = [ms_deform_attn(v[None], [(3, 3)], None, x[None], a[None]) for v, x, a in zip(*many, strict=True)]
torch.testing.assert_close(whole, torch.cat(single))
print(f"ours, 65 images: {tuple(whole.shape)}, {(whole - torch.cat(single)).abs().max():.0e} from one by one")

# %% [markdown]
# People meet it with video, its frames folded into the batch. A larger `im2col_step` helps; ours has none.
#
# ## Half precision
#
# Three things go wrong in 16 bits. **Places**, on a map of 167 columns (level 0 of an image 1333 pixels wide):

# %%
x = torch.rand(10000, dtype=torch.float64)
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    off = ((x.to(dtype).double() - x) * 167).abs().max()
    print(f"{dtype!s:14}  a location is off by up to {off:.5f} cells, {8 * off:.4f} pixels")

# %% [markdown]
# A third of a cell in bfloat16: nearly the align_corners bug. So only `value` may be in 16 bits here; locations and
# weights stay in float32, under autocast too.
#
# **Sums**: 5000 queries add 1 each to a cell's gradient.

# %%
total = torch.zeros((), dtype=torch.float16)
for _ in range(5000):
    total += 1  # the slow way, in 16 bits
cell = torch.ones(1, 1, 1, 4, dtype=torch.float16, requires_grad=True)  # a map of one cell
middle, one = torch.full((1, 5000, 1, 1, 1, 2), 0.5), torch.ones(1, 5000, 1, 1, 1)
(grad,) = torch.autograd.grad(ms_deform_attn(cell, [(1, 1)], None, middle, one).sum(), cell)
print(f"added in float16: {total:.0f} · this package: {grad[0, 0, 0, 0]:.0f}, as {grad.dtype}")
assert total == 2048
assert (grad == 5000).all()

# %% [markdown]
# After 2048, float16's next number is 2050: 2048 + 1 rounds back. The kernels add in float32, and round once, at the
# end.
#
# **NaN**: float16 ends at 65504. What is larger becomes infinite, and then even a weight of zero does not help:

# %%
large = torch.full((1, 1, 1, 1), 70000.0)
for dtype in (torch.float32, torch.float16):
    read = ms_deform_attn(large.to(dtype), [(1, 1)], None, middle[:, :1], torch.zeros(1, 1, 1, 1, 1))
    print(f"{dtype!s:13}  value {large.to(dtype).item():>7}, weight 0 -> {read.item()}")

# %% [markdown]
# Every query that reads such a token is NaN, and one training step later the whole network. bfloat16 reaches as far as
# float32: it blurs where float16 breaks. The official operator takes neither: "not implemented for 'Half'".
#
# ## Take with you
#
# * The operator is a sum of L * P weighted reads, each a mean of four cells; a kernel keeps only the sum.
# * Forward gathers, backward scatters: a GPU needs atomics, a CPU gives each number one owner.
# * Values sit at cell centres: `align_corners=False`, zeros outside, places in float32.
#
# Questions answered here: 7 (outside the map), 16 (im2col_step), 17 (align_corners), 18 (CPU, grid_sample), 19 (half
# precision).
#
# ## In other code bases
#
# | here | mmdetection (mmcv) | official | Hugging Face |
# |---|---|---|---|
# | `ms_deform_attn` | `MultiScaleDeformableAttnFunction` | `MSDeformAttnFunction` | `MultiScaleDeformableAttention` |
# | `ms_deform_attn_grid_sample` | `multi_scale_deformable_attn_pytorch` | `ms_deform_attn_core_pytorch`, "for debug and test only" | the same `MultiScaleDeformableAttention` |
# | `forward_kernel` | `ms_deformable_im2col_gpu_kernel` | `ms_deformable_im2col_gpu_kernel` | fetched from the hub, if at all |
# | no step | `im2col_step=64` | `im2col_step = 64` | `im2col_step = 64` |
# | value in 16 bits, places in float32 | all as `value` | float32 and float64 only | all as `value` |
#
# Next: *What does the memory hold?* (07 · Encoder)
