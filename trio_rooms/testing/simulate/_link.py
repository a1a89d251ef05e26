"""One connection as a raw client has it: every frame is looked at, nothing is forgiven.

Theory of operation. One task reads (:meth:`Link.read`): it cuts the bytes into frames and records each message. Another
one answers pings and the close, so that a server which reads nothing for a while never keeps its client from reading.
Whoever sends does so under a lock, so frames leave whole. What a server may never send is recorded as broken: a
masked frame, a fragment, something behind a close frame, a close frame behind half a frame.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import trio

from .._raw import (
    Opcode,
    ServerFrame,
    client_frame,
    close_payload,
    frame_length,
    handshake_bytes,
    header_length,
    parse_server_frames,
    split_response,
)
from ._network import Wire
from ._record import Answered, Broken, Ended, Record, Seen, Sent, Welcomed

# Seconds that a client waits for its handshake, and for the server to take what it sends.
_PATIENCE = 40.0


class Link:
    """A client's end of one connection over a :class:`Wire`, which it owns."""

    def __init__(self, wire: Wire, record: Record, *, subprotocol: str, on_message: Callable[[Any], None]) -> None:
        self.number: int = wire.link
        self.wire = wire
        self.over: trio.Event = trio.Event()
        """Set when nothing more will come."""
        self._record = record
        self._subprotocol = subprotocol
        self._on_message = on_message
        self._unparsed = bytearray()
        self._lock = trio.StrictFIFOLock()
        self._close: tuple[int, str] | None = None
        self._close_sent = False
        self._torn = False
        self._left = False
        self._pings: list[bytes] = []
        self._to_answer = trio.Event()
        self._waiting: dict[Any, trio.Event] = {}
        self._answers: dict[Any, Any] = {}

    @property
    def usable(self) -> bool:
        """Whether it makes sense to send."""
        return not (self.over.is_set() or self._close_sent or self._torn or self._close)

    async def shake_hands(self, path: str, user: str) -> bool:
        """Whether the server has accepted the upgrade; if not, the connection is over."""
        target = f"{path}?link={self.number}" + (f"&user={user}" if user else "")
        request = handshake_bytes(target, subprotocol=self._subprotocol or None)
        try:
            with trio.move_on_after(_PATIENCE):
                await self.wire.slow.send_all(request)
                while True:
                    data = await self.wire.slow.receive_some()
                    if not data:
                        break
                    self._unparsed += data
                    found = split_response(bytes(self._unparsed))
                    if found is None:
                        continue
                    status, _, rest = found
                    if status != 101:
                        break
                    self._unparsed = bytearray(rest)
                    self._record.add(Welcomed(self.number))
                    return True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        await self._end(1006, "no upgrade")
        return False

    async def read(self) -> None:
        """Read until the end, and record it."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._answer_pings)
                await self._receive()
                nursery.cancel_scope.cancel(reason="nothing more comes")
        finally:
            if self._unparsed and self._close is not None:
                self._record.add(Broken(self.number, f"behind a close frame: {bytes(self._unparsed[:20])!r}"))
            elif not _may_begin_a_frame(self._unparsed):
                self._record.add(Broken(self.number, f"behind half a frame: {bytes(self._unparsed[-20:])!r}"))
            with trio.CancelScope(shield=True):  # closing does not wait
                await self._end(*(self._close or (1006, "")))

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send one message; where it cannot be sent whole, the connection is dropped."""
        self._record.add(Sent(self.number, message))
        await self._send(*self._encode(message))

    async def answer(self, n: int, message: Mapping[str, Any]) -> None:
        """Answer a request of the server's."""
        self._record.add(Answered(self.number, n))
        await self._send(*self._encode(message))

    async def send_text(self, text: bytes) -> None:
        """Send a text message as it is."""
        await self._send(Opcode.TEXT, text)

    async def request(self, message: Mapping[str, Any], *, seconds: float) -> Any:
        """Send a message with an id and return what answers it; None if nothing does."""
        event = self._waiting[message["id"]] = trio.Event()
        await self.send(message)
        with trio.move_on_after(seconds):
            await event.wait()
        del self._waiting[message["id"]]
        return self._answers.pop(message["id"], None)

    async def hang_up(self, code: int = 1000) -> None:
        """Send a close frame, and let the reader wait for the answer; in the end drop what is not answered."""
        self._left = True
        await self._send(Opcode.CLOSE, close_payload(code))
        self._close_sent = True
        with trio.move_on_after(_PATIENCE):
            await self.over.wait()
        await self.drop()

    async def drop(self) -> None:
        """Close the stream without a word."""
        self._torn = self._left = True
        await trio.aclose_forcefully(self.wire.slow)

    # The inside

    async def _receive(self) -> None:
        try:
            while self._take_frames():
                data = await self.wire.slow.receive_some()
                if not data:
                    break
                self._unparsed += data
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    def _encode(self, message: Mapping[str, Any]) -> tuple[int, bytes]:
        if self._subprotocol.endswith("msgpack"):
            return Opcode.BINARY, msgspec.msgpack.encode(message)
        return Opcode.TEXT, msgspec.json.encode(message)

    async def _send(self, opcode: int, payload: bytes) -> None:
        if not self.usable:
            return
        whole = False
        try:
            with trio.move_on_after(_PATIENCE):
                async with self._lock:
                    await self.wire.slow.send_all(client_frame(opcode, payload))
                whole = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._torn = True
        else:
            if not whole:
                await self.drop()

    async def _end(self, code: int, reason: str) -> None:
        if self.over.is_set():
            return
        self._record.add(Ended(self.number, code, reason, self._left))
        self.over.set()
        for event in self._waiting.values():
            event.set()
        await trio.aclose_forcefully(self.wire.slow)

    def _take_frames(self) -> bool:
        """Act on the frames that are complete; False where the connection is to be given up."""
        while True:
            length = frame_length(self._unparsed)
            if length is None or len(self._unparsed) < length:
                return True
            if self._close is not None:
                return True  # told at the end
            data = bytes(self._unparsed[:length])
            del self._unparsed[:length]
            try:
                (frame,) = parse_server_frames(data)
                self._take(frame)
            except ValueError as exc:
                self._record.add(Broken(self.number, str(exc)))
                return False

    def _take(self, frame: ServerFrame) -> None:
        if frame.rsv or not frame.fin:
            raise ValueError(f"not a whole plain frame: {frame!r}")
        if frame.opcode == Opcode.PING:
            self._pings.append(frame.payload)
            self._to_answer.set()
        elif frame.opcode == Opcode.CLOSE:
            code = int.from_bytes(frame.payload[:2], "big") if frame.payload else 1005
            self._close = code, frame.payload[2:].decode()
            self._to_answer.set()
        elif frame.opcode == (Opcode.BINARY if self._subprotocol.endswith("msgpack") else Opcode.TEXT):
            self._take_message(frame.payload)
        else:
            raise ValueError(f"unexpected: {frame!r}")

    def _take_message(self, payload: bytes) -> None:
        decode = msgspec.msgpack.decode if self._subprotocol.endswith("msgpack") else msgspec.json.decode
        message: Any = decode(payload)
        self._record.add(Seen(self.number, message))
        if not isinstance(message, dict):
            raise ValueError(f"no object: {message!r}")
        if "id" in message and "action" not in message and message["id"] in self._waiting:
            self._answers[message["id"]] = message
            self._waiting[message["id"]].set()
        self._on_message(message)

    async def _answer_pings(self) -> None:
        while True:
            await self._to_answer.wait()
            self._to_answer = trio.Event()
            while self._pings:
                await self._send(Opcode.PONG, self._pings.pop(0))
            if self._close is not None and not (self._close_sent or self._torn):
                self._close_sent = True
                await self._answer_close(self._close[0])

    async def _answer_close(self, code: int) -> None:
        closing = client_frame(Opcode.CLOSE, close_payload(code if code != 1005 else None))
        try:
            async with self._lock:
                await self.wire.slow.send_all(closing)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._torn = True


def _may_begin_a_frame(data: bytearray) -> bool:
    """Whether a server may have sent this and no more. What stands behind half a text is found as none of it."""
    if len(data) > 1 and data[1] & 0x80:
        return False  # masked
    header = header_length(data)
    if header is not None and data[0] & 0xF == Opcode.TEXT:
        try:
            codecs.getincrementaldecoder("utf-8")().decode(data[header:])
        except UnicodeDecodeError:
            return False
    return True
