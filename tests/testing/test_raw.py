"""Frames, heads and handshakes made and read by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping

from trio_rooms.testing._raw import (
    Opcode,
    ServerFrame,
    client_frame,
    close_payload,
    frame_length,
    handshake_bytes,
    parse_server_frames,
    split_response,
)


def events_of(data: bytes) -> list[object]:
    """What a wsproto server makes of ``data``."""
    server = Connection(ConnectionType.SERVER)
    server.receive_data(data)
    return list(server.events())


@pytest.mark.parametrize("mask", [b"\x00\x00\x00\x00", b"\x01\x02\x03\x04", "random"])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_a_client_frame_is_what_a_server_reads(size: int, mask: bytes) -> None:
    """A frame of any length form and mask carries its payload to a server."""
    payload = bytes(i % 251 for i in range(size))
    events = events_of(client_frame(Opcode.BINARY, payload, mask=mask))
    assert b"".join(event.data for event in events if isinstance(event, BytesMessage)) == payload
    assert isinstance(events[-1], BytesMessage)
    assert events[-1].message_finished


def test_the_frame_of_the_rfc() -> None:
    """The masked "Hello" of RFC 6455 section 5.7 comes out to the byte."""
    frame = client_frame(Opcode.TEXT, b"Hello", mask=b"\x37\xfa\x21\x3d")
    assert frame == bytes.fromhex("818537fa213d7f9f4d5158")


def test_a_lie_about_the_length() -> None:
    """A declared length and the form of the length field can both be wrong."""
    huge = client_frame(Opcode.BINARY, b"x", length=2**62)
    assert frame_length(huge) == 2 + 8 + 4 + 2**62
    padded = client_frame(Opcode.PING, b"abc", length_bits=16)
    assert padded == b"\x89\xfe\x00\x03" + bytes(4) + b"abc"


def test_frames_that_break_the_rules() -> None:
    """Reserved bits, a missing mask and a fragmented ping are sent as asked."""
    assert client_frame(Opcode.PING, fin=False, rsv=5, mask=None) == b"\x59\x00"


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        (close_payload(None), 1005, ""),
        (close_payload(1000), 1000, ""),
        (close_payload(4008, "slow"), 4008, "slow"),
        (close_payload(4008, "langsam \N{SNAIL}".encode()), 4008, "langsam \N{SNAIL}"),
    ],
)
def test_a_close_payload(payload: bytes, code: int, reason: str) -> None:
    """A close payload carries code and reason, or neither."""
    assert events_of(client_frame(Opcode.CLOSE, payload)) == [CloseConnection(code=code, reason=reason)]


def test_frames_in_a_row_are_parsed_apart() -> None:
    """Frames of a server are told apart, with their flags."""
    frames = [
        ServerFrame(Opcode.TEXT, b"a" * 200, fin=False),
        ServerFrame(Opcode.CONTINUATION, b"", rsv=4),
        ServerFrame(Opcode.CLOSE, close_payload(1000)),
    ]
    data = b"".join(client_frame(f.opcode, f.payload, fin=f.fin, rsv=f.rsv, mask=None) for f in frames)
    assert parse_server_frames(data) == frames


@given(sizes=st.lists(st.sampled_from([0, 1, 125, 126, 127, 65535, 65536]), max_size=4), cut=st.integers(0, 400_000))
def test_frames_that_are_cut_anywhere(sizes: list[int], cut: int) -> None:
    """With ``allow_partial`` a cut leaves the whole frames before it; without, it is an error."""
    whole = [client_frame(Opcode.BINARY, bytes(size), mask=None) for size in sizes]
    data = b"".join(whole)[:cut]
    complete = 0
    while complete < len(whole) and sum(map(len, whole[: complete + 1])) <= len(data):
        complete += 1
    parsed = parse_server_frames(data, allow_partial=True)
    assert [len(frame.payload) for frame in parsed] == sizes[:complete]
    if sum(map(len, whole[:complete])) < len(data):
        with pytest.raises(ValueError, match="incomplete frame"):
            parse_server_frames(data)


def test_a_masked_frame_is_no_server_frame() -> None:
    """A server must not mask (RFC 6455 section 5.1)."""
    with pytest.raises(ValueError, match="masked frame"):
        parse_server_frames(client_frame(Opcode.TEXT, b"x"))


def test_events_of_control_frames() -> None:
    """Control frames keep their payload."""
    assert events_of(client_frame(Opcode.PING, b"p" * 125)) == [Ping(payload=b"p" * 125)]


def test_handshake_bytes() -> None:
    """An upgrade request has the headers of RFC 6455 section 4.1 and the ones added."""
    request = handshake_bytes("/x?y=1", host="h", key="k", subprotocol=["a", "b"], headers=[("Origin", "null")])
    assert request == (
        b"GET /x?y=1 HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: k\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: a, b\r\nOrigin: null\r\n\r\n"
    )


def test_split_response() -> None:
    """A response head is split from what stands behind it, once it is complete."""
    data = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nX-A:1\r\n\r\nrest\r\n\r\n"
    assert split_response(data) == (101, {"upgrade": "websocket", "x-a": "1"}, b"rest\r\n\r\n")
    assert split_response(data[:40]) is None


@pytest.mark.parametrize("data", [b"\x81\x00\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/2 200 OK\r\n\r\n"])
def test_split_response_of_something_else(data: bytes) -> None:
    """What is no HTTP/1 response is an error."""
    with pytest.raises(ValueError, match="not an HTTP/1 response"):
        split_response(data)
