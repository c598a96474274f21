import math

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("matplotlib")

from drawn_text import texts

from ddetr.models.multi_scale import get_valid_ratio, level_mask
from ddetr.ops import bilinear_sample
from ddetr.viz.coordinates import LadderState, climb, draw, places_on_image, queries_on_image

STATE = LadderState(place=(190, 30), image_size=(160, 212), padded_size=(237, 212), level=2)
PLACES = [(190, 30), (1, 2), (211.5, 159), (106, 80), (-20, 300)]


def read(ladder, feature):  # (h, w) -> the value that the four corners give
    return sum(c.weight * feature[c.row, c.column].item() for c in ladder.corners if c.inside)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("level", range(4))
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
def test_the_corners_read_what_grid_sample_reads(place, level, align_corners, swapped):
    ladder = climb(STATE._replace(place=place, level=level, align_corners=align_corners, swapped=swapped))
    feature = torch.rand(ladder.level_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grid = torch.tensor(ladder.grid[::-1] if swapped else ladder.grid, dtype=torch.float64).view(1, 1, 1, 2)
    expected = F.grid_sample(feature[None, None], grid, align_corners=align_corners).item()
    assert read(ladder, feature) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("place", PLACES)
def test_the_corners_read_what_the_operator_reads(place):
    ladder = climb(STATE._replace(place=place))
    feature = torch.rand(ladder.level_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert read(ladder, feature) == pytest.approx(bilinear_sample(feature[..., None], *ladder.cells).item(), abs=1e-9)
    assert sum(c.weight for c in ladder.corners) == pytest.approx(1)


@pytest.mark.parametrize("level", range(4))
def test_the_right_conventions_read_where_they_were_asked(level):
    ladder = climb(STATE._replace(level=level))
    assert ladder.reads_at == pytest.approx(STATE.place)
    mask = torch.ones(1, 237, 212, dtype=torch.bool)
    mask[:, :160] = False
    assert ladder.ratio == pytest.approx(get_valid_ratio(level_mask(mask, ladder.level_size))[0].tolist())


def test_wrong_conventions_miss_by_what_they_should():
    lost_half = climb(STATE._replace(half_pixel=False))
    cell = 212 / 7, 160 / 6  # 6 of 8 rows hold the image
    assert lost_half.reads_at == pytest.approx((190 + cell[0] / 2, 30 + cell[1] / 2))
    centre = STATE._replace(padded_size=(160, 212), place=(106, 80), align_corners=True)
    assert climb(centre).reads_at == pytest.approx((106, 80))
    corner = climb(centre._replace(place=(0, 0)))
    assert corner.reads_at == pytest.approx((212 / 7 / 2, 160 / 5 / 2))
    square = LadderState((30, 10), (64, 64), (64, 64), 0, swapped=True)
    assert climb(square).reads_at == pytest.approx((10, 30))


def test_the_figure_says_what_it_read():
    figure = draw(STATE)
    assert {"(190.0, 30.0)", "(0.896, 0.141)", "level 2: 8 x 7\nfour cells are read"} <= texts(figure)
    assert "the value of pixel (190.0, 30.0), 0.0 pixels off" in figure.alt
    wrong = draw(STATE._replace(align_corners=True))
    assert "asked at +, reads at o:\n15.4 pixels off" in texts(wrong)
    outside = draw(STATE._replace(place=(0, 0)))
    assert "outside: 0" in texts(outside)
    assert "row -1 column -1 0.250 outside" in outside.alt


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"level": 4}, "level must be 0 to 3; got 4"),
        ({"level": -1}, "level must be 0 to 3"),
        ({"image_size": (300, 212)}, "300 x 212 does not fit into a batch of 237 x 212"),
        ({"place": (math.nan, 3)}, "two finite numbers"),
    ],
)
def test_states_that_make_no_sense(change, words):
    with pytest.raises(ValueError, match=words):
        draw(STATE._replace(**change))


def test_a_picture_of_another_size():
    assert draw(STATE, torch.zeros(3, 160, 212)).axes[0].images
    with pytest.raises(ValueError, match=r"picture is \(10, 20\)"):
        draw(STATE, torch.zeros(3, 10, 20))


def test_points_of_each_level_where_they_are():
    points = {1: torch.tensor([[3.0, 4.0], [5.0, 6.0]]), 3: torch.tensor([[7.0, 8.0]])}
    figure = places_on_image(torch.zeros(3, 20, 30), points, (25, 30), "centres")
    drawn = [collection.get_offsets().tolist() for collection in figure.axes[0].collections]
    assert drawn == [[[3, 4], [5, 6]], [[7, 8]]]
    assert figure.axes[0].get_ylim() == (25, 0)
    assert "level 1 from x 3 to 5, y 4 to 6" in figure.alt
    with pytest.raises(ValueError, match="level must be 0 to 3; got 4"):
        places_on_image(torch.zeros(3, 20, 30), {4: points[1]})


def test_queries_that_found_something_lead_to_their_boxes():
    points = torch.tensor([[0.5, 0.5], [0.1, 0.2]])
    boxes = torch.tensor([[0.5, 0.25, 0.2, 0.4], [0.5, 0.5, 1.0, 1.0]])
    figure = queries_on_image(torch.zeros(3, 20, 40), points, boxes, torch.tensor([0.9, 0.1]))
    axes = figure.axes[0]
    (box,) = [patch for patch in axes.patches if not patch.get_fill()]
    assert box.get_bbox().extents.tolist() == pytest.approx([16, 1, 24, 9])
    nothing, something = axes.collections
    assert nothing.get_offsets().tolist() == [pytest.approx([4, 4])]
    assert something.get_offsets().tolist() == [pytest.approx([20, 10])]
    assert "2 reference points over the image; 1 of them" in figure.alt


@pytest.mark.parametrize("padded", [(237, 237), (237, 212), (160, 212), (160, 400)])
def test_titles_and_axes_lie_on_the_figure(padded):
    figure = draw(LadderState((107.1, 50.9), (160, 212), padded, level=3, align_corners=True))
    figure._repr_png_()
    width, height = figure.bbox.size
    for axes in figure.axes:
        x1, y1, x2, y2 = axes.get_tightbbox().extents
        assert (x1 >= 0, y1 >= 0, x2 <= width, y2 <= height) == (True,) * 4
