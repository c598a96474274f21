"""Against `DeformableDetrForObjectDetection` of transformers, with random weights."""

import pytest
import torch

from ddetr import build_model, load_pretrained
from ddetr.checkpoints import infer_config, load_into

transformers = pytest.importorskip("transformers")

SMALL = {"encoder_layers": 2, "decoder_layers": 3, "num_queries": 40}
VARIANTS = {
    "base": {},
    "refine": {"with_box_refine": True},
    "two_stage": {"with_box_refine": True, "two_stage": True},
    "single_scale": {"num_feature_levels": 1},
}


def hf_model(variant: str):
    options = dict(VARIANTS[variant])
    stages = ["stage4"] if variant == "single_scale" else ["stage2", "stage3", "stage4"]
    backbone = transformers.ResNetConfig(out_features=stages)
    queries = SMALL["num_queries"]
    config = transformers.DeformableDetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, num_labels=5,
        auxiliary_loss=True, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
        two_stage_num_proposals=queries, class_cost=2, bbox_cost=5, giou_cost=2, **SMALL, **options,
    )  # fmt: skip
    model = transformers.DeformableDetrForObjectDetection(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # its own initialisation is another one, and leaves much at zero
        for parameter in model.parameters():
            scale = 0.1 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(1 + noise if parameter.ndim == 1 and parameter.mean() > 0.5 else noise)
    return model.eval()


def our_model(variant: str):
    options = {"box_refine": variant in ("refine", "two_stage"), "two_stage": variant == "two_stage"}
    levels = 1 if variant == "single_scale" else 4
    return build_model("r50", num_classes=5, dropout=0.0, num_levels=levels, **SMALL, **options)


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
    ours = our_model(variant)
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
    wanted = our_model(variant).config.replace(dropout=0.1)
    if variant == "two_stage":
        wanted = wanted.replace(num_queries=300)  # no shape tells how many proposals are kept
    assert inferred == wanted


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_folder_that_transformers_wrote(variant, tmp_path):
    hf = hf_model(variant)
    hf.save_pretrained(tmp_path)
    ours = load_pretrained(tmp_path)  # its config.json tells what shapes do not
    assert ours.config == our_model(variant).config
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours.forward_raw(images).pred_logits, hf(images).logits, rtol=1e-4, atol=1e-4)


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
    hf, ours = hf_model("refine"), our_model("refine")
    load_into(ours, hf.state_dict())
    tied = hf.class_embed[0].weight is hf.class_embed[1].weight
    print("\ntransformers ties the class heads under refinement:", tied, end=" ")
    assert ours.heads.class_embed[0].weight is not ours.heads.class_embed[1].weight
    assert ours.heads.class_embed[0].weight.equal(ours.heads.class_embed[1].weight) == tied


def test_where_the_initialisations_differ():
    """transformers starts class biases at 0 or elsewhere than the paper's -log(99), which our models start at."""
    config = transformers.DeformableDetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, num_labels=5,
        backbone_config=transformers.ResNetConfig(out_features=["stage2", "stage3", "stage4"]), **SMALL,
    )  # fmt: skip
    theirs = transformers.DeformableDetrForObjectDetection(config)
    ours = our_model("base")
    prior = torch.full((5,), -4.59512)
    torch.testing.assert_close(ours.heads.class_embed[0].bias.data, prior)
    print("\ntransformers' class bias at the start:", theirs.class_embed[0].bias.data[:1].item(), end=" ")
