"""Downloads from a server on this machine that misbehaves."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest
from coco_server import ARCHIVE, make_jpeg_coco, serving
from PIL import Image

from ddetr.cli import main
from ddetr.data import CocoDetection, DataError, carve_subset, coco_layout, download_subset
from ddetr.data.coco_download import CocoServer
from ddetr.data.coco_subset import make_subset, wanted_subset

CAR_AND_CAT = ["car", "cat"]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return make_jpeg_coco(tmp_path_factory.mktemp("coco") / "coco")


@pytest.fixture
def server(coco):
    with serving(coco) as server:
        yield server


def download(server, out, train=4, val=2, manifest=None, **options):
    """With short pauses."""
    source = CocoServer(server.url, **{"timeout": 30, "attempts": 3, "backoff": 0.01, "workers": 4} | options)
    wanted = ([], 0, 0, 0, manifest) if manifest else (CAR_AND_CAT, train, val, 0, None)
    return make_subset(source, out, wanted_subset(*wanted))


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def first_choice(coco, out):
    """The path on the server of a photo that a subset of 4 train images holds."""
    carve_subset(coco, out, CAR_AND_CAT, train=4, val=2)
    return f"/train2017/{min((out / 'train2017').iterdir()).name}"


def test_a_download_is_what_a_local_copy_gives(coco, server, tmp_path):
    subset = download_subset(tmp_path / "a", CAR_AND_CAT, train=4, val=2, server=server.url)
    carve_subset(coco, tmp_path / "b", CAR_AND_CAT, train=4, val=2)
    ours, theirs = files(tmp_path / "a"), files(tmp_path / "b")
    for contents in (ours, theirs):
        del contents["manifest.json"]  # has the source
    assert ours == theirs
    assert subset.images == {"train": 4, "val": 2}
    assert len(server.paths("2017/")) == 6
    assert len(CocoDetection(*coco_layout(tmp_path / "a", "train"))) == 4


def test_only_the_parts_of_the_archive_that_are_needed(coco, server, tmp_path, monkeypatch):
    monkeypatch.setattr("ddetr.data.coco_download._BLOCK", 512)
    with zipfile.ZipFile(coco / ARCHIVE) as archive:
        needed = archive.getinfo("annotations/instances_train2017.json").compress_size
    download(server, tmp_path / "out", val=0)
    spans = [span for path, span in server.requests if path.endswith(".zip")]
    taken = sum(int(last) - int(first) + 1 for first, last in (s.removeprefix("bytes=").split("-") for s in spans))
    assert needed < taken < needed + 6 * 512 < (coco / ARCHIVE).stat().st_size
    assert len(spans) == len(set(spans))


def test_an_interrupted_archive_goes_on_at_the_next_block(server, tmp_path, monkeypatch):
    monkeypatch.setattr("ddetr.data.coco_download._BLOCK", 512)
    server.faults["/" + ARCHIVE] = [None] * 4 + [503] * 3
    with pytest.raises(DataError, match=r"answers 503 .*same command goes on"):
        download(server, tmp_path / "out")
    before = {span for path, span in server.requests[:-3] if span != "bytes=0-0"}
    del server.requests[:]
    download(server, tmp_path / "out")
    assert len(before) == 3
    assert before.isdisjoint(span for _, span in server.requests)


def test_without_ranges_the_archive_comes_whole_and_once(coco, tmp_path, caplog):
    with serving(coco, ranges=False) as server:
        subset = download(server, tmp_path / "out")
    assert subset.images == {"train": 4, "val": 2}
    assert f"{server.url} cannot send parts of a file: taking its annotation archive whole, 0.0 MB" in caplog.text
    assert len(server.paths(".zip")) == 2  # the question, and the archive


def patience(fault):
    """Seconds before a stall counts as one: short where it is waited for, else long enough for a busy machine."""
    return 1 if fault in ("stall", "trickle") else 30


PASSING = ["truncate", "stall", "trickle", 503, b"<html>log in</html>", ("wait", 0), ("wait", "\xb2"),
           ("wait", 5000 * "9"), ("wait", "Fri, 31 Dec 1999 23:59:59 GMT"),
           ("wait", "Fri, 99 Dec 0 99:59:59 GMT")]  # fmt: skip


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: str(fault)[:20])
def test_faults_that_pass_are_waited_out(coco, server, tmp_path, fault, caplog):
    path = first_choice(coco, tmp_path / "local")
    server.faults[path] = [fault, fault]
    download(server, tmp_path / "out", timeout=patience(fault))
    assert server.paths(path) == [path] * 3
    assert (tmp_path / "out" / path[1:]).read_bytes() == (coco / path[1:]).read_bytes()
    assert "replaced" not in caplog.text


def picture(size, form="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, (9, 9, 9)).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (404, "is not there (404)"),
        (b"<html>log in</html>", "is no jpg picture: it begins b'<html>log in</ht'"),
        (picture((500, 400)), "is 500 x 400 pixels, but its annotation says"),
        (picture((500, 400), "PNG"), "is no jpg picture"),
        (picture((500, 400))[:900], "cannot be read"),
    ],
    ids=["404", "html", "another picture", "png", "cut"],
)
def test_a_photo_that_is_not_to_be_had_is_replaced(coco, server, tmp_path, caplog, fault, reason):
    path = first_choice(coco, tmp_path / "local")
    server.faults[path] = fault
    subset = download(server, tmp_path / "out")
    assert subset.images == {"train": 4, "val": 2}
    photos = {file.name for file in (tmp_path / "out" / "train2017").iterdir()}
    assert len(photos) == 4
    assert Path(path).name not in photos
    assert f"image id {int(Path(path).stem)} is replaced: " in caplog.text
    assert reason in caplog.text
    download(server, tmp_path / "again")
    assert files(tmp_path / "out") == files(tmp_path / "again")


@pytest.mark.parametrize("fault", ["truncate", "stall", "trickle", 503])
def test_faults_that_stay_stop_the_run_and_lose_nothing(coco, server, tmp_path, fault):
    path = first_choice(coco, tmp_path / "local")
    server.faults[path] = fault
    out = tmp_path / "out"
    with pytest.raises(DataError, match="The same command goes on from here"):
        download(server, out, workers=1, attempts=2, timeout=patience(fault))
    assert not (out / path[1:]).exists()
    assert not list((out / "annotations").iterdir())
    server.faults.clear()
    del server.requests[:]
    have = len(list((out / "train2017").iterdir()))
    download(server, out)
    assert len(server.paths("2017/")) == 6 - have
    assert not server.paths(".zip")


@pytest.mark.parametrize("until", [3600, "Thu, 31 Dec 2099 23:59:59 GMT"])
def test_a_server_that_asks_to_wait_long_is_not_pressed(coco, server, tmp_path, until):
    path = first_choice(coco, tmp_path / "local")
    server.faults[path] = ("wait", until)
    with pytest.raises(DataError, match=r"asks to wait (3600|\d{10}) seconds"):
        download(server, tmp_path / "out")
    assert len(server.paths(path)) == 1


@pytest.mark.parametrize("to", ["file:///etc/passwd", "http://localhost:1/x.jpg", "https://127.0.0.1/x", "ftp://a/b"])
@pytest.mark.parametrize("what", ["archive", "photo"])
def test_redirects_to_elsewhere_are_not_followed(coco, server, tmp_path, to, what):
    path = first_choice(coco, tmp_path / "local") if what == "photo" else f"/{ARCHIVE}"
    server.faults[path] = ("to", to)
    with pytest.raises(DataError, match=r"redirects to|the server answers 302"):
        download(server, tmp_path / "out")


def test_redirects_within_the_server_are_followed(coco, server, tmp_path):
    path = first_choice(coco, tmp_path / "local")
    (coco / "moved.jpg").write_bytes((coco / path[1:]).read_bytes())
    server.faults[path] = ("to", f"{server.url}/moved.jpg")
    download(server, tmp_path / "out")
    assert (tmp_path / "out" / path[1:]).read_bytes() == (coco / path[1:]).read_bytes()


def test_a_server_without_photos_is_no_mirror(coco, server, tmp_path):
    for path in (coco / "train2017").iterdir():
        server.faults[f"/train2017/{path.name}"] = b"<html>sold</html>"
    with pytest.raises(DataError, match=r"4 train photos of http.* cannot be used, one of them: .*<html>sold"):
        download(server, tmp_path / "out")
    assert not list((tmp_path / "out" / "train2017").iterdir())


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        (ARCHIVE, b"<html>log in</html>", "is damaged, or no archive"),
        (ARCHIVE, None, r"is not there \(404\)"),
    ],
    ids=["html", "404"],
)
def test_what_is_no_archive(coco, tmp_path, name, contents, message):
    (tmp_path / "web" / "annotations").mkdir(parents=True)
    if contents:
        (tmp_path / "web" / name).write_bytes(contents)
    with serving(tmp_path / "web") as server, pytest.raises(DataError, match=message):
        download(server, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_of_something_else_or_damaged(coco, tmp_path):
    web = tmp_path / "web" / "annotations"
    web.mkdir(parents=True)
    with zipfile.ZipFile(web / Path(ARCHIVE).name, "w") as archive:
        archive.writestr("a.json", "{}")
    with serving(tmp_path / "web") as server, pytest.raises(DataError, match=r"has no annotations/instances_train2017"):
        download(server, tmp_path / "out")
    whole = bytearray((coco / ARCHIVE).read_bytes())
    with zipfile.ZipFile(coco / ARCHIVE) as archive:
        place = archive.getinfo("annotations/instances_train2017.json").header_offset + 300
    whole[place : place + 40] = bytes(40)
    (web / Path(ARCHIVE).name).write_bytes(whole)
    with serving(tmp_path / "web") as server, pytest.raises(DataError, match="is damaged"):
        download(server, tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["../../evil.jpg", "/tmp/evil.jpg", "a\\evil.jpg", "C:evil.jpg", "evil.sh", ".x.jpg", ""]
)
def test_names_that_lead_elsewhere_are_refused_before_anything_is_fetched(tmp_path, name):
    coco = make_jpeg_coco(tmp_path / "coco")
    file = coco / "annotations" / "instances_train2017.json"
    contents = json.loads(file.read_text())
    for image in contents["images"]:
        image["file_name"] = name
    with zipfile.ZipFile(coco / ARCHIVE, "w") as archive:
        archive.writestr("annotations/instances_train2017.json", json.dumps(contents))
    with serving(coco) as server, pytest.raises(DataError, match="is refused: a photo of COCO has a plain name"):
        download_subset(tmp_path / "deep" / "out", ["car", "cat", "toothbrush"], 1, server=server.url)
    assert not server.paths(".jpg")
    assert not list(tmp_path.rglob("evil*"))


def test_a_manifest_makes_the_same_subset_again(coco, server, tmp_path):
    path = first_choice(coco, tmp_path / "local")
    server.faults[path] = 404
    download(server, tmp_path / "a")
    server.faults.clear()
    download(server, tmp_path / "b", manifest=tmp_path / "a" / "manifest.json")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    kept = min((tmp_path / "a" / "train2017").iterdir()).name
    with Image.open(coco / "train2017" / kept) as photo:
        server.faults[f"/train2017/{kept}"] = picture(photo.size)
    with pytest.raises(DataError, match="is not the one that the manifest was made from"):
        download(server, tmp_path / "c", manifest=tmp_path / "a" / "manifest.json")
    server.faults[f"/train2017/{kept}"] = 404
    with pytest.raises(DataError, match=r"1 photos of the manifest cannot be had, first image id .*404"):
        download(server, tmp_path / "d", manifest=tmp_path / "a" / "manifest.json")


def test_killed_at_any_moment_and_run_again(coco, server, tmp_path):
    out = tmp_path / "out"
    carve_subset(coco, tmp_path / "local", CAR_AND_CAT, train=4, val=2)
    stalling = max((tmp_path / "local" / "train2017").iterdir()).name
    server.faults[f"/train2017/{stalling}"] = ["stall"]
    arguments = ["data", "coco", "--categories", *CAR_AND_CAT, "--train", "4", "--val", "2", "--out", str(out)]
    arguments += ["--download", "--server", server.url]
    root = Path(__file__).parents[2]
    process = subprocess.Popen([sys.executable, "-m", "ddetr", *arguments], cwd=root, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list(out.glob("train2017/*.jpg"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(out.glob("train2017/*.jpg"))) == 3
    assert not list(out.glob("annotations/*.json"))
    broken = min(out.glob("train2017/*.jpg"))
    broken.write_bytes(broken.read_bytes()[:-20])
    del server.requests[:]
    assert main(arguments) == 0
    assert sorted(server.paths("train2017")) == [f"/train2017/{name}" for name in sorted([broken.name, stalling])]
    ours, theirs = files(out), files(tmp_path / "local")
    del ours["manifest.json"], theirs["manifest.json"]
    assert ours == theirs


def test_without_a_network_one_sentence_offers_toycoco(tmp_path, capsys, monkeypatch):
    arguments = ["data", "coco", "--categories", "cat", "--train", "1", "--out", str(tmp_path / "out"), "--download"]
    assert main([*arguments, "--server", "http://127.0.0.1:9"]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("error: no connection to http://127.0.0.1:9 ([Errno 111] Connection refused)") or (
        os.name == "nt"
    )
    assert "python -m ddetr data toycoco --out data/toycoco" in sentence
    assert not (tmp_path / "out").exists()


def test_a_network_that_swallows_everything(tmp_path, monkeypatch):
    def swallow(*args, **kwargs):
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", swallow)
    with pytest.raises(DataError, match=r"no connection to http://lost \(no answer for 0.1 seconds\)"):
        make_subset(
            CocoServer("http://lost", timeout=0.1, backoff=0.01),
            tmp_path / "out",
            wanted_subset(["cat"], 1, 0, 0, None),
        )


@pytest.mark.parametrize("server", ["file:///etc", "ftp://a", "images.cocodataset.org", "http://", "http://a/?b"])
def test_servers_are_web_addresses(tmp_path, server):
    with pytest.raises(DataError, match="a server is an address such as http"):
        download_subset(tmp_path / "out", ["cat"], 1, server=server)
