import io
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from ddetr.data import DataError, denormalize_image, normalize_image, read_image
from ddetr.data.images import _EXIF_ORIENTATIONS, upright_rgb


def picture(w=40, h=30):
    """Grey, with a red block in the upper left."""
    pixels = np.full((h, w, 3), 100, dtype=np.uint8)
    pixels[4:12, 6:20] = (250, 10, 10)
    return Image.fromarray(pixels)


def is_red(image: Image.Image, x: int, y: int) -> bool:
    r, g, b = image.getpixel((x, y))
    return r > 180 and g < 90 and b < 90


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_colour_modes_look_alike(tmp_path, mode):
    file = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    picture().convert(mode).save(file)
    image, _ = read_image(file)
    assert image.mode == "RGB"
    assert is_red(image, 12, 8)
    assert not is_red(image, 30, 20)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_greyscale_modes(tmp_path, mode):
    picture().convert(mode).save(tmp_path / "image.png")
    image, _ = read_image(tmp_path / "image.png")
    r, g, b = image.getpixel((30, 20))
    assert r == g == b


def test_sixteen_bits_keep_their_range(tmp_path):
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    image, _ = read_image(tmp_path / "ramp.png")
    levels = np.asarray(image)[..., 0].ravel()
    assert levels[0] == 0
    assert levels[-1] == 255
    assert abs(int(levels[128]) - 128) <= 1


def test_floating_point_tiff(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "image.tiff")
    assert read_image(tmp_path / "image.tiff")[0].getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_what_is_transparent_is_white_whatever_lies_under_it(tmp_path, mode):
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 4, 8))
    image.convert(mode).save(tmp_path / "image.png")
    shown, _ = read_image(tmp_path / "image.png")
    assert shown.getpixel((6, 4)) == (255, 255, 255)
    assert shown.getpixel((1, 4))[2] > 200


@pytest.mark.parametrize("tag", range(1, 9))
def test_orientation_turns_the_picture_and_the_boxes_alike(tmp_path, tag):
    exif = Image.Exif()
    exif[0x0112] = tag
    picture().save(tmp_path / "image.png", exif=exif)
    image, orientation = read_image(tmp_path / "image.png")
    assert image.size == ((30, 40) if tag >= 5 else (40, 30))
    size = (image.height, image.width)
    in_file = torch.tensor([[6.0, 4.0, 20.0, 12.0]])
    box = orientation.apply(in_file, size)
    x1, y1, x2, y2 = (int(v) for v in box[0])
    reds = [(x, y) for x in range(image.width) for y in range(image.height) if is_red(image, x, y)]
    assert (min(x for x, _ in reds), min(y for _, y in reds)) == (x1, y1)
    assert (max(x for x, _ in reds) + 1, max(y for _, y in reds) + 1) == (x2, y2)
    assert orientation.undo(box, size).equal(in_file)


def test_all_turned_orientations_are_known():
    assert sorted(_EXIF_ORIENTATIONS) == [2, 3, 4, 5, 6, 7, 8]


def encoded(form: str) -> bytes:
    buffer = io.BytesIO()
    picture().save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "contents",
    [b"", b"not a picture", encoded("JPEG")[:400], encoded("PNG")[:60], encoded("PNG")[:-40], encoded("GIF")[:20]],
    ids=["empty", "text", "cut jpeg", "cut png header", "cut png", "cut gif"],
)
def test_damaged_files_are_named(tmp_path, contents):
    file = tmp_path / "broken.jpg"
    file.write_bytes(contents)
    with pytest.raises(DataError, match=r"broken\.jpg cannot be read"):
        read_image(file)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jpg is missing"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match="is no file but a folder"):
        read_image(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match=r"pipe\.jpg is no file but a folder, a pipe"):
        read_image(tmp_path / "pipe.jpg")


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_greys_take_little_more_memory_than_their_pixels(mode):
    picture = Image.new(mode, (1000, 1000))
    tracemalloc.start()
    upright_rgb(picture)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 9e6 + 1e5  # Pillow's own copy, the pixels once in 32 bits, and a byte of result


@pytest.mark.parametrize("pillows_limit", [Image.MAX_IMAGE_PIXELS, None])
def test_a_picture_that_would_fill_the_memory_is_not_opened(tmp_path, monkeypatch, pillows_limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_limit)
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    png = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    with pytest.raises(DataError, match=r"bomb\.png would unpack to an absurd size"):
        read_image(tmp_path / "bomb.png")


def test_normalising_and_back():
    image = picture()
    tensor = normalize_image(image)
    assert tensor.shape == (3, 30, 40)
    assert tensor.dtype == torch.float32
    assert tensor[:, 20, 30].tolist() == pytest.approx(
        [(100 / 255 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224, (100 / 255 - 0.406) / 0.225], abs=1e-5
    )
    pixels = np.asarray(image)
    for other in (pixels, torch.from_numpy(pixels.copy()).permute(2, 0, 1)):
        torch.testing.assert_close(normalize_image(other), tensor)
    assert denormalize_image(tensor).permute(1, 2, 0).numpy().tolist() == pixels.tolist()


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), torch.zeros(4, 4, 3), torch.full((3, 4, 4), 255.0),
     torch.zeros(3, 4, 4, dtype=torch.int64)],
)  # fmt: skip
def test_other_shapes_and_ranges_are_refused(wrong):
    with pytest.raises(ValueError, match="got"):
        normalize_image(wrong)
