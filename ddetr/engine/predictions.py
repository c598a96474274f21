"""Predictions in a file, so that evaluation can be repeated without the model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..data import DataError
from ..data.json_files import is_number, read_json
from ..files import replacing
from .scores import Evaluation


class Predictions(NamedTuple):
    """What `read_predictions` found.

    Attributes:
        results: the detections, in COCO's results format.
        image_ids: the images that were looked at; None if the file does not say (all of them, then).
        categories: what the model's labels stand for; None if the file does not say.
        annotations_sha256: `fingerprint` of the annotations that they were scored on; None if the file does not say.
    """

    results: list[dict[str, Any]]
    image_ids: list[int] | None = None
    categories: list[dict[str, Any]] | None = None
    annotations_sha256: str | None = None

    def check_belongs_to(self, image_ids: Iterable[int], category_ids: Iterable[int], where: str | Path) -> None:
        """DataError unless `image_ids` and `category_ids`, those of annotation file `where`, have all of these."""
        looked_at = [*(self.image_ids or ()), *(result["image_id"] for result in self.results)]
        for kind, used, known in (
            ("image", looked_at, image_ids),
            ("category", (result["category_id"] for result in self.results), category_ids),
        ):
            unknown = sorted(set(used) - set(known))
            if unknown:
                others = f" and {len(unknown) - 1} others" if len(unknown) > 1 else ""
                raise DataError(
                    f"the predictions are for {kind} id {unknown[0]}{others}, which {where} does not have: "
                    "they belong to another data set"
                )


def write_predictions(path: str | Path, evaluation: Evaluation, categories: list[dict[str, Any]], **about: Any) -> None:
    """Write `evaluation` to `path` as JSON, scores first, then one detection a line.

    `categories` are what the labels stand for; `about` adds what the reader should know of the run.

    Numbers are written to the last bit, so that scoring them again gives the same values. OSError if it cannot be
    written; an older file of that name is left as it was.
    """
    contents = {
        **about,
        "images": evaluation.num_images,
        "metrics": evaluation.metrics,
        "per_category": [group._asdict() for group in evaluation.per_category],
        "per_size": [group._asdict() for group in evaluation.per_size],
        "categories": categories,
        "image_ids": evaluation.image_ids,
    }
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        head = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in contents.items())
        file.write("{\n" + head + ',\n"results": [\n')
        file.write(",\n".join(json.dumps(result) for result in evaluation.results))
        file.write("\n]}\n")


def read_predictions(path: str | Path) -> Predictions:
    """Read `path`: what `write_predictions` wrote, or a bare list in COCO's results format, of any detector.

    Raises:
        DataError: no such file, not JSON, or not of this form; says what is wrong and where.
    """
    contents = read_json(path, f"no predictions at {path}")
    if isinstance(contents, list):
        contents = {"results": contents}
    if not isinstance(contents, dict) or not isinstance(contents.get("results"), list):
        raise DataError(f"{path} holds no predictions: no list in COCO's results format, and none called 'results'")
    for index, result in enumerate(contents["results"]):
        _check_result(result, f"{path}: results[{index}]")
    predictions = Predictions(contents["results"], *(contents.get(name) for name in Predictions._fields[1:]))
    _check_about(predictions, path)
    return predictions


def _check_result(result: Any, where: str) -> None:
    if not isinstance(result, dict):
        raise DataError(f"{where} must be an object; got {result!r:.60}")
    for key in ("image_id", "category_id"):
        if not _is_whole(result.get(key)):
            raise DataError(f"{where}: '{key}' must be a whole number; got {result.get(key)!r:.60}")
    if not is_number(result.get("score")):
        raise DataError(f"{where}: 'score' must be a finite number; got {result.get('score')!r:.60}")
    bbox = result.get("bbox")
    # pycocotools would take a box of NaN for a perfect one: no overlap with it is below any threshold.
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(map(is_number, bbox))):
        raise DataError(f"{where}: 'bbox' must be four finite numbers x, y, width, height; got {bbox!r:.60}")


def _check_about(predictions: Predictions, path: str | Path) -> None:
    """The optional parts, where they are there."""
    ids, categories = predictions.image_ids, predictions.categories
    if ids is not None:
        if not (isinstance(ids, list) and ids and all(map(_is_whole, ids)) and len(set(ids)) == len(ids)):
            raise DataError(f"{path}: 'image_ids' must be a list of different whole numbers; got {ids!r:.60}")
        strangers = {result["image_id"] for result in predictions.results} - set(ids)
        if strangers:
            raise DataError(f"{path} has detections on image id {min(strangers)}, which is not among its 'image_ids'")
    if categories is not None and not (
        isinstance(categories, list)
        and all(isinstance(c, dict) and _is_whole(c.get("id")) and isinstance(c.get("name"), str) for c in categories)
    ):
        raise DataError(f"{path}: 'categories' must be a list of objects with 'id' and 'name'; got {categories!r:.60}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
