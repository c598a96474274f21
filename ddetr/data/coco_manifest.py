"""The manifest of a COCO subset: what was asked for and which photos it holds, enough to make the same subset again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import write_json
from .images import DataError

SPLITS = ("train", "val")
_FORMAT = "ddetr COCO subset, version 1"


@dataclass(frozen=True)
class Manifest:
    """What a subset is made from.

    Raises:
        DataError: no categories, a negative count, or no images at all.
    """

    categories: tuple[str, ...]
    """Names, in COCO's spelling."""
    counts: dict[str, int]
    """Images of "train" and of "val"."""
    seed: int = 0
    source: str = ""
    """Where the photos came from: a server, or the name of a local copy."""
    photos: dict[str, dict[int, str]] = field(default_factory=dict)
    """For each split, image id -> SHA-256 of the photo; empty before they are known."""
    annotations: dict[str, str] = field(default_factory=dict)
    """For each split, `fingerprint` of its annotations; empty before they are known."""

    def __post_init__(self) -> None:
        if not self.categories:
            raise DataError("a subset needs at least one category: --categories cat dog")
        for split, count in self.counts.items():
            if count < 0:
                raise DataError(f"the number of {split} images must be at least 0; got {count}")
        if not any(self.counts.values()):
            raise DataError("a subset needs images: --train 200 --val 50")

    @property
    def pinned(self) -> bool:
        """Whether it says which photos, not only how many."""
        return bool(self.photos)

    def asks_for(self) -> str:
        """In words, for errors: `cat, dog; 200 train and 50 val images; seed 0; from COCO`."""
        counts = " and ".join(f"{self.counts[split]} {split}" for split in SPLITS)
        return f"{', '.join(self.categories)}; {counts} images; seed {self.seed}; from {self.source}"

    def command(self) -> str:
        """The command that chooses these photos; the folder that they came from is the reader's own."""
        where = ["--download"] if self.source.startswith("http") else ["--from", "COCO"]
        counts = [part for split in SPLITS for part in (f"--{split}", str(self.counts[split]))]
        parts = ["python", "-m", "ddetr", "data", "coco", "--categories", *self.categories, *counts]
        return shlex.join([*parts, "--seed", str(self.seed), *where])

    def write(self, path: Path) -> None:
        """As JSON, a line for each photo. OSError if it cannot be written."""
        contents = {"format": _FORMAT, "command": self.command(), **dataclasses.asdict(self)}
        write_json(path, contents)


def read_manifest(path: str | Path) -> Manifest:
    """What `Manifest.write` wrote.

    Raises:
        DataError: not there, or not such a file; says what is wrong.
    """
    try:
        contents = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"no manifest can be read at {path} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a manifest: not JSON ({error})") from error
    if not isinstance(contents, dict) or contents.get("format") != _FORMAT:
        raise DataError(f"{path} is not a manifest: it lacks 'format': {_FORMAT!r}")
    for key, valid in _VALID.items():
        if not valid(contents.get(key)):
            raise DataError(f"{path}: {key!r} is missing or not what a manifest has there")
    if bool(contents["photos"]) != bool(contents["annotations"]):
        raise DataError(f"{path} has only one of 'photos' and 'annotations'")
    photos = {split: {int(k): v for k, v in photos.items()} for split, photos in contents["photos"].items()}
    for split, known in photos.items():
        if len(known) != contents["counts"][split]:
            raise DataError(f"{path} lists {len(known)} {split} photos, but counts {contents['counts'][split]}")
    return Manifest(
        tuple(contents["categories"]), contents["counts"], contents["seed"], contents["source"], photos,
        contents["annotations"],
    )  # fmt: skip


def fingerprint(annotations: Iterable[dict[str, Any]]) -> str:
    """SHA-256 of which boxes there are: id, image, category, crowd and position of each."""
    boxes = sorted(
        [a.get("id") or 0, a["image_id"], a["category_id"], a.get("iscrowd") or 0, *map(float, a["bbox"])]
        for a in annotations
    )
    return hashlib.sha256(json.dumps(boxes).encode()).hexdigest()


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _has_splits(value: Any, valid: Any) -> bool:
    return isinstance(value, dict) and set(value) == set(SPLITS) and all(valid(part) for part in value.values())


def _are_photos(value: Any) -> bool:
    return isinstance(value, dict) and all(re.fullmatch(r"-?\d{1,18}", k) and _is_sha256(v) for k, v in value.items())


_VALID = {
    "categories": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    "counts": lambda value: _has_splits(value, _is_count),
    "seed": lambda value: type(value) is int,
    "source": lambda value: isinstance(value, str),
    "photos": lambda value: value == {} or _has_splits(value, _are_photos),
    "annotations": lambda value: value == {} or _has_splits(value, _is_sha256),
}
