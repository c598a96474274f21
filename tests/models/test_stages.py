"""Each stage called alone, against its definition."""

import math

import pytest
import torch

from ddetr import build_model
from ddetr.models.deform_attention import MSDeformAttn
from ddetr.models.heads import decode_box, inverse_sigmoid
from ddetr.models.image_batch import pad_images
from ddetr.models.multi_scale import get_valid_ratio, level_mask
from ddetr.models.outputs import postprocess
from ddetr.models.position_encoding import encode_coordinate, sine_position_encoding
from ddetr.models.reference_points import decoder_reference_points, encoder_reference_points
from ddetr.models.two_stage import token_proposals


def test_the_sizes_of_the_480_by_546_walk_through():
    model = build_model("r50").eval()
    batch = pad_images([torch.zeros(3, 480, 546)])
    with torch.no_grad():
        features = model.backbone(batch.images)
        tokens = model.flatten(model.neck(features), batch.mask)
    assert [tuple(f.shape) for f in features] == [(1, 512, 60, 69), (1, 1024, 30, 35), (1, 2048, 15, 18)]
    assert tokens.level_sizes == [(60, 69), (30, 35), (15, 18), (8, 9)]
    assert tokens.tokens.shape == (1, 5532, 256)
    assert tokens.level_start_index.tolist() == [0, 4140, 5190, 5460]
    assert tokens.spatial_shapes.tolist() == [list(size) for size in tokens.level_sizes]


def test_padding_is_at_the_right_and_bottom():
    batch = pad_images([torch.ones(3, 4, 6), torch.ones(3, 8, 3)])
    assert batch.images.shape == (2, 3, 8, 6)
    assert batch.mask[0].sum() == 4 * 6
    assert not batch.mask[0, :4, :6].any()
    assert not batch.mask[1, :, :3].any()
    assert batch.mask[1, :, 3:].all()
    assert (batch.images.sum(1) == 0).equal(batch.mask)


def test_an_unpadded_batch_has_a_mask_only_if_asked_for():
    images = [torch.ones(3, 4, 6)] * 2
    assert not pad_images(images).mask.any()
    assert pad_images(images, mask_unpadded=False).mask is None


def test_valid_ratio_is_width_then_height():
    mask = torch.ones(1, 4, 10, dtype=torch.bool)
    mask[:, :3, :5] = False
    assert get_valid_ratio(mask).tolist() == [[0.5, 0.75]]
    assert level_mask(mask, (2, 5)).tolist() == [[[False, False, False, True, True], [False, False, False, True, True]]]


def test_position_encoding_of_one_cell_by_hand():
    mask = torch.zeros(1, 3, 5, dtype=torch.bool)
    encoding = sine_position_encoding(mask, 256)
    y, x = (2 - 0.5) / (3 + 1e-6) * 2 * math.pi, (4 - 0.5) / (5 + 1e-6) * 2 * math.pi  # row 1, column 3
    for channel in (0, 1, 6, 7, 126):
        period = 10000 ** (2 * (channel // 2) / 128)
        wave = math.sin if channel % 2 == 0 else math.cos
        assert encoding[0, channel, 1, 3].item() == pytest.approx(wave(y / period), abs=1e-5)
        assert encoding[0, 128 + channel, 1, 3].item() == pytest.approx(wave(x / period), abs=1e-5)


def test_position_encoding_spans_the_valid_part_only():
    mask = torch.zeros(1, 4, 8, dtype=torch.bool)
    mask[:, :, 4:] = True
    alone = sine_position_encoding(torch.zeros(1, 4, 4, dtype=torch.bool), 64)
    torch.testing.assert_close(sine_position_encoding(mask, 64)[..., :4], alone)


def test_encode_coordinate_alternates_sine_and_cosine():
    encoded = encode_coordinate(torch.tensor([0.0, 0.25]), 8)
    assert encoded[0].tolist() == [0, 1] * 4
    assert encoded[1, :2].tolist() == pytest.approx([1, 0], abs=1e-6)


def test_encoder_reference_points_are_cell_centres_and_agree_across_levels():
    points = encoder_reference_points([(4, 5), (2, 2)], torch.ones(1, 2, 2))
    assert points.shape == (1, 24, 2, 2)
    torch.testing.assert_close(points[0, 0, 0], torch.tensor([0.1, 0.125]))
    torch.testing.assert_close(points[0, 1, 1], torch.tensor([0.3, 0.125]))  # along the row first
    torch.testing.assert_close(points[0, 23, 0], torch.tensor([0.75, 0.75]))


def test_encoder_reference_points_divide_by_their_own_ratio_and_multiply_by_the_other():
    ratios = torch.tensor([[[0.5, 1.0], [0.6, 1.0]]])
    points = encoder_reference_points([(2, 10), (1, 5)], ratios)
    x = (2 + 0.5) / 10 / 0.5
    torch.testing.assert_close(points[0, 2, :, 0], torch.tensor([x * 0.5, x * 0.6]))


def test_decoder_reference_points_scale_boxes_by_width_and_height():
    box = torch.tensor([[[0.5, 0.4, 0.2, 0.1]]])
    ratios = torch.tensor([[[0.5, 0.8]]])
    wanted = torch.tensor([0.25, 0.32, 0.1, 0.08])
    torch.testing.assert_close(decoder_reference_points(box, ratios)[0, 0, 0], wanted)
    torch.testing.assert_close(decoder_reference_points(box[..., :2], ratios)[0, 0, 0], wanted[:2])


def test_attention_points_and_forward_agree():
    attention = MSDeformAttn(32, num_levels=2, num_heads=4, num_points=3)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    sizes, tokens, query = [(4, 5), (2, 3)], torch.randn(2, 26, 32), torch.randn(2, 7, 32)
    mask = torch.rand(2, 26) < 0.2
    for reference in (torch.rand(2, 7, 2, 2), torch.rand(2, 7, 2, 4)):
        points = attention.sampling_points(query, reference, sizes)
        assert points.locations.shape == (2, 7, 4, 2, 3, 2)
        torch.testing.assert_close(points.weights.sum((-1, -2)), torch.ones(2, 7, 4))
        from ddetr.ops import ms_deform_attn

        value = attention.project_value(tokens, mask)
        assert (value[mask] == 0).all()
        out = ms_deform_attn(value, sizes, None, points.locations, points.weights, backend="loop")
        torch.testing.assert_close(attention(query, reference, tokens, sizes, mask), attention.output_proj(out))


def test_attention_with_indivisible_heads_is_refused():
    with pytest.raises(ValueError, match="30 channels cannot be shared out to 4 heads"):
        MSDeformAttn(30, 4, 4, 4)


def test_inverse_sigmoid_stays_finite_at_the_borders():
    x = torch.tensor([-1.0, 0.0, 0.3, 1.0, 2.0])
    limit = math.log((1 - 1e-5) / 1e-5)
    assert inverse_sigmoid(x).tolist() == pytest.approx([-limit, -limit, math.log(3 / 7), limit, limit], abs=0.02)


def test_decode_box_corrects_a_point_or_a_box():
    delta = torch.tensor([[[0.5, -0.5, -2.0, 1.0]]])
    point = decode_box(delta, torch.tensor([[[0.5, 0.5]]]))
    torch.testing.assert_close(point, delta.sigmoid())
    reference = torch.tensor([[[0.2, 0.4, 0.3, 0.1]]])
    torch.testing.assert_close(decode_box(torch.zeros(1, 1, 4), reference), reference)


def test_proposals_grow_with_the_level_and_know_the_padding():
    mask = torch.zeros(1, 4 * 8 + 2 * 4, dtype=torch.bool)
    mask[:, :32].view(1, 4, 8)[:, :, 4:] = True
    mask[:, 32:].view(1, 2, 4)[:, :, 2:] = True
    proposals, valid = token_proposals(mask, [(4, 8), (2, 4)], 1)
    assert proposals[0, 0].tolist() == pytest.approx([0.5 / 4, 0.5 / 4, 0.05, 0.05])
    assert proposals[0, 32].tolist() == pytest.approx([0.5 / 2, 0.5 / 2, 0.1, 0.1])
    assert valid[0].equal(~mask[0])


def test_proposals_too_near_the_border_are_invalid():
    _, valid = token_proposals(None, [(1, 200)], 1)  # the first centre is at 0.0025
    assert valid[0].tolist() == [False] * 2 + [True] * 196 + [False] * 2


def test_postprocess_takes_the_best_pairs_and_scales_to_pixels():
    logits = torch.tensor([[[0.0, 3.0], [2.0, -1.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.9, 0.5, 0.4, 0.4]]])
    found = postprocess(logits, boxes, [(100, 200)], max_detections=3)[0]
    assert found["labels"].tolist() == [1, 0, 0]
    torch.testing.assert_close(found["scores"], torch.tensor([3.0, 2.0, 0.0]).sigmoid())
    torch.testing.assert_close(found["boxes"][0], torch.tensor([80.0, 30.0, 120.0, 70.0]))
    assert found["boxes"][1, 2] == 220
    clipped = postprocess(logits, boxes, [(100, 200)], max_detections=3, clip_boxes=True)[0]
    assert clipped["boxes"][1, 2] == 200
