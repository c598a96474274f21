"""Putting weights into a model, whole or not at all, and saying what was done."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..config import DeformableDETRConfig
from ..data.coco_categories import coco_categories
from ..models import DeformableDETR
from ..models.finite import not_finite, some_names
from .finding import find_weights
from .huggingface import config_fields, label_names, read_config
from .inferring import infer_config, naming_of
from .naming import NAMINGS, translate
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
        lines = [f"{NAMINGS[self.naming].title} naming, {self.loaded} tensors loaded"]
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
        CheckpointError: the naming is unknown, a weight is NaN or infinite, or (strict) anything is missing, unexpected
            or of another shape.
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
    naming = naming_of(state, origin)
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
        raise CheckpointError(f"{origin} does not fit the model, nothing was loaded: {report}\n{_advice(state)}")
    bad = [translation.source[name] for name in not_finite(fitting)]
    if bad:
        raise CheckpointError(f"{origin} holds NaN or infinity in {some_names(bad)}: take a checkpoint from before")
    model.load_state_dict(own | fitting)
    logger.log(logging.INFO if report.complete else logging.WARNING, "%s: %s", origin, report)
    return report


def load_pretrained(source: str | Path, *, num_classes: int | None = None, **overrides: Any) -> DeformableDETR:
    """A model with the weights of a file, a folder or the Hugging Face hub, in evaluation mode.

    Its `categories` are what the file says of the labels; COCO's where it says nothing and has 91 or 80 classes. Where
    only names are known, ids are None, and a data set's are taken by name.

    Args:
        source: "tiny" or "tiny_two_stage", which come with the package; a file of ours, of the official code or of
            mmdetection; a folder with `model.safetensors`, such as a training run's, or one that transformers wrote;
            or, as a str, a name on the hub, such as "SenseTime/deformable-detr", which huggingface_hub fetches once.
        num_classes: another number of classes than the file's: the class heads start afresh, and a warning says so.
        overrides: config fields that shapes do not tell, for example `dilation=True`.

    Raises:
        FileNotFoundError: nothing there.
        OSError: the hub cannot be reached, or grants no access.
        CheckpointError: not weights of a Deformable DETR, or they do not fit the overrides.
    """
    path = find_weights(source)
    config_file = path.parent / "config.json"
    whole_folder = path != Path(source)
    if whole_folder and config_file.is_file():
        read_config(config_file)  # another kind of model is refused before its weights are read
    checkpoint = read_checkpoint(path)
    is_hf = naming_of(checkpoint.state, str(path)) == "hf"
    described = is_hf and config_file.is_file()
    if is_hf and whole_folder and not described:
        raise CheckpointError(
            f"{path.parent} has no config.json, which says what shapes do not, such as the number of heads; "
            f"load_pretrained({str(path)!r}) takes the paper's values for that"
        )
    config = _config_of(checkpoint, path, described, overrides)
    model = DeformableDETR(config)
    load_into(model, checkpoint.state)
    model.categories = _categories_of(checkpoint, path, described, config.num_classes)
    if num_classes is not None and num_classes != config.num_classes:
        model = change_num_classes(model, num_classes)
    return model.eval()


def _config_of(checkpoint: Checkpoint, path: Path, described: bool, overrides: dict[str, Any]) -> DeformableDETRConfig:
    """The file's own config, or what its shapes and, if it is `described`, the config.json beside it tell."""
    if "config" in checkpoint.metadata:
        try:
            own = DeformableDETRConfig.from_dict(checkpoint.metadata["config"])
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: its config is not one of this version's: {error}") from error
        return own.replace(**overrides)
    fields = (config_fields(path.parent) if described else {}) | overrides
    config = infer_config(checkpoint.state, num_heads=fields.get("num_heads", 8))
    if config.num_levels == 1 and "dilation" not in fields:
        logger.warning("%s: shapes do not tell DC5; taken to be without dilation (else: dilation=True)", path)
    try:
        return config.replace(**fields)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be the weights of such a model: {error}") from error


def _categories_of(
    checkpoint: Checkpoint, path: Path, described: bool, num_classes: int
) -> list[dict[str, Any]] | None:
    """What the labels mean, as far as anything says; None if nothing does. Ids that nobody says are None."""
    own = checkpoint.metadata.get("categories")
    if own is not None and len(own) == num_classes:
        return own
    if "config" in checkpoint.metadata:  # ours, and it would say
        return None
    names, ids = checkpoint.metadata.get("names"), None
    if described:
        names, ids = label_names(path.parent, num_classes)
    coco = coco_categories(num_classes)
    if names is None or len(names) != num_classes:
        return coco
    if ids is None and coco is not None:
        known = [name in (category["name"], "N/A") for name, category in zip(names, coco, strict=True)]
        ids = [category["id"] for category in coco] if all(known) else None
        names = [category["name"] for category in coco] if all(known) else names
    return [{"id": ids[label] if ids else None, "name": name} for label, name in enumerate(names)]


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


ENCODER = ("backbone", "neck", "flatten", "encoder")
"""The modules before the queries, which are the same in every variant."""


def copy_encoder(source: DeformableDETR, target: DeformableDETR) -> None:
    """Give `target` the backbone, neck, level embedding and encoder of `source`, which may be another variant.

    Raises:
        ValueError: one of these differs in size; says which config fields do.
    """
    for name in ENCODER:
        theirs, ours = getattr(source, name).state_dict(), getattr(target, name).state_dict()
        if {key: tensor.shape for key, tensor in theirs.items()} != {key: tensor.shape for key, tensor in ours.items()}:
            a, b = source.config.to_dict(), target.config.to_dict()
            differing = ", ".join(f"{key} is {a[key]!r} there, {b[key]!r} here" for key in a if a[key] != b[key])
            raise ValueError(f"the {name} of these weights does not fit: {differing}")
        getattr(target, name).load_state_dict(theirs)


def _advice(state: Mapping[str, Tensor]) -> str:
    try:
        config = infer_config(state)
    except CheckpointError:
        return "Is it a checkpoint of another model?"
    default = DeformableDETRConfig()
    values = {k: v for k, v in config.to_dict().items() if v != getattr(default, k)}
    described = ", ".join(f"{key}={value!r}" for key, value in values.items()) or "no change"
    return (
        f"Read off its shapes, the checkpoint is preset 'r50' with {described}; load_pretrained builds that model, and "
        "with num_classes=... one for other classes."
    )
