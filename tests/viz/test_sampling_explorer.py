import base64
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("matplotlib")
pytest.importorskip("anywidget")

from test_sampling_view import foreign

import ddetr.viz
from ddetr.viz.sampling import points_of, token_at
from ddetr.viz.sampling_explorer import SamplingExplorer
from ddetr.viz.sampling_pack import layer_bytes, pack_layer


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (120, 180, 3), np.uint8))


@pytest.fixture
def explorer(tiny, picture):
    return SamplingExplorer(tiny.eval(), picture)


def answers(explorer, *messages):
    """What the kernel sends when the front end asks; nothing may be raised."""
    sent = []
    explorer.send = lambda message, buffers=(): sent.append((message, list(buffers)))
    for message in messages:
        explorer._handle_custom_msg(message, [])
    return sent


def page_data(path):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())[1])


def test_one_line_opens_it(tiny, picture):
    explorer = ddetr.viz.SamplingExplorer(tiny.eval(), picture)
    view = explorer.view
    assert view.size == (160, 240)
    assert view.image.shape == (120, 180, 3)
    assert (explorer.part, explorer.layer) == ("encoder", 0)
    assert explorer.token == token_at(view, 0, 120, 80)
    assert explorer.query == view.scores[-1].argmax()
    assert explorer.heads == list(range(8))
    assert explorer.levels == [0, 1, 2, 3]


def test_prepared_tensors_arrays_and_traces_do_as_well(tiny, picture):
    tiny.eval()
    image = torch.randn(3, 60, 90)
    assert SamplingExplorer(tiny, image, part="decoder", layer=2).view.size == (60, 90)
    assert SamplingExplorer(tiny, np.asarray(picture)).view.size == (160, 240)
    trace = tiny.trace([torch.randn(3, 128, 70), image])
    explorer = SamplingExplorer.from_trace(trace, image, index=1, names=["a", "b", "c"], layer=1)
    assert (explorer.view.padded_size, explorer.layer) == ((128, 90), 1)
    assert explorer.view.names == ["a", "b", "c"]


def test_any_deformable_attention(tmp_path):
    explorer = SamplingExplorer(view=foreign(reference_size=4))
    assert (explorer.part, explorer.query, explorer.token) == ("decoder", 0, 0)
    assert explorer.heads == [0, 1]
    explorer.figure()
    assert page_data(explorer.to_html(tmp_path / "a.html"))["scene"]["boxes"] is None
    with pytest.raises(ValueError, match="part must be one of decoder; got 'encoder'"):
        explorer.part = "encoder"
    tokens = foreign(N=30).decoder
    explorer = SamplingExplorer(view=foreign(encoder=tokens, decoder=()))
    assert (explorer.part, explorer.token) == ("encoder", token_at(explorer.view, 0, 24, 16))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("layer", 2, "layer must be 0 to 1, there being 2 encoder layers; got 2"),
        ("layer", -1, "layer must be 0 to 1"),
        ("part", "neck", "part must be one of encoder, decoder; got 'neck'"),
        ("token", 99999, r"token must be 0 to \d+, there being \d+ tokens; got 99999"),
        ("query", 50, "query must be 0 to 49, there being 50 queries; got 50"),
        ("heads", [0, 8], "head must be 0 to 7, there being 8 heads; got 8"),
        ("levels", [4], "level must be 0 to 3, there being 4 levels; got 4"),
        ("heaviest", 0, "heaviest must be at least 1, or None for all points; got 0"),
        ("point", [0, 0], r"point must be \[head, level, point\] or None; got \[0, 0\]"),
        ("point", [0, 0, 4], "point must be 0 to 3, there being 4 points; got 4"),
        ("threshold", 1.5, r"threshold must be in \[0, 1\]; got 1.5"),
    ],
)
def test_choices_that_do_not_exist(explorer, tiny, picture, name, value, says):
    before = getattr(explorer, name)
    with pytest.raises(ValueError, match=says):
        setattr(explorer, name, value)
    assert getattr(explorer, name) == before
    with pytest.raises(ValueError, match=says):
        SamplingExplorer(tiny, picture, **{name: value})


def test_a_part_with_fewer_layers_takes_its_last(explorer):
    explorer.part = "decoder"
    explorer.layer = 2
    explorer.part = "encoder"
    assert explorer.layer == 1
    with pytest.raises(ValueError, match="there being 2 encoder layers"):
        explorer.layer = 2


def test_models_and_images_that_do_not_fit(tiny, picture):
    tiny.train()
    with pytest.raises(ValueError, match=r"training mode.*call model.eval\(\) first"):
        SamplingExplorer(tiny, picture)
    tiny.eval()
    for arguments, says in (
        ((), "give a model and an image, or view="),
        ((tiny,), "give a model and an image"),
        ((torch.nn.Linear(1, 1), picture), r"Linear has no trace\(\).*SamplingView"),
    ):
        with pytest.raises(ValueError, match=says):
            SamplingExplorer(*arguments)
    with pytest.raises(ValueError, match="not both"):
        SamplingExplorer(tiny, picture, view=foreign())
    with pytest.raises(ValueError, match="no choice 'layers'; did you mean 'layer'"):
        SamplingExplorer(tiny, picture, layers=1)
    with pytest.raises(ValueError, match="no layers"):
        SamplingExplorer(view=foreign(decoder=()))
    trace = tiny.trace([torch.randn(3, 60, 90)])
    with pytest.raises(ValueError, match="the trace saw an image"):
        SamplingExplorer.from_trace(trace, picture.crop((0, 0, 100, 100)))


def test_the_figure_is_the_same_state(explorer):
    explorer.part, explorer.layer, explorer.query = "decoder", 1, 7
    explorer.heads, explorer.levels, explorer.heaviest = [2, 5], [0, 1], 6
    explorer.grid, explorer.lines = True, True
    points = points_of(explorer.view, "decoder", 1, 7, heads=[2, 5], levels=[0, 1], heaviest=6)
    explorer.point = [int(points.head[2]), int(points.level[2]), int(points.point[2])]
    figure = explorer.figure()
    drawn = np.concatenate([group.get_offsets() for group in figure.axes[0].collections if len(group.get_offsets())])
    for x, y in zip(points.x, points.y, strict=True):
        assert np.isclose(drawn, [x, y], rtol=1e-5).all(1).any()
    assert "query 7, decoder layer 1" in figure.alt
    assert "6 points of" in figure.alt
    head, level, point = explorer.point
    corner = figure.axes[0].child_axes[0]
    assert corner.get_title() == f"head {head}, level {level}, point {point}"
    shares = [float(text.get_text().split("\n")[0]) for text in corner.texts]
    assert sum(shares) == pytest.approx(1, abs=0.03)


def test_where_there_are_no_widgets_a_picture_and_a_sentence_are_shown(explorer):
    data, metadata = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["image/png"].startswith(b"\x89PNG")
    assert data["text/plain"].startswith("SamplingExplorer: token ")
    assert metadata["image/png"]["alt"] == explorer.figure().alt


def test_the_front_end_gets_the_scene_and_each_layer_when_it_asks(explorer):
    asks = [{"type": "scene"}, {"type": "layer", "part": "decoder", "layer": 1}]
    (scene, (picture,)), (header, (layer,)) = answers(explorer, *asks)
    assert scene["type"] == "scene"
    assert json.loads(json.dumps(scene)) is not None
    assert picture.startswith(b"\x89PNG")
    expected, data = pack_layer(explorer.view, "decoder", 1)
    assert header == {"type": "layer", **expected}
    assert layer == data
    assert explorer.bytes_sent == len(picture) + len(data)
    assert explorer.sizes()["decoder layer 1"] == len(data) == 50 * 776
    assert set(explorer.sizes()) == {"picture", *(f"encoder layer {n}" for n in range(2)), *(
        f"decoder layer {n}" for n in range(3))}  # fmt: skip


def test_a_layer_that_does_not_exist_is_answered_with_a_sentence(explorer):
    asks = [{"type": "layer", "part": "decoder", "layer": 9}, {"type": "layer"}, {"type": "?"}]
    first, second = answers(explorer, *asks)
    assert first == ({"type": "error", "message": "layer must be 0 to 2, there being 3 decoder layers; got 9"}, [])
    assert second[0]["message"].startswith("part must be one of")


def test_nothing_heavy_is_part_of_the_saved_state(explorer):
    """A notebook that is saved with its widgets keeps the choices and the module, not the layers."""
    assert len(json.dumps(explorer.get_state(), default=str)) < 80_000
    explorer._repr_mimebundle_()
    assert base64.b64decode(explorer._still).startswith(b"\xff\xd8")  # a JPEG, for the notebook that is opened later
    assert len(json.dumps(explorer.get_state(), default=str)) < 160_000


def test_the_page_needs_nothing(explorer, tmp_path):
    explorer.layer = 1
    path = explorer.to_html(tmp_path / "explorer.html")
    text = path.read_text()
    before = text.split('id="data"')[0]
    assert not re.search(r"(src|href)\s*=|@import|url\(", before)
    assert not re.search(r"https?://|fetch\(|XMLHttpRequest|WebSocket|EventSource", text)
    data = page_data(path)
    assert data["choices"]["layer"] == 1
    assert [(layer["header"]["part"], layer["header"]["layer"]) for layer in data["layers"]] == [
        ("encoder", 1), ("decoder", 0), ("decoder", 1), ("decoder", 2), ("encoder", 0),
    ]  # fmt: skip


def test_a_page_with_a_limit_leaves_out_layers_and_says_so(explorer, tmp_path):
    size = layer_bytes(explorer.view, "encoder", 0)
    limit = (4 / 3 * (size + 3 * 50 * 776 + explorer.sizes()["picture"]) + 100) / 1e6
    data = page_data(explorer.to_html(tmp_path / "a.html", limit_mb=limit))
    assert data["scene"]["parts"]["encoder"] == [size, None]
    assert "Left out of this page" in data["scene"]["notes"][0]
    assert data["scene"]["notes"][0].endswith("encoder layer 1.")
    with pytest.raises(ValueError, match=r"limit_mb is too small: encoder layer 0 alone takes \d\.\d MB"):
        explorer.to_html(tmp_path / "b.html", limit_mb=0.1)
    assert not (tmp_path / "b.html").exists()


def test_names_cannot_leave_the_page_s_data(tiny, tmp_path):
    names = ["</script><img src=x onerror=alert(1)>", "<!--<script>", "&lt;b&gt;"]
    trace = tiny.eval().trace([torch.randn(3, 60, 90)])
    path = SamplingExplorer.from_trace(trace, names=names).to_html(tmp_path / "a.html")
    assert page_data(path)["scene"]["names"] == names
    assert "<img" not in path.read_text()
    assert path.read_text().count("</script>") == 2
