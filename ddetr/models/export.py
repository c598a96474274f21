"""The detector as one graph of tensors, for `torch.export`, ONNX and `torch.compile`: one for images of any size."""

import os

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from .deformable_detr import DeformableDETR
from .image_batch import ImageBatch
from .modes import evaluating

INPUTS, OUTPUTS = ("images", "mask"), ("pred_logits", "pred_boxes")
SMALLEST = 65
"""Pixels of a side that an exported program takes at least: below, the coarsest of four levels is one cell wide, and
`torch.export` makes a size of 1 a constant."""


class TensorModel(nn.Module):
    """`model` between a padded batch and its predictions, without lists, dicts and checks."""

    def __init__(self, model: DeformableDETR) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """images (B, 3, H, W), mask (B, H, W) bool, True where padding, both as in `ImageBatch`
        -> pred_logits (B, Q, K), pred_boxes (B, Q, 4) as in `DetrOutput`."""
        output = self.model.forward_batch(ImageBatch(images, mask, []))
        return output.pred_logits, output.pred_boxes


def export_program(model: DeformableDETR) -> ExportedProgram:
    """`model` for inference as a `torch.export` program, for images of any size from `SMALLEST` pixels a side.

    `program.module()(images, mask)` gives what `TensorModel` gives, for any batch size too; with `proposal_nms`, which
    goes image by image, for one image. Where the operator's C++ back end is built, the program calls it, and whoever
    loads the program imports `ddetr.ops` first; DDETR_OP_BACKEND=grid_sample makes one of PyTorch's own operators.
    """
    with evaluating(model), torch.no_grad():
        return torch.export.export(TensorModel(model).eval(), example_inputs(model), dynamic_shapes=_dynamic(model))


def export_onnx(model: DeformableDETR, path: str | os.PathLike[str]) -> None:
    """`model` as an ONNX file at `path`, inputs `INPUTS` and outputs `OUTPUTS`, with the operator as GridSample.

    Needs onnx and onnxscript: `pip install "ddetr[export]"` (ImportError without).
    """
    with evaluating(model), torch.no_grad():
        program = torch.onnx.export(
            TensorModel(model).eval(), example_inputs(model), dynamo=True, opset_version=18,
            input_names=INPUTS, output_names=OUTPUTS, dynamic_shapes=_dynamic(model), verbose=False,
        )  # fmt: skip
    assert program is not None  # as it is without dynamo alone
    program.save(path)


def example_inputs(model: DeformableDETR) -> tuple[Tensor, Tensor]:
    """Images and a mask to trace `model` with, of no special size: no level of 1, no side a multiple of another."""
    like = model.flatten.level_embed
    B = 1 if model.config.proposal_nms else 2
    mask = torch.zeros(B, 200, 297, dtype=torch.bool, device=like.device)
    mask[-1, :, -16:] = True
    return like.new_zeros(B, 3, 200, 297), mask


def _dynamic(model: DeformableDETR) -> tuple[dict[int, Dim], dict[int, Dim]]:
    batch = {} if model.config.proposal_nms else {0: Dim.DYNAMIC}
    return {**batch, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}, {**batch, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC}
