"""What a checkpoint's shapes tell of the model that it was made for."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ..config import PRESETS, DeformableDETRConfig
from .naming import NAMINGS, detect_naming, our_names
from .reading import CheckpointError


def infer_config(state: Mapping[str, Tensor], *, num_heads: int = 8) -> DeformableDETRConfig:
    """The config of a checkpoint's `state`, in any of the namings, read off its shapes.

    Shapes do not tell the number of heads (`num_heads` is taken, 8 as in the paper), nor dilation (none), nor how
    many proposals of two-stage become queries (300).

    Raises:
        CheckpointError: the naming is unknown, or the backbone is no ResNet of this package.
    """
    naming = naming_of(state, "the state dict")
    try:
        return _read_config(state, naming, num_heads)
    except KeyError as error:
        raise CheckpointError(f"the checkpoint is no whole Deformable DETR: it has no {error.args[0]}") from error
    except (ValueError, TypeError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(f"the checkpoint is no whole Deformable DETR: {error}") from error


def _read_config(state: Mapping[str, Tensor], naming: str, num_heads: int) -> DeformableDETRConfig:
    names = our_names(list(state), naming)
    shapes = {new: tuple(state[old].shape) for old, new in names.items()}

    def count(pattern: str) -> int:
        return len({match[1] for name in shapes if (match := re.match(pattern, name))})

    decoder_layers = count(r"decoder\.layers\.(\d+)\.")
    num_levels, embed_dim = shapes["flatten.level_embed"]
    two_stage = "queries.pos_trans.weight" in shapes
    num_classes = shapes["heads.class_embed.0.weight"][0]
    num_queries = shapes.get("queries.query_embed.weight", (300,))[0]
    offsets = shapes["decoder.layers.0.cross_attn.sampling_offsets.weight"][0]
    config = PRESETS["r50"].replace(
        num_classes=num_classes,
        **_backbone_of(shapes),
        num_levels=num_levels,
        neck_bias="neck.levels.0.0.bias" in shapes,
        embed_dim=embed_dim,
        num_heads=num_heads,
        num_points=offsets // (2 * num_heads * num_levels),
        encoder_layers=count(r"encoder\.layers\.(\d+)\."),
        decoder_layers=decoder_layers,
        ffn_dim=shapes["decoder.layers.0.ffn.linear1.weight"][0],
        num_queries=num_queries,
        box_refine=two_stage or _has_refinement(state, names, naming, decoder_layers),
        two_stage=two_stage,
    )
    if naming == "mmdet":
        config = config.replace(mask_unpadded=False, clip_boxes=True)
    return config


def naming_of(state: Mapping[str, Tensor], origin: str) -> str:
    """The naming that a state dict follows. CheckpointError if none; `origin` says whose names they are."""
    naming = detect_naming(list(state))
    if naming is None:
        some = ", ".join(list(state)[:3]) or "nothing"
        titles = ", ".join(known.title for known in NAMINGS.values())
        raise CheckpointError(
            f"{origin} is no Deformable DETR in {titles} naming: no level embedding in it; it starts with {some}"
        )
    return naming


def _has_refinement(state: Mapping[str, Tensor], names: dict[str, str], naming: str, decoder_layers: int) -> bool:
    """Whether each layer has heads of its own, which it says by a second name or, where all repeat them, by values."""
    ours = {new: old for old, new in names.items()}
    decoder = NAMINGS[naming].decoder
    if naming == "ddetr" or (decoder and any(name.startswith(f"{decoder}bbox_embed.") for name in state)):
        return naming != "ddetr" or "heads.box_embed.1.0.weight" in ours
    heads = [new for new in ours if re.match(r"heads\.(class|box)_embed\.0\.", new)]
    pairs = [
        (ours[head], ours.get(head.replace(".0.", f".{layer}.", 1)))
        for head in heads
        for layer in range(decoder_layers)
    ]
    return any(other is not None and not torch.equal(state[first], state[other]) for first, other in pairs)


def _backbone_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, str | int]:
    blocks = tuple(
        len({name.split(".")[3] for name in shapes if name.startswith(f"backbone.body.layer{stage}.")})
        for stage in range(1, 5)
    )
    bottleneck = "backbone.body.layer1.0.conv3.weight" in shapes
    known: dict[tuple[tuple[int, ...], bool], str] = {
        ((3, 4, 6, 3), True): "resnet50", ((3, 4, 23, 3), True): "resnet101",
        ((1, 1, 1, 1), False): "resnet10", ((2, 2, 2, 2), False): "resnet18", ((3, 4, 6, 3), False): "resnet34",
    }  # fmt: skip
    if (blocks, bottleneck) not in known:
        raise CheckpointError(f"the backbone is no ResNet of this package: {blocks} blocks a stage")
    return {
        "backbone": known[blocks, bottleneck],
        "backbone_width": shapes["backbone.body.conv1.weight"][0],
        "backbone_norm": "frozen_batch" if "backbone.body.bn1.running_mean" in shapes else "group",
    }
