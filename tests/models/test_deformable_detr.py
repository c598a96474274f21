import golden_values as golden
import pytest
import torch

from ddetr import PRESETS, build_model
from ddetr.models.image_batch import pad_images

ALL_PRESETS = list(PRESETS)


@pytest.mark.parametrize("preset", ALL_PRESETS)
def test_torchvision_convention(preset, target):
    model = build_model(preset, num_classes=3)
    images = [torch.randn(3, 64, 80), torch.randn(3, 50, 90)]
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = model.train()(images, [target, empty])
    sum(losses.values()).backward()
    assert all(loss.isfinite() and loss.ndim == 0 for loss in losses.values())
    without_gradient = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without_gradient == []
    with torch.no_grad():
        found = model.eval()(images)
    assert len(found) == 2
    for detections in found:
        assert detections.keys() == {"boxes", "scores", "labels"}
        assert detections["boxes"].shape == (len(detections["scores"]), 4)
        assert detections["scores"].equal(detections["scores"].sort(descending=True).values)
        assert detections["labels"].max() < 3


def test_losses_name_every_layer(tiny_two_stage, target):
    losses = tiny_two_stage([torch.randn(3, 64, 80)], [target])
    kinds = ("loss_class", "loss_bbox", "loss_giou")
    assert losses.keys() == {kind + suffix for kind in kinds for suffix in ("", "_0", "_1", "_enc")}
    without = build_model("tiny", num_classes=3, aux_loss=False)([torch.randn(3, 64, 80)], [target])
    assert without.keys() == set(kinds)


def test_images_without_objects_only(tiny_two_stage):
    empty = {"boxes": [], "labels": []}
    losses = tiny_two_stage([torch.randn(3, 64, 64)] * 2, [empty, empty])
    sum(losses.values()).backward()
    assert losses["loss_bbox"] == 0
    assert losses["loss_giou"] == 0
    assert losses["loss_class"] > 0


def test_one_tensor_is_a_batch(tiny):
    images = torch.randn(2, 3, 64, 80)
    tiny.eval()
    with torch.no_grad():
        as_tensor, as_list = tiny(images), tiny(list(images))
    assert as_tensor[1]["boxes"].equal(as_list[1]["boxes"])


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (33, 31), (64, 64), (4000, 600)])
@pytest.mark.parametrize("preset", ["tiny", "tiny_two_stage"])
def test_images_of_any_size(preset, size):
    model = build_model(preset, num_classes=3).eval()
    with torch.no_grad():
        found = model([torch.randn(3, *size)])[0]
        trained = model.train()([torch.randn(3, *size)], [{"boxes": [[0, 0, 1, 1]], "labels": [1]}])
    assert found["boxes"].isfinite().all()
    assert sum(trained.values()).isfinite()


def test_a_small_image_gives_as_many_proposals_as_it_has_tokens():
    model = build_model("r50_two_stage", num_classes=3).eval()
    with torch.no_grad():
        output = model.forward_raw([torch.randn(3, 64, 64)])
    assert output.memory.shape[1] == 8 * 8 + 4 * 4 + 2 * 2 + 1
    assert output.pred_logits.shape == (1, 85, 3)


@pytest.mark.parametrize("variant", ["base", "two_stage"])
def test_transformer_does_not_see_the_padding(variant):
    """On given feature maps: an image alone and in a padded batch, to rounding."""
    model, _ = golden.golden_model("official", variant)
    model = model.eval().double()
    alone = [torch.randn(1, 256, *size, dtype=torch.float64) for size in [(8, 10), (4, 5), (2, 3), (1, 2)]]
    padded = [torch.randn(1, 256, h + 8 // 2**i, w + 8 // 2**i, dtype=torch.float64) for i, (h, w) in
              enumerate([(8, 10), (4, 5), (2, 3), (1, 2)])]  # fmt: skip
    for whole, part in zip(padded, alone, strict=True):
        whole[:, :, : part.shape[2], : part.shape[3]] = part
    mask = torch.ones(1, 128, 144, dtype=torch.bool)
    mask[:, :64, :80] = False
    outputs, queries = [], None
    with torch.no_grad():
        for maps, padding in ((alone, mask[:, :64, :80]), (padded, mask)):
            tokens = model.flatten(maps, padding)
            memory = model.encoder(tokens)
            proposed = model.pre_decoder(memory, tokens)
            # In two-stage there are more proposals where there are more tokens: both decode the same ones.
            queries = queries or proposed
            output = model.predict(model.decoder(queries, memory, tokens, model.heads), queries, memory)
            of_tokens = [memory, proposed.enc_logits, proposed.enc_boxes][: 3 if variant == "two_stage" else 1]
            image = slice(None) if tokens.mask is None else ~tokens.mask[0]
            outputs.append([*(t[:, image] for t in of_tokens), output.pred_logits, output.pred_boxes])
    # Rounding of valid_ratios in float32 is all that differs: 2e-7 of the largest.
    for before, after in zip(*outputs, strict=True):
        assert (before - after).abs().max() < 2e-6 * before.abs().max()


def test_whole_model_across_padding_differs_only_by_what_the_convolutions_see():
    """Through ResNet and GroupNorm, which do see the padding, as in both references (whose numbers these are)."""
    model, _ = golden.golden_model("official", "base")
    model.eval()
    images, _ = golden.inputs("official")
    with torch.no_grad():
        alone = model.forward_raw(images[:1])
        beside_smaller = model.forward_raw(images)  # the first image is the larger: it is not padded
        beside_larger = model.forward_raw([images[0], torch.randn(3, 128, 168)])
    largest = alone.pred_logits.abs().max()
    assert (beside_smaller.pred_logits[0] - alone.pred_logits[0]).abs().max() < 1e-5 * largest
    difference = (beside_larger.pred_logits[0] - alone.pred_logits[0]).abs() / largest
    print(f"\npadded by 8 px, of the largest logit: mean {difference.mean():.1e}, max {difference.max():.1e}", end=" ")
    assert 0 < difference.mean() < 0.03


def test_the_mask_switch_does_not_change_the_numbers():
    with_mask = build_model("tiny_two_stage", num_classes=3).eval()
    without = build_model("tiny_two_stage", num_classes=3, mask_unpadded=False).eval()
    without.load_state_dict(with_mask.state_dict())
    images = [torch.randn(3, 64, 80)] * 2
    with torch.no_grad():
        a, b = with_mask.forward_raw(images), without.forward_raw(images)
    torch.testing.assert_close(a.pred_logits, b.pred_logits)
    torch.testing.assert_close(a.pred_boxes, b.pred_boxes)


def test_steps_can_be_called_one_by_one(tiny_two_stage):
    model = tiny_two_stage.eval()
    images = [torch.randn(3, 64, 80), torch.randn(3, 72, 64)]
    with torch.no_grad():
        tokens = model.pre_transformer(pad_images(images))
        memory = model.encoder(tokens)
        queries = model.pre_decoder(memory, tokens)
        decoded = model.decoder(queries, memory, tokens, model.heads)
        output = model.predict(decoded, queries, memory)
        whole = model.forward_raw(images)
    assert output.pred_logits.equal(whole.pred_logits)
    assert output.pred_boxes.equal(whole.pred_boxes)


def test_references_are_detached_between_layers(tiny_two_stage):
    output = tiny_two_stage.forward_raw([torch.randn(3, 64, 80)])
    assert not any(reference.requires_grad for reference in output.reference_points)


BAD_IMAGES = [
    ([], "images is empty"),
    (torch.zeros(3, 8, 8), r"for one image, give \[image\]"),
    ([torch.zeros(8, 8)], r"images\[0\] must be \(3, H, W\), channels first; got \(8, 8\)"),
    ([torch.zeros(3, 8, 8), torch.zeros(8, 8, 3)], r"images\[1\] must be \(3, H, W\), channels first"),
    ([torch.zeros(3, 8, 8, dtype=torch.uint8)], "floating-point numbers, .* got torch.uint8"),
    ([torch.zeros(3, 8, 8), torch.full((3, 8, 8), float("nan"))], r"images\[1\] holds NaN"),
    ([torch.full((3, 8, 8), float("inf"))], r"images\[0\] holds NaN or infinite"),
    ([torch.zeros(3, 0, 8)], "no pixels"),
    (["photo.jpg"], "must be a tensor"),
    (None, "must be a list"),
]


@pytest.mark.parametrize(("images", "message"), BAD_IMAGES)
def test_bad_images_are_named(tiny, images, message):
    with pytest.raises(ValueError, match=message):
        tiny.eval()(images)


def box(*numbers):
    return {"boxes": torch.tensor([numbers]), "labels": torch.tensor([0])}


BAD_TARGETS = [
    (None, "needs targets"),
    ([], "one dict for each of the 1 images; got 0"),
    ([{"boxes": torch.zeros(0, 4)}], "'boxes' .* and 'labels'"),
    ([box(1.0, 2.0, 3.0)], r"boxes must be \(N, 4\)"),
    ([box(10.0, 10.0, 5.0, 5.0)], "has no area: boxes are"),
    ([box(10.0, 10.0, 10.0, 20.0)], "has no area"),
    ([box(float("nan"), 0.0, 5.0, 5.0)], "NaN or infinity"),
    ([box(0.1, 0.1, 0.5, 0.5)], "looks normalised"),
    ([box(70.0, 10.0, 90.0, 20.0)], "lies outside the image"),
    ([{"boxes": torch.tensor([[1.0, 1, 5, 5]]), "labels": torch.tensor([3])}], r"label 3 is outside 0\.\.2"),
    ([{"boxes": torch.tensor([[1.0, 1, 5, 5]]), "labels": torch.tensor([-1])}], "label -1 is outside"),
    ([{"boxes": torch.tensor([[1.0, 1, 5, 5]]), "labels": torch.tensor([0.5])}], "labels must be integers"),
    ([{"boxes": torch.tensor([[1.0, 1, 5, 5]]), "labels": torch.tensor([0, 1])}], "one label a box"),
    ([{"boxes": None, "labels": torch.tensor([0])}], r"targets\[0\]\['boxes'\] must be a tensor"),
    ([{"boxes": [[1.0, 1, 5, 5]], "labels": ["cat"]}], r"\['labels'\] must be a tensor"),
    ([{"boxes": [[1.0, 1, 5, 5], [1.0]], "labels": [0, 1]}], r"\['boxes'\] must be a tensor"),
    ([{"boxes": torch.tensor(3.0), "labels": torch.tensor([0])}], r"boxes must be \(N, 4\)"),
    ([{"boxes": torch.ones(1, 4, dtype=torch.complex64), "labels": torch.tensor([0])}], "real numbers"),
]


@pytest.mark.parametrize(("targets", "message"), BAD_TARGETS)
def test_bad_targets_are_named(tiny, targets, message):
    with pytest.raises(ValueError, match=message):
        tiny.train()([torch.zeros(3, 64, 64)], targets)


def test_the_image_of_a_bad_box_is_named(tiny, target):
    with pytest.raises(ValueError, match=r"targets\[1\]"):
        tiny.train()([torch.zeros(3, 64, 80)] * 2, [target, box(5.0, 5.0, 1.0, 9.0)])


def test_a_box_of_one_pixel_and_one_larger_than_the_image_are_fine(tiny):
    losses = tiny.train()([torch.zeros(3, 64, 64)] * 2, [box(0.0, 0.0, 1.0, 1.0), box(-9.0, -9.0, 99.0, 99.0)])
    assert sum(losses.values()).isfinite()


def test_a_sliver_that_a_crop_left_in_the_corner_is_fine(tiny):
    losses = tiny.train()([torch.zeros(3, 64, 64)], [box(0.0, 0.0, 0.7875, 0.8)])
    assert sum(losses.values()).isfinite()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
def test_labels_of_any_integer_type(dtype):
    model = build_model("tiny", num_classes=300)
    target = {"boxes": torch.tensor([[1.0, 1, 20, 20]]), "labels": torch.tensor([100], dtype=dtype)}
    assert sum(model([torch.zeros(3, 64, 64)], [target]).values()).isfinite()


def test_raw_pixels_are_remarked_on(tiny):
    with pytest.warns(UserWarning, match="normalize_image"):
        tiny.eval()([torch.full((3, 32, 32), 200.0)])
