"""A subset of COCO in COCO's own layout: chosen categories and counts, carved out of a local copy or downloaded."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from ..files import replacing, write_text
from .coco import clip_boxes, read_coco_json
from .coco_choice import Plan, plan_split
from .coco_manifest import SPLITS, Manifest, fingerprint, read_manifest
from .coco_source import LocalCoco, Source, UnusablePhotoError, check_name, check_photo
from .images import DataError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_WORK = ".unfinished"  # lies in the subset's folder while it is made: what was asked for, and which photos are done


class Subset(NamedTuple):
    """What `carve_subset` and `download_subset` made; `print` shows a table."""

    folder: Path
    images: dict[str, int]
    """For each split, how many images."""
    categories: dict[str, dict[str, tuple[int, int]]]
    """For each split and category, how many images show it, and how many boxes it has; crowds do not count."""

    def __str__(self) -> str:
        names = next(iter(self.categories.values()))
        width = max(map(len, ["category", *names]))
        lines = [f"{'category':{width}}" + "".join(f"{f'{split} images':>14}{'boxes':>7}" for split in self.images)]
        for name in names:
            cells = "".join("{:>14}{:>7}".format(*table[name]) for table in self.categories.values())
            lines.append(f"{name:{width}}{cells}")
        totals = " and ".join(f"{count} {split}" for split, count in self.images.items())
        return "\n".join([*lines, f"{totals} images in {self.folder}"])


def carve_subset(
    source: str | Path,
    out: str | Path,
    categories: Sequence[str] = (),
    train: int = 0,
    val: int = 0,
    *,
    seed: int = 0,
    manifest: str | Path | None = None,
) -> Subset:
    """Copy a subset out of a local copy of COCO.

    The choice is balanced and the same on any machine: over and over, the category with the fewest images so far takes
    the next of its own, in an order that the seed draws (`choose_images`). Train images come from train2017 and val
    images from val2017; no photo is in both, by id, name or content. Only boxes of the chosen categories are kept,
    crowds as well, with COCO's ids, names and licences. A photo that is missing or damaged, or of another size than
    annotated, is replaced by the next best one, and a warning says so.

    Args:
        source: COCO's own layout, whole or in part.
        out: a new folder, or one where this was interrupted, to go on.
        categories: COCO's names.
        train: how many images.
        val: how many images.
        seed: another one chooses other images.
        manifest: the `manifest.json` of a subset, to make the same again, instead of categories, counts and seed.

    Raises:
        DataError: not COCO's layout or format; no such category; fewer images than asked for; `out` holds something
            else or cannot be written; the manifest's photos are not there. Says what to do.
    """
    return make_subset(LocalCoco(source), out, wanted_subset(categories, train, val, seed, manifest))


def wanted_subset(categories: Sequence[str], train: int, val: int, seed: int, manifest: str | Path | None) -> Manifest:
    """What to make, from `carve_subset`'s arguments."""
    if manifest is None:
        return Manifest(tuple(dict.fromkeys(categories)), {"train": train, "val": val}, seed)
    if categories or train or val:
        raise DataError("the manifest says which categories and how many images: leave those out")
    wanted = read_manifest(manifest)
    if not wanted.pinned:
        raise DataError(f"{manifest} names no photos: its subset was not finished")
    return wanted


def make_subset(source: Source, out: str | Path, wanted: Manifest) -> Subset:
    """`carve_subset` from any source."""
    making = _Making(source, Path(out), replace(wanted, source=source.name))
    try:
        return making.run()
    except KeyboardInterrupt:
        logger.warning("%d photos are in %s; the same command goes on from there", making.count(), out)
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem = f"the disk is full: {making.count()} photos are in {out}"
            raise DataError(f"{problem}; when there is space, the same command goes on from there") from error
        raise DataError(f"{error.filename or out} cannot be read or written: {error.strerror or error}") from error


class _Making:
    """The steps from what is wanted to a folder. Photos come first, annotations next, the manifest last.

    Whatever moment a run is stopped at, the folder then says what it was to become, in `_WORK`, and which photos are
    whole, with their SHA-256: the next run checks those and fetches only the others.
    """

    def __init__(self, source: Source, out: Path, wanted: Manifest) -> None:
        self.source, self.out, self.wanted = source, out, wanted
        self.work = out / _WORK
        self.known: dict[tuple[str, int], str] = {}  # SHA-256 of photos that earlier runs, or the manifest, have
        self.done: dict[tuple[str, int], str] = {}
        self.new = False  # whether this run made the folder
        self.writing = threading.Lock()

    def run(self) -> Subset:
        finished = self._open_folder()
        if finished and self._is_whole():
            logger.warning("%s holds this subset already, and it is whole", self.out)
            contents = {s: read_coco_json(self._annotation_file(s)) for s in SPLITS if self.wanted.counts[s]}
        else:
            contents = self._make()
        shutil.rmtree(self.work, ignore_errors=True)
        images = {split: len(subset["images"]) for split, subset in contents.items()}
        return Subset(self.out, images, {split: _count(subset) for split, subset in contents.items()})

    def count(self) -> int:
        """How many photos are whole."""
        return len(_read_log(self._log))

    def _open_folder(self) -> bool:
        """Make sure that the folder is this subset's, or nobody's; whether the subset is finished."""
        self.new = not self.out.exists()
        self.out.mkdir(parents=True, exist_ok=True)
        for path in self.out.rglob("*"):
            if path.is_symlink():
                raise DataError(f"{path} is a link and may lead elsewhere: remove it, or choose another --out")
        finished, asked = self.out / MANIFEST, self.work / MANIFEST
        if finished.exists() or asked.exists():
            found = read_manifest(finished if finished.exists() else asked)
            if not _same(found, self.wanted) or not (finished.exists() or found.pinned == self.wanted.pinned):
                raise DataError(f"{self.out} holds another subset ({found.asks_for()}): choose another --out")
            self.wanted = found
        elif any(path.name != _WORK for path in self.out.iterdir()):
            raise DataError(f"{self.out} holds files that are no subset of this command's: choose another --out")
        self.known = {(split, i): sha for split, photos in self.wanted.photos.items() for i, sha in photos.items()}
        if not self.wanted.pinned:
            self.known = _read_log(self._log)
        return finished.exists()

    def _make(self) -> dict[str, dict[str, Any]]:
        plans = self._plans()
        self.wanted.write(self.work / MANIFEST)  # from here on the folder is this subset's
        for folder in (self.work, self.out / "annotations", *(self.out / f"{split}2017" for split in plans)):
            folder.mkdir(exist_ok=True)
            for leftover in folder.glob(".*.????????"):  # of a process that was killed while it wrote
                leftover.unlink()
        for split, plan in plans.items():
            self._collect(split, plan, [other for other in plans.values() if other is not plan])
        contents = {split: self._subset_of(plan) for split, plan in plans.items()}
        for split, subset in contents.items():
            write_text(self._annotation_file(split), json.dumps(subset))
        photos = {s: {i: self.done[s, i] for i in sorted(plans[s].chosen)} if s in plans else {} for s in SPLITS}
        prints = {s: fingerprint(contents[s]["annotations"] if s in contents else []) for s in SPLITS}
        replace(self.wanted, photos=photos, annotations=prints).write(self.out / MANIFEST)
        return contents

    def _plans(self) -> dict[str, Plan]:
        """What to fetch. If that cannot be, the folder is left as it was, but for annotations that came from afar."""
        self.work.mkdir(exist_ok=True)
        plans: dict[str, Plan] = {}
        try:
            for split in SPLITS:
                if self.wanted.counts[split]:
                    file = self.source.annotations(split, self.work)
                    there = self.source.listing(split)
                    plans[split] = plan_split(file, split, self.wanted, there, list(plans.values()))
        except BaseException:
            with contextlib.suppress(OSError):  # they are empty, or stay
                self.work.rmdir()
                if self.new:
                    self.out.rmdir()
            raise
        return plans

    def _is_whole(self) -> bool:
        """Whether every photo and annotation of a finished subset is as its manifest says."""
        try:
            for split in SPLITS:
                if not self.wanted.counts[split]:
                    continue
                contents = read_coco_json(self._annotation_file(split))
                names = {image["id"]: image["file_name"] for image in contents["images"]}
                for name in names.values():
                    check_name(name)
                photos = {i: _sha256((self.out / f"{split}2017" / names[i]).read_bytes()) for i in names}
                prints = fingerprint(contents["annotations"])
                if photos != self.wanted.photos[split] or prints != self.wanted.annotations[split]:
                    return False
        except (DataError, OSError):
            return False
        return True

    def _collect(self, split: str, plan: Plan, others: list[Plan]) -> None:
        """Fetch photos until there are as many as wanted, choosing others for those that cannot be used."""
        refused: dict[int, UnusablePhotoError] = {}
        while True:
            bad = self._fetch(split, plan)
            if not bad:
                return
            refused |= bad
            image_id, reason = next(iter(bad.items()))
            if self.wanted.pinned:
                raise DataError(f"{len(bad)} photos of the manifest cannot be had, first image id {image_id}: {reason}")
            problem = f"{len(refused)} {split} photos of {self.source.name} cannot be used, one of them: {reason}"
            if len(refused) > max(3, self.wanted.counts[split] // 4):
                raise DataError(problem)
            for image_id, reason in bad.items():
                logger.warning("image id %s is replaced: %s", image_id, reason)
            try:
                plan.replace(bad, others)
            except DataError as error:
                raise DataError(f"{problem}; and {error}") from error

    def _fetch(self, split: str, plan: Plan) -> dict[int, UnusablePhotoError]:
        """Fetch the chosen photos that are not done; those that cannot be used, with the reason."""
        todo = [i for i in plan.chosen if (split, i) not in self.done]
        elsewhere = {sha: i for (other, i), sha in (self.known | self.done).items() if other != split}
        bad: dict[int, UnusablePhotoError] = {}
        pool = ThreadPoolExecutor(self.source.workers)
        try:
            futures = {pool.submit(self._photo, split, plan.records[i], elsewhere): i for i in todo}
            for future in tqdm(as_completed(futures), desc=f"{split} photos", total=len(todo), unit="photo"):
                try:
                    self.done[split, futures[future]] = future.result()
                except UnusablePhotoError as error:
                    bad[futures[future]] = error
        except BaseException:
            self.source.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        return bad

    def _photo(self, split: str, record: dict[str, Any], elsewhere: dict[str, int]) -> str:
        """Have one photo, whole, in the folder; its SHA-256."""
        image_id, path = record["id"], self.out / f"{split}2017" / record["file_name"]
        known = self.known.get((split, image_id))
        if known and path.is_file() and _sha256(path.read_bytes()) == known:
            return known

        def check(contents: bytes) -> None:
            check_photo(contents, record)
            sha = _sha256(contents)
            if sha in elsewhere:
                raise UnusablePhotoError(f"image file {path.name} is the photo of image id {elsewhere[sha]} as well")
            if self.wanted.pinned and sha != known:
                raise UnusablePhotoError(f"image file {path.name} is not the one that the manifest was made from")

        contents = self.source.photo(split, record["file_name"], check)
        sha = _sha256(contents)
        with self.writing:
            with replacing(path) as file:
                file.write_bytes(contents)
            with self._log.open("a", encoding="ascii") as log:
                log.write(f"{split} {image_id} {sha}\n")
        return sha

    def _subset_of(self, plan: Plan) -> dict[str, Any]:
        """The annotation file's contents, for the chosen images and categories alone."""
        images = set(plan.chosen)

        def chosen(entry: dict[str, Any]) -> dict[str, Any] | None:
            is_annotation = "image_id" in entry and "category_id" in entry
            unwanted = is_annotation and not (entry["image_id"] in images and entry["category_id"] in plan.categories)
            return None if unwanted else entry

        contents = read_coco_json(plan.annotations, chosen)
        contents["images"] = [image for image in contents["images"] if image["id"] in images]
        contents["categories"] = [c for c in contents["categories"] if c["id"] in plan.categories]
        clipped = clip_boxes(contents)
        if clipped:
            logger.warning("%d boxes reach out of their image and are clipped to it", clipped)
        return contents

    def _annotation_file(self, split: str) -> Path:
        return self.out / "annotations" / f"instances_{split}2017.json"

    @property
    def _log(self) -> Path:
        return self.work / "photos.txt"


def _same(one: Manifest, other: Manifest) -> bool:
    """Whether two are for the same subset; which photos, matters if both say."""
    keys = ("categories", "counts", "seed", "source")
    alike = all(getattr(one, key) == getattr(other, key) for key in keys)
    return alike and (one.photos == other.photos or not (one.pinned and other.pinned))


def _count(contents: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """For each category, how many images show it, and its boxes."""
    found = {
        c["id"]: [
            a["image_id"] for a in contents["annotations"] if a["category_id"] == c["id"] and not a.get("iscrowd")
        ]
        for c in contents["categories"]
    }
    return {c["name"]: (len(set(found[c["id"]])), len(found[c["id"]])) for c in contents["categories"]}


def _read_log(path: Path) -> dict[tuple[str, int], str]:
    """(split, image id) -> SHA-256 of the photos that were whole; a line that a kill cut off does not count."""
    lines = path.read_text(encoding="ascii", errors="replace").splitlines() if path.exists() else []
    entries = [line.split() for line in lines]
    return {(e[0], int(e[1])): e[2] for e in entries if len(e) == 3 and e[1].lstrip("-").isdigit()}


def _sha256(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()
