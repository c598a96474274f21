"""ToyCOCO: a data set in COCO's format that the package draws itself, for whoever has no network.

Real COCO categories, as drawings, in scenes with clutter, shadows, overlap and noise. A seed gives the same bytes on
any machine: shapes are computed with integers, chance comes from generators whose streams are fixed.
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from tqdm import tqdm

from ..config import did_you_mean
from ..files import write_json, write_text
from .coco import coco_of
from .coco_categories import COCO_NAMES
from .images import DataError
from .toy.backgrounds import Noise, background
from .toy.drawings import LOOKS, sketch_of
from .toy.raster import ellipse
from .toy.sketch import Chance, Light, Part, Placement, Shape, outline_of, paint, place, rasterise

TOY_CATEGORIES = (
    "car", "bus", "boat", "traffic light", "stop sign", "bird", "cat", "umbrella", "sports ball", "bottle", "cup",
    "clock",
)  # fmt: skip
"""What ToyCOCO holds unless told otherwise."""
HELD_OUT_CATEGORIES = ("kite", "banana", "pizza", "chair")
"""Drawn too, and left out of the default set: a model trained on it has never seen them."""

SIZES = (0.06, 0.6)
"""An object's longer side, as a share of the image's shorter side."""

_VERSION = 1  # of the drawings: a change of any pixel is a new version
_SPLITS = ("train", "val")
_SETTINGS = "toycoco.json"
_IDS = {COCO_NAMES[category_id]: category_id for category_id in LOOKS}
_LEAST_PIXELS = 24  # of an object that is annotated
_LEAST_SHARE = 0.45  # of an object that must stay visible


class ToyScene(NamedTuple):
    """An image (H, W, 3) uint8, and its objects as COCO annotations without ids."""

    image: np.ndarray
    annotations: list[dict[str, Any]]


class _Object(NamedTuple):
    category_id: int
    visible: np.ndarray
    pixels: int
    crowd: bool


def toy_scene(seed: int, *, categories: Sequence[str] = TOY_CATEGORIES) -> ToyScene:
    """One scene with objects of `categories`. The same `seed` gives the same pixels.

    Raises:
        DataError: a category that is not drawn.
    """
    return _scene(Chance(seed, "scene"), _category_ids(categories))


def scenes_as_coco(scenes: Sequence[ToyScene], categories: list[dict[str, Any]]) -> COCO:
    """The annotations of `scenes`, as of a data set whose image ids are 0, 1, ...; categories: COCO's, id and name."""
    found = [annotation | {"image_id": n} for n, scene in enumerate(scenes) for annotation in scene.annotations]
    return coco_of(
        {
            "images": [{"id": n} for n in range(len(scenes))],
            "annotations": [annotation | {"id": number} for number, annotation in enumerate(found, start=1)],
            "categories": categories,
        }
    )


def make_toycoco(
    out: str | Path,
    *,
    train: int = 2000,
    val: int = 300,
    seed: int = 0,
    categories: Sequence[str] = TOY_CATEGORIES,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Draw a data set into the folder `out`, in COCO's own layout, with a card (README.md). Returns the folder.

    No image of one split or seed comes again in another. If the same set is there already, nothing is done; a set that
    was interrupted is drawn again.

    Args:
        out: the folder, made if need be.
        train, val: how many images of each split.
        seed: what all of it depends on.
        categories: names out of `TOY_CATEGORIES` and `HELD_OUT_CATEGORIES`.
        workers: how many processes draw; None: one for each processor.
        progress: show a bar.

    Raises:
        DataError: a category that is not drawn, counts below 1, or a folder that holds something else, a link for
            example, or cannot be written.
    """
    out, ids = Path(out), _category_ids(categories)
    for name, count in (("train", train), ("val", val)):
        if count < 1:
            raise DataError(f"{name} must be at least 1 image; got {count}")
    settings = {
        "version": _VERSION,
        "seed": seed,
        "train": train,
        "val": val,
        "categories": [COCO_NAMES[i] for i in ids],
    }
    if _is_complete(out, settings):
        return out
    try:
        _draw_set(out, settings, ids, workers or os.cpu_count() or 1, progress)
    except OSError as error:
        raise DataError(
            f"{out} cannot be written: {error.strerror or error}. Once it can be, the same command draws the set"
        ) from error
    return out


def _draw_set(out: Path, settings: dict[str, Any], ids: list[int], workers: int, progress: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / _SETTINGS, settings)
    counts = {split: settings[split] for split in _SPLITS}
    with tqdm(total=sum(counts.values()), desc="ToyCOCO", unit="image", disable=not progress) as bar:
        sets = {
            split: _draw_split(out / f"{split}2017", settings["seed"], split, count, ids, workers, bar)
            for split, count in counts.items()
        }
    write_text(out / "README.md", data_card(settings, sets))
    (out / "annotations").mkdir(exist_ok=True)
    for split, contents in sets.items():  # last, so that they are only there when everything is
        write_text(out / "annotations" / f"instances_{split}2017.json", json.dumps(contents))


def data_card(settings: dict[str, Any], sets: dict[str, dict[str, Any]]) -> str:
    """What is in the set, as Markdown: how it was made, and its objects by category and by COCO's sizes."""
    lines = [
        "# ToyCOCO",
        "",
        "Drawn by `ddetr`; nothing in it is a photo. COCO's format, ids and names; boxes are around what is visible.",
        "",
        f"    {_command(settings)}",
        "",
    ]
    for split, contents in sets.items():
        objects = [a for a in contents["annotations"] if not a["iscrowd"]]
        per_image = Counter(a["image_id"] for a in objects)
        empty = len(contents["images"]) - len({a["image_id"] for a in contents["annotations"]})
        crowds = len(contents["annotations"]) - len(objects)
        lines += [
            f"## {split}: {len(contents['images'])} images, {len(objects)} objects",
            "",
            f"{empty} images are empty, {crowds} crowds are marked `iscrowd`; the fullest image has "
            f"{max(per_image.values(), default=0)} objects. Small is below 32 x 32 pixels, large above 96 x 96, by the "
            "mask's area.",
            "",
            "| category | id | small | medium | large | all |",
            "|---|---|---|---|---|---|",
        ]
        for category in contents["categories"]:
            sizes = Counter(_size_of(a["area"]) for a in objects if a["category_id"] == category["id"])
            row = [category["name"], category["id"], sizes["small"], sizes["medium"], sizes["large"], sizes.total()]
            lines.append("| " + " | ".join(map(str, row)) + " |")
        lines.append("")
    return "\n".join(lines)


def _command(settings: dict[str, Any]) -> str:
    command = "python -m ddetr data toycoco --out DIR"
    for name in ("train", "val", "seed"):
        command += f" --{name} {settings[name]}"
    default = set(settings["categories"]) == set(TOY_CATEGORIES)
    names = "" if default else " ".join(json.dumps(name) for name in settings["categories"])
    return command + (f" --categories {names}" if names else "")


def _size_of(area: float) -> str:
    return "small" if area < 32**2 else "medium" if area < 96**2 else "large"


def _category_ids(names: Sequence[str]) -> list[int]:
    for name in names:
        if name not in _IDS:
            near = did_you_mean(name, list(_IDS)) or "."
            raise DataError(f"ToyCOCO draws no {name!r}{near} It draws {', '.join(_IDS)}.")
    if not names:
        raise DataError("ToyCOCO needs at least one category")
    return sorted({_IDS[name] for name in names})


def _is_complete(out: Path, settings: dict[str, Any]) -> bool:
    """Whether `out` holds this very set. DataError if it holds anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        there = json.loads((out / _SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        there = None
    if not isinstance(there, dict):
        raise DataError(f"{out} exists and is not a ToyCOCO set: choose another folder")
    if there != settings:
        other = "; ".join(f"{k} {there.get(k)!r}, not {v!r}" for k, v in settings.items() if there.get(k) != v)
        raise DataError(f"{out} holds another ToyCOCO set ({other}): choose another folder, or delete it")
    for path in out.rglob("*"):
        if path.is_symlink():  # what would be drawn over might be anything
            raise DataError(f"{path} is a link and may lead elsewhere: remove it, or choose another folder")
    return all(
        (out / "annotations" / f"instances_{split}2017.json").exists()
        and len(list((out / f"{split}2017").glob("*.jpg"))) >= settings[split]
        for split in _SPLITS
    )


def _draw_split(
    folder: Path, seed: int, split: str, count: int, ids: list[int], workers: int, bar: tqdm
) -> dict[str, Any]:
    """Draw a split's images, and return its annotation file."""
    folder.mkdir(exist_ok=True)
    first = 1 if split == "train" else 1_000_001
    jobs = [(folder, seed, split, image_id, ids) for image_id in range(first, first + count)]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with ProcessPoolExecutor(workers) if workers > 1 else nullcontext() as pool:
        for record, found in pool.map(_draw_image, jobs, chunksize=16) if pool else map(_draw_image, jobs):
            images.append(record)
            annotations += [{"id": len(annotations) + number, **a} for number, a in enumerate(found, start=1)]
            bar.update()
    return {
        "info": {"description": f"ToyCOCO {split}, seed {seed}, version {_VERSION}: drawings made by ddetr"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": COCO_NAMES[i]} for i in ids],
    }


def _draw_image(job: tuple[Path, int, str, int, list[int]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    folder, seed, split, image_id, ids = job
    chance = Chance(seed, split, image_id)
    scene = _scene(chance, ids)
    height, width = scene.image.shape[:2]
    record = {"id": image_id, "file_name": f"{image_id:012d}.jpg", "height": height, "width": width}
    _write_jpeg(scene.image, folder / record["file_name"])
    return record, [{"image_id": image_id, **annotation} for annotation in scene.annotations]


def _write_jpeg(image: np.ndarray, path: Path) -> None:
    """OSError if it cannot be written; then there is no such file."""
    # By way of memory: Pillow itself takes a file that the disk had room for only a part of for written.
    contents = io.BytesIO()
    # libjpeg-turbo's "islow" transform is exact in integers, whatever the processor.
    Image.fromarray(image).save(contents, "JPEG", quality=92)
    try:
        path.write_bytes(contents.getvalue())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _scene(chance: Chance, ids: Sequence[int]) -> ToyScene:
    noise = Noise(chance.integer(0, 2**50))
    short = 8 * chance.integer(25, 40)
    long = min(8 * round(short * chance.choice((1.0, 1.2, 1.33, 1.33, 1.5, 1.7)) / 8), 480)
    height, width = (short, long) if chance.happens(0.65) else (long, short)
    canvas = background(chance, noise, height, width)
    light = Light(chance.integer(-70, 70), chance.integer(-70, 25))
    objects: list[_Object] = []
    if chance.happens(0.05):
        _add_crowd(chance, canvas, objects, ids, light)
    for _ in range(0 if chance.happens(0.04) else 1 + int(12 * chance.between(0, 1) ** 2)):
        _add_object(chance, canvas, objects, ids, light)
    annotations = [_annotation(item) for item in objects]
    return ToyScene(_photograph(chance, noise, canvas), annotations)


def _add_object(chance: Chance, canvas: np.ndarray, objects: list[_Object], ids: Sequence[int], light: Light) -> None:
    """Paint one more object where it hides no other too much; a few tries, then none."""
    category_id = chance.choice(ids)
    sketch, look = sketch_of(category_id, chance), LOOKS[category_id]
    height, width = canvas.shape[:2]
    for _ in range(6):
        share = SIZES[0] * (SIZES[1] / SIZES[0]) ** (chance.between(0, 1) ** 0.6)
        size = max(share * min(height, width), 9.0)
        margin = size * (-0.2 if chance.happens(0.2) else 0.5)  # some are cut by the border
        x, y = (chance.between(min(margin, side / 2), max(side - margin, side / 2)) for side in (width, height))
        at = Placement(
            x, y, size, chance.between(-look.turn, look.turn), look.mirrored and chance.happens(0.5),
            chance.between(0.88, 1.14),
        )  # fmt: skip
        parts = rasterise(place(sketch, at), height, width)
        mask = outline_of(parts, height, width)
        if mask.sum() >= _LEAST_PIXELS and all(_still_seen(item, mask) for item in objects):
            _paint_with_shadow(chance, canvas, parts, at, light)
            _hide_behind(objects, mask)
            objects.append(_Object(category_id, mask, int(mask.sum()), crowd=False))
            return


def _add_crowd(chance: Chance, canvas: np.ndarray, objects: list[_Object], ids: Sequence[int], light: Light) -> None:
    """Ten to twenty of one category close together, annotated as one crowd."""
    category_id = chance.choice(ids)
    look = LOOKS[category_id]
    height, width = canvas.shape[:2]
    middle, spread = chance.between(0.25, 0.75) * width, chance.between(0.15, 0.3) * width
    line = chance.between(0.2, 0.8) * height
    union = np.zeros((height, width), dtype=bool)
    for _ in range(chance.integer(10, 20)):
        at = Placement(
            chance.between(middle - spread, middle + spread), line + chance.between(-0.07, 0.07) * height,
            chance.between(0.06, 0.12) * min(height, width), chance.between(-look.turn, look.turn),
        )  # fmt: skip
        parts = rasterise(place(sketch_of(category_id, chance), at), height, width)
        paint(canvas, parts, light)
        union |= outline_of(parts, height, width)
    if union.any():
        objects.append(_Object(category_id, union, int(union.sum()), crowd=True))


def _still_seen(item: _Object, mask: np.ndarray) -> bool:
    rest = int((item.visible & ~mask).sum())
    return rest >= _LEAST_PIXELS and rest >= _LEAST_SHARE * item.pixels


def _hide_behind(objects: list[_Object], mask: np.ndarray) -> None:
    for item in objects:
        item.visible[mask] = False


def _paint_with_shadow(chance: Chance, canvas: np.ndarray, parts: list[Part], at: Placement, light: Light) -> None:
    if chance.happens(0.6):
        points = np.concatenate([contour for shape, _ in parts if shape.solid for contour in shape.contours])
        (x0, _), (x1, y1) = points.min(0), points.max(0)
        x, rx = (x0 + x1) / 2 + at.size * chance.between(-0.15, 0.15), (x1 - x0) / 2
        rings = [
            Shape([np.array(ellipse(x, y1, rx * grow, rx * 0.22 * grow))], (10, 10, 16), 45, False)
            for grow in (1.15, 0.95, 0.75)
        ]
        paint(canvas, rasterise(rings, *canvas.shape[:2]))
    paint(canvas, parts, light)


def _photograph(chance: Chance, noise: Noise, canvas: np.ndarray) -> np.ndarray:
    """What a camera adds: exposure and tint, now and then a blur, and grain."""
    gain = chance.between(0.72, 1.12)
    tint = np.array([int(256 * gain * chance.between(0.93, 1.07)) for _ in range(3)])
    image = canvas * tint // 256
    if chance.happens(0.25):
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
        rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
        image = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) // 16
    # Two bytes added are nearly a bell curve, 105 wide.
    height, width = image.shape[:2]
    grain = noise.bytes(height, width, 1) + noise.bytes(height, width, 1) - 255
    image = image + grain * chance.integer(0, 24) // 256
    return np.clip(image, 0, 255).astype(np.uint8)


def _annotation(item: _Object) -> dict[str, Any]:
    encoded = rle.encode(np.asfortranarray(item.visible.astype(np.uint8)))
    return {
        "category_id": item.category_id,
        "bbox": [float(side) for side in rle.toBbox(encoded)],
        "area": float(rle.area(encoded)),
        "segmentation": {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")},
        "iscrowd": int(item.crowd),
    }
