"""What a training step keeps in memory, told from shapes alone: nothing is computed, so any size fits any machine."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..models import build_model
from ..models.image_batch import ImageBatch


class TrainingMemory(NamedTuple):
    """Bytes of one training step, without the operator's and the allocator's own.

    `weights`: parameters, their gradients and AdamW's two moments; `activations`: what the forward pass keeps for the
    backward pass.
    """

    weights: int
    activations: int

    def __str__(self) -> str:
        total = self.weights + self.activations
        return f"{_in_gib(self.weights)} + {_in_gib(self.activations)} = {_in_gib(total)} GiB"


def training_memory(preset: str, batch_size: int, height: int, width: int) -> TrainingMemory:
    """Of a preset with `batch_size` images of one size. ValueError for one with `proposal_nms`.

    Each storage counts once, however many operations keep a view of it.
    """
    model = build_model(preset).train()
    if model.config.two_stage and model.config.proposal_nms:
        raise ValueError(f"{preset} suppresses proposals, and how many depends on the image: take one without")
    own: set[int] = set()
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            kept[storage] = tensor  # the tensor too, so that its storage is not given to another
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.autograd.graph.saved_tensors_hooks(keep, keep):
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                stand_in = nn.Parameter(mode.from_tensor(parameter.detach()), parameter.requires_grad)
                setattr(module, name, stand_in)
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, mode.from_tensor(buffer))
        own.update(tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers()))
        images = torch.zeros(batch_size, 3, height, width)  # has a shape and no memory here
        mask = torch.zeros(batch_size, height, width, dtype=torch.bool)
        model.forward_batch(ImageBatch(images, mask, []))
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    return TrainingMemory(4 * trained + frozen, sum(t.untyped_storage().nbytes() for t in kept.values()))


def _in_gib(size: int) -> str:
    return f"{size / 2**30:.2f}"
