"""A small COCO of JPEGs, and an HTTP server on this machine that offers it as COCO's does, or misbehaves."""

import json
import threading
import zipfile
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image
from toy_data import make_coco

LICENCES = [{"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}]
ARCHIVE = "annotations/annotations_trainval2017.zip"


def make_jpeg_coco(folder: Path, count: int = 12, seed: int = 0) -> Path:
    """`make_coco` with JPEGs, licences and sources, and the annotation archive."""
    make_coco(folder, count, seed)
    for split in ("train", "val"):
        file = folder / "annotations" / f"instances_{split}2017.json"
        contents = json.loads(file.read_text())
        for image in contents["images"]:
            png = folder / f"{split}2017" / image["file_name"]
            image["file_name"] = png.with_suffix(".jpg").name
            with Image.open(png) as picture:
                picture.save(png.with_suffix(".jpg"))
            png.unlink()
            image |= {
                "license": 4,
                "coco_url": f"file:///etc/{image['file_name']}",  # nothing that a downloader may believe
                "flickr_url": f"http://example.org/{image['id']}.jpg",
            }
        file.write_text(json.dumps(contents | {"info": {"description": "toy"}, "licenses": LICENCES}))
    with zipfile.ZipFile(folder / ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations/captions_train2017.json", bytes(range(256)) * 4096)
        for split in ("train", "val"):
            name = f"annotations/instances_{split}2017.json"
            archive.write(folder / name, name)
    return folder


class Misbehaving(ThreadingHTTPServer):
    """Serves a folder. `faults[path]` is a list of faults, one a request, or a fault for every request.

    A fault: a status, "truncate", "stall", "trickle", bytes to send instead, ("to", URL) to redirect, or ("wait", S)
    for 503 with Retry-After.
    """

    daemon_threads = True

    def __init__(self, folder: Path, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.ranges = folder, ranges
        self.faults: dict = {}
        self.requests: list[tuple[str, str | None]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def paths(self, part: str) -> list[str]:
        """Of the requests so far, those with `part` in their path."""
        return [path for path, _ in self.requests if part in path]


@contextmanager
def serving(folder: Path, **options):
    server = Misbehaving(folder, **options)
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        span = self.headers.get("Range")
        server.requests.append((self.path, span))
        fault = server.faults.get(self.path)
        if isinstance(fault, list):
            fault = fault.pop(0) if fault else None
        if isinstance(fault, int):
            self.send_error(fault)
        elif isinstance(fault, tuple) and fault[0] == "to":
            self.reply(302, b"", {"Location": fault[1]})
        elif isinstance(fault, tuple) and fault[0] == "wait":
            self.reply(503, b"", {"Retry-After": str(fault[1])})
        elif isinstance(fault, bytes):
            self.reply(200, fault)
        elif not (server.folder / self.path[1:]).is_file():
            self.send_error(404)
        else:
            self.send(server.folder / self.path[1:], span if server.ranges else None, fault)

    def send(self, file, span, fault):
        body = file.read_bytes()
        headers = {"ETag": f'"{len(body)}"'} if self.server.ranges else {}
        if span:
            first, last = (int(n) for n in span.removeprefix("bytes=").split("-"))
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            body = body[first : last + 1]
        self.reply(206 if span else 200, body, headers, fault)

    def reply(self, status, body, headers=None, fault=None):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if fault in ("truncate", "stall", "trickle"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            while fault == "trickle" and not self.server.over.wait(0.05):
                self.wfile.write(b"\0")
            if fault == "stall":
                self.server.over.wait(20)
        else:
            self.wfile.write(body)
