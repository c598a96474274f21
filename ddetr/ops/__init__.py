"""The attention operator: one meaning, several back ends."""

from .dispatch import BACKENDS, available_backends, choose_backend, ms_deform_attn, ms_deform_attn_fused
from .grid_sample import ms_deform_attn_grid_sample
from .locations import sampling_locations, softmax_weights
from .loop import bilinear_sample, ms_deform_attn_loop
from .module import MSDeformAttn
from .patching import Patch, patch

__all__ = [
    "BACKENDS",
    "MSDeformAttn",
    "Patch",
    "available_backends",
    "bilinear_sample",
    "choose_backend",
    "ms_deform_attn",
    "ms_deform_attn_fused",
    "ms_deform_attn_grid_sample",
    "ms_deform_attn_loop",
    "patch",
    "sampling_locations",
    "softmax_weights",
]
