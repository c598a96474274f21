"""What PyTorch needs to know of the native operators: schemas, fake kernels, gradients, autocast and vmap.

The kernels themselves are C++ and CUDA (`csrc/`) and join in when `native` loads them. In all of them `level_sizes` is
h0, w0, h1, w1, ...; coordinates and weights are float32 beside a value of float32, float16 or bfloat16, and float64
beside float64.
"""

import torch
from torch import Tensor

from .locations import sizes_as_tensor

ops = torch.ops.ddetr

_library = torch.library.Library("ddetr", "DEF")
for _schema in (
    "ms_deform_attn(Tensor value, SymInt[] level_sizes, Tensor sampling_locations, Tensor attention_weights) -> Tensor",
    "ms_deform_attn_backward(Tensor grad_out, Tensor value, SymInt[] level_sizes, Tensor sampling_locations, "
    "Tensor attention_weights) -> (Tensor, Tensor, Tensor)",
    "ms_deform_attn_fused(Tensor value, SymInt[] level_sizes, Tensor reference_points, Tensor sampling_offsets, "
    "Tensor attention_logits) -> Tensor",
    # Its second result is the gradient by the sampled places, in cells of their level.
    "ms_deform_attn_fused_backward(Tensor grad_out, Tensor value, SymInt[] level_sizes, Tensor reference_points, "
    "Tensor sampling_offsets, Tensor attention_logits) -> (Tensor, Tensor, Tensor)",
):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


# --- fake kernels -----------------------------------------------------------------------------------------------------


@torch.library.register_fake("ddetr::ms_deform_attn")
def _(value: Tensor, level_sizes: list[int], sampling_locations: Tensor, attention_weights: Tensor) -> Tensor:
    B, _, M, D = value.shape
    return value.new_empty(B, sampling_locations.shape[1], M * D)


@torch.library.register_fake("ddetr::ms_deform_attn_fused")
def _(value, level_sizes, reference_points, sampling_offsets, attention_logits):
    B, _, M, D = value.shape
    return value.new_empty(B, sampling_offsets.shape[1], M * D)


@torch.library.register_fake("ddetr::ms_deform_attn_backward")
def _(grad_out, value, level_sizes, sampling_locations, attention_weights):
    return tuple(t.new_empty(t.shape) for t in (value, sampling_locations, attention_weights))


@torch.library.register_fake("ddetr::ms_deform_attn_fused_backward")
def _(grad_out, value, level_sizes, reference_points, sampling_offsets, attention_logits):
    return tuple(t.new_empty(t.shape) for t in (value, sampling_offsets, attention_logits))


# --- gradients --------------------------------------------------------------------------------------------------------


def _save_inputs(ctx, inputs, output):
    value, ctx.level_sizes, *sampling = inputs
    ctx.save_for_backward(value, *sampling)


def _backward(ctx, grad_out):
    value, locations, weights = ctx.saved_tensors
    grad_value, grad_locations, grad_weights = ops.ms_deform_attn_backward(
        grad_out, value, ctx.level_sizes, locations, weights
    )
    return grad_value, None, grad_locations, grad_weights


def _fused_backward(ctx, grad_out):
    value, reference_points, offsets, logits = ctx.saved_tensors
    grad_value, grad_cells, grad_logits = ops.ms_deform_attn_fused_backward(
        grad_out, value, ctx.level_sizes, reference_points, offsets, logits
    )
    needs_reference = ctx.needs_input_grad[2]
    if reference_points.shape[-1] == 2 and not needs_reference:  # the encoder's case: nothing left to do
        return grad_value, None, None, grad_cells, grad_logits
    grad_reference, grad_offsets = _reference_gradients(grad_cells, ctx.level_sizes, reference_points, offsets)
    return grad_value, None, grad_reference if needs_reference else None, grad_offsets, grad_logits


def _reference_gradients(
    grad_cells: Tensor, level_sizes: list[int], reference_points: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """From the gradient by places in cells to those by reference points and offsets; see `sampling_locations`."""
    sizes = sizes_as_tensor(level_sizes, offsets.dtype, offsets.device)
    grad_locations = grad_cells * sizes[:, None].flip(-1)  # (B, Q, M, L, P, 2) by (x, y) in [0, 1]
    grad_centres = grad_locations.sum((2, 4))  # (B, Q, L, 2)
    if reference_points.shape[-1] == 2:
        return grad_centres, grad_cells
    part = 0.5 / offsets.shape[4]  # of a box's side
    grad_sides = (grad_locations * offsets).sum((2, 4)) * part
    grad_offsets = grad_locations * (reference_points[:, :, None, :, None, 2:] * part)
    return torch.cat([grad_centres, grad_sides], -1), grad_offsets


def _refuse_double_backward(ctx, *grads):
    raise NotImplementedError("the native ms_deform_attn has no second derivative; backend='loop' has, for tiny inputs")


torch.library.register_autograd("ddetr::ms_deform_attn", _backward, setup_context=_save_inputs)
torch.library.register_autograd("ddetr::ms_deform_attn_fused", _fused_backward, setup_context=_save_inputs)
torch.library.register_autograd("ddetr::ms_deform_attn_backward", _refuse_double_backward)
torch.library.register_autograd("ddetr::ms_deform_attn_fused_backward", _refuse_double_backward)


# --- autocast ---------------------------------------------------------------------------------------------------------


def _autocast(name: str, device_type: str):
    """The value is read in autocast's dtype; places and weights stay in float32, which half precision cannot hold."""

    def kernel(value, level_sizes, *sampling):
        if value.dtype != torch.float64:
            value = value.to(torch.get_autocast_dtype(device_type))
            sampling = tuple(t.float() for t in sampling)
        with torch.autocast(device_type, enabled=False):
            return getattr(ops, name)(value, level_sizes, *sampling)

    return kernel


# --- vmap -------------------------------------------------------------------------------------------------------------


def _vmap(name: str):
    """The mapped dimension joins the batch, which every tensor has in front."""

    def fold(arg, dim, size):
        if not isinstance(arg, Tensor):
            return arg
        arg = arg.expand(size, *arg.shape) if dim is None else arg.movedim(dim, 0)
        return arg.flatten(0, 1)

    def kernel(info, in_dims, *args):
        size = info.batch_size
        out = getattr(ops, name)(*(fold(arg, dim, size) for arg, dim in zip(args, in_dims, strict=True)))
        if isinstance(out, Tensor):
            return out.unflatten(0, (size, out.shape[0] // size)), 0
        return tuple(t.unflatten(0, (size, t.shape[0] // size)) for t in out), (0,) * len(out)

    return kernel


for _name in ("ms_deform_attn", "ms_deform_attn_fused"):
    for _device in ("cpu", "cuda"):
        _library.impl(_name, _autocast(_name, _device), f"Autocast{_device.upper()}")
    torch.library.register_vmap(f"ddetr::{_name}", _vmap(_name))
    torch.library.register_vmap(f"ddetr::{_name}_backward", _vmap(f"{_name}_backward"))
