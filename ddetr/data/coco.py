"""Data sets in COCO's format: boxes and labels for training, and the way back for evaluation."""

from __future__ import annotations

import contextlib
import io
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from pycocotools.coco import COCO
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.ops import box_convert
from torchvision.transforms.v2 import functional as F

from .images import UPRIGHT, DataError, Orientation, in_words, read_image
from .json_files import is_number, read_json
from .transforms import Sample, Transform, as_boxes, eval_transform

logger = logging.getLogger(__name__)


class CocoDetection(Dataset):
    """A COCO-format data set: `dataset[i]` is an image (3, H, W) and a target.

    The target holds `boxes` (N, 4) xyxy pixels of the transformed image, `labels` (N,) in 0..K-1, `image_id`,
    `orig_size` (h, w) of the upright picture and `orientation` (see `to_results`). Crowds (`iscrowd`) are left out of
    targets and stay known to evaluation, through `coco`. Images without objects are kept.

    Labels are the categories in order of their ids: COCO's ids 1..90, with gaps, become 0..79.

    Args:
        image_dir: where the images lie.
        annotation_file: COCO's JSON.
        transform: takes and gives (image, target), as `train_transform` and `eval_transform` make; None: the latter.
        skip_bad_images: an image that cannot be read is logged and its item is None, instead of an error.
        categories: the categories that labels stand for, when a model brings its own; None: the file's.
        limit: only the first so many images; None: all.

    Attributes:
        coco: pycocotools' index of the annotations.
        categories: what label k means: K dicts {"id", "name"}.
        image_ids: the ids, in ascending order, one for each item.

    Raises:
        DataError: the file is not there, not JSON or not in COCO's format; says what is wrong and where.
        ValueError: a `limit` below 0.
    """

    def __init__(
        self,
        image_dir: str | Path,
        annotation_file: str | Path,
        transform: Transform | None = None,
        *,
        skip_bad_images: bool = False,
        categories: list[dict[str, Any]] | None = None,
        limit: int | None = None,
    ) -> None:
        if limit is not None and limit < 0:
            raise ValueError(f"limit is a number of images, at least 0; got {limit}")
        self.image_dir = Path(image_dir)
        self.annotation_file = Path(annotation_file)
        self.transform = transform or eval_transform()
        self.skip_bad_images = skip_bad_images
        self.coco = _read_annotations(self.annotation_file)
        if not self.image_dir.is_dir():
            raise DataError(f"no image folder {self.image_dir}")
        own = [{"id": c["id"], "name": c["name"]} for c in sorted(self.coco.cats.values(), key=lambda c: c["id"])]
        self.categories = own if categories is None else with_ids(categories, own)
        self.label_of = {category["id"]: label for label, category in enumerate(self.categories)}
        self._check_categories(own)
        self.image_ids = sorted(self.coco.imgs)[:limit]

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.categories)

    @property
    def aspect_ratios(self) -> list[float]:
        """Width / height of each image as the JSON has it; 1 where it does not say."""
        records = [self.coco.imgs[image_id] for image_id in self.image_ids]
        return [
            record["width"] / record["height"] if {"width", "height"} <= record.keys() else 1.0 for record in records
        ]

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Sample | None:
        image_id = self.image_ids[index]
        try:
            image, boxes, labels, orientation = self._load(image_id)
        except DataError as error:
            if self.skip_bad_images:
                logger.warning("skipping image id %s: %s", image_id, error)
                return None
            raise DataError(
                f"image id {image_id}: {error}. --skip-bad-images (skip_bad_images=True) goes on without it"
            ) from error
        size = (image.shape[-2], image.shape[-1])
        target = {
            "boxes": as_boxes(boxes, size), "labels": labels,
            "image_id": image_id, "orig_size": size, "orientation": orientation,
        }  # fmt: skip
        return self.transform(image, target)

    def path(self, image_id: int) -> Path:
        """The image's file. DataError for a name that leads out of the image folder, a link's included."""
        name = self.coco.imgs[image_id]["file_name"]
        try:
            inside = _stays_inside(name) and (self.image_dir / name).resolve().is_relative_to(self.image_dir.resolve())
        except (OSError, RuntimeError, ValueError) as error:  # links in a circle; half a character
            raise DataError(f"file_name {in_words(repr(name))} names no file: {error}") from error
        if not inside:
            raise DataError(f"file_name {in_words(repr(name))} leads out of the image folder {self.image_dir}")
        return self.image_dir / name

    def to_results(self, detections: dict[str, Tensor], target: dict[str, Any]) -> list[dict[str, Any]]:
        """`detections` in pixels of the upright picture -> COCO results, in the frame and ids of the annotation file.

        `target` is the image's own, as `dataset[i]` gave it.
        """
        boxes = target["orientation"].undo(detections["boxes"].cpu(), target["orig_size"])
        return coco_results({**detections, "boxes": boxes}, target["image_id"], self.categories)

    def _check_categories(self, own: list[dict[str, Any]]) -> None:
        """The file's categories must be among the ones that labels stand for, by id and by name."""
        unknown = [c["name"] for c in own if c["id"] not in self.label_of]
        if unknown:
            names = in_words(", ".join(unknown[:5]))
            raise DataError(f"{self.annotation_file} has categories that the model does not know: {names}")
        for category in own:
            name = self.categories[self.label_of[category["id"]]]["name"]
            if name != category["name"]:
                raise DataError(
                    f"{self.annotation_file} calls category {category['id']} {category['name']!r:.60}, "
                    f"the model {name!r:.60}"
                )

    def _load(self, image_id: int) -> tuple[tv_tensors.Image, Tensor, Tensor, Orientation]:
        picture, turned = read_image(self.path(image_id))
        orientation = annotated_frame(self.coco.imgs[image_id], picture.size, turned)
        annotations = [a for a in self.coco.imgToAnns[image_id] if not a["iscrowd"]]
        boxes = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32).reshape(-1, 4)
        boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
        w, h = picture.size
        boxes = orientation.apply(boxes, (h, w)).clamp(min=0).minimum(torch.tensor([w, h, w, h]))
        labels = torch.tensor([self.label_of[a["category_id"]] for a in annotations], dtype=torch.int64)
        keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return tv_tensors.Image(F.pil_to_tensor(picture)), boxes[keep], labels[keep], orientation


def coco_of(contents: dict[str, Any]) -> COCO:
    """The `contents` of a COCO annotation file as pycocotools takes them."""
    coco = COCO()
    coco.dataset = contents
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress with print
        coco.createIndex()
    return coco


def coco_results(
    detections: dict[str, Tensor], image_id: int, categories: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """`detections` of one image, boxes xyxy, -> COCO results, without those whose category has no id."""
    boxes = box_convert(detections["boxes"], "xyxy", "xywh").tolist()
    return [
        {"image_id": image_id, "category_id": categories[label]["id"], "bbox": box, "score": score}
        for box, label, score in zip(boxes, detections["labels"].tolist(), detections["scores"].tolist(), strict=True)
        if categories[label]["id"] is not None
    ]


def with_ids(categories: list[dict[str, Any]], own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Weights of other code bases may bring names alone, with ids None: then a file's, `own`, gives ids by name."""
    ids = {category["name"]: category["id"] for category in own}
    return [c if c["id"] is not None else {"id": ids.get(c["name"]), "name": c["name"]} for c in categories]


def annotated_frame(record: dict[str, Any], upright: tuple[int, int], turned: Orientation) -> Orientation:
    """How an image's annotations must be turned to lie on the upright picture, whose (w, h) is `upright`.

    The size in `record`, its entry in the JSON, tells which frame the boxes were drawn in, the file's or the upright
    one. Where it cannot (half turns, square pictures), they are taken to lie on the picture as people see it.

    Raises:
        DataError: the picture is of another size than the JSON says.
    """
    if "width" not in record or "height" not in record:
        return UPRIGHT
    said = (record["width"], record["height"])
    if said == upright:
        return UPRIGHT
    if turned.transpose and said == upright[::-1]:
        return turned
    raise DataError(
        f"image file {in_words(record['file_name'])} is {upright[0]} x {upright[1]} pixels, but its annotation says "
        f"{said[0]} x {said[1]}: boxes would not lie on the objects"
    )


def collate(samples: list[Sample | None]) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """`samples` as lists of images, of any sizes, and of targets, without the images that were skipped."""
    kept = [sample for sample in samples if sample is not None]
    return [image for image, _ in kept], [target for _, target in kept]


def coco_layout(folder: str | Path, split: str) -> tuple[Path, Path]:
    """Image folder and annotation file of `split`, "train" or "val", in COCO's own layout.

    Raises:
        DataError: `folder` is not laid out so; says what was looked for.
    """
    folder = Path(folder)
    images, annotations = folder / f"{split}2017", folder / "annotations" / f"instances_{split}2017.json"
    for path in (annotations, images):
        if not path.exists():
            raise DataError(
                f"{folder} is not in COCO's layout: no {path.relative_to(folder)}. "
                "--images and --annotations take any other layout"
            )
    return images, annotations


def read_coco_json(path: Path, object_hook: Callable[[dict], Any] | None = None) -> dict[str, Any]:
    """A COCO annotation file, checked.

    `object_hook`, as in `json.loads`, can leave out what is not needed; an entry that it makes None is left out whole.

    Raises:
        DataError: the file is not there, not JSON or not in COCO's format; says what is wrong and where.
    """
    contents = read_json(path, f"no annotation file {path}", object_hook)
    if object_hook and isinstance(contents, dict):
        for section in _REQUIRED:
            if isinstance(contents.get(section), list):
                contents[section] = [entry for entry in contents[section] if entry is not None]
    _check_annotations(contents, path)
    return contents


def clip_boxes(contents: dict[str, Any]) -> int:
    """Clip the boxes that reach more than a pixel out of their image, in place; how many those are."""
    sizes = {image["id"]: (image.get("width"), image.get("height")) for image in contents["images"]}
    clipped = 0
    for annotation in contents["annotations"]:
        x, y, w, h = annotation["bbox"]
        W, H = sizes[annotation["image_id"]]
        if W is None or H is None or (x >= -1 and y >= -1 and x + w <= W + 1 and y + h <= H + 1):
            continue  # COCO's own boxes are rounded, and overshoot by hundredths
        x1, x2 = (min(max(side, 0), W) for side in (x, x + w))
        y1, y2 = (min(max(side, 0), H) for side in (y, y + h))
        annotation["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        clipped += 1
    return clipped


def _read_annotations(path: Path) -> COCO:
    contents = read_coco_json(path)
    _complete(contents, path)
    return coco_of(contents)


def _stays_inside(name: str) -> bool:
    """A relative path without `..`, on this system and on any other."""
    paths = (PurePosixPath(name), PureWindowsPath(name))
    return "\0" not in name and not any(path.anchor or ".." in path.parts for path in paths)


_REQUIRED = {
    "images": {"id": int, "file_name": str},
    "annotations": {"image_id": int, "category_id": int, "bbox": list},
    "categories": {"id": int, "name": str},
}


def _check_annotations(contents: Any, path: Path) -> None:
    if not isinstance(contents, dict):
        raise DataError(f"{path} is not in COCO's format: a {type(contents).__name__} instead of an object")
    for section, required in _REQUIRED.items():
        if not isinstance(contents.get(section), list):
            found = in_words(", ".join(list(contents)[:8])) or "nothing"
            raise DataError(f"{path} is not in COCO's format: no list '{section}'; it has {found}")
        for index, entry in enumerate(contents[section]):
            _check_entry(entry, required, f"{path}: {section}[{index}]")
    for section in ("images", "categories"):
        repeated = [key for key, count in Counter(e["id"] for e in contents[section]).items() if count > 1]
        if repeated:
            raise DataError(f"{path}: {section} has id {repeated[0]} more than once")
    if not contents["categories"]:
        raise DataError(f"{path} has no categories")
    images, categories = ({e["id"] for e in contents[s]} for s in ("images", "categories"))
    for index, annotation in enumerate(contents["annotations"]):
        where = f"{path}: annotations[{index}]"
        if annotation["image_id"] not in images:
            raise DataError(f"{where} is for image_id {annotation['image_id']}, which is not in the file")
        if annotation["category_id"] not in categories:
            raise DataError(f"{where} has category_id {annotation['category_id']}, which is not in the file")


def _check_entry(entry: Any, required: dict[str, type], where: str) -> None:
    if not isinstance(entry, dict):
        raise DataError(f"{where} is a {type(entry).__name__} instead of an object")
    for key, kind in required.items():
        if key not in entry:
            raise DataError(f"{where} has no '{key}'")
        if not isinstance(entry[key], kind) or isinstance(entry[key], bool):
            raise DataError(f"{where}: '{key}' must be {kind.__name__}; got {entry[key]!r:.60}")
        if kind is int and not _is_id(entry[key]):
            raise DataError(f"{where}: '{key}' must be below 2**63; got {entry[key]!r:.60}")
    for side in ("width", "height"):
        if side in entry and not (is_number(entry[side]) and entry[side] > 0):
            raise DataError(f"{where}: '{side}' must be a positive number; got {entry[side]!r:.60}")
    if not (entry.get("iscrowd") is None or entry["iscrowd"] in (0, 1)):  # "0" would be true
        raise DataError(f"{where}: 'iscrowd' must be 0 or 1; got {entry['iscrowd']!r:.60}")
    if not (entry.get("id") is None or _is_id(entry["id"])):
        raise DataError(f"{where}: 'id' must be int; got {entry['id']!r:.60}")
    if "bbox" in required and not (len(entry["bbox"]) == 4 and all(map(is_number, entry["bbox"]))):
        raise DataError(f"{where}: bbox must be four finite numbers x, y, width, height; got {entry['bbox']!r:.60}")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and abs(value) < 2**63


def _complete(contents: dict[str, Any], path: Path) -> None:
    """Fill in what evaluation needs and small exporters leave out, and count what no target can use."""
    contents.setdefault("info", {})  # pycocotools copies it into results
    ids = [a.get("id") for a in contents["annotations"]]
    repeated = len(ids) - len(set(ids)) - max(ids.count(None) - 1, 0)
    if repeated:
        logger.warning("%s: %d annotations have the id of another; all are numbered anew", path, repeated)
    if repeated or None in ids or 0 in ids:  # COCOeval takes an id of 0 for "no match"
        for number, annotation in enumerate(contents["annotations"], start=1):
            annotation["id"] = number
    clipped = clip_boxes(contents)
    if clipped:
        logger.warning("%s: %d boxes reach out of their image and are clipped to it", path, clipped)
    empty = 0
    for annotation in contents["annotations"]:
        _, _, w, h = annotation["bbox"]
        annotation["iscrowd"] = int(annotation.get("iscrowd") or 0)
        if not (
            is_number(annotation.get("area")) and annotation["area"] >= 0
        ):  # COCOeval would leave out a negative one
            annotation["area"] = abs(w * h)
        empty += w <= 0 or h <= 0
    if empty:
        logger.warning("%s: %d boxes without area are left out of training", path, empty)
