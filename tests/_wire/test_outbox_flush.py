"""Outboxes that share a backlog, flushed in a row: what is found out once, and what each meets by itself."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from trio_rooms._wire.backlog import begin
from trio_rooms._wire.frames import Frame, make_frame
from trio_rooms._wire.outbox import Outbox, flush_all

FORM = object()
FIRST = make_frame(b"first", text=True)
OTHER = make_frame(b"other", text=True)


@attrs.define(eq=False)
class FakeSocket:
    """Takes as much as it is told, and is the outlet as well."""

    takes: int | type[OSError] = 1000
    sent: list[bytes] = attrs.field(factory=list)
    told: list[object] = attrs.field(factory=list)

    def send(self, data: bytes) -> int:
        if not isinstance(self.takes, int):
            raise self.takes
        self.sent.append(data[: self.takes])
        return min(self.takes, len(data))

    def wake(self) -> None:
        self.told.append("wake")

    def blocked(self, count: int, data: bytes, taken: int) -> None:
        self.told.append(("blocked", count, taken))

    def failed(self) -> None:
        self.told.append("failed")


def make_outboxes(*sockets: FakeSocket) -> list[Outbox]:
    """An outbox for each, with nothing in it, that is left to the flusher."""
    outboxes = []
    for socket in sockets:
        outbox = Outbox(FORM, max_messages=10, max_bytes=1000, outlet=socket)
        outbox.leave_to_flusher()
        outbox.send_now = socket.send
        outboxes.append(outbox)
    return outboxes


def share(outboxes: list[Outbox], frame: Frame = FIRST) -> None:
    """Put one backlog into all of them."""
    backlog = begin(frame, FORM, frame.data, owner=outboxes)
    for outbox in outboxes:
        outbox.backlog = backlog


def test_each_is_written() -> None:
    """All who share one get its bytes; who shares another one, or has one of its own, gets those of that."""
    sockets = [FakeSocket() for _ in range(6)]
    outboxes = make_outboxes(*sockets)
    share(outboxes[:2])
    share(outboxes[2:4], OTHER)
    outboxes[4].send_nowait(FIRST)
    flush_all(outboxes)
    assert [b"".join(socket.sent) for socket in sockets] == [
        FIRST.data, FIRST.data, OTHER.data, OTHER.data, FIRST.data, b""
    ]  # fmt: skip
    assert [outbox.written for outbox in outboxes] == [1, 1, 1, 1, 1, 0]
    assert not any(outboxes)


def test_each_meets_its_own() -> None:
    """A socket that is full, takes a part or is broken is told, and changes nothing for the next."""
    sockets = [FakeSocket(), FakeSocket(BlockingIOError), FakeSocket(3), FakeSocket(ConnectionResetError), FakeSocket()]
    outboxes = make_outboxes(*sockets)
    share(outboxes)
    flush_all(outboxes)
    assert [socket.told for socket in sockets] == [[], [("blocked", 1, 0)], [("blocked", 1, 3)], ["failed"], []]
    assert sockets[4].sent == [FIRST.data]
    assert [bool(outbox) for outbox in outboxes] == [False, True, True, True, False]


def test_while_the_writer_is_at_work() -> None:
    """Who may not be written to is passed over, also in the midst of those who share."""
    sockets = [FakeSocket() for _ in range(3)]
    outboxes = make_outboxes(*sockets)
    share(outboxes)
    nobody: Callable[[bytes], int] | None = None
    outboxes[1].send_now = nobody
    flush_all(outboxes)
    assert [len(socket.sent) for socket in sockets] == [1, 0, 1]
    assert outboxes[1]
