"""What a Deformable DETR is made of: one frozen dataclass, and a preset for each variant of the paper."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any

BACKBONES = ("resnet10", "resnet18", "resnet34", "resnet50", "resnet101")
BACKBONE_NORMS = ("frozen_batch", "batch", "group")


def did_you_mean(name: str, choices: list[str] | tuple[str, ...]) -> str:
    """'; did you mean ...?' for the nearest of `choices`, or nothing if none is near."""
    near = difflib.get_close_matches(name, choices, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(choices)}; got {value!r}{did_you_mean(str(value), choices)}"
        )


def _check_type(name: str, value: Any, kind: str) -> None:
    """Exact types: `two_stage="no"` would be true, and `num_queries=True` would be 1."""
    if kind == "float" and type(value) in (int, float) and 0 <= value < float("inf"):
        return
    if kind != "float" and type(value).__name__ == kind:
        return
    wanted = {"float": "a number of at least 0", "int": "a whole number", "bool": "True or False", "str": "a text"}
    raise ValueError(f"{name} must be {wanted[kind]}; got {value!r}")


@dataclass(frozen=True)
class DeformableDETRConfig:
    """Every choice that shapes a model, with the paper's values as defaults (multi-scale, no refinement).

    Where the two reference implementations differ there is a switch. The defaults are the official code's; mmdetection
    3.3.0 is `num_classes=80, neck_bias=False, mask_unpadded=False, clip_boxes=True`.

    | field           | official code                           | mmdetection 3.3.0                        |
    |-----------------|-----------------------------------------|------------------------------------------|
    | `num_classes`   | 91: a label is a COCO category id       | 80: the ids in order, counted from 0     |
    | `neck_bias`     | True: the neck's convolutions have one  | False: the GroupNorm behind them has one |
    | `mask_unpadded` | True: always a mask                     | False: no mask if no image is padded     |
    | `clip_boxes`    | False: boxes may leave the image        | True: boxes end at the image's border    |

    Raises:
        ValueError: a value out of range, or choices that do not go together.
    """

    num_classes: int = 91
    """K. Labels are 0..K-1; there is no background class (sigmoid, not softmax)."""

    # backbone
    backbone: str = "resnet50"
    """One of `BACKBONES`. "resnet10" is one basic block a stage, the tiny presets'."""
    backbone_width: int = 64
    """Channels of the stem. Only "resnet10" takes another value than 64."""
    backbone_norm: str = "frozen_batch"
    """"frozen_batch" for ImageNet weights, "group" to learn from scratch at any batch size, or "batch"."""
    frozen_stages: int = 1
    """How many stages are not trained: 0 none, 1 stem and layer1 (the paper), ... 4 all."""
    dilation: bool = False
    """DC5: the last stage keeps stride 16 and dilates its convolutions instead."""

    # neck and tokens
    num_levels: int = 4
    """L. 1 takes C5 alone; 3 takes C3-C5; each one more halves the last again."""
    neck_bias: bool = True
    mask_unpadded: bool = True

    # transformer
    embed_dim: int = 256
    """C, a multiple of `num_heads`, of 4 (two axes of sine and cosine) and of 32 (GroupNorm)."""
    num_heads: int = 8
    num_points: int = 4
    """P, sampling points for each head and level, in encoder and decoder."""
    encoder_layers: int = 6
    decoder_layers: int = 6
    ffn_dim: int = 1024
    dropout: float = 0.1
    num_queries: int = 300

    # variants
    box_refine: bool = False
    """Each decoder layer corrects the boxes of the one before (paper, section 4.2)."""
    two_stage: bool = False
    """The encoder proposes the boxes that the decoder starts from (paper, section 4.2). Needs `box_refine`."""
    proposal_nms: float = 0.0
    """Two-stage: a proposal that overlaps a better one by more than this IoU comes after all others. 0: as in the
    paper, all proposals count, and the decoder learns by itself which of several around one object to keep."""
    aux_loss: bool = True
    """Every decoder layer is supervised, not only the last."""

    # post-processing
    max_detections: int = 100
    clip_boxes: bool = False

    # what the weights are made for; the model itself takes images of any size
    test_size: int = 800
    """Shorter side in pixels of the images at test time; the longer is at most 5/3 of it."""

    # losses; the matching costs are the same numbers
    class_weight: float = 2.0
    bbox_weight: float = 5.0
    giou_weight: float = 2.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    proposals_per_object: int = 1
    """Two-stage: each object is matched with so many of the encoder's proposals. 1: as in the paper. More of them learn
    more from the same images where objects are (Jia et al., 2022, "DETRs with Hybrid Matching", for queries)."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), str(field.type))
        _check_choice("backbone", self.backbone, BACKBONES)
        _check_choice("backbone_norm", self.backbone_norm, BACKBONE_NORMS)
        for name in (
            "num_classes", "backbone_width", "num_heads", "num_points", "decoder_layers", "ffn_dim", "num_queries",
            "max_detections", "proposals_per_object",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.test_size < 16:
            raise ValueError(f"test_size must be at least 16 pixels; got {self.test_size}")
        if self.encoder_layers < 0:
            raise ValueError(f"encoder_layers must be at least 0; got {self.encoder_layers}")
        if self.backbone_width != 64 and self.backbone != "resnet10":
            raise ValueError(
                f"backbone_width={self.backbone_width} goes with backbone='resnet10', not {self.backbone!r}"
            )
        if self.backbone_width % 32:
            raise ValueError(f"backbone_width must be a multiple of 32; got {self.backbone_width}")
        if self.dilation and self.backbone not in ("resnet50", "resnet101"):
            raise ValueError(f"dilation=True needs a bottleneck ResNet (resnet50, resnet101); got {self.backbone!r}")
        if not 0 <= self.frozen_stages <= 4:
            raise ValueError(f"frozen_stages must be 0 (none) to 4 (all); got {self.frozen_stages}")
        if self.num_levels != 1 and self.num_levels < 3:
            raise ValueError(f"num_levels must be 1 (C5 alone) or at least 3 (C3, C4, C5, ...); got {self.num_levels}")
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim must be divisible by num_heads; got {self.embed_dim} and {self.num_heads}")
        if self.embed_dim < 1 or self.embed_dim % 32:
            raise ValueError(f"embed_dim must be a multiple of 32, the neck's GroupNorm groups; got {self.embed_dim}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1); got {self.dropout}")
        if self.focal_alpha > 1:
            raise ValueError(f"focal_alpha is a share, in [0, 1]; got {self.focal_alpha}")
        if self.proposal_nms >= 1:
            raise ValueError(f"proposal_nms is an IoU, in [0, 1), 0 for none; got {self.proposal_nms}")
        if self.two_stage and not self.box_refine:
            raise ValueError("two_stage=True needs box_refine=True: the decoder refines the boxes that it is given")

    def replace(self, **overrides: Any) -> DeformableDETRConfig:
        """A copy with the fields in `overrides` changed. ValueError for a name that is not a field."""
        names = [field.name for field in dataclasses.fields(self)]
        for name in overrides:
            if name not in names:
                raise ValueError(f"DeformableDETRConfig has no field {name!r}{did_you_mean(name, names)}")
        return dataclasses.replace(self, **overrides)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DeformableDETRConfig:
        """The reverse of `to_dict`. ValueError for an unknown field in `values`; a missing one takes its default."""
        return cls().replace(**values)


_PAPER = DeformableDETRConfig()
# Small enough for two cores, with every mechanism of the paper: four levels, eight heads, four points. It learns from
# scratch, so nothing is frozen and the norm does not depend on the batch.
_TINY = _PAPER.replace(
    backbone="resnet10", backbone_width=32, backbone_norm="group", frozen_stages=0,
    embed_dim=128, encoder_layers=2, decoder_layers=3, ffn_dim=256, dropout=0.0, num_queries=50,
    test_size=160,
)  # fmt: skip

PRESETS: dict[str, DeformableDETRConfig] = {
    "tiny": _TINY,
    # Which of many proposals around one object should speak takes the decoder longer to learn than anything else.
    "tiny_two_stage": _TINY.replace(box_refine=True, two_stage=True, proposal_nms=0.6, proposals_per_object=4),
    "r50_single_scale": _PAPER.replace(num_levels=1),
    "r50_single_scale_dc5": _PAPER.replace(num_levels=1, dilation=True),
    "r50": _PAPER,
    "r50_refine": _PAPER.replace(box_refine=True),
    "r50_two_stage": _PAPER.replace(box_refine=True, two_stage=True),
}


def get_config(config: str | DeformableDETRConfig = "r50", **overrides: Any) -> DeformableDETRConfig:
    """A preset by name, or a config as it is, with fields changed by keyword. ValueError for unknown names."""
    if isinstance(config, str):
        _check_choice("preset", config, tuple(PRESETS))
        config = PRESETS[config]
    if not isinstance(config, DeformableDETRConfig):
        raise ValueError(f"config must be a preset's name or a DeformableDETRConfig; got {type(config).__name__}")
    return config.replace(**overrides)
