"""Annotation files and pictures as they should not be, and what a person would expect of each.

    python tests/surviving/loader_fuzz.py [--count 2000] [--seed 0]

Every case is drawn from its own seed. It must load as what it says, or be refused with one clear sentence. Some are
left whole, for those must load; they come on top of the count.
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import io
import itertools
import json
import logging
import math
import random
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddetr.data import CocoDetection, DataError, read_image

SECONDS = 120
"""A case takes milliseconds: one that takes so long hangs."""

# --- annotation files -------------------------------------------------------------------------------------------------

SIZES = {"a.png": (24, 16), "b.png": (10, 30), "c.png": (1, 1), "folder/d.png": (8, 8)}
CATEGORIES = {0: "unknown", 3: "car", 17: "Katze 猫", 4000: "toothbrush"}
ODD_VALUES = (
    None, True, False, 0, 1, -1, 2, 3, 17, 1.0, 0.5, -0.0, 1e308, 10**400, 2**63, -(2**63) + 1, math.nan, math.inf,
    -math.inf, "", "1", "a.png", "b.png", "\ud800", "x" * 5000, [], [1], [[]], {}, {"id": 1}, [1, 2, 3, 4],
    [0, 0, 24, 16], [-5, -5, 90, 90], [5, 5, -3, 4], [5, 5, 0, 4], [2, 2, 1, 1], ["1", "2", "3", "4"],
    [1, 2, math.nan, 4], [1e308, 1, 1e308, 1], [1, 2, 3, 4, 5],
)  # fmt: skip
ODD_NAMES = (
    "missing.png", "x\ny.png", "../a.png", "/etc/passwd", "C:\\a.png", "folder", "folder/../a.png",
    "a.png\0", "./a.png", "x" * 300,
    "folder//d.png", "é.png", "a.png\n", "no/such/folder/a.png", "\ud800.png",
)  # fmt: skip
LOADABLE = SIZES | {"./a.png": SIZES["a.png"], "folder//d.png": SIZES["folder/d.png"]}


def make_pictures(folder: Path) -> Path:
    """The pictures that the annotation files speak of."""
    for name, (w, h) in SIZES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (w, h), (90, 120, 30)).save(folder / name)
    return folder


def good_annotations(draw: random.Random) -> dict[str, Any]:
    """A file without a fault: ids in no order and with gaps, images without objects, crowds, unknown keys."""
    image_ids = draw.sample((0, 1, 2, 77, 2**40, -3), len(SIZES))
    images = [
        {"id": number, "file_name": name, "width": w, "height": h, "license": 3}
        for number, (name, (w, h)) in zip(image_ids, SIZES.items(), strict=True)
    ]
    annotations = []
    for number in range(draw.randint(0, 6)):
        image = draw.choice(images)
        x1, x2 = sorted(draw.uniform(-2, image["width"] + 2) for _ in range(2))
        y1, y2 = sorted(draw.uniform(-2, image["height"] + 2) for _ in range(2))
        annotations.append(
            {"id": 10 * number, "image_id": image["id"], "category_id": draw.choice(list(CATEGORIES)),
             "bbox": [x1, y1, x2 - x1, y2 - y1], "area": 1.5, "iscrowd": int(draw.random() < 0.2), "segmentation": []}
        )  # fmt: skip
    categories = [{"id": number, "name": name, "supercategory": None} for number, name in CATEGORIES.items()]
    for section in (images, annotations, categories):
        draw.shuffle(section)
    return {"info": {"year": 2017}, "images": images, "annotations": annotations, "categories": categories}


def _containers(value: Any) -> list[Any]:
    """Every object and list inside, itself included."""
    found = [value] if isinstance(value, dict | list) else []
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        found += _containers(inner)
    return found


def _key_in(draw: random.Random, data: Any) -> tuple[Any, Any]:
    container = draw.choice([c for c in _containers(data) if c] or [{0: 0}])
    return container, draw.choice(list(container) if isinstance(container, dict) else range(len(container)))


def replace_a_value(draw: random.Random, data: Any) -> None:
    container, key = _key_in(draw, data)
    container[key] = copy.deepcopy(draw.choice(ODD_NAMES if key == "file_name" else ODD_VALUES))


def remove_a_value(draw: random.Random, data: Any) -> None:
    container, key = _key_in(draw, data)
    del container[key]


def repeat_an_entry(draw: random.Random, data: Any) -> None:
    lists = [c for c in _containers(data) if c and isinstance(c, list)]
    if lists:
        chosen = draw.choice(lists)
        chosen.append(copy.deepcopy(draw.choice(chosen)))


def add_a_key(draw: random.Random, data: Any) -> None:
    objects = [c for c in _containers(data) if isinstance(c, dict)]
    if objects:
        draw.choice(objects)["a key that nobody knows"] = copy.deepcopy(draw.choice(ODD_VALUES))


def swap_two_values(draw: random.Random, data: Any) -> None:
    (one, key), (other, other_key) = _key_in(draw, data), _key_in(draw, data)
    one[key], other[other_key] = copy.deepcopy(other[other_key]), copy.deepcopy(one[key])


def nest(draw: random.Random, data: Any) -> None:
    container, key = _key_in(draw, data)
    for _ in range(draw.choice((1, 3, 90))):
        container[key] = [container[key]] if draw.random() < 0.5 else {"value": container[key]}


STRUCTURAL = (replace_a_value, replace_a_value, replace_a_value, remove_a_value, repeat_an_entry, add_a_key,
              swap_two_values, nest)  # fmt: skip


def as_text(draw: random.Random, data: Any) -> bytes:
    """As somebody's tool writes it: with or without line breaks, non-ASCII letters, a byte order mark, in UTF-16."""
    text = json.dumps(data, indent=draw.choice((None, None, 1)), ensure_ascii=draw.random() < 0.5)
    encoding = draw.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"))
    return text.encode(encoding, errors="surrogatepass")


def damage_text(draw: random.Random, contents: bytes) -> bytes:
    """Cut off, a letter changed, doubled, followed by something, a thousand brackets, or another encoding."""
    place = draw.randrange(len(contents))
    return draw.choice((
        contents[:place],
        contents[:place] + bytes([draw.randrange(256)]) + contents[place + 1 :],
        contents[:place] + contents[place + 1 :],
        contents + contents,
        contents + b"\0" * 100,
        b"[" * 100_000 + contents,
        contents.replace(b'"annotations"', b'"images"', 1),
        contents.decode("utf-8", errors="replace").encode("cp1252", errors="replace"),
        contents.replace(b"16", b"1" * 5000, 1),
        b"",
    ))  # fmt: skip


def mutated_annotations(seed: int) -> tuple[bytes, bool]:
    """The contents of annotation file number `seed`, and whether it was changed; every eighth has no fault."""
    draw = random.Random(seed)
    data = good_annotations(draw)
    good = json.dumps(data)
    for _ in range(0 if seed % 8 == 0 else draw.choice((1, 1, 1, 2, 3))):
        draw.choice(STRUCTURAL)(draw, data)
    whole = contents = as_text(draw, data)
    if seed % 8 == 1:
        contents = damage_text(draw, contents)
    return contents, contents != whole or json.dumps(data) != good


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _or_missing(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is MISSING or fits(value)


MISSING = object()
FORMAT: dict[str, dict[str, Callable[[Any], bool]]] = {
    "images": {
        "id": _whole, "file_name": _is(str),
        "width": _or_missing(lambda v: _number(v) and v > 0), "height": _or_missing(lambda v: _number(v) and v > 0),
    },
    "annotations": {
        "id": _or_missing(lambda v: v is None or _whole(v) or isinstance(v, bool)),
        "image_id": _whole, "category_id": _whole,
        "bbox": lambda v: isinstance(v, list) and len(v) == 4 and all(map(_number, v)),
        "iscrowd": _or_missing(lambda v: v is None or v in (0, 1)),
    },
    "categories": {"id": _whole, "name": _is(str)},
}  # fmt: skip
"""What COCO's format asks of the fields that detection uses."""


def parsed(contents: bytes) -> Any:
    """The JSON, or None if it is none; a name that stands twice in one object makes it none as well."""

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("repeated")
        return dict(pairs)

    try:
        return json.loads(contents, object_pairs_hook=object_of)
    except (ValueError, RecursionError):
        return None


def is_coco(data: Any) -> bool:
    """Whether a person would call it a data set in COCO's format."""
    if not isinstance(data, dict) or not all(isinstance(data.get(section), list) for section in FORMAT):
        return False
    for section, fields in FORMAT.items():
        for entry in data[section]:
            if not isinstance(entry, dict) or not all(fits(entry.get(key, MISSING)) for key, fits in fields.items()):
                return False
    ids = {section: [entry["id"] for entry in data[section]] for section in ("images", "categories")}
    return (
        bool(ids["categories"])
        and all(len(set(numbers)) == len(numbers) for numbers in ids.values())
        and all(a["image_id"] in ids["images"] and a["category_id"] in ids["categories"] for a in data["annotations"])
    )


def expected_objects(data: dict[str, Any], image: dict[str, Any]) -> list[tuple[int, list[float]]]:
    """Label and box (x1, y1, x2, y2) of each object that can be learnt, in order."""
    order = sorted(category["id"] for category in data["categories"])
    w, h = LOADABLE[image["file_name"]]
    objects = []
    for annotation in data["annotations"]:
        x, y, bw, bh = map(float, annotation["bbox"])
        box = [max(x, 0.0), max(y, 0.0), min(x + bw, float(w)), min(y + bh, float(h))]
        if annotation["image_id"] == image["id"] and not annotation.get("iscrowd") and bw > 0 and bh > 0:
            objects.append((order.index(annotation["category_id"]), box))
    return [(label, box) for label, box in objects if box[2] - box[0] > 1e-6 and box[3] - box[1] > 1e-6]


def refusal(call: Callable[[], Any]) -> str | None:
    """None if it works; the sentence if it is refused. Any other exception goes through, any other sentence fails."""
    try:
        call()
    except DataError as error:
        sentence = str(error)
        assert sentence
        assert len(sentence.splitlines()) == 1, sentence
        assert len(sentence) < 700, sentence
        return sentence
    return None


def check_annotations(seed: int, folder: Path, pictures: Path) -> tuple[str, bool]:
    """Open file number `seed` and every image in it; says what became of it. AssertionError if it is a surprise.

    Returns what became of it, and whether it was mutated at all.
    """
    contents, mutated = mutated_annotations(seed)
    file = folder / "annotations.json"
    file.write_bytes(contents)
    data = parsed(contents)
    opened: list[CocoDetection] = []
    refused = refusal(lambda: opened.append(CocoDetection(pictures, file, lambda *sample: sample)))
    if refused:
        assert not is_coco(data), refused
        assert "annotations.json" in refused, refused
        return "refused", mutated
    assert is_coco(data), "it was taken, but is not in COCO's format"
    (dataset,) = opened
    assert [c["id"] for c in dataset.categories] == sorted(c["id"] for c in data["categories"])
    assert dataset.image_ids == sorted(image["id"] for image in data["images"])
    assert len(dataset.coco.anns) == len(data["annotations"]), "annotations were lost"
    assert all(a["area"] >= 0 for a in dataset.coco.anns.values()), "evaluation would leave an object out"
    by_id = {image["id"]: image for image in data["images"]}
    faults = 0
    for index, image_id in enumerate(dataset.image_ids):
        image = by_id[image_id]
        size = LOADABLE.get(image["file_name"])
        fits = size and (image.get("width", size[0]), image.get("height", size[1])) == size
        if "width" not in image or "height" not in image:
            fits = size is not None
        loaded: list[Any] = []
        refused = refusal(lambda i=index: loaded.append(dataset[i]))  # noqa: B023
        assert bool(refused) != bool(fits), f"{image}: {refused}"
        faults += bool(refused)
        if not refused:
            target = loaded[0][1]
            expected = expected_objects(data, image)
            assert target["labels"].tolist() == [label for label, _ in expected], image
            boxes = [box for _, box in expected]
            assert np.allclose(target["boxes"].numpy().reshape(-1, 4), np.reshape(boxes, (-1, 4)), atol=1e-4), image
    return "loaded without some pictures" if faults else "loaded", mutated


# --- pictures ---------------------------------------------------------------------------------------------------------

FORMATS = (
    ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "L"), ("PNG", "LA"), ("PNG", "I;16"), ("PNG", "1"),
    ("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("progressive", "RGB"), ("GIF", "P"), ("animated", "P"),
    ("BMP", "RGB"), ("TIFF", "RGB"), ("TIFF", "CMYK"), ("TIFF", "F"), ("TIFF", "I;16"), ("WEBP", "RGB"),
    ("WEBP", "RGBA"), ("PPM", "RGB"), ("TGA", "RGB"),
)  # fmt: skip
TURNS = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""EXIF's orientation -> how an upright picture has to be turned to be stored so."""


def base_picture() -> Image.Image:
    """40 x 24, dark above and bright below, the left border in between."""
    pixels = np.full((24, 40), 40, dtype=np.uint8)
    pixels[12:] = 210
    pixels[:, :8] = 128
    return Image.fromarray(pixels)


def encoded(draw: random.Random, form: str, mode: str) -> bytes:
    """The base picture in a format and mode, perhaps stored lying and with EXIF's word on it."""
    picture = base_picture()
    turn = draw.choice((None, None, *TURNS)) if form in ("PNG", "JPEG", "WEBP", "TIFF", "progressive") else None
    options: dict[str, Any] = {}
    if turn:
        picture = picture.transpose(TURNS[turn])
        exif = Image.Exif()
        exif[0x0112] = turn
        options["exif"] = exif
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture, dtype=np.uint16) * 257)
    elif mode == "F":
        picture = Image.fromarray(np.asarray(picture, dtype=np.float32) / 255)
    else:
        picture = picture.convert("RGB").convert(mode)
    if form == "progressive":
        form, options = "JPEG", options | {"progressive": True}
    if form == "animated":
        form, options = "GIF", {"save_all": True, "append_images": [picture.rotate(180)] * 2}
    if form == "JPEG":
        options["quality"] = 95
    if form == "WEBP":
        options["lossless"] = True
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def png_of(width: int, height: int, *, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG that says it is so large, and has next to nothing in it."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )


def flip_bits(draw: random.Random, contents: bytes) -> bytes:
    damaged = bytearray(contents)
    for _ in range(draw.choice((1, 1, 2, 8))):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def edit_header(draw: random.Random, contents: bytes) -> bytes:
    damaged = bytearray(contents)
    for _ in range(draw.choice((1, 2, 4))):
        damaged[draw.randrange(min(64, len(damaged)))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
    return bytes(damaged)


def cut(draw: random.Random, contents: bytes) -> bytes:
    return contents[: draw.randrange(len(contents))]


def zero_a_stretch(draw: random.Random, contents: bytes) -> bytes:
    start = draw.randrange(len(contents))
    length = min(draw.choice((1, 16, 200)), len(contents) - start)
    return contents[:start] + bytes(length) + contents[start + length :]


def no_picture(draw: random.Random, contents: bytes) -> bytes:
    return draw.choice((
        b"", b"\0", bytes(500), b"<html>404</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"%PDF-1.4\n", draw.randbytes(300),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b"BM" + draw.randbytes(80),
        png_of(100_000, 100_000), png_of(2**31 - 1, 1), png_of(2**31 - 1, 2**31 - 1), png_of(0, 5),
    ))  # fmt: skip


def mutated_picture(seed: int) -> tuple[str, bytes]:
    """What was done to picture number `seed`, and its bytes; every fourth is whole, and what a change left the same."""
    draw = random.Random(seed)
    contents = encoded(draw, *draw.choice(FORMATS))
    if seed % 4 == 0:
        return "whole", contents
    change = draw.choice((flip_bits, flip_bits, edit_header, edit_header, cut, cut, zero_a_stretch, no_picture))
    damaged = change(draw, contents)
    return "whole" if damaged == contents else change.__name__, damaged


def looks_right(picture: Image.Image) -> bool:
    """Whether it is the base picture, upright."""
    if picture.mode != "RGB" or picture.size != (40, 24):
        return False
    spots = np.asarray(picture, dtype=float)[[4, 20, 12], [30, 30, 3]].mean(1)
    return bool(spots[0] < 80 and spots[1] > 170 and 0 <= spots[2] <= 255)


def check_picture(seed: int, folder: Path) -> tuple[str, bool]:
    """Read picture number `seed`; says what became of it, as `check_annotations`."""
    what, contents = mutated_picture(seed)
    file = folder / random.Random(seed).choice(("a.jpg", "a.png", "a", "a.txt"))  # a name proves nothing
    file.write_bytes(contents)
    read: list[Image.Image] = []
    refused = refusal(lambda: read.append(read_image(file)[0]))
    file.unlink()
    if refused:
        assert str(file) in refused, refused
        assert what != "whole", refused
        return "refused", True
    (picture,) = read
    assert picture.mode == "RGB"
    picture.load()
    if what == "whole":
        assert looks_right(picture), "it came out as something else"
    if what == "cut":  # then nothing of the picture may be lost
        assert looks_right(picture), "a part of it is missing"
    assert what != "no_picture", "it is none"
    return "loaded", what != "whole"


def run(count: int, seed: int, check: Callable[[int], tuple[str, bool]]) -> Counter[str]:
    """How the cases ended, and how many were "mutated", which is `count`.

    AssertionError, with the number of the case, for one that ended otherwise. One that hangs ends the process, even out
    of a decoder's C code, and says where it hung; its file is left in the folder.
    """
    ends: Counter[str] = Counter()
    for number in itertools.count(seed):
        if ends["mutated"] == count:
            return ends
        faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.__stderr__)
        try:
            end, mutated = check(number)
        except Exception as error:
            raise AssertionError(f"case {number}: {type(error).__name__}: {error}") from error
        finally:
            faulthandler.cancel_dump_traceback_later()
        ends[end] += 1
        ends["mutated"] += mutated


def fuzz_annotations(count: int, seed: int, folder: Path) -> Counter[str]:
    pictures = make_pictures(folder / "pictures")
    return run(count, seed, lambda number: check_annotations(number, folder, pictures))


def fuzz_pictures(count: int, seed: int, folder: Path) -> Counter[str]:
    return run(count, seed, lambda number: check_picture(number, folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="mutated files of each kind; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="the first; default: %(default)s")
    args = parser.parse_args()
    logging.getLogger("ddetr").setLevel(logging.ERROR)
    for fuzz in (fuzz_annotations, fuzz_pictures):
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            ends = fuzz(args.count, args.seed, Path(folder))
        counts = ", ".join(f"{number} {end}" for end, number in sorted(ends.items()))
        print(f"{fuzz.__name__}: {counts}, in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
