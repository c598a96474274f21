"""Which images go into a COCO subset: a balanced choice that a seed repeats anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import did_you_mean
from .coco import clip_boxes, read_coco_json
from .coco_manifest import Manifest, fingerprint
from .coco_source import check_name
from .images import DataError


@dataclass
class Plan:
    """One split of a subset: where its annotations are, what can be chosen from, and what is chosen."""

    annotations: Path
    split: str
    wanted: Manifest
    categories: dict[int, str]
    images_of: dict[str, list[int]]
    """For each category's name, the images that can be chosen for it."""
    records: dict[int, dict[str, Any]]
    """Image id -> its entry in the annotation file."""
    chosen: list[int]

    def choose(self, kept: Iterable[int] = ()) -> None:
        """Choose as many as wanted, the kept ones among them. DataError if there are fewer, or a name is refused."""
        for name, ids in self.images_of.items():
            if not ids:
                raise DataError(
                    f"{self.wanted.source} has no {self.split} image with {name!r}: leave that category out"
                )
        count = self.wanted.counts[self.split]
        self.chosen = choose_images(self.images_of, count, self.wanted.seed, kept)
        if len(self.chosen) < count:
            raise DataError(
                f"{self.wanted.source} has {len(self.chosen)} {self.split} images with {', '.join(self.images_of)}, "
                f"not {count}: ask for --{self.split} {len(self.chosen)} at most, or for more categories"
            )
        self._check_names()

    def choose_pinned(self, annotations: list[dict[str, Any]]) -> None:
        """Choose the manifest's. DataError if the annotation file lacks some, or has other boxes."""
        self.chosen = list(self.wanted.photos[self.split])
        gone = [i for i in self.chosen if i not in self.records]
        if gone:
            problem = f"{len(gone)} {self.split} photos of it are not there, first image id {gone[0]}"
            raise DataError(f"{self.wanted.source} is not what the manifest was made from: {problem}")
        images = set(self.chosen)
        kept = [a for a in annotations if a["image_id"] in images and a["category_id"] in self.categories]
        clip_boxes({"images": list(self.records.values()), "annotations": kept})
        if fingerprint(kept) != self.wanted.annotations[self.split]:
            raise DataError(f"{self.annotations} has other boxes than those that the manifest was made from")
        self._check_names()

    def replace(self, bad: Iterable[int], others: list[Plan]) -> None:
        """Choose other images for those that cannot be used, none of them chosen in another split."""
        bad = set(bad)
        taken = {i for plan in others for i in plan.chosen}
        names = {name for plan in others for name in plan.names()}
        taken |= {i for i, record in self.records.items() if record["file_name"] in names}
        self.images_of = {
            name: [i for i in ids if i not in bad and i not in taken] for name, ids in self.images_of.items()
        }
        self.choose(kept=[i for i in self.chosen if i not in bad])

    def names(self) -> set[str]:
        """File names of what is chosen."""
        return {self.records[image_id]["file_name"] for image_id in self.chosen}

    def _check_names(self) -> None:
        """Names are paths to be written: each plain, and no two the same where capitals do not count."""
        for image_id in self.chosen:
            check_name(self.records[image_id]["file_name"])
        if len({name.casefold() for name in self.names()}) < len(self.chosen):
            raise DataError(f"{self.annotations}: several images have the same file_name")


def plan_split(file: Path, split: str, wanted: Manifest, there: set[str] | None, others: list[Plan]) -> Plan:
    """Read an annotation file and choose.

    Args:
        file: COCO's JSON.
        split: "train" or "val".
        wanted: how many of which categories, or exactly which.
        there: file names that can be had; None: all.
        others: plans of other splits, whose images are left to them.

    Raises:
        DataError: the file is not COCO's, or does not have what is wanted.
    """
    contents = read_coco_json(file, _without_masks)
    categories = category_ids(wanted.categories, contents["categories"])
    ids = {i for plan in others for i in plan.chosen}
    names = {name for plan in others for name in plan.names()}
    records = {
        image["id"]: image
        for image in contents["images"]
        if (there is None or image["file_name"] in there) and image["id"] not in ids and image["file_name"] not in names
    }
    images_of = {
        name: [i for i in images if i in records] for name, images in images_by_category(contents, categories).items()
    }
    plan = Plan(file, split, wanted, categories, images_of, records, [])
    if wanted.pinned:
        plan.choose_pinned(contents["annotations"])
    else:
        plan.choose()
    return plan


def choose_images(images_of: dict[str, list[int]], count: int, seed: int = 0, kept: Iterable[int] = ()) -> list[int]:
    """Choose `count` image ids, so that each category is shown by about as many.

    Over and over, the category that has the fewest chosen images takes the next of its own, in an order that the seed
    draws; an image counts for every category that it shows. The order comes from a hash, the same on any machine.

    Args:
        images_of: for each category, the images that show it.
        kept: images that are chosen already, when others have to be replaced.

    Returns:
        The kept ones and the new ones; fewer than `count` if there are no more.
    """
    shows: dict[int, list[str]] = {}
    for category, ids in images_of.items():
        for image_id in ids:
            shows.setdefault(image_id, []).append(category)
    chosen = dict.fromkeys(kept)
    images = {category: sum(category in shows.get(i, ()) for i in chosen) for category in images_of}
    queues = {category: sorted(ids, key=lambda i: _drawn(seed, i), reverse=True) for category, ids in images_of.items()}
    while len(chosen) < count:
        for queue in queues.values():
            while queue and queue[-1] in chosen:
                queue.pop()
        waiting = [category for category, queue in queues.items() if queue]
        if not waiting:
            break
        image_id = queues[min(waiting, key=images.__getitem__)].pop()
        chosen[image_id] = None
        for category in shows[image_id]:
            images[category] += 1
    return list(chosen)


def category_ids(names: Iterable[str], categories: list[dict[str, Any]]) -> dict[int, str]:
    """Names -> {id: name}. DataError that lists every name that is no category, with the nearest one that is."""
    known = {category["name"]: category["id"] for category in categories}
    wrong = {name: did_you_mean(name, list(known)) for name in names if name not in known}
    if wrong:
        problems = " ".join(f"{name!r} is no category{near or '.'}" for name, near in wrong.items())
        raise DataError(problems if all(wrong.values()) else f"{problems} There are: {', '.join(known)}")
    return {known[name]: name for name in names}


def images_by_category(contents: dict[str, Any], wanted: dict[int, str]) -> dict[str, list[int]]:
    """For each wanted category, {id: name}, the images that show one of it; a crowd alone does not count."""
    found: dict[str, dict[int, None]] = {name: {} for name in wanted.values()}
    for annotation in contents["annotations"]:
        name = wanted.get(annotation["category_id"])
        if name is not None and not annotation.get("iscrowd") and min(annotation["bbox"][2:]) > 0:
            found[name][annotation["image_id"]] = None
    return {name: list(ids) for name, ids in found.items()}


def _drawn(seed: int, image_id: int) -> bytes:
    return hashlib.sha256(f"{seed} {image_id}".encode()).digest()


def _without_masks(entry: dict[str, Any]) -> dict[str, Any]:
    """Outlines are most of COCO's 450 MB, several gigabytes once parsed, and choosing needs none."""
    entry.pop("segmentation", None)
    return entry
