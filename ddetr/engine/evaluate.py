"""Detecting on a whole data set, and scoring what was found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..data import CocoDetection, collate
from ..models import DeformableDETR
from ..models.finite import check_predictions, check_weights
from ..models.modes import evaluating
from .batches import leave_ctrl_c_to_the_main_process
from .scores import Evaluation, printable, score


def evaluate(
    model: DeformableDETR,
    dataset: CocoDetection,
    *,
    batch_size: int = 1,
    workers: int = 0,
    progress: bool = True,
    interrupted: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Detect with `model` on every image and score against the annotations, crowds included. Its mode is put back.

    Only images of one size share a batch, of up to `batch_size`: convolutions and group normalisation see padding, so
    that an image would be scored a little differently beside a larger one. This way the batch size changes nothing but
    the rounding of float32 sums.

    An image that `dataset` leaves out (`skip_bad_images`) counts neither for nor against. `workers` processes read
    images, `progress` shows a bar, `interrupted` is asked after each batch.

    Raises:
        ValueError: the model's classes are not the data's, or no image could be read.
        FloatingPointError: weights that are NaN or infinite, or predictions; names the image.
        KeyboardInterrupt: `interrupted` said so.
    """
    check_classes(model, dataset)
    check_weights(model)
    batches = same_size_batches(dataset, batch_size)
    loader = DataLoader(
        dataset, batch_sampler=batches, collate_fn=collate, num_workers=workers,
        worker_init_fn=leave_ctrl_c_to_the_main_process,
    )  # fmt: skip
    found: dict[int, list[dict[str, Any]]] = {}
    bar = tqdm(total=len(dataset), desc="evaluate", unit="image", disable=not progress, leave=False)
    with evaluating(model), torch.inference_mode(), bar:
        for indices, loaded in zip(batches, loader, strict=True):
            if interrupted():
                raise KeyboardInterrupt
            for images, targets in _of_equal_shape(*loaded):
                # In pixels of the picture as it lies on disk, not as it was resized.
                sizes = [target["orig_size"] for target in targets]
                names = [f"image id {target['image_id']}" for target in targets]
                for detections, target in zip(detect(model, images, sizes, names), targets, strict=True):
                    found[target["image_id"]] = dataset.to_results(detections, target)
            bar.update(len(indices))
    if not found:
        raise ValueError(f"no image of {dataset.annotation_file} could be evaluated")
    image_ids = sorted(found)
    return score(dataset.coco, [result for image_id in image_ids for result in found[image_id]], image_ids)


def check_classes(model: DeformableDETR, dataset: CocoDetection) -> None:
    """ValueError unless the model's labels stand for the data's categories, where the model says what they are."""
    where, advice = dataset.annotation_file, "ddetr.checkpoints.change_num_classes gives a model fresh class heads"
    if model.config.num_classes != dataset.num_classes:
        raise ValueError(f"the model has {model.config.num_classes} classes, {where} {dataset.num_classes}: {advice}")
    for label, (ours, theirs) in enumerate(zip(model.categories or (), dataset.categories, strict=False)):
        id_is_known = ours["id"] is not None  # weights from elsewhere may come with names alone
        if ours["name"] != theirs["name"] or (id_is_known and ours["id"] != theirs["id"]):
            named = [f"{printable(category['name'])} (id {category['id']})" for category in (ours, theirs)]
            raise ValueError(f"label {label} is {named[0]} to the model, but {named[1]} in {where}: {advice}")


def detect(
    model: DeformableDETR, images: Sequence[Tensor], sizes: list[tuple[int, int]], names: Sequence[str]
) -> list[dict[str, Tensor]]:
    """What `model` finds on `images`, in pixels of pictures of `sizes` (h, w).

    FloatingPointError for NaN predictions, with the image's name out of `names`.
    """
    output = model.forward_raw(images)
    check_predictions(output.pred_logits, output.pred_boxes, names)
    return model.postprocess(output, sizes)


def same_size_batches(dataset: CocoDetection, batch_size: int) -> list[list[int]]:
    """Indices in batches of up to `batch_size`, whose annotated widths and heights agree.

    An image whose annotation does not say its size is a batch of its own.
    """
    groups: dict[Any, list[int]] = defaultdict(list)
    for index, image_id in enumerate(dataset.image_ids):
        record = dataset.coco.imgs[image_id]
        size = (record.get("width"), record.get("height"))
        groups[index if None in size else size].append(index)
    return [
        group[start : start + batch_size] for group in groups.values() for start in range(0, len(group), batch_size)
    ]


def _of_equal_shape(
    images: list[Tensor], targets: list[dict[str, Any]]
) -> Iterator[tuple[list[Tensor], list[dict[str, Any]]]]:
    """A batch in parts without padding: turned photos and a transform of one's own can change a size on the way."""
    groups: dict[torch.Size, tuple[list[Tensor], list[dict[str, Any]]]] = {}
    for image, target in zip(images, targets, strict=True):
        part = groups.setdefault(image.shape, ([], []))
        part[0].append(image)
        part[1].append(target)
    yield from groups.values()
