import numpy as np
import pytest
import torch
from toy_data import CATEGORIES, annotation, write_coco

from ddetr import build_model
from ddetr.data import CocoDetection, Resolution, collate, eval_transform
from ddetr.engine import TINY_RECIPE, TrainOptions, detect, evaluate, train
from ddetr.engine.evaluate import same_size_batches

SIZES = [(96, 64), (64, 96), (96, 64), (80, 80), (96, 64), (64, 96), (96, 64)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Seven pictures of three sizes, each with a square."""
    images, annotations, pictures = [], [], {}
    for i, (w, h) in enumerate(SIZES):
        x, y, category = 5 + 3 * i, 8 + 2 * i, CATEGORIES[i % 3]["id"]
        pictures[f"{i}.png"] = np.full((h, w, 3), 128, np.uint8)
        pictures[f"{i}.png"][y : y + 30, x : x + 30, i % 3] = 250
        images.append({"id": i, "file_name": f"{i}.png", "width": w, "height": h})
        annotations.append(annotation(i + 1, i, category, [x, y, 30, 30]))
    contents = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    files = write_coco(tmp_path_factory.mktemp("mixed"), contents, pictures)
    return CocoDetection(*files, eval_transform(Resolution.around(64)))


@pytest.fixture(scope="module")
def trained(mixed, tmp_path_factory):
    torch.manual_seed(1)
    model = build_model("tiny_two_stage", num_classes=3, dropout=0.0, encoder_layers=1, decoder_layers=2)
    options = TrainOptions(epochs=15, batch_size=2, recipe=TINY_RECIPE)
    train(model, mixed, options, tmp_path_factory.mktemp("run"), progress=False)
    return model.eval()


def test_batches_hold_images_of_one_size(mixed):
    assert same_size_batches(mixed, 3) == [[0, 2, 4], [6], [1, 5], [3]]
    del mixed.coco.imgs[4]["width"]
    try:
        assert same_size_batches(mixed, 8) == [[0, 2, 6], [1, 5], [3], [4]]
    finally:
        mixed.coco.imgs[4]["width"] = 96


@pytest.mark.parametrize("workers", [0, 2])
def test_the_batch_size_changes_nothing_but_rounding(mixed, trained, workers):
    one = evaluate(trained, mixed, batch_size=1, progress=False)
    three = evaluate(trained, mixed, batch_size=3, workers=workers, progress=False)
    assert one.image_ids == three.image_ids == list(range(7))
    assert one.metrics["AP50"] > 0
    assert three.metrics == pytest.approx(one.metrics, abs=1e-3)
    assert [r["image_id"] for r in one.results] == [r["image_id"] for r in three.results]
    scores = [torch.tensor([r["score"] for r in evaluation.results]) for evaluation in (one, three)]
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-5)


def test_pictures_whose_size_changes_on_the_way_share_no_batch(mixed, trained):
    class Turned(CocoDetection):
        """Every other picture lies on its side, as a turned photo may."""

        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            return (image.transpose(1, 2) if index % 4 == 0 else image), target

    turned = Turned(mixed.image_dir, mixed.annotation_file, mixed.transform)
    assert len({turned[index][0].shape for index in same_size_batches(turned, 3)[0]}) == 2
    scores = [
        torch.tensor([r["score"] for r in evaluate(trained, turned, batch_size=size, progress=False).results])
        for size in (1, 3)
    ]
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-5)


def test_padding_would_change_the_scores(mixed, trained):
    """Which is why `evaluate` does not pad: convolutions and GroupNorm see the padding, in both references too."""
    images, targets = collate([mixed[0], mixed[1]])
    sizes = [target["orig_size"] for target in targets]
    with torch.inference_mode():
        padded = detect(trained, images, sizes, ["a", "b"])
        alone = [detect(trained, [image], [size], ["c"])[0] for image, size in zip(images, sizes, strict=True)]
    difference = max(float((a["scores"] - b["scores"]).abs().max()) for a, b in zip(padded, alone, strict=True))
    print(f"\nlargest difference of a score by padding 64 x 96 to 96 x 96: {difference:.3f}", end=" ")
    assert difference > 1e-3
