"""A subset of COCO from COCO's own servers, or a mirror: not the archives, only the parts that are needed."""

from __future__ import annotations

import hashlib
import http.client
import io
import logging
import math
import re
import threading
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.utils import mktime_tz, parsedate_tz
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

from fsspec.spec import AbstractBufferedFile
from tqdm import tqdm

from ..files import replacing
from .coco_source import UnusablePhotoError
from .coco_subset import Subset, make_subset, wanted_subset
from .images import DataError

logger = logging.getLogger(__name__)

COCO_SERVER = "http://images.cocodataset.org"
_ARCHIVE = "annotations/annotations_trainval2017.zip"
_CHUNK = 2**16
_BLOCK = 2**22  # bytes of the archive in one request
_MAX_PHOTO = 2**25  # bytes; COCO's are about 2**17
_MAX_ANNOTATIONS = 2**32
_SLOWEST = 2**12  # bytes a second, on average after the first `timeout` seconds
_LONGEST_WAIT = 60  # seconds that a server may ask us to wait
_BUSY = {408, 425, 429, 500, 502, 503, 504}
_AGENT = "ddetr (COCO subset)"

_Result = TypeVar("_Result")


def download_subset(
    out: str | Path,
    categories: Sequence[str] = (),
    train: int = 0,
    val: int = 0,
    *,
    seed: int = 0,
    manifest: str | Path | None = None,
    server: str = COCO_SERVER,
) -> Subset:
    """`carve_subset`, whose are `out`, `categories`, `train`, `val`, `seed`, `manifest`; the source is COCO's server.

    Annotations come by range requests into COCO's archive (a server that cannot: the whole archive, once), photos one
    by one, eight at a time. Every photo is checked before it gets its name: it decodes, and is as large as annotated.
    Interrupted, the same call goes on. Only `server` is ever contacted, whatever the annotations or redirects say.

    Raises:
        DataError: as `carve_subset`; no network, or the server does not answer as COCO's does. Says what to do.
    """
    return make_subset(CocoServer(server), out, wanted_subset(categories, train, val, seed, manifest))


class _RetryableError(Exception):
    """A failure that may pass; `wait` is how many seconds the server asked for."""

    def __init__(self, problem: str, wait: float = 0) -> None:
        super().__init__(problem)
        self.wait = wait


class CocoServer:
    """COCO's folders over HTTP: `annotations/annotations_trainval2017.zip`, `train2017/`, `val2017/`.

    Args:
        server: what comes before those, http or https.
        timeout: seconds without an answer, or without a byte, that count as a stall.
        attempts: how often a request is made before it counts as failed.
        backoff: seconds before the second attempt; each one more waits twice as long.
        workers: photos at a time.

    Raises:
        DataError: `server` is no such address.
    """

    def __init__(
        self, server: str = COCO_SERVER, *, timeout: float = 10, attempts: int = 5, backoff: float = 1, workers: int = 8
    ) -> None:
        address = urlsplit(server)
        if address.scheme not in ("http", "https") or not address.hostname or address.query or address.fragment:
            raise DataError(f"a server is an address such as {COCO_SERVER}; got {server!r}")
        self.name = server.rstrip("/")
        self.timeout, self.attempts, self.backoff, self.workers = timeout, attempts, backoff, workers
        self._opener = urllib.request.build_opener(_SameServer)
        self._stopped = threading.Event()
        self._reached = False

    def listing(self, split: str) -> None:
        """None: a server does not list its photos."""
        return None

    def stop(self) -> None:
        """Make every waiting download give up."""
        self._stopped.set()

    def photo(self, split: str, name: str, check: Callable[[bytes], None]) -> bytes:
        """A photo that `check` accepts. Its address is made of the server's and its name; `coco_url` is not used."""

        def fetch() -> bytes:
            body = io.BytesIO()
            self._get(f"{split}2017/{quote(name)}", body, limit=_MAX_PHOTO)
            try:
                check(body.getvalue())
            except UnusablePhotoError as error:  # perhaps damaged on its way
                raise _RetryableError(str(error)) from error
            return body.getvalue()

        try:
            return self._patiently(fetch)
        except _RetryableError as error:
            if isinstance(error.__cause__, UnusablePhotoError):
                raise error.__cause__ from None
            raise DataError(f"{self.name}: {error}. The same command goes on from here, later") from error

    def annotations(self, split: str, work: Path) -> Path:
        """The split's JSON, out of the archive into `work`, where it stays for a later attempt."""
        member = f"annotations/instances_{split}2017.json"
        target = work / f"{_key(self.name)}-{Path(member).name}"
        if target.exists():
            return target
        try:
            with self._archive(work) as file, zipfile.ZipFile(file) as archive:
                _extract(archive, member, target)
        except _RetryableError as error:
            raise DataError(f"{self.name}: {error}. The same command goes on from here, later") from error
        except KeyError:
            raise DataError(f"{self.name}/{_ARCHIVE} has no {member}: is this a mirror of COCO?") from None
        except DataError:
            raise
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
            for part in work.glob("archive*"):
                part.unlink()
            raise DataError(f"{self.name}/{_ARCHIVE} is damaged, or no archive ({error})") from error
        return target

    def fetch_range(self, path: str, start: int, end: int, version: str) -> bytes:
        """Bytes `start` to `end` (exclusive) of a file whose ETag must be `version`."""
        body = io.BytesIO()
        answer = self._patiently(lambda: self._get(path, body, (start, end)))
        if answer.status != 206 or answer.etag != version:
            raise DataError(f"{self.name}/{path} changed while it was read: run the same command again")
        return body.getvalue()

    def _archive(self, work: Path) -> BinaryIO:
        """The annotation archive as a file, read by ranges; where the server has none, whole, kept in `work`."""
        whole = work / f"archive-{_key(self.name)}.zip"
        if whole.exists():
            return whole.open("rb")
        answer = self._patiently(lambda: self._get(_ARCHIVE, io.BytesIO(), (0, 1)))
        if answer.status == 206:
            return _RemoteFile(self, answer, work)
        size = f"{answer.size / 1e6:.1f} MB" if answer.size else "of a size that it does not tell"
        logger.warning("%s cannot send parts of a file: taking its annotation archive whole, %s", self.name, size)
        with replacing(whole) as part, part.open("wb") as file, _bytes_bar("archive", answer.size) as bar:
            self._patiently(lambda: self._get(_ARCHIVE, file, limit=_MAX_ANNOTATIONS, bar=bar))
        return whole.open("rb")

    def _patiently(self, fetch: Callable[[], _Result]) -> _Result:
        """Try, wait, try again. _RetryableError with the last failure; DataError if there never was an answer."""
        attempt = 0
        while True:
            try:
                return fetch()
            except _RetryableError as error:
                attempt += 1
                if not self._reached and attempt == 2:
                    raise self._offline(error) from error
                if attempt >= self.attempts or error.wait > _LONGEST_WAIT:
                    raise
                pause = max(error.wait, self.backoff * 2 ** (attempt - 1))
            if self._stopped.wait(pause):
                raise DataError("stopped")

    def _get(
        self,
        path: str,
        body: BinaryIO,
        part: tuple[int, int] | None = None,
        limit: int = _BLOCK,
        bar: tqdm | None = None,
    ) -> _Answer:
        """One request, whose body replaces what is in `body`. A range that the server does not know is not read.

        Raises:
            _RetryableError: a failure that may pass.
            UnusablePhotoError: no such file, or of more than `limit` bytes.
            DataError: any other answer.
        """
        headers = {"User-Agent": _AGENT, "Accept-Encoding": "identity"}
        if part:
            headers["Range"] = f"bytes={part[0]}-{part[1] - 1}"
        body.seek(0)
        body.truncate()
        with self._failures(path):
            response = self._opener.open(
                urllib.request.Request(f"{self.name}/{path}", headers=headers), None, self.timeout
            )
        with response:
            self._reached = True
            answer = _Answer.of(response, part)
            if part and response.status != 206:
                return answer
            expected = part[1] - part[0] if part else answer.size
            if max(expected or 0, received := self._copy(response, body, path, limit, bar)) > limit:
                raise UnusablePhotoError(f"{self.name}/{path} has more than {limit} bytes")
            if expected is not None and received != expected:
                raise _RetryableError(f"{path} ended after {received} of {expected} bytes")
        return answer

    def _copy(self, response: Any, body: BinaryIO, path: str, limit: int, bar: tqdm | None) -> int:
        """Read a body to its end, or to `limit`; how many bytes. A trickle counts as a stall."""
        received, started = 0, time.monotonic()
        if bar is not None:
            bar.reset()
        while received <= limit:
            with self._failures(path):
                chunk = response.read1(_CHUNK)
            if not chunk:
                break
            body.write(chunk)
            received += len(chunk)
            if bar is not None:
                bar.update(len(chunk))
            if time.monotonic() - started > self.timeout + received / _SLOWEST:
                raise _RetryableError(f"{path} comes too slowly")
            if self._stopped.is_set():
                raise DataError("stopped")
        return received

    @contextmanager
    def _failures(self, path: str) -> Iterator[None]:
        """What the network and the server can do wrong, as `_get`'s errors."""
        try:
            yield
        except HTTPError as error:
            self._reached = True
            error.close()
            raise self._refusal(path, error) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError):
                raise _RetryableError(f"no answer for {self.timeout:g} seconds") from error
            if not self._reached and not isinstance(reason, http.client.HTTPException):
                raise self._offline(reason) from error
            raise _RetryableError(f"{path}: {reason or type(reason).__name__}") from error

    def _refusal(self, path: str, error: HTTPError) -> Exception:
        """What an HTTP status that is an error means here."""
        if error.code in (404, 410):
            return UnusablePhotoError(f"{self.name}/{path} is not there ({error.code})")
        if error.code in _BUSY:
            asked = _seconds_to_wait(error.headers.get("Retry-After", ""))
            ask = f" and asks to wait {asked} seconds" if asked else ""
            return _RetryableError(f"the server answers {error.code} {error.reason}{ask}", asked)
        return DataError(f"{self.name}/{path}: the server answers {error.code} {error.reason}")

    def _offline(self, reason: object) -> DataError:
        return DataError(
            f"no connection to {self.name} ({reason}). Without a network, "
            "`python -m ddetr data toycoco --out data/toycoco` draws a data set to train on"
        )


class _Answer(NamedTuple):
    """Status, size of the whole file in bytes if it is known, and its version."""

    status: int
    size: int | None
    etag: str

    @classmethod
    def of(cls, response: Any, part: tuple[int, int] | None) -> _Answer:
        """_RetryableError for a range other than `part`, or headers without sense."""
        etag, length = response.headers.get("ETag", ""), response.headers.get("Content-Length", "")
        if response.status != 206:
            return cls(response.status, _whole_number(length), etag)
        said = response.headers.get("Content-Range", "")
        told = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", said)
        if part is None or told is None or (int(told[1]), int(told[2]) + 1) != part:
            raise _RetryableError(f"asked for bytes {part}, the server sends {said!r}")
        return cls(206, int(told[3]), etag)


class _RemoteFile(AbstractBufferedFile):
    """The archive, as a file that can be read anywhere. Blocks are kept in `work`, for when a run is interrupted."""

    def __init__(self, server: CocoServer, answer: _Answer, work: Path) -> None:
        super().__init__(None, _ARCHIVE, "rb", block_size=_BLOCK, cache_type="blockcache", size=answer.size)
        self.server, self.etag, self.work = server, answer.etag, work
        self.version = _key(f"{server.name} {answer.size} {answer.etag}")

    def _fetch_range(self, start: int, end: int) -> bytes:
        end = min(end, self.size)
        kept = self.work / f"archive-{self.version}-{start}-{end}"
        if not kept.exists():
            block = self.server.fetch_range(_ARCHIVE, start, end, self.etag)
            with replacing(kept) as file:
                file.write_bytes(block)
        return kept.read_bytes()


class _SameServer(urllib.request.HTTPRedirectHandler):
    """Redirects are followed within the server, and nowhere else."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        here, there = urlsplit(req.full_url), urlsplit(newurl)
        if (here.scheme, here.netloc) != (there.scheme, there.netloc):
            raise DataError(
                f"{here.scheme}://{here.netloc} redirects to {there.scheme}://{there.netloc}, which is not followed: "
                "if you trust that server, name it with --server"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _extract(archive: zipfile.ZipFile, member: str, target: Path) -> None:
    """One file of the archive; zipfile compares its checksum. KeyError if it is not there."""
    size = archive.getinfo(member).file_size
    if size > _MAX_ANNOTATIONS:
        raise DataError(f"{member} would unpack to {size / 1e9:.0f} GB, COCO's has half a gigabyte: it is refused")
    bar = _bytes_bar(Path(member).stem, size)
    with replacing(target) as part, part.open("wb") as file, archive.open(member) as packed, bar:
        while chunk := packed.read(2**20):
            file.write(chunk)
            bar.update(len(chunk))


def _whole_number(header: str) -> int | None:
    """What a header says in up to 18 digits; None for anything else."""
    return int(header) if re.fullmatch("[0-9]{1,18}", header) else None


def _seconds_to_wait(header: str) -> int:
    """What Retry-After asks for, as a number of seconds or as the date until when; 0 where it says neither."""
    seconds, date = _whole_number(header), parsedate_tz(header)
    if seconds is None and date is not None:
        try:
            seconds = max(math.ceil(mktime_tz(date) - time.time()), 0)
        except (ValueError, OverflowError):  # no day of the calendar
            return 0
    return seconds or 0


def _key(text: str) -> str:
    """For file names: what was kept from one server, or one version, is not taken for another's."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _bytes_bar(what: str, size: int | None) -> tqdm:
    return tqdm(desc=what, total=size, unit="B", unit_scale=True)
