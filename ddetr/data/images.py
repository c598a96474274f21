"""Image files of every kind, as a person would see them: upright, eight bits, red, green and blue."""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class DataError(ValueError):
    """A picture or an annotation file that cannot be used; says which and why."""


class Orientation(NamedTuple):
    """How a file's pixels were turned to stand upright: transpose first, then mirror, as EXIF's tag 0x0112 says."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    def apply(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Boxes (N, 4) xyxy of the file's pixels -> of the upright picture, whose (h, w) is `size`."""
        if self.transpose:
            boxes = boxes[:, [1, 0, 3, 2]]
        return self._mirror(boxes, size)

    def undo(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """The reverse of `apply`; `size` is the upright picture's (h, w) as well."""
        boxes = self._mirror(boxes, size)
        return boxes[:, [1, 0, 3, 2]] if self.transpose else boxes

    def _mirror(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        h, w = size
        x1, y1, x2, y2 = boxes.unbind(1)
        if self.mirror_x:
            x1, x2 = w - x2, w - x1
        if self.mirror_y:
            y1, y2 = h - y2, h - y1
        return torch.stack([x1, y1, x2, y2], dim=1)


UPRIGHT = Orientation()
_EXIF_ORIENTATIONS = {
    2: Orientation(mirror_x=True),
    3: Orientation(mirror_x=True, mirror_y=True),
    4: Orientation(mirror_y=True),
    5: Orientation(transpose=True),
    6: Orientation(transpose=True, mirror_x=True),
    7: Orientation(transpose=True, mirror_x=True, mirror_y=True),
    8: Orientation(transpose=True, mirror_y=True),
}
_ORIENTATION_TAG = 0x0112
MAX_PIXELS = 2**27  # 400 MB as 8-bit RGB; the largest cameras make about 100 million


def read_image(path: str | Path | BinaryIO, name: str | None = None) -> tuple[Image.Image, Orientation]:
    """Read `path` as upright 8-bit RGB, and say how it was turned. Errors call it `name`; None: its path.

    Greyscale, palette, CMYK, 16-bit and transparent pictures (on white) are converted.

    Raises:
        DataError: the file is missing, not a picture, truncated, or of more than `MAX_PIXELS`. Names the file.
    """
    name = in_words(name or str(path))
    try:
        if not isinstance(path, (str, Path)):
            return _read(path)
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise DataError(f"image file {name} is no file but a folder, a pipe or a device")
        with Path(path).open("rb") as file:  # given the name, Pillow reads some turned TIFFs by their upright size
            return _read(file)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"image file {name} is missing") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"image file {name} would unpack to an absurd size and was not opened: {error}") from error
    except Exception as error:  # on damaged bytes Pillow's decoders raise nearly anything
        reason = f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"
        raise DataError(f"image file {name} cannot be read ({in_words(reason)}): damaged, or no picture") from error


def _read(file: BinaryIO) -> tuple[Image.Image, Orientation]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; real damage raises
        with Image.open(file) as picture:
            if picture.width * picture.height > MAX_PIXELS:  # known from its first bytes, before any is unpacked
                raise Image.DecompressionBombError(f"{picture.width} x {picture.height} pixels")
            if picture.format == "EPS":
                raise OSError("an EPS is a program, which nobody should run for a picture")
            orientation = _EXIF_ORIENTATIONS.get(picture.getexif().get(_ORIENTATION_TAG, 1), UPRIGHT)
            return upright_rgb(picture), orientation


def in_words(name: str, longest: int = 200) -> str:
    """A name for a sentence: on one line, and its end alone if it is very long."""
    name = name if name.isprintable() else repr(name)
    return name if len(name) <= longest else "..." + name[-longest:]


def upright_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as 8-bit RGB, turned as its EXIF orientation says; what is transparent becomes white."""
    return _to_rgb(ImageOps.exif_transpose(image))


def _to_rgb(image: Image.Image) -> Image.Image:
    # In place: a copy or two more of the largest pictures would be gigabytes.
    if image.mode.startswith("I"):  # 16-bit greyscale, which Pillow would clip at 255
        pixels = np.array(image, dtype=np.int32)
        # Pillow's mode "I" may hold 8 or 16 bits; "I;16" says which.
        scale = 257 if image.mode != "I" or pixels.max(initial=0) > 255 else 1
        np.clip(pixels, 0, 255 * scale, out=pixels)
        pixels += scale // 2
        pixels //= scale
        return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        pixels = np.nan_to_num(np.array(image), copy=False)
        pixels *= 255 if pixels.max(initial=0) <= 1 else 1
        np.clip(pixels, 0, 255, out=pixels)
        return Image.fromarray(np.rint(pixels, out=pixels).astype(np.uint8)).convert("RGB")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def normalize_image(image: Image.Image | np.ndarray | Tensor) -> Tensor:
    """A picture as the model takes it: (3, H, W) float32, normalised with ImageNet's mean and deviation.

    image: a PIL image, an array (H, W, 3) of 8-bit values, or a tensor (3, H, W) of 8-bit values or floats in [0, 1].

    Raises:
        ValueError: another shape or dtype, or floats outside [0, 1].
    """
    if isinstance(image, Image.Image):
        tensor = F.pil_to_tensor(upright_rgb(image))
    elif isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"an array must be (H, W, 3) of uint8; got {image.shape} of {image.dtype}")
        tensor = torch.tensor(image).permute(2, 0, 1)
    else:
        tensor = image
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ValueError(f"a tensor must be (3, H, W), channels first; got {tuple(tensor.shape)}")
    if tensor.is_floating_point():
        if tensor.numel() and not (tensor.min() >= 0 and tensor.max() <= 1):
            raise ValueError(f"float pixels must be in [0, 1]; got {tensor.min():.3g} to {tensor.max():.3g}")
    elif tensor.dtype != torch.uint8:
        raise ValueError(f"pixels must be uint8 or floats in [0, 1]; got {tensor.dtype}")
    return F.normalize(F.to_dtype(tensor, torch.float32, scale=True), list(IMAGENET_MEAN), list(IMAGENET_STD))


def denormalize_image(image: Tensor) -> Tensor:
    """The reverse of `normalize_image`: image (3, H, W) float -> (3, H, W) uint8."""
    mean, std = (torch.tensor(values, device=image.device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((image.float() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
