import numpy as np
import pytest
import torch

pytest.importorskip("ipywidgets")

from matplotlib.patches import Rectangle

from ddetr.models.deform_attention import MSDeformAttn
from ddetr.viz.attention import AttentionState, draw, read
from ddetr.viz.attention_playground import attention_playground

SIZES = [(8, 12), (4, 6), (2, 3), (1, 2)]
PICTURE = np.zeros((64, 96, 3), np.uint8)


@pytest.fixture(params=["point", "box"])
def module_and_state(request):
    """A module whose weights say something, and one query before it."""
    torch.manual_seed(0)
    module = MSDeformAttn(32, num_levels=4, num_heads=4, num_points=3).eval()
    for linear in (module.sampling_offsets, module.attention_weights):
        torch.nn.init.normal_(linear.weight, std=0.2)
    tokens, query = torch.randn(1, sum(h * w for h, w in SIZES), 32), torch.randn(1, 1, 32)
    reference = torch.tensor([0.4, 0.6] if request.param == "point" else [0.4, 0.6, 0.5, 0.3]).expand(4, -1)
    with torch.no_grad():
        offsets, logits = module.project_query(query)
        value = module.project_value(tokens)[0]
        want = module(query, reference[None, None], tokens, SIZES)
    state = AttentionState(PICTURE, value, SIZES, reference, offsets[0, 0], logits[0, 0], head=2)
    return module, state, want[0, 0]


@pytest.fixture
def state(module_and_state):
    return module_and_state[1]


def test_it_reads_what_the_module_reads(module_and_state):
    module, state, want = module_and_state
    heads = torch.cat([read(state._replace(head=head)).output for head in range(4)])
    torch.testing.assert_close(module.output_proj(heads), want)
    reading = read(state)
    assert reading.weights.sum().item() == pytest.approx(1)
    torch.testing.assert_close((reading.weights[..., None] * reading.samples).sum((0, 1)), reading.output)


def test_the_figure_shows_weights_values_and_their_sum(state):
    reading = read(state)
    figure = draw(state, before=torch.zeros(8))
    points, weights, samples, output = figure.axes
    want = (reading.locations * torch.tensor([96, 64])).flatten(0, 1)
    drawn = torch.tensor(points.collections[0].get_offsets().tolist())
    torch.testing.assert_close(drawn[drawn[:, 0].argsort()], want[want[:, 0].argsort()], rtol=1e-4, atol=1e-3)
    assert [bar.get_width() for bar in weights.patches] == pytest.approx(reading.weights.flatten().tolist())
    np.testing.assert_allclose(samples.images[0].get_array(), reading.samples.flatten(0, 1))
    bars = [bar.get_height() for bar in output.patches if isinstance(bar, Rectangle)]
    assert bars[:8] == pytest.approx(reading.output.tolist())
    length = f"{reading.output.norm():.3f}"
    assert f"Output of length {length}, {length} from the network's" in figure.alt
    assert "from the network" not in draw(state).alt
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(("change", "words"), [
    ({"head": 4}, "head must be 0 to 3; got 4"),
    ({"logits": torch.zeros(4, 4, 2)}, r"got \(4, 4, 3, 2\), \(4, 4, 2\)"),
    ({"level_sizes": SIZES[:3]}, "got 3 level_sizes, 4 reference points, logits of 4 levels"),
    ({"level_sizes": [*SIZES[:3], (1, 1)]}, r"S = 127, M = 4; got \(128, 4, 8\)"),
    ({"logits": torch.full((4, 4, 3), float("nan"))}, "must be finite"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(state, change, words):
    with pytest.raises(ValueError, match=words):
        draw(state._replace(**change))
    with pytest.raises(ValueError, match=words):
        attention_playground(state._replace(**change))


def test_a_dragged_point_changes_its_offset_alone(state):
    sandbox = attention_playground(state)
    assert sandbox.figure.alt.endswith("0.000 from the network's.")
    panel, _ = sandbox.controls["offsets"]
    panel.level.value = 1
    points = [list(point) for point in panel.handles.points]
    points[2] = [24.0, 48.0]
    panel.handles.points = points
    after = sandbox.state
    torch.testing.assert_close(read(after).locations[1, 2], torch.tensor([0.25, 0.75]))
    changed = (torch.tensor(after.offsets) - state.offsets).abs().sum(-1) > 1e-6
    assert changed.nonzero().tolist() == [[2, 1, 2]]
    torch.testing.assert_close(torch.tensor(after.logits), state.logits)
    assert "0.000 from" not in sandbox.figure.alt


def test_a_logit_changes_the_softmax_and_choosing_changes_nothing(state):
    sandbox = attention_playground(state)
    panel, _ = sandbox.controls["logits"]
    for head in (0, 3):
        sandbox.controls["head"][0].value = head
        for level in range(4):
            panel.level.value = level
    torch.testing.assert_close(torch.tensor(sandbox.state.offsets), state.offsets)
    torch.testing.assert_close(torch.tensor(sandbox.state.logits), state.logits)
    panel.level.value = 0
    panel.sliders[1].value = 8.0
    assert sandbox.state.head == 3
    assert sandbox.state.logits[3][0][1] == 8.0
    assert read(sandbox.state).weights[0, 1] > 0.9
    # What a browser's slider makes of a value that lies between its steps changes nothing.
    before = sandbox.state.logits
    panel.sliders[2].value = round(panel.sliders[2].value, 1)
    assert sandbox.state.logits == before
    # And back at it, the slider stands where it was put.
    panel.level.value = 2
    panel.level.value = 0
    assert panel.sliders[1].value == 8.0


def test_five_levels():
    sizes = [*SIZES, (1, 1)]
    value, reference = torch.randn(sum(h * w for h, w in sizes), 1, 8), torch.full((5, 2), 0.5)
    sandbox = attention_playground(
        AttentionState(PICTURE, value, sizes, reference, torch.zeros(1, 5, 2, 2), torch.zeros(1, 5, 2))
    )
    panel, _ = sandbox.controls["offsets"]
    first = panel.handles.colours
    panel.level.value = 4
    assert panel.handles.colours == first
    colours = [bar.get_facecolor() for bar in sandbox.figure.axes[1].patches]
    assert colours[8:] == colours[:2]
