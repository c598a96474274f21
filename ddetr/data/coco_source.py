"""Where a COCO subset's photos come from, and what a photo must be to be taken."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Protocol

from .coco import annotated_frame, coco_layout
from .images import DataError, read_image

_FIRST_BYTES = {".jpg": b"\xff\xd8\xff", ".jpeg": b"\xff\xd8\xff", ".png": b"\x89PNG\r\n\x1a\n"}


class UnusablePhotoError(DataError):
    """A photo that the source does not have, or not in a form that can be used. Another one can take its place."""


class Source(Protocol):
    """Annotations and photos of train2017 and val2017."""

    name: str
    workers: int
    """How many photos may be read at a time."""

    def annotations(self, split: str, work: Path) -> Path:
        """The split's annotation file; `work` is a folder for what a download has to keep."""

    def listing(self, split: str) -> set[str] | None:
        """File names of the photos that are there; None: not known before they are asked for."""

    def photo(self, split: str, name: str, check: Callable[[bytes], None]) -> bytes:
        """A photo's bytes, which `check` has accepted. UnusablePhotoError if there are none such."""

    def stop(self) -> None:
        """Make every waiting `photo` give up."""


class LocalCoco:
    """A copy of COCO in its own layout, whole or in part. DataError if it is not laid out so."""

    workers = 4

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.name = self.folder.resolve().name

    def annotations(self, split: str, work: Path) -> Path:
        """The split's annotation file, as it lies there. DataError if it does not."""
        return coco_layout(self.folder, split)[1]

    def listing(self, split: str) -> set[str] | None:
        """The names of what lies in the split's folder."""
        return {path.name for path in coco_layout(self.folder, split)[0].iterdir()}

    def photo(self, split: str, name: str, check: Callable[[bytes], None]) -> bytes:
        """A photo's bytes, which `check` has accepted. UnusablePhotoError for one that is missing or lies elsewhere."""
        folder = coco_layout(self.folder, split)[0].resolve()
        path = folder / name
        if not path.resolve().is_relative_to(folder):
            raise UnusablePhotoError(f"{path} is a link that leads out of its folder")
        if not path.is_file():
            raise UnusablePhotoError(f"image file {path} is missing")
        contents = path.read_bytes()
        check(contents)
        return contents

    def stop(self) -> None:
        """Nothing to do: a local read does not wait."""


def check_name(name: str) -> None:
    """DataError unless a photo's `file_name` is plain, as COCO's are: in no folder, on no system, and a picture's."""
    plain = name == PurePosixPath(name).name == PureWindowsPath(name).name and name.isprintable()
    if not plain or ":" in name or name.startswith(".") or len(name) > 200 or _suffix(name) not in _FIRST_BYTES:
        raise DataError(
            f"file_name {name[:80]!r} is refused: a photo of COCO has a plain name such as 000000000139.jpg"
        )


def check_photo(contents: bytes, record: dict[str, Any]) -> None:
    """Decode a photo wholly and compare it with `record`, its entry in the annotation file.

    Raises:
        UnusablePhotoError: another format than its name says, damaged, or of another size than annotated.
    """
    name = record["file_name"]
    if not contents.startswith(_FIRST_BYTES[_suffix(name)]):
        raise UnusablePhotoError(f"image file {name} is no {_suffix(name)[1:]} picture: it begins {contents[:16]!r}")
    try:
        picture, turned = read_image(io.BytesIO(contents), name)
        annotated_frame(record, picture.size, turned)
    except DataError as error:
        raise UnusablePhotoError(str(error)) from error


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
