"""Shared fixtures, and how the tests share out a machine's cores."""

import os
from pathlib import Path

import pytest
import torch

from ddetr import build_model
from ddetr.ops import native

PHOTOS = Path(__file__).parents[2] / "shared" / "coco_photos"


def pytest_configure():
    # Workers that each use every core spend their time waiting for one another.
    if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        threads = max(1, os.cpu_count() // int(workers))
        os.environ["OMP_NUM_THREADS"] = str(threads)  # for the processes that tests start
        torch.set_num_threads(threads)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """A file's tests run in one worker, which makes its fixtures once; the browser's too; the pages are shared out."""
    for item in items:
        if item.path.name != "test_pages.py":
            group = item.path.parent.name if item.path.parent.name == "browser" else str(item.path)
            item.add_marker(pytest.mark.xdist_group(group))


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
def cache(tmp_path, monkeypatch):
    """An empty cache of its own for the test; what this process has loaded already stays loaded."""
    monkeypatch.setenv("DDETR_CACHE", str(tmp_path / "cache"))
    native.unavailable.cache_clear()
    yield tmp_path / "cache" / "ops"
    native.unavailable.cache_clear()


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
