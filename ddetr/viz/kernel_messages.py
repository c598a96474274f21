"""Widgets that answer while a cell runs, in a kernel that otherwise waits for the cell to end."""

from __future__ import annotations

import threading
from typing import Any

from IPython import get_ipython


def handle_widget_messages() -> None:
    """Handle what was pressed or moved since the last call. Anything else that waits keeps its place in the queue.

    A kernel's main thread reads no message while it runs a cell, so a long loop that has buttons calls this between
    steps. Where front end and kernel use subshells (JupyterLab 4.4 with ipykernel 7), the buttons' messages are handled
    in a thread of their own and nothing waits here. Without an IPython kernel this does nothing.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    stream = kernel and _main_stream(kernel)
    if stream is None or threading.current_thread() is not threading.main_thread():
        return
    dispatch, copy = stream._recv_callback, stream._recv_copy

    def take(frames: list[Any]) -> None:
        if not _handle_comm(kernel, stream, frames):
            stream._run_callback(dispatch, frames)

    stream.on_recv(take, copy=False)
    try:
        stream.flush()
    finally:
        stream.on_recv(dispatch, copy=copy)


def _main_stream(kernel: Any) -> Any:
    """By which messages reach the main thread; None in a kernel that is built otherwise."""
    try:
        thread = getattr(kernel, "shell_channel_thread", None)
        if thread is None:  # ipykernel 6
            return kernel.shell_stream
        return thread.manager._shell_channel_to_main.to_stream
    except AttributeError:
        return None


def _handle_comm(kernel: Any, stream: Any, frames: list[Any]) -> bool:
    """Whether it was a widget's message, which is handled then."""
    try:
        idents, parts = kernel.session.feed_identities(frames, copy=False)
        # Without its content the message is not marked as read, so that it can be read again.
        kind = kernel.session.deserialize(parts, content=False, copy=False)["header"]["msg_type"]
    except (ValueError, TypeError):  # the kernel's to complain about
        return False
    if kind not in ("comm_msg", "comm_close"):
        return False
    message = kernel.session.deserialize(parts, copy=False)
    kernel._publish_status("busy", "shell", parent=message)
    kernel.shell_handlers[kind](stream, idents, message)
    kernel._publish_status("idle", "shell", parent=message)  # a widget waits for this before it sends again
    kernel._publish_status("busy", "shell")  # the cell still runs
    return True
