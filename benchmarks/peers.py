"""Who the operator is measured against, each behind the same call. Who is not installed is left out, with a word."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddetr import ops


@dataclass
class Workload:
    """One shape of the operator's inputs. Locations stay off the cells' centre lines, where gradients jump and float32
    may take the other side."""

    name: str
    sizes: list[tuple[int, int]]
    queries: int | None = None
    batch: int = 1
    heads: int = 8
    channels: int = 32
    points: int = 4
    near: bool = True

    def __post_init__(self):
        random = torch.Generator().manual_seed(0)
        B, M, D, P, L = self.batch, self.heads, self.channels, self.points, len(self.sizes)
        S = sum(h * w for h, w in self.sizes)
        Q = self.queries or S
        self.value = torch.randn(B, S, M, D, generator=random)
        self.reference_points = grid_points(self.sizes, Q).expand(B, Q, L, 2).contiguous()
        self.offsets = 2 * torch.randn(B, Q, M, L, P, 2, generator=random)
        self.logits = torch.randn(B, Q, M, L, P, generator=random)
        if self.near:
            locations = ops.sampling_locations(self.reference_points, self.offsets, self.sizes)
        else:
            locations = torch.rand(B, Q, M, L, P, 2, generator=random)
        self.locations = off_centre_lines(locations, self.sizes)
        self.weights = self.logits.flatten(-2).softmax(-1).view_as(self.logits)
        self.grad_out = torch.randn(B, Q, M * D, generator=random)
        self.shapes = torch.tensor(self.sizes)
        self.starts = torch.tensor(ops.validate.level_starts(self.sizes))

    def inputs(self, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        return leaves((self.value, self.locations, self.weights), dtype)

    def fused_inputs(self, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        value, reference_points, *rest = leaves((self.value, self.reference_points, self.offsets, self.logits), dtype)
        return [value, reference_points.requires_grad_(False), *rest]


def leaves(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> list[Tensor]:
    """The value in `dtype`, what says where to read it at least in float32."""
    value, *sampling = tensors
    wide = torch.promote_types(dtype, torch.float32)
    return [t.to(d, copy=True).requires_grad_() for t, d in [(value, dtype), *((t, wide) for t in sampling)]]


def grid_points(sizes: list[tuple[int, int]], queries: int) -> Tensor:
    """`queries` cell centres spread over the levels -> (1, queries, 1, 2) as (x, y) in [0, 1]."""
    levels = []
    for h, w in sizes:
        y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
        levels.append(torch.stack([x, y], -1).view(-1, 2))
    points = torch.cat(levels)
    return points[torch.linspace(0, len(points) - 1, queries).long()][None, :, None]


def off_centre_lines(locations: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    width_height = torch.tensor(sizes).flip(-1)[:, None].double()
    cells = locations.double() * width_height - 0.5
    whole = cells.floor()
    return ((whole + (cells - whole).clamp(0.01, 0.99) + 0.5) / width_height).float()


Run = Callable[..., Tensor]


def operator_peers(load: Workload) -> tuple[dict[str, Run], list[str]]:
    """name -> f(value, locations, weights), and who is missing."""
    sizes = load.sizes
    compiled = torch.compile(ops.ms_deform_attn_grid_sample)
    peers: dict[str, Run] = {
        "ddetr cpu": lambda v, x, a: ops.ms_deform_attn(v, sizes, None, x, a, backend="cpu"),
        "grid_sample": lambda v, x, a: ops.ms_deform_attn_grid_sample(v, sizes, x, a),
        "compiled grid_sample": lambda v, x, a: compiled(v, sizes, x, a),
    }
    missing = []
    try:
        from torch_ms_deform_attn import ms_deform_attn

        peers["torch-ms-deform-attn"] = lambda v, x, a: ms_deform_attn(v, load.shapes, load.starts, x, a)
    except ImportError as error:
        missing.append(f"torch-ms-deform-attn ({error})")
    try:
        from transformers.models.deformable_detr import modeling_deformable_detr as hf

        module = hf.MultiScaleDeformableAttention()
        peers["Hugging Face"] = lambda v, x, a: module(v, load.shapes, sizes, load.starts, x, a, 64)
    except ImportError as error:
        missing.append(f"Hugging Face transformers ({error})")
    return peers, missing


def hugging_face_module(module):
    """Hugging Face's attention module with the weights of our `MSDeformAttn`."""
    from transformers import DeformableDetrConfig
    from transformers.models.deformable_detr import modeling_deformable_detr as hf

    theirs = hf.DeformableDetrMultiscaleDeformableAttention(DeformableDetrConfig(), num_heads=8, n_points=4)
    theirs.load_state_dict(module.state_dict())
    return theirs


def hugging_face_model(num_classes: int):
    """Hugging Face's detector of the sizes of `r50`, with fresh weights and nothing downloaded."""
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(out_features=["stage2", "stage3", "stage4"])
    config = DeformableDetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone,
        num_labels=num_classes, auxiliary_loss=True,
        activation_dropout=0.1, attention_dropout=0.1,  # as in the official code and in ours
    )  # fmt: skip
    return DeformableDetrForObjectDetection(config)
