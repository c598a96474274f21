"""Four namings of the same parameters: ours, the official code's, mmdetection's and Hugging Face's.

Each naming is a table of (their beginning of a name, ours), `{}` standing for a number, read in both directions. What a
table cannot say, because one code base has two tensors where another has one, is in `translate` and `their_state`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import DeformableDETRConfig
from ..models import DeformableDETR

Rules = list[tuple[str, str]]


class Naming(NamedTuple):
    """How one code base calls the parameters.

    Attributes:
        title: whose it is, for messages.
        sign: a name that only this naming has.
        rules: (theirs, ours), the first that fits counts.
        aliases: (pattern, replacement): other spellings, of other versions, -> the one in `rules`.
        decoder: where the decoder holds the heads a second time, if it does.
    """

    title: str
    sign: str
    rules: Rules
    aliases: Rules
    decoder: str | None


_HEADS: Rules = [  # three linear layers with ReLUs between them, which take numbers here
    ("class_embed.{}.", "heads.class_embed.{}."),
    *((f"bbox_embed.{{}}.layers.{n}.", f"heads.box_embed.{{}}.{2 * n}.") for n in range(3)),
]
_QUERIES = ("reference_points", "enc_output", "enc_output_norm", "pos_trans", "pos_trans_norm")
_TRANSFORMER = ("encoder", "decoder")

_OFFICIAL: Rules = [
    ("backbone.0.body.", "backbone.body."),
    ("input_proj.", "neck.levels."),
    ("transformer.level_embed", "flatten.level_embed"),
    ("query_embed.", "queries.query_embed."),
    *((f"transformer.{name}.", f"queries.{name}.") for name in _QUERIES),
    ("transformer.encoder.layers.{}.norm1.", "encoder.layers.{}.self_attn_norm."),
    ("transformer.encoder.layers.{}.norm2.", "encoder.layers.{}.ffn.norm."),
    ("transformer.decoder.layers.{}.norm1.", "decoder.layers.{}.cross_attn_norm."),
    ("transformer.decoder.layers.{}.norm2.", "decoder.layers.{}.self_attn_norm."),
    ("transformer.decoder.layers.{}.norm3.", "decoder.layers.{}.ffn.norm."),
    *((f"transformer.{part}.layers.{{}}.linear", f"{part}.layers.{{}}.ffn.linear") for part in _TRANSFORMER),
    *((f"transformer.{part}.layers.", f"{part}.layers.") for part in _TRANSFORMER),
    *_HEADS,
]

_MMDET: Rules = [
    ("backbone.", "backbone.body."),
    # Three maps come from the backbone; with one level there is no other.
    *((f"neck.convs.{n}.conv.", f"neck.levels.{n}.0.") for n in range(3)),
    *((f"neck.convs.{n}.gn.", f"neck.levels.{n}.1.") for n in range(3)),
    *((f"neck.extra_convs.{n}.conv.", f"neck.levels.{n + 3}.0.") for n in range(8)),
    *((f"neck.extra_convs.{n}.gn.", f"neck.levels.{n + 3}.1.") for n in range(8)),
    ("level_embed", "flatten.level_embed"),
    ("query_embedding.", "queries.query_embed."),
    ("reference_points_fc.", "queries.reference_points."),
    ("memory_trans_fc.", "queries.enc_output."),
    ("memory_trans_norm.", "queries.enc_output_norm."),
    ("pos_trans_fc.", "queries.pos_trans."),
    ("pos_trans_norm.", "queries.pos_trans_norm."),
    *((f"{part}.layers.{{}}.ffn.layers.0.0.", f"{part}.layers.{{}}.ffn.linear1.") for part in _TRANSFORMER),
    *((f"{part}.layers.{{}}.ffn.layers.1.", f"{part}.layers.{{}}.ffn.linear2.") for part in _TRANSFORMER),
    *((f"{part}.layers.{{}}.norms.0.", f"{part}.layers.{{}}.self_attn_norm.") for part in _TRANSFORMER),
    ("encoder.layers.{}.norms.1.", "encoder.layers.{}.ffn.norm."),
    ("decoder.layers.{}.norms.1.", "decoder.layers.{}.cross_attn_norm."),
    ("decoder.layers.{}.norms.2.", "decoder.layers.{}.ffn.norm."),
    ("decoder.layers.{}.self_attn.attn.", "decoder.layers.{}.self_attn."),
    ("bbox_head.cls_branches.{}.", "heads.class_embed.{}."),
    ("bbox_head.reg_branches.{}.", "heads.box_embed.{}."),
]

_BODY = "model.backbone.conv_encoder.model."
# transformers' own ResNet; its models may also stand on timm's, whose names are torchvision's.
_HF_RESNET: Rules = [
    (f"{_BODY}embedder.embedder.convolution.", "backbone.body.conv1."),
    (f"{_BODY}embedder.embedder.normalization.", "backbone.body.bn1."),
]
for _stage in range(4):
    _theirs, _ours = f"{_BODY}encoder.stages.{_stage}.layers.{{}}.", f"backbone.body.layer{_stage + 1}.{{}}."
    _HF_RESNET += [
        (f"{_theirs}shortcut.convolution.", f"{_ours}downsample.0."),
        (f"{_theirs}shortcut.normalization.", f"{_ours}downsample.1."),
        *((f"{_theirs}layer.{n}.convolution.", f"{_ours}conv{n + 1}.") for n in range(3)),
        *((f"{_theirs}layer.{n}.normalization.", f"{_ours}bn{n + 1}.") for n in range(3)),
    ]
_HF_TIMM: Rules = [(_BODY, "backbone.body.")]
_HF: Rules = [
    ("model.input_proj.", "neck.levels."),
    ("model.level_embed", "flatten.level_embed"),
    ("model.query_position_embeddings.", "queries.query_embed."),
    *((f"model.{name}.", f"queries.{name}.") for name in _QUERIES),
    *((f"model.{part}.layers.{{}}.fc", f"{part}.layers.{{}}.ffn.linear") for part in _TRANSFORMER),
    *((f"model.{part}.layers.{{}}.final_layer_norm.", f"{part}.layers.{{}}.ffn.norm.") for part in _TRANSFORMER),
    ("model.decoder.layers.{}.encoder_attn_layer_norm.", "decoder.layers.{}.cross_attn_norm."),
    ("model.decoder.layers.{}.encoder_attn.", "decoder.layers.{}.cross_attn."),
    *(
        (f"model.{part}.layers.{{}}.self_attn_layer_norm.", f"{part}.layers.{{}}.self_attn_norm.")
        for part in _TRANSFORMER
    ),
    *((f"model.{part}.layers.", f"{part}.layers.") for part in _TRANSFORMER),
    *_HEADS,
]
# transformers 5 renamed some modules. Its files keep the older names, its state dicts do not.
_HF_ALIASES: Rules = [
    (r"^model\.backbone\.model\.", _BODY),
    (r"(layers\.\d+)\.mlp\.fc", r"\1.fc"),
    (r"(self_attn)\.o_proj\.", r"\1.out_proj."),
]

NAMINGS = {
    "ddetr": Naming("this package's own", "flatten.level_embed", [], [], None),
    "official": Naming("the official code's", "transformer.level_embed", _OFFICIAL, [], "transformer.decoder."),
    "mmdet": Naming("mmdetection's", "level_embed", _MMDET, [], None),
    "hf": Naming("Hugging Face's", "model.level_embed", _HF_RESNET + _HF_TIMM + _HF, _HF_ALIASES, "model.decoder."),
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
    return next((key for key, naming in NAMINGS.items() if naming.sign in names), None)


def our_names(names: list[str], naming: str) -> dict[str, str]:
    """Each name -> ours, as far as the tables go; heads keep their numbers (see `translate`)."""
    known = NAMINGS[naming]
    rename = _renamer(tuple(known.rules))
    return {name: rename(_one_spelling(name, known)) for name in names}


def _one_spelling(name: str, naming: Naming) -> str:
    if naming.decoder and name.startswith((f"{naming.decoder}class_embed.", f"{naming.decoder}bbox_embed.")):
        return name.removeprefix(naming.decoder)
    for pattern, replacement in naming.aliases:
        name = re.sub(pattern, replacement, name)
    return name


@functools.cache
def _renamer(rules: tuple[tuple[str, str], ...]) -> Callable[[str], str]:
    """Replaces the beginning of a name, by the first rule that fits; a name that none fits stays."""
    compiled = [(re.compile(re.escape(old).replace(r"\{\}", r"(\d+)")), new) for old, new in rules]

    def rename(name: str) -> str:
        for pattern, new in compiled:
            if match := pattern.match(name):
                return new.format(*match.groups()) + name[match.end() :]
        return name

    return rename


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


def _place_head(name: str, decoder_layers: int, box_refine: bool, two_stage: bool) -> str:
    match = re.fullmatch(r"heads\.(class_embed|box_embed)\.(\d+)\.(.+)", name)
    if not match:
        return name
    kind, layer, rest = match[1], int(match[2]), match[3]
    if two_stage and layer == decoder_layers:
        return f"queries.{kind}.{rest}"
    return f"heads.{kind}.{layer if box_refine else 0}.{rest}"


_PROJECTION = re.compile(r"(decoder\.layers\.\d+\.self_attn\.)(?:q_proj\.|in_proj_)(weight|bias)")


def _join_projections(state: dict[str, Tensor], source: dict[str, str]) -> None:
    """Hugging Face keeps query, key and value projections apart; PyTorch's attention stacks them."""
    for match in [match for name in state if (match := _PROJECTION.fullmatch(name))]:
        joined, parts = _projection_names(match)
        if all(part in state for part in parts):
            state[joined] = torch.cat([state.pop(part) for part in parts])
            source[joined] = ", ".join(source.pop(part) for part in parts)


def _projection_names(match: re.Match) -> tuple[str, list[str]]:
    prefix, kind = match.groups()
    return f"{prefix}in_proj_{kind}", [f"{prefix}{letter}_proj.{kind}" for letter in "qkv"]


def _repeat_tied_heads(state: dict[str, Tensor], source: dict[str, str], count: int) -> None:
    """Hugging Face ties the class heads under refinement, and its files then hold only the first."""
    for name in [name for name in state if name.startswith("heads.class_embed.0.")]:
        for layer in range(1, count):
            other = name.replace(".0.", f".{layer}.", 1)
            if other not in state:
                state[other], source[other] = state[name], source[name]


def their_state(model: DeformableDETR, naming: str) -> dict[str, Tensor]:
    """The model's tensors, on the CPU, under the names and in the number that another code base has.

    A tensor that it has under several names is one tensor here too.
    """
    config, known = model.config, NAMINGS[naming]
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if naming == "ddetr":
        return state
    _put_heads_together(state, config)
    _adapt_norms(state, counted=naming == "mmdet")
    if naming != "mmdet" and not config.neck_bias:
        for level in range(config.num_levels):  # their convolutions have a bias: none is a bias of 0
            weight = state[f"neck.levels.{level}.0.weight"]
            state[f"neck.levels.{level}.0.bias"] = weight.new_zeros(weight.shape[0])
    if naming == "hf":
        _split_projections(state)
    rules = _HF_TIMM + _HF if naming == "hf" and config.dilation else known.rules
    rename = _renamer(tuple((ours, theirs) for theirs, ours in rules))
    theirs = {rename(name): tensor for name, tensor in state.items()}
    if known.decoder:
        twice = [kind for kind, held in (("bbox", config.box_refine), ("class", config.two_stage)) if held]
        again = tuple(f"{kind}_embed." for kind in twice)
        theirs |= {known.decoder + name: tensor for name, tensor in theirs.items() if name.startswith(again)}
    return theirs


def _put_heads_together(state: dict[str, Tensor], config: DeformableDETRConfig) -> None:
    """One head a layer, also where all layers share one, and the encoder's behind them."""
    for name in [name for name in state if name.startswith("heads.")]:
        if not config.box_refine:
            for layer in range(1, config.decoder_layers):
                state[name.replace(".0.", f".{layer}.", 1)] = state[name]
    for name in [name for name in state if name.startswith(("queries.class_embed.", "queries.box_embed."))]:
        _, kind, rest = name.split(".", 2)
        state[f"heads.{kind}.{config.decoder_layers}.{rest}"] = state.pop(name)


def _adapt_norms(state: dict[str, Tensor], counted: bool) -> None:
    """Batch norms' counters of batches: mmdetection has them, fixed statistics do not."""
    for name in [name for name in state if name.endswith(".running_var")]:
        counter = name.replace("running_var", "num_batches_tracked")
        if counted:
            state.setdefault(counter, torch.tensor(0))
        else:
            state.pop(counter, None)


def _split_projections(state: dict[str, Tensor]) -> None:
    for match in [match for name in state if (match := _PROJECTION.fullmatch(name))]:
        joined, parts = _projection_names(match)
        state |= zip(parts, state.pop(joined).chunk(3), strict=True)
