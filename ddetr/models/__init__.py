"""The detector, stage by stage."""

from .deformable_detr import DeformableDETR, build_model
from .outputs import DetrOutput, LayerOutput
from .trace import Trace, TraceEntry

__all__ = ["DeformableDETR", "DetrOutput", "LayerOutput", "Trace", "TraceEntry", "build_model"]
