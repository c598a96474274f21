"""A figure with controls: change one, and `draw` draws the new state."""

from __future__ import annotations

import asyncio
import html
import threading
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets

from ..files import data_uri
from .figures import Figure

STILL = "A still picture: run this cell in JupyterLab, Notebook 7 or VS Code to move it."
_PAUSE = 0.03
"""Seconds without a change after which it is drawn: a hand that drags sends more changes than can be drawn."""

# JupyterLab hands changes to a thread beside the one that runs the cells. Two at once would mix up matplotlib's caches,
# and the older picture could come last.
DRAWING = threading.RLock()

_ROW = {"flex_flow": "row wrap", "align_items": "center", "grid_gap": "4px 16px"}


class Sandbox(ipywidgets.VBox):
    """Controls over a pure function `draw(state) -> Figure`.

    Args:
        draw: draws a state. A ValueError that it raises is shown as text under the controls, and the last figure stays;
            any other exception is a bug and is raised.
        make_state: makes the state from the controls' values, by name.
        controls: name -> a widget with a `value`, or (widget, trait) for another trait of it, such as the boxes of
            `Handles`. Each widget is shown once.
        draw_still: draws a state where there are no widgets to show what `draw` leaves to them; None: `draw` does.

    Raises:
        ValueError: the state that it starts with cannot be drawn.
    """

    def __init__(
        self,
        draw: Callable[[Any], Figure],
        make_state: Callable[..., Any],
        controls: Mapping[str, ipywidgets.Widget | tuple[ipywidgets.Widget, str]],
        draw_still: Callable[[Any], Figure] | None = None,
    ) -> None:
        self._draw, self._make_state, self._draw_still = draw, make_state, draw_still or draw
        self.controls = {
            name: control if isinstance(control, tuple) else (control, "value") for name, control in controls.items()
        }
        self._picture = ipywidgets.HTML()
        self._refusal = ipywidgets.Label()
        self._timer: asyncio.TimerHandle | None = None
        widgets = list(dict.fromkeys(widget for widget, _ in self.controls.values()))
        panel = ipywidgets.Box(widgets, layout=_ROW)
        super().__init__([panel, self._refusal, self._picture])
        self.redraw()
        if self._refusal.value:
            raise ValueError(self._refusal.value)
        for widget, trait in self.controls.values():
            widget.observe(self._changed, names=trait)

    @property
    def state(self) -> Any:
        """The state that `figure` shows."""
        self._catch_up()
        return self._state

    @property
    def figure(self) -> Figure:
        """The last figure that was drawn, which is also what is shown where there are no widgets."""
        self._catch_up()
        return self._figure

    @property
    def message(self) -> str:
        """Why the last change was refused; "" if it was not."""
        self._catch_up()
        return self._refusal.value

    def redraw(self) -> None:
        """Draw the state that the controls are in now."""
        with DRAWING:
            self._timer = None
            values = {name: getattr(widget, trait) for name, (widget, trait) in self.controls.items()}
            try:
                state = self._make_state(**values)
                figure = self._draw(state)
            except ValueError as error:
                self._refusal.value = str(error)
                return
            self._refusal.value = ""
            self._state, self._figure = state, figure
            self._picture.value = picture(figure)

    def _changed(self, _change: Any) -> None:
        if self._timer:
            self._timer.cancel()
        try:
            self._timer = asyncio.get_running_loop().call_later(_PAUSE, self.redraw)
        except RuntimeError:  # no kernel, so nobody who drags
            self.redraw()

    def _catch_up(self) -> None:
        if self._timer:
            self._timer.cancel()
            self.redraw()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        still = self._draw_still(self.state)
        still.footnote = STILL
        pictures, words = still._repr_mimebundle_()
        return {**data, **pictures, "text/plain": STILL}, {**metadata, **words}


def picture(figure: Figure) -> str:
    """The figure as an HTML image that holds its own data and says in words what it shows."""
    source = data_uri(figure._repr_png_(), "image/png")
    return f'<img alt="{html.escape(figure.alt)}" style="max-width: 100%" src="{source}">'
