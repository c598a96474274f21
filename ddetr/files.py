"""Writing files, so that each is either the old one or the new one, never half of either; and files inside pages."""

from __future__ import annotations

import base64
import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_OF_THE_DISK = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR,
}  # fmt: skip


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`; when the block ends without an error it takes `path`'s place, at once.

    The temporary name is `.NAME.` and eight characters, hidden; only a process that is killed leaves one behind.
    OSError if it cannot be written; what lies at `path` is then left as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with disk_errors(path):
        temporary.touch(exist_ok=False)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """A text file, UTF-8, whole or not at all. OSError if it cannot be written; an older one is left as it was."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, contents: Any) -> None:
    """`contents` as JSON for people to read, by `write_text`."""
    write_text(path, json.dumps(contents, indent=1) + "\n")


def data_uri(contents: bytes, kind: str) -> str:
    """A file as an address that holds it, for a page without files beside it; `kind` such as "image/png"."""
    return f"data:{kind};base64,{base64.b64encode(contents).decode()}"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """A full disk, a missing folder or permission as one sentence that names the file; `errno` is kept."""
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_THE_DISK or error.strerror is None:
            raise
        kept = "; what was there is left as it was" if path.exists() else ""
        named = type(error)(f"{path} could not be written: {error.strerror}{kept}")
        named.errno = error.errno
        raise named from error
