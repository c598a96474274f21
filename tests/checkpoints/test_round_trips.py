"""From one code base's format into another's and back: the same names, and the same bits."""

from types import SimpleNamespace

import golden_values as golden
import pytest
import torch
from small_models import VARIANTS, same, small_model

from ddetr import DeformableDETR, load_pretrained
from ddetr.checkpoints import read_checkpoint, save_hf, save_mmdet, save_model, save_official
from ddetr.checkpoints.naming import NAMINGS, our_names, their_state

WRITERS = {
    "official": (save_official, "weights.pth"),
    "mmdet": (save_mmdet, "weights.pth"),
    "hf": (save_hf, "folder"),
}


@pytest.mark.parametrize(
    ("reference", "variant"),
    [("official", v) for v in golden.VARIANTS] + [("mmdet", v) for v in ("base", "refine", "two_stage")],
)
def test_the_references_own_names_and_shapes_are_written(reference, variant):
    with torch.device("meta"):
        model = DeformableDETR(golden.config(reference, variant))
    shapes = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in model.state_dict().items()}
    written = their_state(SimpleNamespace(config=model.config, state_dict=lambda: shapes), reference)
    wanted = golden.spec(reference)["configs"][variant]["shapes"]
    assert {name: list(tensor.shape) for name, tensor in written.items()} == wanted


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("naming", WRITERS)
def test_there_and_back(naming, variant, tmp_path):
    save, name = WRITERS[naming]
    model = small_model(variant)
    save(model, tmp_path / name)
    loaded = load_pretrained(tmp_path / name, num_queries=9, dropout=0.0)
    assert same(loaded.state_dict(), model.state_dict())
    assert loaded.config == model.config.replace(
        **{"mask_unpadded": False, "clip_boxes": True} if naming == "mmdet" else {}
    )
    save(loaded, tmp_path / "again" / name) if naming == "hf" else save(loaded, tmp_path / f"again_{name}")
    first, again = (
        read_checkpoint(path / "model.safetensors" if path.is_dir() else path).state
        for path in (tmp_path / name, tmp_path / "again" / name if naming == "hf" else tmp_path / f"again_{name}")
    )
    assert same(first, again)


@pytest.mark.parametrize("variant", ["base", "two_stage"])
def test_around_all_formats(variant, tmp_path):
    model = small_model(variant, neck_bias=False)
    model.categories = [{"id": 10 * k, "name": f"thing {k}"} for k in range(5)]
    images = torch.randn(1, 3, 64, 80)
    save_mmdet(model, tmp_path / "a.pth")
    save_hf(load_pretrained(tmp_path / "a.pth", num_queries=9), tmp_path / "b")
    save_official(load_pretrained(tmp_path / "b"), tmp_path / "c.pth")
    save_model(load_pretrained(tmp_path / "c.pth", num_queries=9), tmp_path / "d.safetensors")
    last = load_pretrained(tmp_path / "d.safetensors", mask_unpadded=False)
    assert last.categories == model.categories
    with torch.no_grad():  # the biases of 0 that the others' necks have change nothing
        assert last.forward_raw(images).pred_boxes.equal(model.forward_raw(images).pred_boxes)
    biases = {name for name in last.state_dict() if name.startswith("neck.levels.") and name.endswith(".0.bias")}
    assert {name: tensor for name, tensor in last.state_dict().items() if name not in biases}.keys() == dict(
        model.state_dict()
    ).keys()


def test_every_name_has_one_counterpart():
    for naming in NAMINGS:
        model = small_model("two_stage")
        theirs = their_state(model, naming)
        back = our_names(list(theirs), naming)
        assert all(name.split(".")[0] in dict(model.named_children()) for name in back.values()), naming


def test_batch_norm_that_learnt_becomes_the_references_fixed_one(tmp_path):
    model = small_model(backbone_norm="batch")
    model.backbone.body.bn1.num_batches_tracked.fill_(7)
    save_mmdet(model, tmp_path / "w.pth")
    assert read_checkpoint(tmp_path / "w.pth").state["backbone.bn1.num_batches_tracked"] == 7
    save_official(model, tmp_path / "o.pth")
    assert not any("num_batches" in name for name in read_checkpoint(tmp_path / "o.pth").state)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            load_pretrained(tmp_path / "o.pth").forward_raw(images).pred_boxes, model.forward_raw(images).pred_boxes
        )


def test_mmdetections_dilation_is_another(tmp_path):
    model = small_model(backbone="resnet50", backbone_width=64, num_levels=1, dilation=True)
    with pytest.raises(ValueError, match="first block"):
        save_mmdet(model, tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [("backbone_norm", "group", "batch norm only"), ("proposal_nms", 0.6, "without proposal_nms")],
)
@pytest.mark.parametrize("naming", WRITERS)
def test_what_the_others_lack_is_not_lost_silently(naming, field, value, sentence, tmp_path):
    model = small_model("two_stage", **{field: value})
    with pytest.raises(ValueError, match=sentence):
        WRITERS[naming][0](model, tmp_path / "x.pth")
    assert not list(tmp_path.iterdir())
