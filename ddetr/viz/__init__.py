"""Pictures."""

from .draw import PALETTE, draw_detections

__all__ = ["PALETTE", "draw_detections"]
