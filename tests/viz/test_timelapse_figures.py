import re

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from drawn_text import texts

from ddetr.viz.timelapse import TimelapseState, player, spread_of, stills

PICTURE = np.full((40, 60, 3), 200, np.uint8)


@pytest.fixture
def frames():
    """Three frames of two objects; the points of object 1 draw together."""
    rng = np.random.default_rng(0)
    star = rng.uniform(-0.3, 0.3, (2, 3, 2, 4, 2, 2))
    points = np.stack([0.5 + star * scale for scale in (1, 0.5, 0.1)])
    weights = np.full((3, 2, 3, 2, 4, 2), 1 / 8)
    return {
        "steps": np.array([0, 10, 200]), "boxes": np.tile([0.5, 0.5, 0.4, 0.2], (3, 2, 1)),
        "scores": np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]),
        "points": points, "weights": weights, "encoder_points": points[:, :, :2], "encoder_weights": weights[:, :, :2],
    }  # fmt: skip


@pytest.fixture
def state(frames):
    return TimelapseState.from_frames(frames, PICTURE, follow=1)


def test_the_state_takes_one_object_and_the_last_layer(frames, state):
    decoder, encoder = state.points.values()
    np.testing.assert_allclose(decoder, frames["points"][:, 1, -1], rtol=1e-6)
    np.testing.assert_allclose(encoder, frames["encoder_points"][:, 1, -1], rtol=1e-6)
    with pytest.raises(ValueError, match="one of the scene's 2 objects, 0 to 1; got 2"):
        TimelapseState.from_frames(frames, PICTURE, follow=2)


def test_stills_show_the_points_of_their_frames_in_pixels(state):
    figure = stills(state, [0, -1])
    assert len(figure.axes) == 4
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "x (pixels)", "x (pixels)"]
    assert {"step 200", "0.20", "0.60"} <= texts(figure)
    first, last = (figure.axes[n].collections[0].get_offsets().std(0) for n in (0, 1))
    np.testing.assert_allclose(first, 10 * last, rtol=1e-4)
    assert np.ptp(figure.axes[0].collections[0].get_offsets()[:, 0]) > 10  # pixels, not shares
    assert "step 0: score 0.20" in figure.alt
    with pytest.raises(ValueError, match="frames 0 to 2; got 3"):
        stills(state, [3])


def test_spread_falls_as_the_points_draw_together(state):
    spread = spread_of(state, next(iter(state.points)))
    np.testing.assert_allclose(spread / spread[0], [1, 0.5, 0.1], rtol=1e-4)


def test_the_player_needs_nothing_else(state):
    made = player(state, title="<b>boats & co</b>")
    text = made._repr_html_()
    assert len(re.findall("data:image/png;base64", text)) == 4  # three frames, and the last as what stands there first
    assert not re.search(r"(?:src|href)=\"(?!data:)", text)
    assert "http" not in text
    assert "&lt;b&gt;boats &amp; co&lt;/b&gt;" in text
    assert 'max="2"' in text
    assert "step 200, score 0.60" in text
    assert repr(made) == "Player(3 frames, steps 0 to 200)"
    assert player(state).html == player(state).html
    with pytest.raises(ValueError, match="at least one frame"):
        player(state, [])


def test_two_players_on_one_page_do_not_share_a_name(state):
    names = {re.search('id="(.+?)"', player(state, chosen).html)[1] for chosen in ([0], [1], [0, 2])}
    assert len(names) == 3


def test_the_shipped_run_makes_a_small_page():
    timelapse = pytest.importorskip("ddetr.course.timelapse")
    from ddetr.data import toy_scene

    frames = timelapse.shipped_timelapse()
    state = TimelapseState.from_frames(frames, toy_scene(int(frames["scene"])).image, follow=4)
    assert len(player(state, range(0, 33, 8)).html) < 100_000
