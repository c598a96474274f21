"""The detector: pre_transformer, encoder, pre_decoder, decoder, heads."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import DeformableDETRConfig, get_config
from ..losses.criterion import Criterion
from .backbone import Backbone, load_imagenet_weights
from .decoder import Decoder, DecoderOutput
from .encoder import Encoder
from .finite import check_predictions
from .heads import DetectionHeads
from .image_batch import ImageBatch, pad_images
from .inputs import check_images, check_targets
from .multi_scale import MultiScaleFlatten, MultiScaleTokens
from .neck import Neck
from .outputs import DetrOutput, LayerOutput, postprocess
from .reference_points import DecoderInputs, LearnedQueries
from .trace import Trace, trace_model
from .two_stage import TwoStage


class DeformableDETR(nn.Module):
    """Deformable DETR (Zhu et al., 2021, arXiv:2010.04159), every variant of the paper by its config.

    `model(images, targets)` in training mode gives the losses, `model(images)` in evaluation mode the detections, as
    torchvision's detectors do. Images are (3, H, W) float tensors of any sizes, normalised with ImageNet's statistics.

    Args:
        config: which variant; `build_model` takes a preset's name too.

    Attributes:
        categories: what each label means, K dicts {"id", "name"}, or None if nobody has said; saved with the weights.
    """

    def __init__(self, config: DeformableDETRConfig) -> None:
        super().__init__()
        self.config = config
        self.categories: list[dict[str, Any]] | None = None
        self.backbone = Backbone(config)
        self.neck = Neck(config, self.backbone.num_channels)
        self.flatten = MultiScaleFlatten(config)
        self.encoder = Encoder(config)
        self.queries = TwoStage(config) if config.two_stage else LearnedQueries(config)
        self.decoder = Decoder(config)
        self.heads = DetectionHeads(config)
        self.criterion = Criterion(config)
        for module in (self.encoder, self.decoder):
            _xavier_matrices(module)

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[dict[str, Tensor]] | None = None,
        num_boxes: float | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training mode, detections in evaluation mode.

        Args:
            images: a list of (3, H, W) float tensors, or one (B, 3, H, W).
            targets: training only: a dict for each image, boxes (N, 4) as (x1, y1, x2, y2) in pixels, labels (N,)
                in 0..K-1; N may be 0.
            num_boxes: training only: what the losses are divided by, where this batch is a part of a larger one;
                None for its own number of objects.

        Returns:
            Training: named losses, already weighted: call backward on their sum.
            Evaluation: for each image {boxes (n, 4) xyxy pixels, scores (n,), labels (n,)}, best first.

        Raises:
            ValueError: images or targets that are not of this form; names the image.
            FloatingPointError: the model predicts NaN or infinity; names the image.
        """
        batch = self.batch_images(images)
        if self.training:
            device = batch.images.device
            checked = check_targets(targets, batch.sizes, self.config.num_classes, device)
            return self.criterion(self.forward_batch(batch), checked, num_boxes)
        output = self.forward_batch(batch)
        if not torch.compiler.is_compiling():
            names = [f"images[{i}]" for i in range(len(batch.sizes))]
            check_predictions(output.pred_logits, output.pred_boxes, names)
        return self.postprocess(output, batch.sizes)

    def forward_raw(self, images: Sequence[Tensor]) -> DetrOutput:
        """Every prediction for `images` as the heads give it, in either mode."""
        return self.forward_batch(self.batch_images(images))

    def forward_batch(self, batch: ImageBatch) -> DetrOutput:
        """The four steps and the heads, on a `batch` that is padded already."""
        tokens = self.pre_transformer(batch)  # pixels -> (B, S, C) tokens of all levels
        memory = self.encoder(tokens)  # (B, S, C) -> (B, S, C)
        queries = self.pre_decoder(memory, tokens)  # -> (B, Q, C) and where each looks from
        decoded = self.decoder(queries, memory, tokens, self.heads)  # -> N of (B, Q, C)
        return self.predict(decoded, queries, memory)

    def batch_images(self, images: Sequence[Tensor]) -> ImageBatch:
        """Check `images` and pad them into one batch. ValueError names the image that does not fit."""
        return pad_images(check_images(images, self.flatten.level_embed), self.config.mask_unpadded)

    def pre_transformer(self, batch: ImageBatch) -> MultiScaleTokens:
        """Backbone, neck, masks, position and level embedding: `batch` (B, 3, H, W) -> tokens (B, S, C)."""
        return self.flatten(self.neck(self.backbone(batch.images)), batch.mask)

    def pre_decoder(self, memory: Tensor, tokens: MultiScaleTokens) -> DecoderInputs:
        """The queries: learned ones, or with `two_stage` the best proposals of `memory` (B, S, C), from `tokens`."""
        if self.config.two_stage:
            return self.queries(memory, tokens)
        return self.queries(memory.shape[0])

    def predict(self, decoded: DecoderOutput, queries: DecoderInputs, memory: Tensor) -> DetrOutput:
        """The heads, on every layer of `decoded`; `queries` and `memory` (B, S, C) are handed on to the output."""
        logits, boxes = self.heads(decoded.hidden_states, decoded.reference_points)
        return DetrOutput(
            pred_logits=logits[-1],
            pred_boxes=boxes[-1],
            aux=[LayerOutput(*layer) for layer in zip(logits[:-1], boxes[:-1], strict=True)],
            memory=memory,
            hidden_states=torch.stack(decoded.hidden_states),
            reference_points=decoded.reference_points,
            enc_logits=queries.enc_logits,
            enc_boxes=queries.enc_boxes,
        )

    def postprocess(self, output: DetrOutput, sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        """From `output` to detections in pixels of images of `sizes` (h, w); see `ddetr.models.outputs.postprocess`."""
        c = self.config
        return postprocess(output.pred_logits, output.pred_boxes, sizes, c.max_detections, c.clip_boxes)

    def trace(self, images: Sequence[Tensor]) -> Trace:
        """Every intermediate of a forward pass of `images`, in order, without gradients and in evaluation mode."""
        return trace_model(self, images)


def build_model(
    config: str | DeformableDETRConfig = "r50", *, imagenet_weights: bool = False, **overrides: Any
) -> DeformableDETR:
    """A model with fresh weights.

    Args:
        config: a preset's name (see `PRESETS`) or a config.
        imagenet_weights: start the backbone from torchvision's ImageNet weights (downloaded once).
        overrides: config fields to change, for example `num_classes=3, dropout=0.0`.

    Raises:
        ValueError: an unknown preset or field, or values that do not go together.
        OSError: the ImageNet weights cannot be downloaded.
    """
    model = DeformableDETR(get_config(config, **overrides))
    if imagenet_weights:
        load_imagenet_weights(model.backbone, model.config.backbone)
    return model


def _xavier_matrices(module: nn.Module) -> None:
    """Xavier for the transformer's matrices (DETR), except in the deformable attention, which starts as a star."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1 and not name.endswith(("sampling_offsets.weight", "attention_weights.weight")):
            nn.init.xavier_uniform_(parameter)
