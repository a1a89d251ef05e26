"""What a server has put on the wire, whoever reads it: only so it is known what a broken connection has carried.

Over sockets nothing can stand between the server and its end, so only ends in memory have a tap.
"""

from __future__ import annotations

from typing import Any

import msgspec
import trio

from .._faults import FaultyStream
from .._raw import Opcode, frame_length, parse_server_frames, split_response
from ._record import Wrote


class TappedStream(FaultyStream):
    """A server's end in memory. Of what goes into a half-open connection it keeps what the server takes for sent."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self._sent = bytearray()
        self._taken = 0
        self._failed_at: int | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the other one; what it lets pass is kept."""
        before, whole = self.bytes_sent, False
        try:
            await super().send_all(data)
            whole = True
        finally:
            self._sent += data if whole else data[: self.bytes_sent - before]
            if not whole and self._failed_at is None:
                self._failed_at = len(self._sent)
            if self._failed_at is None:
                self._taken = len(self._sent)

    def wrote(self, link: int) -> Wrote:
        """What was written to a client, each message that left as a whole; and how many the server knows of."""
        response = split_response(bytes(self._sent))
        if response is None:
            return Wrote(link, (), 0)
        left = bytearray(response[2])
        unknown = len(self._sent) - self._taken
        behind = 0 if self._failed_at is None else len(self._sent) - self._failed_at
        messages: list[Any] = []
        taken = 0
        while (length := frame_length(left)) is not None and len(left) >= length:
            if len(left) - length < behind < len(left):
                break  # what has failed has written a part of it, and something else looks like the rest
            (frame,) = parse_server_frames(bytes(left[:length]))
            del left[:length]
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
                decode = msgspec.json.decode if frame.opcode == Opcode.TEXT else msgspec.msgpack.decode
                messages.append(decode(frame.payload))
                taken += len(left) >= unknown
        return Wrote(link, tuple(messages), taken, bytes(left[len(left) - behind :]) if behind < len(left) else b"")
