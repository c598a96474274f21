import io

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("matplotlib")

from test_sampling_view import foreign

from ddetr.viz.sampling import Attention, SamplingView
from ddetr.viz.sampling_pack import image_type, layer_bytes, pack_layer, pack_scene, query_order


def unpack(header, data):
    """As the front end reads it: reference points, places and weights."""
    N, M, L, P = (header[name] for name in ("rows", "heads", "levels", "points"))
    R, dims = header["references"], header["dims"]
    split = np.cumsum([4 * N * R * dims, 4 * N * M * L * P])
    parts = data[: split[0]], data[split[0] : split[1]], data[split[1] :]
    places = np.frombuffer(parts[1], "<i2").reshape(N, M, L, P, 2) * np.array(header["step"])[:, None, None] + 0.5
    weights = np.frombuffer(parts[2], "<u2").reshape(N, M, L, P) * header["weightStep"]
    return np.frombuffer(parts[0], "<f4").reshape(N, R, dims), places, weights


def test_places_weights_and_references_survive():
    ratios = torch.tensor([[0.5, 1.0], [2 / 3, 0.75]])
    view = foreign(N=40, reference_size=4, valid_ratios=ratios, padded_size=(43, 96))
    layer = view.decoder[0]
    header, data = pack_layer(view, "decoder", 0)
    assert len(data) == layer_bytes(view, "decoder", 0) == 40 * (6 * 12 + 4 * 2 * 4)
    references, places, weights = unpack(header, data)
    expected = layer.locations.numpy() / ratios.numpy()[:, None]
    error = np.abs(places - expected).max((0, 1, 3, 4))
    assert (error <= 0.51 * np.array(header["step"])).all()
    assert np.abs(weights - layer.weights.numpy()).max() <= 0.51 * header["weightStep"] <= 1 / 65535
    np.testing.assert_allclose(references, layer.reference_points / ratios.repeat(1, 2), rtol=1e-6)


def test_a_wide_image_is_placed_to_a_fraction_of_a_pixel():
    """The rounding is by level, so that a coarse level's far points do not blur a fine level's."""
    locations = torch.rand(9, 8, 2, 4, 2)
    locations[..., 0, :, :] *= 1.2
    locations[0, 0, 1] = 8.0
    layer = Attention(torch.rand(9, 1, 2).expand(9, 2, 2), locations, torch.rand(9, 8, 2, 4))
    view = SamplingView(np.zeros((800, 1333, 3), np.uint8), [(100, 167), (13, 21)], decoder=(layer,))
    header, data = pack_layer(view, "decoder", 0)
    references, places, _ = unpack(header, data)
    assert references.shape == (9, 1, 2)  # all levels look from one place
    error = np.abs(places - locations.numpy()).max((0, 1, 3, 4)) * 1333
    assert error[0] < 0.02
    assert error[1] < 0.2


def test_a_trace_is_packed(tiny):
    trace = tiny.eval().trace([torch.randn(3, 60, 90), torch.randn(3, 128, 70)])
    view = SamplingView.from_trace(trace, names=["a", "b", "c"])
    scene, picture = pack_scene(view)
    S = sum(h * w for h, w in trace.level_sizes)
    assert scene["parts"]["encoder"] == [S * 776] * 2
    assert scene["parts"]["decoder"] == [50 * 776] * 3
    assert (scene["size"], scene["padded"]) == ((60, 90), (128, 90))
    assert scene["rows"] == {"encoder": S, "decoder": 50}
    assert scene["order"][0] == view.scores[-1].argmax()
    np.testing.assert_allclose(scene["boxes"], view.boxes, atol=0.006)
    with Image.open(io.BytesIO(picture)) as image:
        np.testing.assert_array_equal(np.asarray(image), view.image)


def test_a_view_without_predictions():
    scene, _ = pack_scene(foreign())
    assert scene["boxes"] is scene["scores"] is scene["labels"] is scene["names"] is None
    assert scene["parts"]["encoder"] == []
    assert scene["order"] == query_order(foreign()) == [0, 1, 2, 3, 4]


def test_a_large_picture_is_shown_smaller_and_says_so():
    scene, picture = pack_scene(foreign(image=np.zeros((2000, 3000, 3), np.uint8), size=(32, 48)))
    with Image.open(io.BytesIO(picture)) as image:
        assert image.size == (1600, 1067)
    assert image_type(picture) == "image/jpeg"
    assert scene["notes"] == ["The picture of 3000 x 2000 pixels is shown at 1600 x 1067."]
    assert scene["size"] == (32, 48)
    scene, picture = pack_scene(foreign())
    assert scene["notes"] == []
    assert image_type(picture) == "image/png"


def test_a_layer_of_many_bytes_says_so(monkeypatch):
    monkeypatch.setattr("ddetr.viz.sampling_pack.layer_bytes", lambda *_: 192_000_000)
    scene, _ = pack_scene(foreign())
    assert scene["notes"] == ["A layer takes 192 MB on its way here: a smaller image answers faster."]


@pytest.mark.parametrize("field", ["locations", "weights", "reference_points"])
def test_numbers_that_are_not_finite(field):
    view = foreign()
    values = getattr(view.decoder[0], field).clone()
    values.view(-1)[3] = float("nan")
    broken = view.replace(decoder=(view.decoder[0]._replace(**{field: values}),))
    with pytest.raises(ValueError, match="decoder layer 0 has numbers that are not finite"):
        pack_layer(broken, "decoder", 0)
