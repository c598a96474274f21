import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from ddetr.data import PAPER_RESOLUTION, Resolution, denormalize_image, eval_transform, prepare_image, train_transform
from ddetr.data.transforms import RandomSizeCrop, as_boxes

SMALL = Resolution.around(128)


def sample(h=90, w=120, boxes=((20.0, 30.0, 60.0, 70.0),)):
    """A black image with each box painted white."""
    image = torch.zeros(3, h, w, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes:
        image[:, int(y1) : int(y2), int(x1) : int(x2)] = 255
    labels = torch.arange(len(boxes))
    target = {"boxes": as_boxes(torch.tensor(boxes).reshape(-1, 4), (h, w)), "labels": labels, "orig_size": (h, w)}
    return tv_tensors.Image(image), target


def test_the_papers_resolution():
    assert PAPER_RESOLUTION.train_sizes == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    assert (PAPER_RESOLUTION.test_size, PAPER_RESOLUTION.max_size) == (800, 1333)


def test_test_images_keep_their_aspect_ratio_up_to_the_longest_side():
    image, target = eval_transform(SMALL)(*sample())
    assert image.shape == (3, 128, 170)
    torch.testing.assert_close(target["boxes"][0], torch.tensor([20.0, 30, 60, 70]) * 128 / 90, atol=0.5, rtol=0)
    assert target["orig_size"] == (90, 120)
    assert type(target["boxes"]) is torch.Tensor
    long, _ = eval_transform(SMALL)(*sample(30, 900))
    assert long.shape[2] <= 213
    thin, _ = eval_transform(SMALL)(*sample(4000, 1, boxes=()))
    assert thin.shape[2] == 1


def test_augmented_boxes_stay_on_their_objects():
    sizes = set()
    for seed in range(60):
        torch.manual_seed(seed)
        image, target = train_transform(SMALL)(*sample())
        sizes.add(tuple(image.shape[1:]))
        assert max(image.shape[1:]) <= 213
        white = denormalize_image(image)[0] > 127
        assert len(target["boxes"]) == len(target["labels"])
        if not len(target["boxes"]):
            assert white.float().mean() < 0.01
            continue
        x1, y1, x2, y2 = target["boxes"][0].round().int().tolist()
        assert (x2 - x1) * (y2 - y1) > 0
        inside = white[y1:y2, x1:x2].float().mean()
        outside = white.sum() - white[y1:y2, x1:x2].sum()
        assert inside > 0.85, seed
        assert outside < 0.15 * max(1, white.sum()), seed
    assert len(sizes) > 15


def test_boxes_that_a_crop_leaves_without_area_are_dropped_with_their_labels():
    boxes = ((0.0, 0.0, 4.0, 4.0), (40.0, 30.0, 80.0, 60.0), (116.0, 86.0, 120.0, 90.0))
    counts = set()
    for seed in range(40):
        torch.manual_seed(seed)
        _, target = train_transform(SMALL)(*sample(boxes=boxes))
        assert len(target["boxes"]) == len(target["labels"])
        assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all()
        assert 1 in target["labels"] or len(target["labels"]) < 3
        counts.add(len(target["labels"]))
    assert min(counts) < 3
    assert max(counts) == 3


def test_crops_of_pictures_smaller_than_the_window():
    image, target = RandomSizeCrop(50, 80)(*sample(20, 30, boxes=((5.0, 5.0, 9.0, 9.0),)))
    assert image.shape == (3, 20, 30)
    assert target["boxes"].tolist() == [[5, 5, 9, 9]]


@pytest.mark.parametrize("size", [(120, 90), (33, 47)])
def test_prediction_sees_what_evaluation_saw(size):
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    tensor = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))
    target = {"boxes": as_boxes(torch.zeros(0, 4), size), "labels": torch.zeros(0, dtype=torch.int64)}
    evaluated, _ = eval_transform(SMALL)(tensor, target)
    assert prepare_image(Image.fromarray(pixels), 128).equal(evaluated)


def test_prediction_sees_photos_upright_and_of_any_mode():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("L", (64, 32))
    image.info["exif"] = exif.tobytes()
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    assert prepare_image(Image.open(buffer), 32).shape == (3, 53, 26)
    assert prepare_image(Image.new("RGBA", (64, 64)), 32).shape == (3, 32, 32)


def test_the_smallest_training_size_works():
    image, _ = train_transform(Resolution.around(16))(*sample())
    assert min(image.shape) >= 1
