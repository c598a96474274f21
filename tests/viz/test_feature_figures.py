import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from ddetr.viz.features import feature_colours, map_colours, receptive_fields, stage_parameters, width_holding
from ddetr.viz.figures import level_masks, pipeline_map, show_images, token_counts


def test_similar_cells_have_similar_colours():
    feature = torch.zeros(5, 4, 6)
    feature[:, :, 3:] = torch.tensor([1.0, 2.0, 3.0, 0.0, -1.0]).view(5, 1, 1)
    colours = map_colours(feature)
    assert colours.shape == (4, 6, 3)
    assert np.ptp(colours[:, :3], axis=(0, 1)).max() < 1e-6
    assert abs(colours[0, 0, 0] - colours[0, 5, 0]) > 0.9
    np.testing.assert_array_equal(map_colours(feature), colours)


def test_a_map_of_one_value_is_drawn():
    assert np.isfinite(map_colours(torch.ones(4, 3, 2))).all()


def test_the_square_that_holds_most_of_a_weight():
    weight = torch.zeros(41, 41)
    weight[10:31, 10:31] = 1
    assert width_holding(weight, (20.5, 20.5), share=1.0) == 20  # between the centres of the outermost pixels
    assert width_holding(weight, (20.5, 20.5), share=0.5) in (14, 15)


def test_figures_say_in_words_what_they_show():
    image = torch.zeros(3, 40, 50)
    figure = feature_colours(image, [torch.rand(8, 5, 7), torch.rand(8, 3, 4)], ["C3", "C4"])
    assert "C3, C4" in figure.alt
    weight = torch.rand(40, 50)
    figure = receptive_fields(image, [weight, weight], [9, 19], (25, 20), ["C3", "C4"])
    assert "C4 can see 19 pixels" in figure.alt
    figure = stage_parameters({"stem": (10_000, False), "layer1": (2_000_000, True)})
    assert figure.alt == "Parameters of each stage: stem 0.01 million, frozen; layer1 2.00 million, trained"


def test_a_notebook_gets_the_words_beside_the_picture():
    data, metadata = pipeline_map(["neck"])._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert "Lit: neck." in metadata["image/png"]["alt"]


def test_the_tours_figures_have_words_too():
    assert token_counts([(3, 4), (2, 2)]).alt == "16 tokens by level: level 0 3 x 4, 75%; level 1 2 x 2, 25%."
    assert show_images([torch.zeros(3, 4, 5)], ["a photo"]).alt == "Pictures: a photo."
    ratios = torch.tensor([[0.5, 1.0]])
    assert "level 0 w 0.500 h 1.000" in level_masks([torch.zeros(3, 4, dtype=torch.bool)], ratios).alt
