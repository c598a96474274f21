"""Every intermediate of one forward pass, by name and in order.

Nothing here runs in an ordinary forward pass, and no stage knows that it can be watched: `trace_model` calls the same
steps as `DeformableDETR.forward_batch`, and listens to their modules with forward hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from .deform_attention import MSDeformAttn
from .modes import evaluating
from .multi_scale import level_mask
from .reference_points import encoder_reference_points

if TYPE_CHECKING:
    from .deformable_detr import DeformableDETR


class TraceEntry(NamedTuple):
    """One tensor: the stage that made it, its name there, and the tensor, detached."""

    stage: str
    name: str
    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        """The tensor's dtype."""
        return self.tensor.dtype


class Trace(Sequence[TraceEntry]):
    """A list of entries that prints as a table, and looks tensors up by name: `trace["encoder.memory"]`.

    Attributes:
        level_sizes: the levels' (h, w).
        image_sizes: each image's (h, w) in pixels, without padding.
        detections: what the model's evaluation mode would return.
    """

    def __init__(self) -> None:
        self.entries: list[TraceEntry] = []
        self.level_sizes: list[tuple[int, int]] = []
        self.image_sizes: list[tuple[int, int]] = []
        self.detections: list[dict[str, Tensor]] = []

    def add(self, stage: str, name: str, tensor: Tensor | None) -> None:
        """Append `tensor` under `stage` and `name`; None (a mask that is not there) is left out."""
        if tensor is not None:
            self.entries.append(TraceEntry(stage, name, tensor.detach()))

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: int | slice | str) -> Any:
        """An entry by index, or a tensor by 'stage.name'. KeyError lists what there is in that stage."""
        if not isinstance(key, str):
            return self.entries[key]
        for entry in self.entries:
            if f"{entry.stage}.{entry.name}" == key:
                return entry.tensor
        stage = key.rsplit(".", 1)[0]
        names = [entry.name for entry in self.entries if entry.stage == stage]
        known = f"{stage} has {', '.join(names)}" if names else f"stages are {', '.join(self.stages())}"
        raise KeyError(f"no tensor {key!r} in the trace; {known}")

    def stages(self) -> list[str]:
        """The stages' names, in order."""
        return list(dict.fromkeys(entry.stage for entry in self.entries))

    def __str__(self) -> str:
        rows = [(e.stage, e.name, str(e.shape), str(e.dtype).removeprefix("torch.")) for e in self.entries]
        return in_columns([("stage", "name", "shape", "dtype"), *rows])

    __repr__ = __str__


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """`rows` of cells as lines of text, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


@torch.no_grad()
def trace_model(model: DeformableDETR, images: Sequence[Tensor]) -> Trace:
    """Run `model` on `images` and keep every intermediate; the model's mode is put back afterwards."""
    trace = Trace()
    with evaluating(model), _listening(model, trace):
        batch = model.batch_images(images)
        trace.image_sizes = batch.sizes
        trace.add("pre_transformer", "images", batch.images)
        trace.add("pre_transformer", "mask", batch.mask)
        tokens = model.pre_transformer(batch)
        trace.level_sizes = tokens.level_sizes
        for level, size in enumerate(tokens.level_sizes):
            if batch.mask is not None:
                trace.add("multi_scale", f"mask_level{level}", level_mask(batch.mask, size))
        for name in ("tokens", "pos", "mask", "spatial_shapes", "level_start_index", "valid_ratios"):
            trace.add("multi_scale", name, getattr(tokens, name))

        reference_points = encoder_reference_points(tokens.level_sizes, tokens.valid_ratios)
        trace.add("encoder", "reference_points", reference_points)
        memory = model.encoder(tokens)
        trace.add("encoder", "memory", memory)

        queries = model.pre_decoder(memory, tokens)
        for name, tensor in queries._asdict().items():
            trace.add("pre_decoder", name, tensor)

        decoded = model.decoder(queries, memory, tokens, model.heads)
        for n, reference in enumerate(decoded.reference_points):
            trace.add("decoder", f"reference_points{n}", reference)

        output = model.predict(decoded, queries, memory)
        trace.add("heads", "hidden_states", output.hidden_states)
        for name in ("logits", "boxes"):
            layers = [getattr(layer, f"pred_{name}") for layer in output.aux] + [getattr(output, f"pred_{name}")]
            trace.add("heads", name, torch.stack(layers))
        trace.detections = model.postprocess(output, batch.sizes)
        for b, detections in enumerate(trace.detections):
            for name, tensor in detections.items():
                trace.add(f"detections{b}", name, tensor)
    return trace


@contextmanager
def _listening(model: DeformableDETR, trace: Trace) -> Iterator[None]:
    with ExitStack() as stack:

        def listen(module: nn.Module, stage: str, name: str) -> None:
            def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
                trace.add(stage, name, output)

            stack.callback(module.register_forward_hook(hook).remove)

        body = model.backbone.body
        listen(body.maxpool, "backbone", "stem")
        for number in range(1, 5):
            listen(getattr(body, f"layer{number}"), "backbone", f"c{number + 1}")
        for level, project in enumerate(model.neck.levels):
            listen(project, "neck", f"level{level}")
        stacks: dict[str, Iterable[Any]] = {"encoder": model.encoder.layers, "decoder": model.decoder.layers}
        for part, layers in stacks.items():
            for n, layer in enumerate(layers):
                stage = f"{part}.layer{n}"
                if part == "decoder":
                    listen(layer.self_attn_norm, stage, "after_self_attn")
                attention = layer.self_attn if part == "encoder" else layer.cross_attn
                hook = _attention_hook(trace, stage)
                stack.callback(attention.register_forward_hook(hook).remove)
                listen(layer, stage, "output")
        yield


def _attention_hook(trace: Trace, stage: str) -> Callable[[MSDeformAttn, tuple[Any, ...], Tensor], None]:
    def hook(module: MSDeformAttn, args: tuple[Any, ...], output: Tensor) -> None:
        # The fused operator keeps none of these, so they are computed once more, by the module's own methods.
        query, reference_points, tokens, spatial_shapes, mask = args
        offsets, _ = module.project_query(query)
        points = module.sampling_points(query, reference_points, spatial_shapes)
        trace.add(stage, "attention_query", query)
        trace.add(stage, "attention_reference_points", reference_points)
        trace.add(stage, "value", module.project_value(tokens, mask))
        trace.add(stage, "sampling_offsets", offsets)
        trace.add(stage, "sampling_locations", points.locations)
        trace.add(stage, "attention_weights", points.weights)
        trace.add(stage, "attention_output", output)

    return hook
