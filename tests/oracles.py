"""What becomes of a client's stream: through a transport, and by what others know of the protocol."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Sequence

import attrs
import trio
from trio.testing import wait_all_tasks_blocked
from websockets.frames import Close as TheirClose
from websockets.frames import Frame as TheirFrame
from websockets.frames import Opcode as TheirOpcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from client_streams import Piece, Script
from transports import Factory, Pair, Settings
from trio_rooms._wire.transport import Close, TransportClosed
from trio_rooms.testing import Opcode, ServerFrame, parse_server_frames

LOST = Close(1006, "", "network")
VIOLATION = Close(1002, "", "server")


@attrs.define
class Outcome:
    """What a server made of a stream, and what it answered."""

    messages: list[str | bytes] = attrs.field(factory=list)
    close: Close = LOST
    frames: list[ServerFrame] = attrs.field(factory=list)
    """All that it wrote."""
    pauses: list[list[bytes]] = attrs.field(factory=list)
    """The pongs that had come at each pause of the peer while the connection stood."""
    answered: bool = False
    """Whether a close frame had come before the connection did anything about it."""

    @property
    def verdict(self) -> tuple[object, ...]:
        """Messages and end. Texts of violations are everybody's own; those of a peer's close are the peer's."""
        reason = self.close.reason if self.close.by == "peer" else ""
        return (*self.messages, (self.close.code, reason, self.close.by))

    @property
    def pongs(self) -> list[bytes]:
        return pongs(self.frames)

    @property
    def close_code(self) -> int | None:
        """The code of the close frame that it wrote, 1005 for one without; None if it wrote none."""
        closes = [frame.payload for frame in self.frames if frame.opcode == Opcode.CLOSE]
        assert len(closes) <= 1, "a second close frame"
        return (int.from_bytes(closes[0][:2]) if closes[0] else 1005) if closes else None


def pongs(frames: Sequence[ServerFrame]) -> list[bytes]:
    """The payloads of the pongs."""
    return [frame.payload for frame in frames if frame.opcode == Opcode.PONG]


async def through(factory: Factory, script: Script, chunks: Sequence[bytes]) -> Outcome:
    """Send ``chunks`` through a transport, with a pause behind each, and then the end of the stream."""
    settings = Settings(
        max_message_bytes=script.max_message_bytes,
        max_fragments=script.max_fragments,
        read_buffer_size=script.read_buffer_size,
    )
    async with factory(settings) as pair, trio.open_nursery() as nursery:
        watched = _Watched(pair)
        nursery.start_soon(watched.receive)
        nursery.start_soon(watched.look)
        for chunk in chunks:
            with contextlib.suppress(trio.BrokenResourceError):
                await pair.peer.send_all(chunk)
            await wait_all_tasks_blocked()
            watched.pause()
        watched.end_of_stream()
        await pair.peer.send_eof()
    watched.outcome.frames = parse_server_frames(bytes(watched.wire))
    return watched.outcome


class _Watched:
    """A connection's reader, and the peer's eyes."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._violated = False
        self._over = trio.Event()
        self.outcome = Outcome()
        self.wire = bytearray()

    async def receive(self) -> None:
        """Receive up to the end, and end the transport as a connection does: the peer's close not at once."""
        transport = self._pair.transport
        try:
            while True:
                self.outcome.messages.append(await transport.receive())
        except TransportClosed as exc:
            close = self.outcome.close = exc.close
        self._violated = close.by == "server"
        if close.by == "network":
            await transport.abort()
        else:
            if close.by == "peer":
                await self._over.wait()
            await transport.close(close.code, close.reason)

    async def look(self) -> None:
        """Note what comes, up to the end of the stream."""
        while data := await self._pair.peer.receive_some():
            self.wire += data

    def pause(self) -> None:
        """Note what has come."""
        if not self._violated:  # then nobody is owed a pong
            self.outcome.pauses.append(pongs(self._frames()))

    def end_of_stream(self) -> None:
        """All has been sent."""
        self.outcome.answered = any(frame.opcode == Opcode.CLOSE for frame in self._frames())
        self._over.set()

    def _frames(self) -> list[ServerFrame]:
        return parse_server_frames(bytes(self.wire), allow_partial=True)


def by_websockets(script: Script) -> Outcome:
    """What websockets' protocol without I/O makes of the frames, and of the cases in which it is known to differ.

    It leaves decoding text to its caller, which is this function.
    """
    model = _Websockets(script.max_message_bytes, script.max_fragments)
    missing = [0] * (len(script.pieces) - 1) + [script.missing]
    for piece, gap in zip(script.pieces, missing, strict=False):
        model.feed(piece, len(piece.data) - gap)
        if model.over:
            break
    return model.outcome


class _Websockets:
    """A ServerProtocol, with each known difference as one condition of :meth:`_differs`."""

    def __init__(self, max_message_bytes: int, max_fragments: int) -> None:
        self._limit = max_message_bytes
        self._max_fragments = max_fragments
        self._protocol = ServerProtocol(state=OPEN, max_size=max_message_bytes)
        self._fragments = 0
        self._parts: list[str | bytes] = []
        self._decoder: codecs.IncrementalDecoder | None = None
        self.outcome = Outcome()
        self.over = False

    def feed(self, piece: Piece, size: int) -> None:
        """Take a frame of which ``size`` bytes have come."""
        if size < piece.header_size:
            return
        verdict = self._differs(piece, whole=size == piece.header_size + piece.length)
        if verdict is not None:
            self._end(verdict)
            return
        if not piece.is_sound:
            # A header that breaks a rule is enough; websockets reads the payload before it complains.
            piece = attrs.evolve(piece, payload=bytes(min(piece.length, 126)), declared=None)
            size = len(piece.data)
        # RFC 6455 limits what a control frame may hold by itself; websockets counts it to the message around it.
        self._protocol.max_message_size = None if piece.is_control or not piece.is_sound else self._limit
        self._protocol.receive_data(piece.data[:size])
        self._take(self._protocol.events_received())
        if not self.over and not piece.is_control and size < piece.header_size + piece.length:
            self._take_part(piece, size)

    def _differs(self, piece: Piece, *, whole: bool) -> Close | None:
        """The verdict that is right where that of websockets is known not to be."""
        in_message = self._protocol.current_size is not None
        if not piece.is_shortest:
            return VIOLATION  # RFC 6455 section 5.2 "MUST"; websockets takes lengths as they are
        if not piece.is_control and piece.is_sound:
            self._fragments = self._fragments + 1 if in_message else 1
            if self._fragments > self._max_fragments:
                return Close(1009)  # websockets has no limit on fragments
            misplaced = in_message == (piece.opcode != Opcode.CONTINUATION)
            if misplaced and not whole and piece.length <= self._limit - (self._protocol.current_size or 0):
                return VIOLATION  # the header is enough; websockets reads the payload before it complains
        if piece.opcode == Opcode.CLOSE and piece.is_sound and whole:
            if piece.payload[:2] == (1014).to_bytes(2):
                return VIOLATION  # registered after the RFC was written; wsproto does not know it
            if len(piece.payload) > 2 and self._close_of(attrs.evolve(piece, payload=piece.payload[:2])).by == "server":
                return VIOLATION  # with two faults in it, websockets names the one in the text
            if in_message:
                return self._close_of(piece)  # section 5.4 lets control frames stand within a message, close too
        return None

    def _close_of(self, piece: Piece) -> Close:
        """What websockets makes of a close frame where no message is open."""
        alone = _Websockets(self._limit, self._max_fragments)
        alone.feed(piece, len(piece.data))
        return alone.outcome.close

    def _take(self, events: Sequence[object]) -> None:
        """Act upon its frames as its connections do, and look whether it has come to an end."""
        for frame in events:
            assert isinstance(frame, TheirFrame)
            if frame.opcode in (TheirOpcode.TEXT, TheirOpcode.BINARY, TheirOpcode.CONT):
                self._data(frame.opcode is TheirOpcode.TEXT, bytes(frame.data), frame.opcode, final=frame.fin)
        self.outcome.frames += [frame for data in self._protocol.data_to_send() for frame in parse_server_frames(data)]
        if not self.over and self._protocol.close_sent is not None:
            self.over = True
            self.outcome.close = _close(self._protocol.close_rcvd, self._protocol.close_sent)

    def _data(self, text: bool, data: bytes, opcode: int, *, final: bool) -> None:
        if opcode != TheirOpcode.CONT:
            self._parts = []
            self._decoder = codecs.getincrementaldecoder("utf-8")() if text else None
        try:
            self._parts.append(data if self._decoder is None else self._decoder.decode(data, final))
        except UnicodeDecodeError:
            self._end(Close(1007))
            return
        if final:
            parts = self._parts
            self.outcome.messages.append(
                "".join(map(str, parts)) if self._decoder else b"".join(p for p in parts if isinstance(p, bytes))
            )

    def _take_part(self, piece: Piece, size: int) -> None:
        """Text is judged as it comes, also in a frame that never becomes whole."""
        in_message = self._protocol.current_size is not None
        if in_message == (piece.opcode == Opcode.CONTINUATION):
            payload = piece.payload[: size - piece.header_size]
            self._data(piece.opcode == Opcode.TEXT, payload, piece.opcode, final=False)

    def _end(self, close: Close) -> None:
        self.over = True
        self.outcome.close = close
        payload = b"" if close.code == 1005 else close.code.to_bytes(2)
        if self.outcome.close_code is None:
            self.outcome.frames.append(ServerFrame(Opcode.CLOSE, payload))


def _close(received: TheirClose | None, sent: TheirClose) -> Close:
    if received is not None and received.code == sent.code:
        return Close(received.code, received.reason, "peer")
    return Close(sent.code)
