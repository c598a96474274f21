"""Pause and stop, for a training run in a notebook's cell."""

from __future__ import annotations

from typing import Any, Protocol

import ipywidgets
from IPython.display import Pretty

STOPPED = "Stopped after step"
AFTERWARDS = "While this ran, buttons stood here to pause and to stop it."


class Run(Protocol):
    """What the buttons press."""

    paused: bool

    def pause(self) -> None:
        """Wait before the next step."""

    def resume(self) -> None:
        """Go on after `pause`."""

    def stop(self) -> None:
        """End before the next step."""


class RunButtons(ipywidgets.HBox):
    """A button that pauses `run` and lets it go on, one that ends it, and how far it is in words."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.pause = ipywidgets.Button(tooltip="Pause the run before its next step, or let it go on")
        self.stop = ipywidgets.Button(
            description="Stop", icon="stop", tooltip="End the run before its next step; its checkpoint is kept"
        )
        self.status = ipywidgets.Label("Running")
        self._dress()
        self.pause.on_click(self._pause)
        self.stop.on_click(self._stop)
        super().__init__([self.pause, self.stop, self.status])

    def say(self, text: str) -> None:
        """Put `text` beside the buttons."""
        self.status.value = text

    def _pause(self, _button: Any) -> None:
        if self.run.paused:
            self.run.resume()
        else:
            self.run.pause()
            self.say("Pauses before the next step")
        self._dress()

    def _stop(self, _button: Any) -> None:
        self.run.stop()
        self.say("Ends before the next step")

    def _dress(self) -> None:
        self.pause.description, self.pause.icon = ("Go on", "play") if self.run.paused else ("Pause", "pause")

    def afterwards(self) -> Pretty:
        """What stands in their place when the run is over."""
        said = self.status.value
        return Pretty(f"{said}." if said.startswith(STOPPED) else AFTERWARDS)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**data, "text/plain": AFTERWARDS}, metadata
