"""What waits for a busy kernel: widgets' messages are handled at once, all others in their turn."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("ipykernel")

import zmq
from jupyter_client.session import Session
from zmq.eventloop.zmqstream import ZMQStream

from ddetr.viz import kernel_messages
from ddetr.viz.kernel_messages import handle_widget_messages


@pytest.fixture(params=[6, 7])
def busy(request, monkeypatch):
    """A kernel, as ipykernel 6 or 7 builds it, whose event loop waits for a cell; `send` is its front end."""
    context, happened = zmq.Context(), []
    front, back = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    front.bind("inproc://shell")
    back.connect("inproc://shell")
    session = Session(key=b"secret")

    async def cell(work):
        stream = ZMQStream(back)
        stream.on_recv(lambda frames: happened.append("queued"), copy=False)
        pair = SimpleNamespace(manager=SimpleNamespace(_shell_channel_to_main=SimpleNamespace(to_stream=stream)))
        kernel = SimpleNamespace(
            session=session, shell_handlers={"comm_msg": lambda *args: happened.append(args[2]["content"])},
            _publish_status=lambda status, channel, parent=None: happened.append(status),
            **({"shell_stream": stream} if request.param == 6 else {"shell_channel_thread": pair}),
        )  # fmt: skip
        monkeypatch.setattr(kernel_messages, "get_ipython", lambda: SimpleNamespace(kernel=kernel))
        work()
        stream.close()

    yield SimpleNamespace(
        run=lambda work: asyncio.run(cell(work)), happened=happened, front=front,
        send=lambda kind, **content: session.send(front, kind, content),
    )  # fmt: skip
    front.close()
    context.term()


def test_a_widgets_message_does_not_wait_for_the_cell(busy):
    def work():
        busy.send("execute_request", code="1")
        busy.send("comm_msg", data="pressed")
        busy.front.send_multipart([b"stop aborting"])
        handle_widget_messages()
        handle_widget_messages()  # nothing is handled twice

    busy.run(work)
    assert busy.happened == ["queued", "busy", {"data": "pressed"}, "idle", "busy", "queued"]


def test_another_thread_leaves_the_messages_alone(busy):
    def work():
        busy.send("comm_msg", data="pressed")
        thread = threading.Thread(target=handle_widget_messages)
        thread.start()
        thread.join()
        assert busy.happened == []
        handle_widget_messages()
        assert {"data": "pressed"} in busy.happened

    busy.run(work)


@pytest.mark.parametrize("kernel", [None, SimpleNamespace(), SimpleNamespace(shell_channel_thread=object())])
def test_a_kernel_that_is_built_otherwise(kernel, monkeypatch):
    monkeypatch.setattr(kernel_messages, "get_ipython", lambda: SimpleNamespace(kernel=kernel))
    handle_widget_messages()
    monkeypatch.setattr(kernel_messages, "get_ipython", lambda: None)
    handle_widget_messages()
