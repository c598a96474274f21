"""What the model gives goes into other libraries in one call each, as README shows."""

import numpy as np
import pytest
import torch
from torchvision.utils import draw_bounding_boxes

from ddetr import build_model

CLASSES = ["cat", "dog", "person"]


@pytest.fixture(scope="module")
def found():
    torch.manual_seed(0)
    model = build_model("tiny", num_classes=3, num_queries=7, max_detections=5).eval()
    with torch.no_grad():
        return model([torch.randn(3, 64, 80)])[0]


def test_pandas(found):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(found["boxes"].cpu().numpy(), columns=["x1", "y1", "x2", "y2"]).assign(
        score=found["scores"].cpu().numpy(), label=found["labels"].cpu().numpy()
    )
    assert frame[["x1", "y1", "x2", "y2"]].to_numpy() == pytest.approx(found["boxes"].numpy())
    assert frame["score"].tolist() == found["scores"].tolist()
    assert frame["label"].tolist() == found["labels"].tolist()
    assert frame["label"].dtype == np.int64


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_supervision(found):
    supervision = pytest.importorskip("supervision")
    detections = supervision.Detections.from_transformers(found)
    same = supervision.Detections(
        xyxy=found["boxes"].numpy(), confidence=found["scores"].numpy(), class_id=found["labels"].numpy()
    )
    assert detections == same
    assert len(detections) == 5
    assert detections.xyxy == pytest.approx(found["boxes"].numpy())
    assert detections.confidence.tolist() == found["scores"].tolist()
    assert detections.class_id.tolist() == found["labels"].tolist()
    nothing = {name: values[:0] for name, values in found.items()}
    assert len(supervision.Detections.from_transformers(nothing)) == 0


def test_torchvision(found):
    picture = torch.zeros(3, 64, 80, dtype=torch.uint8)
    drawn = draw_bounding_boxes(picture, found["boxes"], [CLASSES[label] for label in found["labels"]], colors="white")
    assert drawn.shape == picture.shape
    assert drawn.any()
