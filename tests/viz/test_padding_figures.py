import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from drawn_text import texts

from ddetr.models.position_encoding import sine_position_encoding
from ddetr.viz.padding import PaddingState, channel_images, curves, draw
from ddetr.viz.tables import dependence, similarity, spread


def test_each_level_of_each_image_with_its_ratios():
    figure = draw(PaddingState([(480, 538), (400, 546)]))
    assert len(figure.axes) == 10
    assert {"level 0: 60 x 69\nw 0.9855, h 1.0000", "level 3: 8 x 9\nw 1.0000, h 0.8750"} <= texts(figure)
    assert "image 1, 400 x 546, in a batch of 480 x 546: valid ratios level 0 w 1.0000 h 0.8333" in figure.alt
    padded = [axes.images[0].get_array().mean() for axes in figure.axes[6:10]]
    np.testing.assert_allclose(padded, [10 / 60, 5 / 30, 2 / 15, 1 / 8])


@pytest.mark.parametrize("sizes", [[(1, 1)], [(64, 64)], [(30, 700), (700, 30), (5, 5)]])
def test_batches_of_all_kinds_are_drawn(sizes):
    assert draw(PaddingState(sizes))._repr_png_().startswith(b"\x89PNG")


def test_a_batch_of_nothing():
    with pytest.raises(ValueError, match="at least one image"):
        draw(PaddingState([]))


def test_an_encoding_as_curves_and_pictures():
    encoding = sine_position_encoding(torch.zeros(1, 6, 9, dtype=torch.bool), 32)[0]
    lines = curves(encoding[:, 0], [16, 17], "along a row").axes[0].lines
    np.testing.assert_array_equal(lines[1].get_ydata(), encoding[17, 0])
    assert "16, 17" in curves(encoding[:, 0], [16, 17], "along a row").alt
    pictures = channel_images(encoding, [0, 31])
    np.testing.assert_array_equal(pictures.axes[1].images[0].get_array(), encoding[31])


def test_tables_say_what_they_show():
    figure = dependence({"neck": np.array([[True, False], [True, True]])}, ["a", "b"], ["C3", "C4"])
    assert figure.alt == "neck: a from C3, b from C3 and C4."
    figure = similarity(torch.tensor([[1.0, -0.5], [-0.5, 1.0]]), ["a", "b"], "cosine")
    assert {"1.00", "-0.50"} <= texts(figure)
    figure = spread({"C3": torch.full((8,), 2.0)}, {f"level {level}": torch.ones(8) for level in range(5)})
    assert "before the neck: C3 2.00; after it: level 0 1.00, level 1 1.00" in figure.alt
    boxes = [box.get_facecolor() for box in figure.axes[1].patches]
    assert boxes[4] == boxes[0] != boxes[3]
