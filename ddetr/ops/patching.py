"""Our operator in other people's detectors: what they call by several names is swapped, and swapped back."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Sequence
from types import CellType, FunctionType, MethodType, SimpleNamespace
from typing import Any

from torch import Tensor, nn

from .dispatch import ms_deform_attn

Shapes = Tensor | Sequence[Sequence[int]]


def _apply(
    value: Tensor,
    spatial_shapes: Shapes,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int = 64,
) -> Tensor:
    """As the autograd functions around the official kernel are called; the step is its own affair."""
    return ms_deform_attn(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)


def _core(value: Tensor, value_spatial_shapes: Shapes, sampling_locations: Tensor, attention_weights: Tensor) -> Tensor:
    """As the functions in plain PyTorch are called that stand in where there is no kernel."""
    return ms_deform_attn(value, value_spatial_shapes, None, sampling_locations, attention_weights)


def _operator_forward(
    self: nn.Module,
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_spatial_shapes_list: list[tuple[int, int]],
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int = 64,
) -> Tensor:
    """As a module that is nothing but the operator is called; its list of sizes spares a GPU the way to the host."""
    return ms_deform_attn(value, value_spatial_shapes_list, None, sampling_locations, attention_weights)


_FUNCTION = SimpleNamespace(apply=_apply)
GLOBALS: dict[str, Any] = {
    "MSDeformAttnFunction": _FUNCTION,  # the official code, DINO and others that began as a copy of it
    "ms_deform_attn_core_pytorch": _core,
    "MultiScaleDeformableAttnFunction": _FUNCTION,  # mmcv
    "multi_scale_deformable_attn_pytorch": _core,
    "MultiScaleDeformableAttentionFunction": _FUNCTION,  # transformers, before the operator was a module
    "multi_scale_deformable_attention": _core,
}
"""Global names by which attention modules call their operator, and what they find there instead."""

_OPERATOR_PARAMETERS = tuple(inspect.signature(_operator_forward).parameters)[1:]


class Patch:
    """What `patch` did. Undone by `undo()`, or at the end of a `with` block.

    Attributes:
        modules: the names of the modules that have our operator now, as in `model.named_modules()`. Empty if an
            earlier patch, not yet undone, had given it to all of them.

    Args:
        swapped: these modules by name, with the forward that they had.
    """

    def __init__(self, swapped: dict[str, nn.Module]) -> None:
        self.modules = list(swapped)
        self._swapped = [(module, module.__dict__.get("forward")) for module in swapped.values()]

    def undo(self) -> None:
        """Give every module its own forward back, the same object that it was. A second time does nothing."""
        for module, own in self._swapped:
            if own is None:
                del module.forward  # the class's shows again
            else:
                module.forward = own
        self._swapped = []

    def __enter__(self) -> Patch:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()

    def __repr__(self) -> str:
        return f"Patch({len(self.modules)} modules{'' if self._swapped or not self.modules else ', undone'})"


def patch(model: nn.Module) -> Patch:
    """Swap the attention operator in a Deformable DETR of another code base, and in what descends from it, for ours.

        patched = ddetr.ops.patch(model)   # from here on
        patched.undo()
        with ddetr.ops.patch(model): ...   # or for a while

    Weights, modules, hooks and results stay, gradients too; on a CPU it is faster, and code whose kernel runs only on
    a GPU, or was never compiled, runs. Only this model changes, not others of the same classes. Known are

    * modules that are the operator, called with (value, value_spatial_shapes, value_spatial_shapes_list,
      level_start_index, sampling_locations, attention_weights, im2col_step): Hugging Face's Deformable DETR, Grounding
      DINO, RT-DETR, ...;
    * modules whose forward calls one of the functions in `GLOBALS`: the official code and DINO's, mmcv's and
      mmdetection's, older and other Hugging Face models (Mask2Former, OneFormer).

    A copy of a patched model is patched; a pickled one is not.

    Args:
        model: any module that has such modules inside, or is one.

    Raises:
        TypeError: `model` is not an `nn.Module`.
        ValueError: there is nothing to patch in it.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"patch takes a model, an nn.Module; got {type(model).__name__}")
    known = {
        name: (module, forward)
        for name, module in model.named_modules()
        if (forward := _with_our_operator(module)) is not None
    }
    if not known:
        raise ValueError(
            f"there is nothing to patch in {type(model).__name__}: none of its modules is a deformable attention "
            f"operator that is known here, and no forward calls {', '.join(GLOBALS)}. ddetr's own models need no patch"
        )
    done = Patch({name: module for name, (module, _) in known.items() if not _is_swapped(module)})
    for name in done.modules:
        module, forward = known[name]
        module.forward = MethodType(forward, module)  # which a deep copy binds anew
    return done


def _is_swapped(module: nn.Module) -> bool:
    return hasattr(module.__dict__.get("forward"), "calls_ddetr")


def _with_our_operator(module: nn.Module) -> Callable[..., Any] | None:
    """What its forward should be, a function that takes the module first; None if it calls no operator known here."""
    function = getattr(module.forward, "__func__", None)  # None: not a method, somebody else's replacement
    if function is None or _is_swapped(module):
        return function
    if tuple(inspect.signature(module.forward).parameters) == _OPERATOR_PARAMETERS:
        return _operator_forward
    rebuilt = _rebuilt(function)
    if rebuilt is not None:
        rebuilt.__dict__["calls_ddetr"] = True
    return rebuilt


_operator_forward.__dict__["calls_ddetr"] = True
_operator_forward.__name__ = "forward"  # by which a pickle finds the class's own


def _rebuilt(function: Callable[..., Any]) -> FunctionType | None:
    """A copy of `function` that finds our operator under the global names of `GLOBALS`; None if it asks for none.

    A copy, because those names belong to every model of that code base. Under a decorator it is the function within
    that is copied, and the decorator's around it.
    """
    if not isinstance(function, FunctionType):
        return None
    names, closure = function.__globals__, function.__closure__
    inner = getattr(function, "__wrapped__", None)
    if inner is not None:
        rebuilt = _rebuilt(inner)
        if rebuilt is None:
            return None
        closure = tuple(CellType(rebuilt) if _holds(cell, inner) else cell for cell in closure or ())
    else:
        asked = {i.argval for i in dis.get_instructions(function) if i.opname == "LOAD_GLOBAL"}
        if not asked & GLOBALS.keys():
            return None
        names = {**names, **{name: GLOBALS[name] for name in asked & GLOBALS.keys()}}
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, closure)
    copy.__kwdefaults__, copy.__doc__ = function.__kwdefaults__, function.__doc__
    copy.__dict__.update(function.__dict__)
    if inner is not None:
        copy.__dict__["__wrapped__"] = rebuilt
    return copy


def _holds(cell: CellType, content: object) -> bool:
    try:
        return cell.cell_contents is content
    except ValueError:  # empty
        return False
