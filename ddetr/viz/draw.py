"""Pictures of boxes. Pure functions: data in, picture out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes

# Okabe and Ito's colours, told apart by colour-blind readers; black left out.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


def draw_detections(
    image: Image.Image, boxes: Tensor, labels: Sequence[int], captions: Sequence[str] | None = None
) -> Image.Image:
    """The picture with a box for each detection, coloured by label and captioned.

    boxes (N, 4) xyxy pixels of `image`, which are clipped to it; labels: N numbers, captions: N texts or None.
    """
    w, h = image.size
    limit = torch.tensor([w, h, w, h], dtype=torch.float32)
    visible = boxes.detach().cpu().float().clamp(min=0).minimum(limit)
    keep = (visible[:, 2:] > visible[:, :2]).all(1).nonzero().flatten().tolist()
    if not keep:
        return image.copy()
    drawn = draw_bounding_boxes(
        pil_to_tensor(image),
        visible[keep],
        colors=[PALETTE[labels[i] % len(PALETTE)] for i in keep],
        width=max(2, round(min(w, h) / 200)),
    )
    picture = to_pil_image(drawn)
    if captions is not None:
        _write_captions(picture, visible, labels, captions, keep)
    return picture


def _write_captions(
    picture: Image.Image, boxes: Tensor, labels: Sequence[int], captions: Sequence[str], keep: list[int]
) -> None:
    # torchvision's own captions need a font file for a legible size; Pillow's built-in font scales.
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(12, min(picture.size) // 30))
    for i in keep:
        x, y = boxes[i, :2].tolist()
        left, top, right, bottom = pen.textbbox((0, 0), captions[i], font=font)
        y = max(0.0, y - (bottom - top) - 6)
        x = max(0.0, min(x, picture.width - (right - left) - 6))
        pen.rectangle((x, y, x + right - left + 6, y + bottom - top + 6), fill=PALETTE[labels[i] % len(PALETTE)])
        pen.text((x + 3 - left, y + 3 - top), captions[i], fill="black", font=font)
