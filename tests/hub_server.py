"""A server on this machine that offers folders as the Hugging Face hub does its repositories, or refuses to."""

import threading
import zlib
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves `folder/ORGANISATION/MODEL/FILE`.

    Attributes:
        refuse: a status and an error code, for every request; None to serve.
        broken: how many of the next transfers of weights end half-way.
        sent: names of the files whose contents were sent, whole or not.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.refuse: tuple[int, str] | None = None
        self.broken = 0
        self.sent: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving_hub(folder: Path):
    hub = Hub(folder)
    threading.Thread(target=partial(hub.serve_forever, poll_interval=0.01), daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(send_body=False)

    def do_GET(self):
        self.answer(send_body=True)

    def answer(self, send_body):
        parts = self.path.strip("/").split("/")  # organisation, model, "resolve", revision, file
        repository = self.server.folder / "/".join(parts[:2])
        file = repository / parts[-1]
        if self.server.refuse:
            return self.reply(self.server.refuse[0], {"X-Error-Code": self.server.refuse[1]})
        if not repository.is_dir():
            return self.reply(401, {"X-Error-Message": "Invalid username or password."})
        if len(parts) != 5 or not file.is_file():
            return self.reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        body = file.read_bytes()
        headers = {"ETag": f'"{zlib.crc32(body):08x}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        first = 0
        if asked := self.headers.get("Range"):
            first = int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        rest = body[first:]
        headers["Content-Length"] = str(len(rest))
        self.reply(206 if asked else 200, headers)
        if send_body:
            self.server.sent.append(file.name)
            half = self.server.broken > 0 and file.suffix == ".safetensors"
            self.server.broken -= half
            self.wfile.write(rest[: len(rest) // 2] if half else rest)
            self.close_connection = True

    def reply(self, status, headers):
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
