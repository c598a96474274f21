"""Pictures."""

from typing import Any

from .draw import PALETTE, draw_detections

__all__ = ["PALETTE", "SamplingExplorer", "draw_detections"]


def __getattr__(name: str) -> Any:
    """The explorer is imported when it is asked for: it needs matplotlib and anywidget, which the rest does not."""
    if name == "SamplingExplorer":
        from .sampling_explorer import SamplingExplorer

        return SamplingExplorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
