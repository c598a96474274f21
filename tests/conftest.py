"""Shared fixtures."""

from pathlib import Path

import pytest
import torch

from ddetr import build_model

PHOTOS = Path(__file__).parents[2] / "shared" / "coco_photos"


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def coco_photos() -> Path:
    """Real COCO photos, which do not come with the repository."""
    if not PHOTOS.is_dir():
        pytest.skip("real COCO photos are not here: put some, in COCO's layout, into ../shared/coco_photos")
    return PHOTOS


@pytest.fixture
def tiny():
    """A fresh one-stage model for three classes."""
    return build_model("tiny", num_classes=3)


@pytest.fixture
def tiny_two_stage():
    """A fresh two-stage model for three classes."""
    return build_model("tiny_two_stage", num_classes=3)


@pytest.fixture
def target():
    """Two objects in a 64 x 80 image."""
    boxes = torch.tensor([[4.0, 6.0, 40.0, 30.0], [20.0, 10.0, 79.0, 60.0]])
    return {"boxes": boxes, "labels": torch.tensor([0, 2])}
