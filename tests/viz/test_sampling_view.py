import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("matplotlib")

from ddetr import PRESETS, build_model
from ddetr.data import denormalize_image
from ddetr.ops import sampling_locations
from ddetr.viz.sampling import Attention, SamplingView, cell_of, corners, points_of, reference, to_pixels, token_at
from ddetr.viz.sampling_view import ON_IMAGE, ON_PADDING, OUTSIDE, describe

LEVELS = [(4, 6), (2, 3)]


def foreign(N=5, M=2, P=3, reference_size=2, seed=0, **fields):
    """The tensors of somebody else's deformable attention, on a 32 x 48 image."""
    draw = torch.Generator().manual_seed(seed)
    layer = Attention(
        torch.rand(N, 2, reference_size, generator=draw),
        torch.rand(N, M, 2, P, 2, generator=draw) * 1.4 - 0.2,
        torch.rand(N, M, 2 * P, generator=draw).softmax(-1).unflatten(-1, (2, P)),
    )
    fields = {"image": np.zeros((32, 48, 3), np.uint8), "level_sizes": LEVELS, "decoder": (layer,), **fields}
    return SamplingView(**fields)


@pytest.fixture
def padded(tiny):
    """A 60 x 90 image in a batch of 128 x 100, and its trace."""
    torch.manual_seed(1)
    images = [torch.randn(3, 128, 70), torch.randn(3, 60, 90), torch.randn(3, 16, 100)]
    trace = tiny.eval().trace(images)
    return SamplingView.from_trace(trace, images[1], index=1), trace, images


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_gives_a_view(preset):
    tiny = {"backbone": "resnet10", "backbone_width": 32, "backbone_norm": "group", "frozen_stages": 0}
    small = {"embed_dim": 32, "ffn_dim": 32, "num_queries": 7, "encoder_layers": 2, "decoder_layers": 3}
    body = {} if PRESETS[preset].dilation else tiny  # the dilated stage needs bottlenecks
    model = build_model(preset, **{**body, **small}).eval()
    trace = model.trace([torch.randn(3, 64, 96)])
    view = SamplingView.from_trace(trace)
    S, L = sum(h * w for h, w in trace.level_sizes), model.config.num_levels
    assert [len(view.encoder), len(view.decoder)] == [2, 3]
    assert view.encoder[1].locations.shape == (S, 8, L, 4, 2)
    assert view.decoder[2].weights.shape == (7, 8, L, 4)
    assert view.decoder[2].reference_points.shape == (7, L, 4 if model.config.box_refine else 2)
    assert view.boxes.shape == (3, 7, 4)
    assert view.scores.shape == view.labels.shape == (3, 7)
    best = view.scores[-1].argmax()
    torch.testing.assert_close(view.scores[-1, best], trace.detections[0]["scores"][0])
    torch.testing.assert_close(view.boxes[-1, best], trace.detections[0]["boxes"][0])
    assert view.labels[-1, best] == trace.detections[0]["labels"][0]


def test_points_are_those_of_the_operator(padded):
    view, trace, _ = padded
    row = token_at(view, 1, 40, 30)
    points = points_of(view, "encoder", 1, row)
    stage = "encoder.layer1"
    locations = sampling_locations(
        trace[f"{stage}.attention_reference_points"], trace[f"{stage}.sampling_offsets"], trace.level_sizes
    )[1, row]
    assert len(points.x) == 8 * 4 * 4
    for i in range(0, 128, 17):
        head, level, point = (int(field[i]) for field in (points.head, points.level, points.point))
        ratio = trace["multi_scale.valid_ratios"][1, level]
        expected = locations[head, level, point] / ratio * torch.tensor([90.0, 60.0])
        np.testing.assert_allclose([points.x[i], points.y[i]], expected, rtol=1e-5, atol=1e-3)
        assert points.weight[i] == trace[f"{stage}.attention_weights"][1, row, head, level, point]
    assert (np.diff(points.weight) >= 0).all()


def test_a_token_looks_from_the_middle_of_its_cell_and_is_found_there(padded):
    view, trace, _ = padded
    S = sum(h * w for h, w in trace.level_sizes)
    mask = trace["multi_scale.mask"][1]
    for row in range(S):
        level, i, j = cell_of(view, row)
        places = reference(view, "encoder", 0, row)
        assert places.shape == (4, 2)
        np.testing.assert_allclose(places, np.tile(places[:1], (4, 1)), rtol=1e-4)
        x, y = places[0]
        inside = x < 90 and y < 60
        assert inside == (not mask[row])
        if inside:
            assert token_at(view, level, x, y) == row
            valid_w, valid_h = view.valid_ratios[level].numpy() * trace.level_sizes[level][::-1]
            np.testing.assert_allclose([x, y], [(j + 0.5) / valid_w * 90, (i + 0.5) / valid_h * 60], rtol=1e-4)


def test_every_pixel_has_a_token_on_every_level(padded):
    view, trace, _ = padded
    mask = trace["multi_scale.mask"][1]
    for level in range(4):
        for x in (0, 45, 89.99):
            assert not mask[token_at(view, level, x, 59.99)]
    assert cell_of(view, token_at(view, 0, 100, 128)) == (0, 15, 12)
    for x, y in ((-1, 5), (101, 5), (5, 129), (float("nan"), 5)):
        with pytest.raises(ValueError, match="outside the 100 x 128 pixels"):
            token_at(view, 0, x, y)
    with pytest.raises(ValueError, match="level must be 0 to 3"):
        token_at(view, 4, 5, 5)
    with pytest.raises(ValueError, match=r"no token 9999; the levels have \d+ tokens"):
        cell_of(view, 9999)


def test_where_points_fall():
    ratios = torch.tensor([[0.5, 1.0], [2 / 3, 1.0]])
    locations = torch.tensor([[0.49, 0.5], [0.51, 0.5], [0.99, 0.5], [1.01, 0.5], [-0.01, 0.5], [0.2, 1.01]])
    layer = Attention(torch.rand(1, 2, 2), locations.expand(1, 1, 2, 6, 2), torch.full((1, 1, 2, 6), 1 / 12))
    view = foreign(decoder=(layer,), valid_ratios=ratios, padded_size=(32, 96))
    points = points_of(view, "decoder", 0, 0, levels=[0])
    assert points.where.tolist() == [ON_IMAGE, ON_PADDING, ON_PADDING, OUTSIDE, OUTSIDE, OUTSIDE]
    assert ((points.x > 48) == (points.where != ON_IMAGE))[:4].all()
    np.testing.assert_allclose(points.x[:2], [0.98 * 48, 1.02 * 48], rtol=1e-5)
    assert points_of(view, "decoder", 0, 0, levels=[1]).where.tolist()[:3] == [ON_IMAGE, ON_IMAGE, ON_PADDING]


def test_corners_are_what_grid_sample_reads():
    view = foreign(valid_ratios=torch.tensor([[0.5, 0.75], [1.0, 1.0]]), padded_size=(43, 96))
    value = torch.rand(1, 1, 4, 6, dtype=torch.float64)
    value[..., 3:] = value[..., 3:, :] = 0  # the padding, which reads zero
    draw = torch.Generator().manual_seed(0)
    for place in torch.rand(200, 2, generator=draw, dtype=torch.float64) * 1.4 - 0.2:
        x, y = to_pixels(view, place.numpy(), 0)
        four = corners(view, 0, x, y)
        assert sum(corner.weight for corner in four) == pytest.approx(1)
        read = sum(c.weight * value[0, 0, c.row, c.column] for c in four if c.where == ON_IMAGE)
        grid = (2 * place - 1)[None, None, None]
        expected = torch.nn.functional.grid_sample(value, grid, align_corners=False).item()
        assert float(read) == pytest.approx(expected, abs=1e-6)
        for corner in four:
            inside = 0 <= corner.row < 4 and 0 <= corner.column < 6
            assert (corner.where == OUTSIDE) == (not inside)
            assert (corner.where == ON_IMAGE) == (inside and corner.row < 3 and corner.column < 3)


def test_choices_of_points():
    view = foreign()
    everything = points_of(view, "decoder", 0, 3)
    some = points_of(view, "decoder", 0, 3, heads=[1], levels=[0])
    assert set(some.head) == {1}
    assert set(some.level) == {0}
    assert sorted(some.point) == [0, 1, 2]
    four = points_of(view, "decoder", 0, 3, heaviest=4)
    np.testing.assert_array_equal(four.weight, everything.weight[-4:])
    assert len(points_of(view, "decoder", 0, 3, heaviest=99).x) == 12
    assert len(points_of(view, "decoder", 0, 3, heads=[]).x) == 0
    for wrong, says in (
        ({"heads": [2]}, "head must be 0 to 1, there being 2 heads; got 2"),
        ({"levels": [-1]}, "level must be 0 to 1"),
        ({"heaviest": 0}, "heaviest must be at least 1"),
    ):
        with pytest.raises(ValueError, match=says):
            points_of(view, "decoder", 0, 3, **wrong)
    with pytest.raises(ValueError, match="row must be 0 to 4, there being 5 queries; got 5"):
        points_of(view, "decoder", 0, 5)
    with pytest.raises(ValueError, match="layer must be 0 to 0, there being 1 decoder layers; got 1"):
        points_of(view, "decoder", 1, 0)
    with pytest.raises(ValueError, match="no encoder layers"):
        points_of(view, "encoder", 0, 0)
    with pytest.raises(ValueError, match="part must be one of encoder, decoder; got 'neck'"):
        points_of(view, "neck", 0, 0)


def test_reference_boxes_are_in_pixels():
    view = foreign(reference_size=4)
    point = view.decoder[0].reference_points[2, 1].numpy()
    np.testing.assert_allclose(reference(view, "decoder", 0, 2)[1], point * [48, 32, 48, 32], rtol=1e-6)


def test_rows_in_words():
    view = foreign(
        boxes=np.zeros((1, 5, 4)), scores=np.full((1, 5), 0.25), labels=np.ones((1, 5)), names=["cat", "dog"]
    )
    assert describe(view, "decoder", 0, 3) == "query 3, decoder layer 0 (0 to 0): dog 0.25"
    assert describe(view.replace(names=None), "decoder", 0, 3).endswith("class 1 0.25")
    assert describe(foreign(), "decoder", 0, 3) == "query 3, decoder layer 0 (0 to 0)"
    tokens = foreign(N=30)
    grid = tokens.replace(encoder=tokens.decoder, decoder=())
    assert describe(grid, "encoder", 0, 25) == "token 25: level 1, row 0, column 1, encoder layer 0 (0 to 0)"
    sparse = foreign(N=7)
    assert describe(sparse.replace(encoder=sparse.decoder), "encoder", 0, 5) == "row 5, encoder layer 0 (0 to 0)"


def test_numpy_lists_and_half_precision_do_as_well():
    view = foreign()
    halves = Attention(*(field.half().requires_grad_() for field in view.decoder[0]))
    arrays = Attention(*(field.numpy() for field in view.decoder[0]))
    for layer in (halves, arrays):
        other = view.replace(decoder=[layer])
        assert other.decoder[0].weights.dtype == torch.float32
        torch.testing.assert_close(other.decoder[0].locations, view.decoder[0].locations, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"level_sizes": [(4, 6)]}, r"decoder layer 0: .* \(N, 1, 2 or 4\).*got \(5, 2, 2\), \(5, 2, 2, 3, 2\)"),
        ({"level_sizes": []}, "at least one level"),
        ({"padded_size": (16, 48)}, r"padded_size \(16, 48\) is smaller than the image, \(32, 48\)"),
        ({"valid_ratios": np.ones((3, 2))}, r"valid_ratios must be \(L, 2\) = \(2, 2\); got \(3, 2\)"),
        ({"boxes": np.zeros((5, 4))}, r"boxes must be \(layers, Q, 4\); got \(5, 4\)"),
        ({"boxes": np.zeros((1, 5, 4)), "scores": np.zeros(5)}, r"scores must be \(layers, Q\)"),
        ({"scores": np.zeros((1, 5))}, r"scores must be \(layers, Q\) as boxes are, None"),
        ({"image": np.zeros((32, 48))}, r"image must be a PIL image.*got ndarray of \(32, 48\), float64"),
        ({"image": "photo.jpg"}, "image must be a PIL image.*got str"),
        ({"size": (0, 5)}, "a size is"),
    ],
)
def test_parts_that_do_not_fit(fields, says):
    with pytest.raises(ValueError, match=says):
        foreign(**fields)


def test_layers_of_different_models():
    with pytest.raises(ValueError, match="decoder layer 1 has 4 rows, layer 0 5"):
        foreign(decoder=(foreign().decoder[0], foreign(N=4).decoder[0]))


def test_images_that_the_trace_has_seen(padded):
    view, trace, images = padded
    assert view.size == (60, 90)
    assert view.padded_size == (128, 100)
    pixels = denormalize_image(images[1]).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(view.image, pixels)
    np.testing.assert_array_equal(SamplingView.from_trace(trace, index=1).image, pixels)
    large = Image.fromarray(pixels).resize((450, 301))
    assert SamplingView.from_trace(trace, large, index=1).image.shape == (301, 450, 3)
    for image, says in (
        (images[0], r"saw an image of \(3, 60, 90\); got one of \(3, 128, 70\)"),
        (images[1] + 1, "not the pixels that the trace saw"),
        (Image.new("RGB", (90, 90)), r"90 x 60 pixels \(w x h\); a picture of 90 x 90"),
    ):
        with pytest.raises(ValueError, match=says):
            SamplingView.from_trace(trace, image, index=1)
    for index in (3, -1, True, "0"):
        with pytest.raises(ValueError, match="index must be 0 to 2"):
            SamplingView.from_trace(trace, index=index)
