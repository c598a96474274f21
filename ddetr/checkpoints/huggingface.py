"""Models as `transformers` keeps them: a folder with config.json, preprocessor_config.json and the weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import safetensors.torch

from ..config import DeformableDETRConfig
from ..data.images import IMAGENET_MEAN, IMAGENET_STD
from ..data.transforms import Resolution
from ..files import replacing, write_json
from ..models import DeformableDETR
from .naming import their_state
from .reading import CheckpointError
from .saving import category_names, check_writable

MODEL_TYPE = "deformable_detr"

# Our field: theirs, for what is one number in both.
_FIELDS = {
    "num_heads": "decoder_attention_heads",
    "num_points": "decoder_n_points",
    "num_queries": "num_queries",
    "box_refine": "with_box_refine",
    "two_stage": "two_stage",
    "dilation": "dilation",
    "dropout": "dropout",
}
_FIXED = {"activation_function": "relu", "position_embedding_type": "sine", "num_channels": 3}
_SAME_IN_BOTH = {"n_points": 4, "attention_heads": 8, "ffn_dim": 1024}  # with the values of a file that is silent


def read_config(file: Path) -> dict[str, Any]:
    """The contents of a config.json. CheckpointError if it is no Deformable DETR's, or one that we cannot build."""
    options = _read_json(file)
    kind = options.get("model_type")
    if kind != MODEL_TYPE:
        raise CheckpointError(f"{file} is of a model of the type {kind!r}; needed is {MODEL_TYPE!r}")
    for name, value in _FIXED.items():
        if options.get(name, value) != value:
            raise CheckpointError(f"{file}: {name} is {options[name]!r}; this package has only {value!r}")
    for name, default in _SAME_IN_BOTH.items():
        encoder, decoder = (options.get(f"{part}_{name}", default) for part in ("encoder", "decoder"))
        if encoder != decoder:
            raise CheckpointError(
                f"{file}: encoder_{name} is {encoder!r}, decoder_{name} {decoder!r}; this package has one for both"
            )
    backbone = options.get("backbone_config") or {}
    if (
        not isinstance(backbone, dict)
        or backbone.get("downsample_in_bottleneck")
        or backbone.get("downsample_in_first_stage")
    ):
        raise CheckpointError(f"{file}: backbone_config is no ResNet of this package, or one that halves elsewhere")
    return options


def _read_json(file: Path) -> dict[str, Any]:
    try:
        contents = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}") from error
    if not isinstance(contents, dict):
        raise CheckpointError(f"{file} must hold a JSON object; it holds a {type(contents).__name__}")
    return contents


def config_fields(folder: Path) -> dict[str, Any]:
    """Config fields that shapes do not tell, from a folder's JSON files."""
    options = read_config(folder / "config.json")
    fields = {ours: options[theirs] for ours, theirs in _FIELDS.items() if theirs in options}
    if options.get("two_stage"):
        fields["num_queries"] = options.get("two_stage_num_proposals", 300)
    if (options.get("backbone_config") or {}).get("output_stride") == 16:
        fields["dilation"] = True
    if (folder / "preprocessor_config.json").is_file():
        size = _read_json(folder / "preprocessor_config.json").get("size")
        size = size.get("shortest_edge") if isinstance(size, dict) else size
        fields |= {"test_size": size} if isinstance(size, int) else {}
    return fields


def label_names(folder: Path, num_classes: int) -> tuple[list[str] | None, list[int] | None]:
    """What `id2label` calls the labels, None where it only numbers them; and the ids of `category_ids`, if it is there.

    Raises:
        CheckpointError: it names another number of labels than the weights have.
    """
    options = read_config(folder / "config.json")
    id2label = options.get("id2label")
    if id2label is None:
        return None, None
    if not isinstance(id2label, dict) or set(id2label) != {str(label) for label in range(num_classes)}:
        raise CheckpointError(
            f"{folder / 'config.json'}: id2label must name the labels 0 to {num_classes - 1}, which the weights have; "
            f"it names {len(id2label)}"
        )
    names = [str(id2label[str(label)]) for label in range(num_classes)]
    ids = options.get("category_ids")
    known = isinstance(ids, list) and len(set(map(str, ids))) == num_classes and all(type(i) is int for i in ids)
    numbered = all(re.fullmatch(r"LABEL_\d+", name) for name in names)
    return None if numbered else names, ids if known else None


def save_hf(model: DeformableDETR, folder: str | Path) -> None:
    """Write `model` into a `folder` for `transformers.DeformableDetrForObjectDetection.from_pretrained`.

    `load_pretrained` takes it too. It holds model.safetensors, config.json (with the categories' names as `id2label`,
    and their ids as `category_ids`, which transformers keeps without using them), and preprocessor_config.json, for
    `AutoImageProcessor`. transformers needs timm for a model with `dilation`, and nothing besides itself for any other.
    Predictions agree to rounding; it has no `clip_boxes`, and always a mask, so a model with `mask_unpadded=False`
    differs there.

    Raises:
        ValueError: transformers' model has no counterpart of `backbone_norm="group"` or `proposal_nms`.
        OSError: the folder cannot be written; each file in it is either the old one or the new one.
    """
    check_writable(model, "hf")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Each a tensor of its own: safetensors refuses shared memory.
    state = {name: tensor.clone() for name, tensor in their_state(model, "hf").items()}
    with replacing(folder / "model.safetensors") as temporary:
        temporary.write_bytes(safetensors.torch.save(state, {"format": "pt"}))
    write_json(folder / "preprocessor_config.json", _preprocessor(model.config))
    write_json(folder / "config.json", _hf_config(model))


def _hf_config(model: DeformableDETR) -> dict[str, Any]:
    config = model.config
    costs = {
        "class_cost": config.class_weight, "bbox_cost": config.bbox_weight, "giou_cost": config.giou_weight,
        "bbox_loss_coefficient": config.bbox_weight, "giou_loss_coefficient": config.giou_weight,
    }  # fmt: skip
    options = {
        "architectures": ["DeformableDetrForObjectDetection"],
        "model_type": MODEL_TYPE,
        "d_model": config.embed_dim,
        "num_feature_levels": config.num_levels,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        **{f"{part}_n_points": config.num_points for part in ("encoder", "decoder")},
        **{f"{part}_attention_heads": config.num_heads for part in ("encoder", "decoder")},
        **{f"{part}_ffn_dim": config.ffn_dim for part in ("encoder", "decoder")},
        "num_queries": config.num_queries,
        "two_stage_num_proposals": config.num_queries,
        "with_box_refine": config.box_refine,
        "two_stage": config.two_stage,
        **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), config.dropout),
        "auxiliary_loss": config.aux_loss,
        "focal_alpha": config.focal_alpha,
        **{name: int(cost) for name, cost in costs.items() if cost == int(cost)},  # it takes whole numbers alone
        **_backbone(config),
    }
    names = category_names(model) or [f"LABEL_{label}" for label in range(config.num_classes)]
    options["id2label"] = {str(label): name for label, name in enumerate(names)}
    options["label2id"] = {name: label for label, name in enumerate(names)}
    ids = [category["id"] for category in model.categories or [] if category["id"] is not None]
    if len(ids) == config.num_classes:
        options["category_ids"] = ids
    return options


def _backbone(config: DeformableDETRConfig) -> dict[str, Any]:
    """transformers' own ResNet, which needs no other package; only timm's can dilate."""
    common = {"use_timm_backbone": config.dilation, "use_pretrained_backbone": False, "dilation": config.dilation}
    if config.dilation:
        return common | {"backbone": config.backbone}
    depths, bottleneck = {
        "resnet10": ([1, 1, 1, 1], False), "resnet18": ([2, 2, 2, 2], False), "resnet34": ([3, 4, 6, 3], False),
        "resnet50": ([3, 4, 6, 3], True), "resnet101": ([3, 4, 23, 3], True),
    }[config.backbone]  # fmt: skip
    width = config.backbone_width
    resnet = {
        "model_type": "resnet",
        "embedding_size": width,
        "hidden_sizes": [width * (4 if bottleneck else 1) * 2**stage for stage in range(4)],
        "depths": depths,
        "layer_type": "bottleneck" if bottleneck else "basic",
        "out_features": ["stage4"] if config.num_levels == 1 else ["stage2", "stage3", "stage4"],
    }
    return common | {"backbone": None, "backbone_config": resnet}


def _preprocessor(config: DeformableDETRConfig) -> dict[str, Any]:
    resolution = Resolution.around(config.test_size)
    return {
        "image_processor_type": "DeformableDetrImageProcessor",
        "format": "coco_detection",
        "do_resize": True,
        "size": {"shortest_edge": resolution.test_size, "longest_edge": resolution.max_size},
        "resample": 2,  # bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
        "do_pad": True,
    }
