"""Four namings of the same parameters: ours, the official code's, mmdetection's and Hugging Face's.

Each naming is a list of patterns tried in turn. They are written once, from the other name to ours.
"""

import re
from typing import NamedTuple

import torch
from torch import Tensor

from ..models import DeformableDETR

Rules = list[tuple[str, str]]


def _head_rules(prefix: str) -> Rules:
    """Refinement registers the heads a second time inside the decoder; their three layers alternate with ReLUs here."""
    decoder = rf"(?:{prefix}\.decoder\.)?"
    return [
        (decoder + r"class_embed\.(\d+)\.", r"heads.class_embed.\1."),
        *((decoder + rf"bbox_embed\.(\d+)\.layers\.{n}\.", rf"heads.box_embed.\1.{2 * n}.") for n in range(3)),
    ]


_OFFICIAL: Rules = [
    (r"backbone\.0\.body\.", "backbone.body."),
    (r"input_proj\.", "neck.levels."),
    (r"transformer\.level_embed", "flatten.level_embed"),
    (r"query_embed\.", "queries.query_embed."),
    (r"transformer\.(reference_points|enc_output|enc_output_norm|pos_trans|pos_trans_norm)\.", r"queries.\1."),
    (r"transformer\.encoder\.layers\.(\d+)\.norm1\.", r"encoder.layers.\1.self_attn_norm."),
    (r"transformer\.encoder\.layers\.(\d+)\.norm2\.", r"encoder.layers.\1.ffn.norm."),
    (r"transformer\.decoder\.layers\.(\d+)\.norm1\.", r"decoder.layers.\1.cross_attn_norm."),
    (r"transformer\.decoder\.layers\.(\d+)\.norm2\.", r"decoder.layers.\1.self_attn_norm."),
    (r"transformer\.decoder\.layers\.(\d+)\.norm3\.", r"decoder.layers.\1.ffn.norm."),
    (r"transformer\.(encoder|decoder)\.layers\.(\d+)\.(linear[12])\.", r"\1.layers.\2.ffn.\3."),
    (r"transformer\.(encoder|decoder)\.layers\.", r"\1.layers."),
    *_head_rules("transformer"),
]

_MMDET: Rules = [
    (r"backbone\.", "backbone.body."),
    (r"neck\.convs\.(\d+)\.conv\.", r"neck.levels.\1.0."),
    (r"neck\.convs\.(\d+)\.gn\.", r"neck.levels.\1.1."),
    (r"neck\.extra_convs\.(\d+)\.conv\.", r"neck.extra.\1.0."),
    (r"neck\.extra_convs\.(\d+)\.gn\.", r"neck.extra.\1.1."),
    (r"level_embed$", "flatten.level_embed"),
    (r"query_embedding\.", "queries.query_embed."),
    (r"reference_points_fc\.", "queries.reference_points."),
    (r"memory_trans_fc\.", "queries.enc_output."),
    (r"memory_trans_norm\.", "queries.enc_output_norm."),
    (r"pos_trans_fc\.", "queries.pos_trans."),
    (r"pos_trans_norm\.", "queries.pos_trans_norm."),
    (r"(encoder|decoder)\.layers\.(\d+)\.ffn\.layers\.0\.0\.", r"\1.layers.\2.ffn.linear1."),
    (r"(encoder|decoder)\.layers\.(\d+)\.ffn\.layers\.1\.", r"\1.layers.\2.ffn.linear2."),
    (r"(encoder|decoder)\.layers\.(\d+)\.norms\.0\.", r"\1.layers.\2.self_attn_norm."),
    (r"encoder\.layers\.(\d+)\.norms\.1\.", r"encoder.layers.\1.ffn.norm."),
    (r"decoder\.layers\.(\d+)\.norms\.1\.", r"decoder.layers.\1.cross_attn_norm."),
    (r"decoder\.layers\.(\d+)\.norms\.2\.", r"decoder.layers.\1.ffn.norm."),
    (r"decoder\.layers\.(\d+)\.self_attn\.attn\.", r"decoder.layers.\1.self_attn."),
    (r"(encoder|decoder)\.layers\.", r"\1.layers."),
    (r"bbox_head\.cls_branches\.(\d+)\.", r"heads.class_embed.\1."),
    (r"bbox_head\.reg_branches\.(\d+)\.(\d+)\.", r"heads.box_embed.\1.\2."),
]

# transformers renamed some modules over time; the optional parts accept both old and new names.
_HF_BODY = r"model\.backbone\.(?:conv_encoder\.)?model\."
_HF: Rules = [
    (_HF_BODY + r"embedder\.embedder\.convolution\.", "backbone.body.conv1."),
    (_HF_BODY + r"embedder\.embedder\.normalization\.", "backbone.body.bn1."),
    (
        _HF_BODY + r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.convolution\.",
        r"backbone.stage\1.\2.downsample.0.",
    ),
    (
        _HF_BODY + r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.normalization\.",
        r"backbone.stage\1.\2.downsample.1.",
    ),
    (
        _HF_BODY + r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.convolution\.",
        r"backbone.stage\1.\2.hf_conv\3.",
    ),
    (
        _HF_BODY + r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.normalization\.",
        r"backbone.stage\1.\2.hf_bn\3.",
    ),
    (_HF_BODY, "backbone.body."),
    (r"model\.input_proj\.", "neck.levels."),
    (r"model\.level_embed", "flatten.level_embed"),
    (r"model\.query_position_embeddings\.", "queries.query_embed."),
    (r"model\.(reference_points|enc_output|enc_output_norm|pos_trans|pos_trans_norm)\.", r"queries.\1."),
    (r"model\.(encoder|decoder)\.layers\.(\d+)\.(?:mlp\.)?fc([12])\.", r"\1.layers.\2.ffn.linear\3."),
    (r"model\.(encoder|decoder)\.layers\.(\d+)\.final_layer_norm\.", r"\1.layers.\2.ffn.norm."),
    (r"model\.(encoder|decoder)\.layers\.(\d+)\.self_attn_layer_norm\.", r"\1.layers.\2.self_attn_norm."),
    (r"model\.decoder\.layers\.(\d+)\.encoder_attn_layer_norm\.", r"decoder.layers.\1.cross_attn_norm."),
    (r"model\.decoder\.layers\.(\d+)\.encoder_attn\.", r"decoder.layers.\1.cross_attn."),
    (r"model\.decoder\.layers\.(\d+)\.self_attn\.(?:o_proj|out_proj)\.", r"decoder.layers.\1.self_attn.out_proj."),
    (r"model\.(encoder|decoder)\.layers\.", r"\1.layers."),
    *_head_rules("model"),
]

# For each naming, a name that only it has.
_SIGNS = {
    "ddetr": "flatten.level_embed",
    "official": "transformer.level_embed",
    "mmdet": "level_embed",
    "hf": "model.level_embed",
}
_RULES: dict[str, Rules] = {"ddetr": [], "official": _OFFICIAL, "mmdet": _MMDET, "hf": _HF}
NAMINGS = {
    "ddetr": "this package's own",
    "official": "the official code's",
    "mmdet": "mmdetection's",
    "hf": "Hugging Face's",
}


class Translation(NamedTuple):
    """A state dict in our names.

    Attributes:
        state: our name -> tensor.
        source: our name -> the name (or names) it came under.
        conflicts: sentences on names that should hold one tensor and do not.
    """

    state: dict[str, Tensor]
    source: dict[str, str]
    conflicts: list[str]


def detect_naming(names: list[str]) -> str | None:
    """Which naming a state dict's names follow, or None."""
    return next((naming for naming, sign in _SIGNS.items() if sign in names), None)


def our_names(names: list[str], naming: str) -> dict[str, str]:
    """Each name -> ours, as far as patterns go; heads keep their numbers (see `translate`)."""
    if naming == "ddetr":
        return {name: name for name in names}
    rules = [(re.compile(pattern), replacement) for pattern, replacement in _RULES[naming]]
    first_extra = sum(bool(re.fullmatch(r"neck\.convs\.\d+\.conv\.weight", name)) for name in names)
    result = {}
    for name in names:
        for pattern, replacement in rules:
            if match := pattern.match(name):
                new = match.expand(replacement) + name[match.end() :]
                result[name] = _renumber(new, first_extra)
                break
        else:
            result[name] = name
    return result


def translate(state: dict[str, Tensor], model: DeformableDETR, naming: str) -> Translation:
    """Put a state dict into our names, for `model`'s variant.

    The encoder's heads of two-stage, one past the decoder's in every other naming, become the queries'; heads that
    other code bases repeat for each layer without refinement become the one they are.
    """
    config = model.config
    translated: dict[str, Tensor] = {}
    source: dict[str, str] = {}
    conflicts: list[str] = []
    for name, new in our_names(list(state), naming).items():
        if new.endswith("num_batches_tracked") and config.backbone_norm == "frozen_batch":
            continue  # a counter that fixed statistics do not need
        if naming != "ddetr":
            new = _place_head(new, config.decoder_layers, config.box_refine, config.two_stage)
        if new in translated and not torch.equal(translated[new], state[name]):
            conflicts.append(f"{name} differs from {source[new]}, but this variant has one tensor for both")
            continue
        source[new] = f"{source[new]}, {name}" if new in source else name
        translated[new] = state[name]
    if naming == "hf":
        _join_projections(translated, source)
        _repeat_tied_heads(translated, source, len(model.heads.class_embed))
    return Translation(translated, source, conflicts)


def _renumber(name: str, first_extra: int) -> str:
    """Numbers that are shifted: mmdetection's extra levels, Hugging Face's ResNet stages and convolutions."""
    name = re.sub(r"neck\.extra\.(\d+)", lambda m: f"neck.levels.{first_extra + int(m[1])}", name)
    name = re.sub(r"backbone\.stage(\d+)", lambda m: f"backbone.body.layer{int(m[1]) + 1}", name)
    return re.sub(r"hf_(conv|bn)(\d+)", lambda m: f"{m[1]}{int(m[2]) + 1}", name)


def _place_head(name: str, decoder_layers: int, box_refine: bool, two_stage: bool) -> str:
    match = re.fullmatch(r"heads\.(class_embed|box_embed)\.(\d+)\.(.+)", name)
    if not match:
        return name
    kind, layer, rest = match[1], int(match[2]), match[3]
    if two_stage and layer == decoder_layers:
        return f"queries.{kind}.{rest}"
    return f"heads.{kind}.{layer if box_refine else 0}.{rest}"


def _join_projections(state: dict[str, Tensor], source: dict[str, str]) -> None:
    """Hugging Face keeps query, key and value projections apart; PyTorch's attention stacks them."""
    pattern = re.compile(r"(decoder\.layers\.\d+\.self_attn\.)q_proj\.(weight|bias)")
    for match in list(filter(None, map(pattern.fullmatch, state))):
        prefix, kind = match.groups()
        parts = [f"{prefix}{letter}_proj.{kind}" for letter in "qkv"]
        if all(part in state for part in parts):
            joined = f"{prefix}in_proj_{kind}"
            state[joined] = torch.cat([state.pop(part) for part in parts])
            source[joined] = ", ".join(source.pop(part) for part in parts)


def _repeat_tied_heads(state: dict[str, Tensor], source: dict[str, str], count: int) -> None:
    """Hugging Face ties the class heads under refinement, and its files then hold only the first."""
    for name in [name for name in state if name.startswith("heads.class_embed.0.")]:
        for layer in range(1, count):
            other = name.replace(".0.", f".{layer}.", 1)
            if other not in state:
                state[other], source[other] = state[name], source[name]
