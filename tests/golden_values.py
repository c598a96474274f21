"""The golden values of the two reference implementations, and the recipe for their weights and inputs."""

import functools
import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from ddetr import DeformableDETRConfig, build_model

FOLDER = Path(__file__).parent / "golden"
VARIANTS = {
    "base": {},
    "refine": {"box_refine": True},
    "two_stage": {"box_refine": True, "two_stage": True},
    "single_scale": {"num_levels": 1},
    "single_scale_dc5": {"num_levels": 1, "dilation": True},
}
MMDET = {"num_classes": 80, "neck_bias": False, "mask_unpadded": False, "clip_boxes": True}


@functools.cache
def spec(reference: str) -> dict:
    """reference: "official" or "mmdet"."""
    return json.loads((FOLDER / f"{reference}_public.json").read_text())


@functools.cache
def values(reference: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{reference}_public.npz") as archive:
        return {name: archive[name] for name in archive.files}


def config(reference: str, variant: str) -> DeformableDETRConfig:
    extra = MMDET if reference == "mmdet" else {}
    return build_config(**VARIANTS[variant], **extra)


def build_config(**overrides) -> DeformableDETRConfig:
    return DeformableDETRConfig(dropout=0.0, **overrides)


def state_dict(reference: str, variant: str) -> dict[str, torch.Tensor]:
    salt, entry = spec(reference)["salt"], spec(reference)["configs"][variant]
    state = {}
    for name, shape in entry["shapes"].items():
        own = entry["same_as"].get(name, name)
        state[name] = _tensor(salt, own, shape)
    return state


def _tensor(salt: str, name: str, shape: list[int]) -> torch.Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    g = torch.Generator().manual_seed(zlib.crc32((salt + name).encode()))
    r = torch.randn(shape, generator=g)
    if name.endswith("running_var"):
        return 1 + 0.1 * r.abs()
    if name.endswith("running_mean"):
        return 0.1 * r
    if len(shape) == 1:
        if name.endswith("weight"):
            return 1 + 0.1 * r
        return 2 * r if name.endswith("sampling_offsets.bias") else 0.1 * r
    if len(shape) == 4:
        return r / math.sqrt(math.prod(shape[1:]))
    return r / math.sqrt(shape[-1])


def inputs(reference: str, same_size: bool = False) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Images, and targets in torchvision's convention (xyxy pixels)."""
    g = torch.Generator().manual_seed(spec(reference)["seed"])
    sizes = spec(reference)["sizes"]
    if same_size:
        sizes = [sizes[0]] * len(sizes)
    images = [torch.randn(3, h, w, generator=g) for h, w in sizes]
    targets = []
    for n, (h, w) in zip(spec(reference)["targets_per_image"], sizes, strict=True):
        c = torch.rand(n, 2, generator=g) * 0.6 + 0.2
        s = torch.rand(n, 2, generator=g) * 0.3 + 0.05
        low, high = (1, 91) if reference == "official" else (0, 80)
        labels = torch.randint(low, high, (n,), generator=g)
        boxes = torch.cat([c - s / 2, c + s / 2], dim=1)
        if reference == "mmdet":
            boxes = boxes.clamp(0, 1)
        targets.append({"boxes": boxes * torch.tensor([w, h, w, h]), "labels": labels})
    return images, targets


def golden_model(reference: str, variant: str):
    from ddetr.checkpoints import load_into

    model = build_model(config(reference, variant))
    report = load_into(model, state_dict(reference, variant))
    return model, report
