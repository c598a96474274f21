import pytest

from ddetr import PRESETS, DeformableDETRConfig, build_model
from ddetr.config import get_config

PAPER = {"r50_single_scale", "r50_single_scale_dc5", "r50", "r50_refine", "r50_two_stage"}


def test_presets_are_the_papers_variants_and_the_tiny_ones():
    assert PRESETS.keys() == PAPER | {"tiny", "tiny_two_stage"}
    for preset in ("tiny", "tiny_two_stage"):
        config = PRESETS[preset]
        assert (config.num_levels, config.num_heads, config.num_points) == (4, 8, 4)


def test_a_config_survives_json():
    config = get_config("tiny_two_stage", num_classes=7)
    assert DeformableDETRConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"two_stage": True}, "two_stage=True needs box_refine=True"),
        ({"embed_dim": 96, "num_heads": 7}, "embed_dim must be divisible by num_heads; got 96 and 7"),
        ({"embed_dim": 40}, "multiple of 32"),
        ({"num_levels": 2}, "num_levels must be 1"),
        ({"num_classes": 0}, "num_classes must be at least 1; got 0"),
        ({"proposals_per_object": 0}, "proposals_per_object must be at least 1; got 0"),
        ({"backbone": "resnet51"}, "did you mean 'resnet50'"),
        ({"dilation": True, "backbone": "resnet18"}, "dilation=True needs a bottleneck"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"dropout": float("nan")}, "dropout must be a number of at least 0; got nan"),
        ({"focal_alpha": 1.5}, r"focal_alpha is a share, in \[0, 1\]; got 1.5"),
        ({"class_weight": -1}, "class_weight must be a number of at least 0"),
        ({"test_size": 3}, "test_size must be at least 16 pixels; got 3"),
        ({"num_queries": "abc"}, "num_queries must be a whole number; got 'abc'"),
        ({"num_queries": True}, "num_queries must be a whole number; got True"),
        ({"embed_dim": 64.0}, "embed_dim must be a whole number"),
        ({"two_stage": "no"}, "two_stage must be True or False; got 'no'"),
        ({"clip_boxes": 2}, "clip_boxes must be True or False"),
        ({"backbone": None}, "backbone must be a text; got None"),
        ({"backbone": "resnet10", "backbone_width": 7}, "backbone_width must be a multiple of 32"),
        ({"num_querys": 100}, "no field 'num_querys'; did you mean 'num_queries'"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        build_model("r50", **overrides)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ValueError, match="preset must be one of tiny"):
        build_model("r18")
