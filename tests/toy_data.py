"""A small COCO-format data set, drawn on the spot: coloured rectangles on grey."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 3, "name": "car"}, {"id": 17, "name": "cat"}, {"id": 90, "name": "toothbrush"}]
COLOURS = {3: (220, 30, 30), 17: (30, 200, 30), 90: (30, 30, 220)}


def make_coco(folder: Path, count: int = 4, seed: int = 0, splits: tuple[str, ...] = ("train", "val")) -> Path:
    """COCO's layout with `count` images a split; the last image of each has no object, the first a crowd as well."""
    rng = np.random.default_rng(seed)
    (folder / "annotations").mkdir(parents=True)
    for number, split in enumerate(splits):
        images, annotations = [], []
        (folder / f"{split}2017").mkdir()
        for i in range(count):
            image_id = 100 * (number + 1) + i
            w, h = int(rng.integers(70, 110)), int(rng.integers(60, 90))
            pixels = np.full((h, w, 3), 128, dtype=np.uint8)
            for _ in range(0 if i == count - 1 else 1 + i % 2):
                category = int(rng.choice(list(COLOURS)))
                bw, bh = int(rng.integers(20, 40)), int(rng.integers(20, 40))
                x, y = int(rng.integers(0, w - bw)), int(rng.integers(0, h - bh))
                pixels[y : y + bh, x : x + bw] = COLOURS[category]
                annotations.append(annotation(len(annotations) + 1, image_id, category, [x, y, bw, bh]))
            if i == 0:
                annotations.append(annotation(len(annotations) + 1, image_id, 3, [0, 0, 10, 10], iscrowd=1))
            name = f"{image_id:012d}.png"
            Image.fromarray(pixels).save(folder / f"{split}2017" / name)
            images.append({"id": image_id, "file_name": name, "width": w, "height": h})
        contents = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(contents))
    return folder


def annotation(number: int, image_id: int, category: int, bbox: list, iscrowd: int = 0) -> dict:
    x, y, w, h = bbox
    outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {
        "id": number, "image_id": image_id, "category_id": category, "bbox": bbox, "area": w * h, "iscrowd": iscrowd,
        "segmentation": outline,
    }  # fmt: skip


def write_coco(folder: Path, contents: dict, images: dict | None = None) -> tuple[Path, Path]:
    """An image folder and an annotation file with `contents`; images name -> array."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, pixels in (images or {}).items():
        Image.fromarray(pixels).save(folder / "images" / name)
    file = folder / "annotations.json"
    file.write_text(json.dumps(contents))
    return folder / "images", file
