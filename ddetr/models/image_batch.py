"""Images of different sizes in one tensor: pad at the right and bottom, and remember where."""

from typing import NamedTuple

import torch
from torch import Tensor


class ImageBatch(NamedTuple):
    """A padded batch.

    Attributes:
        images: (B, 3, H, W), zero where padded.
        mask: (B, H, W) bool, True where padding; None if there is no padding and the config wants no mask then.
        sizes: each image's own (h, w) in pixels.
    """

    images: Tensor
    mask: Tensor | None
    sizes: list[tuple[int, int]]


def pad_images(images: list[Tensor], mask_unpadded: bool = True) -> ImageBatch:
    """Pad images: (3, h, w) each, with zeros, to the largest height and width among them.

    Zero is the mean colour after normalisation. `mask_unpadded=False` leaves the mask out when all sizes are equal,
    as mmdetection does; the numbers are the same.
    """
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    H, W = max(h for h, _ in sizes), max(w for _, w in sizes)
    if all(size == (H, W) for size in sizes):
        mask = images[0].new_zeros(len(images), H, W, dtype=torch.bool) if mask_unpadded else None
        return ImageBatch(torch.stack(images), mask, sizes)
    padded = images[0].new_zeros(len(images), 3, H, W)
    mask = torch.ones(len(images), H, W, dtype=torch.bool, device=images[0].device)
    for b, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
        padded[b, :, :h, :w] = image
        mask[b, :h, :w] = False
    return ImageBatch(padded, mask, sizes)
