"""Putting weights into a model, whole or not at all, and saying what was done."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import PRESETS, DeformableDETRConfig
from ..data.coco_categories import coco_categories
from ..models import DeformableDETR
from .naming import NAMINGS, detect_naming, our_names, translate
from .reading import Checkpoint, CheckpointError, read_checkpoint, strip_wrapper

logger = logging.getLogger(__name__)


class LoadReport(NamedTuple):
    """What `load_into` found.

    Attributes:
        naming: "ddetr", "official", "mmdet" or "hf".
        loaded: how many of the model's tensors were set.
        missing: tensors of the model that the checkpoint lacks, in our names.
        unexpected: tensors of the checkpoint that the model lacks, in their own names.
        mismatched: sentences on tensors of another shape or value than the model can take.
        source: our name -> the checkpoint's.
    """

    naming: str
    loaded: int
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]
    source: dict[str, str]

    @property
    def complete(self) -> bool:
        """Whether model and checkpoint fit each other exactly."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        lines = [f"{NAMINGS[self.naming]} naming, {self.loaded} tensors loaded"]
        for title in ("missing", "unexpected", "mismatched"):
            names = getattr(self, title)
            if names:
                shown = "\n  ".join(names[:12]) + (f"\n  ... and {len(names) - 12} more" if len(names) > 12 else "")
                lines.append(f"{title} ({len(names)}):\n  {shown}")
        return "\n".join(lines)


def load_into(model: DeformableDETR, weights: Mapping[str, Tensor] | str | Path, *, strict: bool = True) -> LoadReport:
    """Load weights in the official, mmdetection's, Hugging Face's or our own naming, recognised by their names.

    Args:
        model: changed in place; untouched if an error is raised.
        weights: a state dict, or the path of a file (see `read_checkpoint`).
        strict: False loads what fits and leaves the rest as it was; the report, logged as a warning, lists it.

    Raises:
        CheckpointError: the naming is unknown, or (strict) anything is missing, unexpected or of another shape.
        FileNotFoundError: no such file.
    """
    if isinstance(weights, Mapping):
        state, origin = strip_wrapper(dict(weights)), "the state dict"
        wrong = next((name for name, value in state.items() if not isinstance(value, Tensor)), None)
        if wrong is not None:
            raise CheckpointError(f"{origin} must map names to tensors; {wrong!r} is a {type(state[wrong]).__name__}")
    elif isinstance(weights, str | Path):
        state, origin = read_checkpoint(weights).state, str(weights)
    else:
        raise CheckpointError(f"weights must be a state dict or a path; got {type(weights).__name__}")
    naming = _naming_of(state, origin)
    translation = translate(state, model, naming)
    own = model.state_dict()
    mismatched = [
        f"{translation.source[name]} has shape {tuple(tensor.shape)}, the model's {name} {tuple(own[name].shape)}"
        for name, tensor in translation.state.items()
        if name in own and tensor.shape != own[name].shape
    ]
    fitting = {
        name: tensor for name, tensor in translation.state.items() if name in own and tensor.shape == own[name].shape
    }
    report = LoadReport(
        naming=naming,
        loaded=len(fitting),
        missing=[name for name in own if name not in translation.state],
        unexpected=[translation.source[name] for name in translation.state if name not in own],
        mismatched=mismatched + translation.conflicts,
        source=translation.source,
    )
    if strict and not report.complete:
        raise CheckpointError(
            f"{origin} does not fit the model, nothing was loaded: {report}\n{_advice(state, naming)}"
        )
    model.load_state_dict(own | fitting)
    logger.log(logging.INFO if report.complete else logging.WARNING, "%s: %s", origin, report)
    return report


def infer_config(state: Mapping[str, Tensor]) -> DeformableDETRConfig:
    """The config of a checkpoint's `state`, in any of the namings, read off its shapes.

    Shapes do not tell the number of heads (8 is assumed, as in the paper) nor dilation (none).

    Raises:
        CheckpointError: the naming is unknown, or the backbone is no ResNet of this package.
    """
    naming = _naming_of(state, "the state dict")
    try:
        return _read_config(state, naming)
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(f"the checkpoint is no whole Deformable DETR: {error}") from error


def _read_config(state: Mapping[str, Tensor], naming: str) -> DeformableDETRConfig:
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
        backbone=_backbone_of(shapes),
        num_levels=num_levels,
        neck_bias="neck.levels.0.0.bias" in shapes,
        embed_dim=embed_dim,
        num_points=offsets // (2 * 8 * num_levels),
        encoder_layers=count(r"encoder\.layers\.(\d+)\."),
        decoder_layers=decoder_layers,
        ffn_dim=shapes["decoder.layers.0.ffn.linear1.weight"][0],
        num_queries=num_queries,
        box_refine=two_stage or _heads_differ(state, names, decoder_layers),
        two_stage=two_stage,
    )
    if naming == "mmdet":
        config = config.replace(mask_unpadded=False, clip_boxes=True)
    return config


def load_pretrained(source: str | Path, *, num_classes: int | None = None, **overrides: Any) -> DeformableDETR:
    """A model with the weights of a file or folder, in evaluation mode.

    Args:
        source: "tiny" or "tiny_two_stage", which come with the package; a file of ours, or of the official code,
            mmdetection or Hugging Face; or a folder with `model.safetensors`, such as a training run's.
        num_classes: another number of classes than the file's: the class heads start afresh, and a warning says so.
        overrides: config fields that shapes do not tell, for example `dilation=True`.

    Raises:
        FileNotFoundError: nothing there.
        CheckpointError: not weights of a Deformable DETR, or they do not fit the overrides.
    """
    path = _find_file(source)
    checkpoint = read_checkpoint(path)
    config = _config_of(checkpoint, path).replace(**overrides)
    if "config" not in checkpoint.metadata and config.num_levels == 1 and "dilation" not in overrides:
        logger.warning("%s: shapes do not tell DC5; taken to be without dilation (else: dilation=True)", path)
    model = DeformableDETR(config)
    load_into(model, checkpoint.state)
    model.categories = checkpoint.metadata.get("categories")
    if model.categories is None and "config" not in checkpoint.metadata:  # the other code bases' files are COCO's
        model.categories = coco_categories(config.num_classes)
    if num_classes is not None and num_classes != config.num_classes:
        model = change_num_classes(model, num_classes)
    return model.eval()


def change_num_classes(model: DeformableDETR, num_classes: int) -> DeformableDETR:
    """A copy of `model` for `num_classes` classes: fresh class heads, with the prior bias; everything else kept."""
    new = DeformableDETR(model.config.replace(num_classes=num_classes))
    kept = {name: tensor for name, tensor in model.state_dict().items() if "class_embed" not in name}
    new.load_state_dict(new.state_dict() | kept)
    fresh = sorted({name.rpartition(".")[0] for name in new.state_dict() if "class_embed" in name})
    logger.warning(
        "The class heads start afresh, prior bias included, for %d classes instead of %d: %s. Everything else is kept.",
        num_classes, model.config.num_classes, ", ".join(fresh),
    )  # fmt: skip
    return new


def copy_encoder(source: DeformableDETR, target: DeformableDETR) -> None:
    """Give `target` the backbone, neck, level embedding and encoder of `source`, which may be another variant.

    Raises:
        ValueError: one of these differs in size; says which config fields do.
    """
    for name in ("backbone", "neck", "flatten", "encoder"):
        theirs, ours = getattr(source, name).state_dict(), getattr(target, name).state_dict()
        if {key: tensor.shape for key, tensor in theirs.items()} != {key: tensor.shape for key, tensor in ours.items()}:
            a, b = source.config.to_dict(), target.config.to_dict()
            differing = ", ".join(f"{key} is {a[key]!r} there, {b[key]!r} here" for key in a if a[key] != b[key])
            raise ValueError(f"the {name} of these weights does not fit: {differing}")
        getattr(target, name).load_state_dict(theirs)


SHIPPED = ("tiny", "tiny_two_stage")
"""Names of weights that come with the package, trained on ToyCOCO; `data/weights` has a card for each."""


def _find_file(source: str | Path) -> Path:
    if source in SHIPPED:
        return shipped_file(f"{source}.safetensors")
    path = Path(source)
    if path.is_dir():
        if not (path / "model.safetensors").is_file():
            raise FileNotFoundError(f"no model.safetensors in {path}")
        return path / "model.safetensors"
    return path


def shipped_file(name: str) -> Path:
    """The file `name` of `data/weights`, in a clone or in an installed package. FileNotFoundError if it is not."""
    package = Path(__file__).parents[1]
    for folder in (package / "weights", package.parent / "data" / "weights"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{name} did not come with this copy of ddetr: is data/weights complete?")


def _config_of(checkpoint: Checkpoint, path: Path) -> DeformableDETRConfig:
    if "config" not in checkpoint.metadata:
        config = infer_config(checkpoint.state)
        return config.replace(**_hugging_face_options(path.parent / "config.json"))
    try:
        return DeformableDETRConfig.from_dict(checkpoint.metadata["config"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its config is not one of this version's: {error}") from error


def _hugging_face_options(file: Path) -> dict[str, Any]:
    """What shapes do not tell, from the config.json that transformers writes beside the weights, if there is one."""
    try:
        options = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(options, dict) or options.get("model_type") != "deformable_detr":
        return {}
    names = {
        "num_heads": "decoder_attention_heads",
        "num_points": "decoder_n_points",
        "num_queries": "two_stage_num_proposals" if options.get("two_stage") else "num_queries",
        "box_refine": "with_box_refine",
        "dilation": "dilation",
    }
    return {ours: options[theirs] for ours, theirs in names.items() if theirs in options}


def _naming_of(state: Mapping[str, Tensor], origin: str) -> str:
    naming = detect_naming(list(state))
    if naming is None:
        some = ", ".join(list(state)[:3]) or "nothing"
        raise CheckpointError(
            f"{origin} is no Deformable DETR in {', '.join(NAMINGS.values())} naming: no level embedding in it; "
            f"it starts with {some}"
        )
    return naming


def _advice(state: Mapping[str, Tensor], naming: str) -> str:
    try:
        config = infer_config(state)
    except CheckpointError:
        return "Is it a checkpoint of another model?"
    default = DeformableDETRConfig()
    values = {k: v for k, v in config.to_dict().items() if v != getattr(default, k)}
    described = ", ".join(f"{key}={value!r}" for key, value in values.items()) or "no change"
    return f"Read off its shapes, the checkpoint is preset 'r50' with {described}; load_pretrained builds that model."


def _heads_differ(state: Mapping[str, Tensor], names: dict[str, str], decoder_layers: int) -> bool:
    """Whether the layers have heads of their own: every naming repeats them, so their values tell."""
    heads = [old for old, new in names.items() if re.fullmatch(r"heads\.(class|box)_embed\.0\..+", new)]
    ours = {new: old for old, new in names.items()}
    for layer in range(1, decoder_layers):
        for old in heads:
            other = ours.get(names[old].replace("_embed.0.", f"_embed.{layer}.", 1))
            if other is not None and not torch.equal(state[old], state[other]):
                return True
    return False


def _backbone_of(shapes: dict[str, tuple[int, ...]]) -> str:
    blocks = tuple(
        len({name.split(".")[3] for name in shapes if name.startswith(f"backbone.body.layer{stage}.")})
        for stage in range(1, 5)
    )
    bottleneck = "backbone.body.layer1.0.conv3.weight" in shapes
    known: dict[tuple[tuple[int, ...], bool], str] = {
        ((3, 4, 6, 3), True): "resnet50", ((3, 4, 23, 3), True): "resnet101",
        ((2, 2, 2, 2), False): "resnet18", ((3, 4, 6, 3), False): "resnet34",
    }  # fmt: skip
    if (blocks, bottleneck) not in known:
        raise CheckpointError(f"the backbone is no ResNet of this package: {blocks} blocks a stage")
    return known[blocks, bottleneck]
