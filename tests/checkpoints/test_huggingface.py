"""Against `DeformableDetrForObjectDetection` of transformers, with random weights."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file
from small_models import SMALL, VARIANTS, same, scramble, small_model
from toy_data import CATEGORIES, make_coco

from ddetr import build_model, load_pretrained
from ddetr.checkpoints import CheckpointError, infer_config, load_into, read_checkpoint, save_hf
from ddetr.cli import main
from ddetr.data import CocoDetection, coco_layout

transformers = pytest.importorskip("transformers")

THEIR_OPTIONS = {
    "base": {},
    "refine": {"with_box_refine": True},
    "two_stage": {"with_box_refine": True, "two_stage": True},
    "single_scale": {"num_feature_levels": 1},
}


def hf_model(variant: str):
    resnet = transformers.ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage4"] if variant == "single_scale" else ["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.DeformableDetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=resnet,
        num_labels=SMALL["num_classes"], auxiliary_loss=True, d_model=SMALL["embed_dim"],
        encoder_layers=SMALL["encoder_layers"], decoder_layers=SMALL["decoder_layers"],
        encoder_ffn_dim=SMALL["ffn_dim"], decoder_ffn_dim=SMALL["ffn_dim"], num_queries=SMALL["num_queries"],
        two_stage_num_proposals=SMALL["num_queries"], dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
        class_cost=2, bbox_cost=5, giou_cost=2, **THEIR_OPTIONS[variant],
    )  # fmt: skip
    model = transformers.DeformableDetrForObjectDetection(config)
    with torch.no_grad():  # its own initialisation leaves much at zero
        scramble(dict(model.named_parameters()) | dict(model.named_buffers()))
    return model.eval()


@pytest.fixture
def batch():
    sizes = [(96, 128), (80, 64)]
    images = [torch.randn(3, h, w) for h, w in sizes]
    pixels, mask = torch.zeros(2, 3, 96, 128), torch.zeros(2, 96, 128, dtype=torch.int64)
    for i, image in enumerate(images):
        pixels[i, :, : image.shape[1], : image.shape[2]] = image
        mask[i, : image.shape[1], : image.shape[2]] = 1
    boxes = [torch.tensor([[0.4, 0.5, 0.2, 0.3], [0.6, 0.4, 0.3, 0.3]]), torch.tensor([[0.5, 0.5, 0.4, 0.2]])]
    labels = [torch.tensor([1, 4]), torch.tensor([0])]
    return images, pixels, mask, boxes, labels


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_and_losses_agree(variant, batch):
    images, pixels, mask, boxes, labels = batch
    hf = hf_model(variant)
    ours = small_model(variant)
    report = load_into(ours, hf.state_dict())
    assert report.naming == "hf"
    assert report.complete
    ours.train()
    their_labels = [{"class_labels": k, "boxes": b} for k, b in zip(labels, boxes, strict=True)]
    with torch.no_grad():
        theirs = hf(pixel_values=pixels, pixel_mask=mask, labels=their_labels)
        output = ours.forward_raw(images)
        targets = []
        for image, b, k in zip(images, boxes, labels, strict=True):
            h, w = image.shape[1:]
            corners = torch.cat([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], dim=1)
            targets.append({"boxes": corners * torch.tensor([w, h, w, h]), "labels": k})
        losses = ours(images, targets)
    scale = theirs.logits.abs().max()
    assert (output.pred_logits - theirs.logits).abs().max() < 1e-4 * scale
    assert (output.pred_boxes - theirs.pred_boxes).abs().max() < 1e-4
    config = ours.config
    weights = {"loss_ce": config.class_weight, "loss_bbox": config.bbox_weight, "loss_giou": config.giou_weight}
    names = {"loss_ce": "loss_class", "loss_bbox": "loss_bbox", "loss_giou": "loss_giou"}
    compared = 0
    for name, value in theirs.loss_dict.items():
        kind = next((kind for kind in weights if name.startswith(kind)), None)
        if kind is None:
            continue  # a cardinality error, which is no loss
        ours_name = names[kind] + name.removeprefix(kind)
        assert losses[ours_name].item() == pytest.approx(weights[kind] * value.item(), rel=1e-3), name
        compared += 1
    # transformers has no loss for the encoder's proposals, and its total counts the class loss once, not twice.
    assert compared == 3 * config.decoder_layers


@pytest.mark.parametrize("variant", ["base", "two_stage", "single_scale"])
def test_the_config_is_read_off_the_shapes(variant):
    inferred = infer_config(hf_model(variant).state_dict())
    wanted = small_model(variant).config.replace(dropout=0.1)
    if variant == "two_stage":
        wanted = wanted.replace(num_queries=300)  # no shape tells how many proposals are kept
    assert inferred == wanted


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_folder_that_transformers_wrote(variant, tmp_path):
    """Read, written again, and loaded by transformers: the same numbers, and at the end the same bits."""
    hf = hf_model(variant)
    hf.save_pretrained(tmp_path / "theirs")
    ours = load_pretrained(tmp_path / "theirs")  # its config.json tells what shapes do not
    assert ours.config == small_model(variant).config
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_raw(images).pred_logits, hf(images).logits, rtol=1e-4, atol=1e-4)
    save_hf(ours, tmp_path / "ours")
    again = transformers.DeformableDetrForObjectDetection.from_pretrained(tmp_path / "ours")
    assert same(again.state_dict(), hf.state_dict())
    assert differing_options(again.config, hf.config) == set()


def differing_options(a, b) -> set[str]:
    """Of the network itself."""
    a, b = a.to_dict(), b.to_dict()
    built = {"use_timm_backbone", "use_pretrained_backbone", "backbone_config"}  # what was built agrees, see above
    ignored = built | {"_name_or_path", "category_ids", "transformers_version", "dtype", "torch_dtype", "architectures"}
    differing = {name for name in a.keys() | b.keys() if a.get(name) != b.get(name)} - ignored
    return {name for name in differing if not name.startswith("_")}


EXTRA = {
    "biases of 0": {"neck_bias": False},
    "five levels": {"num_levels": 5},
    "four heads, three points": {"num_heads": 4, "num_points": 3},
    "resnet18": {"backbone": "resnet18", "backbone_width": 64},
}


@pytest.mark.parametrize("variant", [*VARIANTS, *EXTRA])
def test_transformers_loads_what_save_hf_writes(variant, tmp_path, batch, caplog):
    images, pixels, mask, _, _ = batch
    model = small_model(variant if variant in VARIANTS else "two_stage", **EXTRA.get(variant, {}))
    model.categories = [{"id": 2 * k, "name": f"thing {k}"} for k in range(5)]
    save_hf(model, tmp_path)
    theirs, report = transformers.DeformableDetrForObjectDetection.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    with torch.no_grad():
        output, wanted = theirs.eval()(pixel_values=pixels, pixel_mask=mask), model.forward_raw(images)
    assert (output.logits - wanted.pred_logits).abs().max() < 1e-5 * wanted.pred_logits.abs().max()
    assert (output.pred_boxes - wanted.pred_boxes).abs().max() < 1e-5
    assert theirs.config.id2label == {k: f"thing {k}" for k in range(5)}
    theirs.save_pretrained(tmp_path / "again")
    loaded = load_pretrained(tmp_path / "again")
    assert loaded.categories == model.categories
    save_hf(loaded, tmp_path / "third")
    assert same(load_file(tmp_path / "third" / "model.safetensors"), load_file(tmp_path / "model.safetensors"))


def test_a_dilated_backbone_is_timms(tmp_path):
    pytest.importorskip("timm", reason="transformers needs timm for DC5")
    model = small_model("single_scale", backbone="resnet50", backbone_width=64, dilation=True)
    save_hf(model, tmp_path)
    assert load_pretrained(tmp_path).config == model.config
    theirs = transformers.DeformableDetrForObjectDetection.from_pretrained(tmp_path).eval()
    images = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        torch.testing.assert_close(theirs(images).logits, model.forward_raw(images).pred_logits, rtol=1e-4, atol=1e-5)


def test_its_image_processor_makes_our_detections(tmp_path):
    from PIL import Image

    model = small_model("refine", test_size=96)
    save_hf(model, tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    picture = Image.fromarray(torch.randint(0, 255, (48, 60, 3), dtype=torch.uint8).numpy())
    inputs = processor(picture, return_tensors="pt")
    theirs = transformers.DeformableDetrForObjectDetection.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        outputs = theirs(**inputs)
        (detections,) = model([inputs["pixel_values"][0]])
    assert inputs["pixel_values"].shape[-2:] == (96, 120)
    (found,) = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(96, 120)], top_k=45)
    torch.testing.assert_close(found["scores"], detections["scores"][:45], rtol=1e-4, atol=1e-5)


def test_weights_in_several_files_and_older_ones(tmp_path):
    hf = hf_model("base")
    hf.save_pretrained(tmp_path / "one")
    hf.save_pretrained(tmp_path / "several", max_shard_size="100KB")
    files = sorted((tmp_path / "several").glob("*.safetensors"))
    assert len(files) > 1
    one = load_pretrained(tmp_path / "one").state_dict()
    assert same(load_pretrained(tmp_path / "several").state_dict(), one)
    (tmp_path / "bin").mkdir()
    shutil.copy(tmp_path / "one" / "config.json", tmp_path / "bin")
    torch.save(hf.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    assert same(load_pretrained(tmp_path / "bin").state_dict(), one)
    files[-1].unlink()
    with pytest.raises(FileNotFoundError, match=rf"no weights at .*{files[-1].name}"):
        load_pretrained(tmp_path / "several")
    for text in ("[]", "{", '{"weight_map": {"a": "../one/model.safetensors"}}', '{"weight_map": {}}'):
        (tmp_path / "several" / "model.safetensors.index.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"index\.json"):
            load_pretrained(tmp_path / "several")


@pytest.fixture
def folder(tmp_path):
    save_hf(small_model(), tmp_path)
    return tmp_path


def change(folder, **options):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | options))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"decoder_attention_heads": "8", "encoder_attention_heads": "8"}, "no whole Deformable DETR|num_heads"),
        ({"model_type": "detr"}, "of the type 'detr'; needed is 'deformable_detr'"),
        ({"activation_function": "gelu"}, "activation_function is 'gelu'; this package has only 'relu'"),
        ({"position_embedding_type": "learned"}, "this package has only 'sine'"),
        ({"encoder_n_points": 2}, "encoder_n_points is 2, decoder_n_points 4"),
        ({"id2label": {"0": "a"}}, "id2label must name the labels 0 to 4, which the weights have; it names 1"),
        ({"id2label": ["a"] * 5}, "id2label must name the labels"),
        ({"with_box_refine": "yes"}, "box_refine must be True or False"),
        ({"backbone_config": {"downsample_in_bottleneck": True}}, "backbone_config is no ResNet"),
        ({"backbone_config": [1]}, "backbone_config"),
        ({"with_box_refine": True, "two_stage": True}, "does not fit the model"),
    ],
)
def test_a_config_that_we_cannot_follow(folder, options, sentence):
    change(folder, **options)
    with pytest.raises(CheckpointError, match=sentence):
        load_pretrained(folder)


def test_a_folder_without_its_config(folder, caplog):
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON"):
        load_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load_pretrained(folder)
    with caplog.at_level(logging.ERROR):
        assert load_pretrained(folder / "model.safetensors").config.num_heads == 8  # by its shapes alone


def test_labels_names_are_text_and_numbers_no_names(folder):
    assert load_pretrained(folder).categories is None  # LABEL_0 ... LABEL_4
    names = ["__import__('os')", "<script>", "", "é", "4"]
    change(folder, id2label=dict(enumerate(names)))
    assert load_pretrained(folder).categories == [{"id": None, "name": name} for name in names]
    change(folder, category_ids=[1, 1, 2, 3, 4])  # no ids of five categories
    assert load_pretrained(folder).categories[0]["id"] is None


def test_cocos_names_bring_cocos_ids(tmp_path):
    model = small_model(num_classes=91)
    save_hf(model, tmp_path)
    model.categories = load_pretrained(tmp_path).categories  # nothing is said of 91 labels: COCO's
    names = {k: c["name"] if not c["name"].startswith("unused") else "N/A" for k, c in enumerate(model.categories)}
    change(tmp_path, id2label=names)
    assert load_pretrained(tmp_path).categories == model.categories


def test_a_folder_of_ours_needs_no_config(tmp_path):
    from ddetr.checkpoints import save_model

    save_model(small_model(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "deformable_detr"}))
    assert load_pretrained(tmp_path).config == small_model().config
    assert read_checkpoint(tmp_path / "model.safetensors").metadata["config"]["num_classes"] == 5


def test_names_of_files_on_the_hub_are_known_too():
    """Older files: timm's ResNet names, `fc1` outside `mlp`, `out_proj` for `o_proj`."""
    from ddetr.checkpoints.naming import our_names

    old = {
        "model.backbone.conv_encoder.model.layer2.0.conv3.weight": "backbone.body.layer2.0.conv3.weight",
        "model.backbone.conv_encoder.model.bn1.running_mean": "backbone.body.bn1.running_mean",
        "model.encoder.layers.1.fc1.weight": "encoder.layers.1.ffn.linear1.weight",
        "model.decoder.layers.0.self_attn.out_proj.bias": "decoder.layers.0.self_attn.out_proj.bias",
        "model.decoder.layers.0.encoder_attn.value_proj.bias": "decoder.layers.0.cross_attn.value_proj.bias",
    }
    assert our_names(list(old), "hf") == old


def test_heads_under_refinement():
    """Both references give each layer heads of its own; transformers may tie them, and then its weights say so."""
    hf, ours = hf_model("refine"), small_model("refine")
    load_into(ours, hf.state_dict())
    tied = hf.class_embed[0].weight is hf.class_embed[1].weight
    print("\ntransformers ties the class heads under refinement:", tied, end=" ")
    assert ours.heads.class_embed[0].weight is not ours.heads.class_embed[1].weight
    assert ours.heads.class_embed[0].weight.equal(ours.heads.class_embed[1].weight) == tied


def test_where_the_initialisations_differ():
    """transformers starts class biases at 0 or elsewhere than the paper's -log(99), which our models start at."""
    theirs = transformers.DeformableDetrForObjectDetection(hf_model("base").config)
    ours = build_model("r50", **SMALL)
    torch.testing.assert_close(ours.heads.class_embed[0].bias.data, torch.full((5,), -4.59512))
    print("\ntransformers' class bias at the start:", theirs.class_embed[0].bias.data[:1].item(), end=" ")


def test_names_alone_meet_a_data_set_by_name(tmp_path):
    """A network fine-tuned with transformers, whose labels are in another order, evaluated and trained on here."""
    data = make_coco(tmp_path / "data")
    names = [category["name"] for category in CATEGORIES][::-1]
    model = small_model(num_classes=3)
    save_hf(model, tmp_path / "hf")
    change(tmp_path / "hf", id2label=dict(enumerate(names)))
    loaded = load_pretrained(tmp_path / "hf")
    dataset = CocoDetection(*coco_layout(data, "train"), categories=loaded.categories)
    assert dataset.categories == [{"id": c["id"], "name": c["name"]} for c in CATEGORIES][::-1]
    common = ["--data", str(data), "--size", "64", "--device", "cpu"]
    assert main(["eval", *common, "--weights", str(tmp_path / "hf"), "--out", str(tmp_path / "e.json")]) == 0
    change(tmp_path / "hf", id2label=dict(enumerate(names[::-1])))
    run = ["--out", str(tmp_path / "run"), "--epochs", "1", "--lr", "0", "--limit", "2"]
    assert main(["train", *common, *run, "--weights", str(tmp_path / "hf")]) == 0
    heads = load_pretrained(tmp_path / "run").heads.class_embed[0]
    assert heads.weight.equal(model.heads.class_embed[0].weight)  # its categories are the data's: nothing starts afresh
