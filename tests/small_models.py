"""Models of every variant with little in them, and random values everywhere: zeros and ones hide mistakes."""

import torch

from ddetr import DeformableDETR, build_model

VARIANTS = {
    "base": {},
    "refine": {"box_refine": True},
    "two_stage": {"box_refine": True, "two_stage": True},
    "single_scale": {"num_levels": 1},
}
SMALL = {
    "num_classes": 5, "backbone": "resnet10", "backbone_width": 32, "embed_dim": 64, "ffn_dim": 32, "encoder_layers": 1,
    "decoder_layers": 2, "num_queries": 9, "dropout": 0.0,
}  # fmt: skip


def small_model(variant: str = "base", **overrides) -> DeformableDETR:
    """In evaluation mode."""
    model = build_model("r50", **SMALL | VARIANTS[variant] | overrides)
    scramble(model.state_dict())
    return model.eval()


def scramble(state: dict[str, torch.Tensor]) -> None:
    """Random values, of a size that signals survive; they depend on the seed."""
    for name, tensor in state.items():
        if tensor.ndim == 1 and name.endswith(("weight", "running_var")):
            tensor.uniform_(0.8, 1.2)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.2 if tensor.ndim == 1 else tensor[0].numel() ** -0.5)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """The same names, and bit for bit the same tensors."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
