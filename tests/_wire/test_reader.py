"""Frames out of bytes in any pieces: by the library's own reader, with wsproto for what is unusual."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage
from wsproto.events import Ping as WsprotoPing
from wsproto.events import Pong as WsprotoPong

from trio_rooms._wire.reader import Event, FrameReader, Ping, Pong
from trio_rooms._wire.transport import Close
from trio_rooms.testing import Opcode, client_frame, close_payload

TEXT, BINARY, CONTINUATION = Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION


def read(data: bytes, *, step: int | None = None, limit: int = 1000, fragments: int = 8) -> list[Event]:
    """All events of a stream of bytes that comes in pieces of ``step`` bytes."""
    reader = FrameReader(max_message_bytes=limit, max_fragments=fragments)
    size = step or max(1, len(data))
    return [event for n in range(0, len(data), size) for event in reader.feed(data[n : n + size])]


def told(code: int, data: bytes, **limits: int) -> None:
    """Assert that the last event is a violation with this code, however the bytes are cut."""
    for step in (None, 1):
        (*_, last) = read(data, step=step, **limits)
        assert isinstance(last, Close)
        assert (last.code, last.by) == (code, "server")


@pytest.mark.parametrize("step", [None, 1, 2, 7])
def test_usual_frames(step: int | None) -> None:
    """Text, binary, ping and pong, of every length encoding, masked with anything."""
    data = (
        client_frame(TEXT, "ä".encode(), mask="random")
        + client_frame(BINARY, b"\x00" * 125, mask=b"abcd")
        + client_frame(TEXT, b"x" * 126)
        + client_frame(Opcode.PING, b"p")
        + client_frame(Opcode.PONG)
        + client_frame(BINARY, b"y" * 70_000, mask=b"\xff\x00\x01\x02")
    )
    assert read(data, step=step, limit=70_000) == [
        "ä",
        b"\x00" * 125,
        "x" * 126,
        Ping(b"p"),
        Pong(b""),
        b"y" * 70_000,
    ]


@pytest.mark.parametrize("step", [None, 1, 3])
def test_fragments(step: int | None) -> None:
    """A message in fragments is whole at its last one; characters may be split; a ping may stand between."""
    data = (
        client_frame(TEXT, b"h\xc3", fin=False)
        + client_frame(Opcode.PING, b"now")
        + client_frame(CONTINUATION, b"\xa4", fin=False)
        + client_frame(CONTINUATION, b"")
        + client_frame(BINARY, b"1", fin=False)
        + client_frame(CONTINUATION, b"2")
        + client_frame(TEXT, b"usual again")
    )
    assert read(data, step=step) == [Ping(b"now"), "hä", b"12", "usual again"]


@pytest.mark.parametrize(("code", "reason"), [(1000, "bye"), (1001, "é"), (1002, ""), (4999, ""), (None, "")])
def test_close(code: int | None, reason: str) -> None:
    """The peer's close ends it; an empty one is 1005; nothing behind it is looked at."""
    data = client_frame(TEXT, b"a") + client_frame(Opcode.CLOSE, close_payload(code, reason)) + b"\xff" * 20
    assert read(data) == ["a", Close(code or 1005, reason, "peer")]


@pytest.mark.parametrize(
    "data",
    [
        client_frame(TEXT, b"x", mask=None),
        client_frame(TEXT, b"x", rsv=4),
        client_frame(TEXT, b"x", rsv=1),
        client_frame(3, b"x"),
        client_frame(11, b"x"),
        client_frame(Opcode.PING, b"x" * 126),
        client_frame(Opcode.PING, b"x", fin=False),
        client_frame(CONTINUATION, b"x"),
        client_frame(TEXT, b"a", fin=False) + client_frame(TEXT, b"b"),
        client_frame(TEXT, b"x", length_bits=16),
        client_frame(TEXT, b"x", length_bits=64),
        client_frame(TEXT, b"", length=1 << 63, length_bits=64),
        client_frame(Opcode.CLOSE, b"\x03"),
        client_frame(Opcode.CLOSE, close_payload(1005)),
        client_frame(Opcode.CLOSE, close_payload(999)),
    ],
)
def test_violations(data: bytes) -> None:
    """P3: whatever breaks the framing is 1002."""
    told(1002, data)


@pytest.mark.parametrize(
    "data",
    [
        client_frame(TEXT, b"\xff"),
        client_frame(TEXT, b"\xed\xa0\x80"),
        client_frame(TEXT, b"\xc3", fin=False) + client_frame(CONTINUATION, b"("),
        client_frame(Opcode.CLOSE, close_payload(1000, b"\xff")),
    ],
)
def test_invalid_utf8(data: bytes) -> None:
    """P3: text that is not UTF-8 is 1007."""
    told(1007, data)


@pytest.mark.parametrize(
    "data",
    [
        client_frame(TEXT, b"", length=11),
        client_frame(TEXT, b"", length=1 << 62, length_bits=64),
        client_frame(TEXT, b"x" * 6, fin=False) + client_frame(CONTINUATION, b"", length=5),
    ],
)
def test_too_big(data: bytes) -> None:
    """P4: a message larger than the limit is 1009 at the header that says so, before any payload has come."""
    told(1009, data, limit=10)
    assert read(client_frame(TEXT, b"x" * 10), limit=10) == ["x" * 10]


def test_too_many_fragments() -> None:
    """P4: one fragment more than the limit is 1009; control frames between them do not count."""
    part = client_frame(CONTINUATION, b"", fin=False)
    begin = client_frame(TEXT, b"", fin=False)
    ping = client_frame(Opcode.PING)
    assert read(begin + (ping + part) * 6 + client_frame(CONTINUATION, b"x"), fragments=8)[-1] == "x"
    told(1009, begin + part * 8, fragments=8)


@pytest.mark.parametrize(("text", "bad"), [(b"\xff", 1), (b"\xed\xa0\x80", 3), (b"\xf4\x90\x80\x80", 2), (b"\xe2(", 2)])
@pytest.mark.parametrize("before", ["", "fine", "ü€😀" * 50])
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_invalid_utf8_in_an_incomplete_frame(text: bytes, bad: int, before: str, step: int) -> None:
    """P3: 1007 comes at the first byte that shows it, though the frame has not come to its end."""
    whole = client_frame(TEXT, before.encode() + text + b"x" * 200, mask=b"abcd")
    shows = len(whole) - 200 - len(text) + bad
    assert read(whole[: shows - 1], step=step) == []
    told(1007, whole[:shows])


def test_a_message_byte_by_byte_is_kept_as_one() -> None:
    """Invariant 5: what is kept of a message in fragments has its size, however small the pieces are."""
    reader = FrameReader(max_message_bytes=65536, max_fragments=8)
    data = client_frame(TEXT, "€".encode() * 4_000, fin=False)
    tracemalloc.start()
    for n in range(len(data)):
        reader.feed(data[n : n + 1])
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 3 * len(data)
    assert reader.feed(client_frame(CONTINUATION)) == ["€" * 4_000]


def test_in_message() -> None:
    """Whether a message has begun is known after every byte."""
    reader = FrameReader(max_message_bytes=100, max_fragments=8)
    data = client_frame(TEXT, b"ab", fin=False) + client_frame(CONTINUATION, b"c")
    for byte in data[:-1]:
        assert reader.feed(bytes([byte])) == []
        assert reader.in_message
    assert reader.feed(data[-1:]) == ["abc"]
    assert not reader.in_message


def test_only_unusual_frames_need_the_engine() -> None:
    """A connection that sends nothing unusual never makes one."""
    reader = FrameReader(max_message_bytes=100, max_fragments=8)
    reader.feed(client_frame(TEXT, b"a") + client_frame(Opcode.PING))
    assert reader._engine is None


def by_wsproto(data: bytes) -> list[Event]:
    """The same by wsproto alone."""
    engine = Connection(ConnectionType.SERVER)
    engine.receive_data(data)
    events: list[Event] = []
    parts: list[str | bytes] = []
    for event in engine.events():
        match event:
            case TextMessage() | BytesMessage():
                parts.append(event.data if isinstance(event, TextMessage) else bytes(event.data))
                if event.message_finished:
                    text = isinstance(event, TextMessage)
                    events.append("".join(parts) if text else b"".join(parts))  # type: ignore[arg-type]
                    parts = []
            case WsprotoPing():
                events.append(Ping(bytes(event.payload)))
            case WsprotoPong():
                events.append(Pong(bytes(event.payload)))
            case CloseConnection():
                by = "server" if engine.state is ConnectionState.OPEN else "peer"
                return [*events, Close(int(event.code), event.reason or "", by)]
    return events


FRAMES = st.builds(
    client_frame,
    st.sampled_from([0, 1, 1, 2, 8, 9, 10, 3]),
    st.one_of(st.text(max_size=40).map(str.encode), st.binary(max_size=40), st.just(close_payload(1000, "x"))),
    fin=st.sampled_from([True, True, True, False]),
    rsv=st.sampled_from([0, 0, 0, 0, 0, 0, 1]),
    mask=st.sampled_from([b"abcd", b"\x00\x00\x00\x00", b"\xff\xfe\xfd\xfc"]),
)


def without_text(events: list[Event]) -> list[object]:
    """Violations are the same if their codes are; the texts differ."""
    return [(e.code, e.by) if isinstance(e, Close) and e.by == "server" else e for e in events]


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAMES, max_size=12), st.integers(1, 30))
def test_as_wsproto(frames: list[bytes], step: int) -> None:
    """P2: the same frames, cut in any way, give what wsproto alone makes of them."""
    data = b"".join(frames)
    assert without_text(read(data, step=step, fragments=100)) == without_text(by_wsproto(data))


NEARLY_USUAL = st.builds(
    client_frame,
    st.sampled_from([1, 1, 1, 2, 9]),
    st.one_of(
        st.binary(min_size=1, max_size=3), st.sampled_from([b"", b"x" * 125, b"x" * 126, b"x" * 200, b"x" * 201])
    ),
    mask=st.sampled_from([b"abcd", b"abcd", b"abcd", None]),
    length_bits=st.sampled_from([None, None, None, 16, 64]),
)


@given(st.lists(NEARLY_USUAL, max_size=5), st.integers(0, 12))
def test_whole_texts_as_any_frames(frames: list[bytes], missing: int) -> None:
    """P2: what comes whole and is taken straight from the read is what comes of it byte by byte."""
    data = b"".join(frames)
    data = data[: max(0, len(data) - missing)]
    assert read(data, limit=200) == read(data, step=1, limit=200)


def test_nothing_is_kept_after_the_end() -> None:
    """P4: what comes after a violation is dropped, however much it is."""
    reader = FrameReader(max_message_bytes=100, max_fragments=8)
    assert reader.feed(client_frame(TEXT, b"\xff"))
    for _ in range(10):
        assert reader.feed(b"x" * 100) == []
    assert len(reader._buffer) < 100


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(1, 20))
def test_any_bytes(data: bytes, step: int) -> None:
    """Arbitrary bytes raise nothing, and what is kept of them is bounded."""
    reader = FrameReader(max_message_bytes=50, max_fragments=8)
    for n in range(0, len(data), step):
        reader.feed(data[n : n + step])
        assert len(reader._buffer) <= 50 + 14 + step or reader.ended
