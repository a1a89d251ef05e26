"""The quick parser of usual request heads: it must mean what h11 means, and leave to h11 what is not usual."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_rooms._wire.usual_head import parse_usual

HEAD = (
    b"GET /ws?token=1 HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nUser-Agent: \xe9t\xe9\r\n\r\n"
)


def by_h11(head: bytes) -> tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]]] | None:
    """Method, target, version and headers, None if h11 refuses the head."""
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(head)
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError:
        return None
    assert isinstance(event, h11.Request)
    assert parser.trailing_data == (b"", False)
    return event.method, event.target, event.http_version, list(event.headers)


def test_a_usual_head() -> None:
    """What a browser sends is parsed, names in lower case, values without blanks around them."""
    assert parse_usual(HEAD) == (
        b"/ws?token=1",
        [
            (b"host", b"example.com"),
            (b"upgrade", b"websocket"),
            (b"connection", b"keep-alive, Upgrade"),
            (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
            (b"sec-websocket-version", b"13"),
            (b"user-agent", b"\xe9t\xe9"),
        ],
    )


@pytest.mark.parametrize(
    "head",
    [
        HEAD.replace(b"GET", b"POST"),
        HEAD.replace(b"HTTP/1.1", b"HTTP/1.0"),
        HEAD.replace(b"\r\n", b"\n"),
        HEAD.replace(b"Host: example.com\r\n", b""),
        HEAD.replace(b"Upgrade: websocket", b"Host: other"),
        HEAD.replace(b"Upgrade: websocket", b"Content-Length: 0"),
        HEAD.replace(b"Upgrade: websocket", b"Transfer-Encoding: chunked"),
        HEAD.replace(b"Upgrade: websocket", b"Upgrade : websocket"),
        HEAD.replace(b"Upgrade: websocket", b"Upgrade:\r\n websocket"),
        HEAD.replace(b"Upgrade: websocket", b"Upgrade"),
        HEAD.replace(b"Upgrade: websocket", b": websocket"),
        HEAD.replace(b"Upgrade: websocket", b"Upgrade: web\x00socket"),
        HEAD.replace(b"Upgrade: websocket", b"Upgrade: web\rsocket"),
        HEAD.replace(b"Upgrade: websocket", b"Upgrade: web\x7fsocket"),
        HEAD.replace(b"/ws?", b"/w s?"),
        HEAD.replace(b"/ws?", b"/\xe9?"),
        HEAD.replace(b"/ws?token=1", b""),
        HEAD[:-2],
        HEAD + b"\x81",
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
    ],
)
def test_what_is_not_usual(head: bytes) -> None:
    """Whatever is not plain is left to h11."""
    assert parse_usual(head) is None


def test_a_long_head_takes_no_longer_per_byte() -> None:
    """Matching is linear: a head of a megabyte, with its only fault in the last byte, is done with."""
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: " + b" \t" * 500_000 + b"\r\n\r"
    assert parse_usual(head) is None


PIECES = st.sampled_from(
    [
        b"GET",
        b"POST",
        b" ",
        b"  ",
        b"\t",
        b"/",
        b"/ws",
        b"*",
        b"http://a/b",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"Host",
        b"host: a",
        b"HOST:b",
        b":",
        b"Upgrade: websocket",
        b"Content-Length: 3",
        b"Transfer-Encoding: chunked",
        b"x",
        b"X-\xe9: 1",
        b"y: \xe9",
        b"z: a\tb",
        b"empty:",
        b"blank: \t",
        b"\r\n",
        b"\n",
        b"\r",
        b"\x00",
        b"\x7f",
        b"\x0b",
    ]
)
LINES = st.sampled_from(
    [
        b"Host: a",
        b"host:b ",
        b"Upgrade: websocket",
        b"Connection: \tUpgrade\t",
        b"X: \xff\xfe",
        b"a-_.!#$%&'*+^`|~: 1",
        b"empty:",
        b"blank: \t ",
        b"c: d: e",
        b"f : g",
        b" folded",
        b"Content-Length: 0",
        b"Transfer-Encoding: chunked",
        b"n: \x7f",
        b"n: \x01",
        b"n: a\rb",
        b"n: \x0b",
        b"",
        b"no colon",
    ]
)


@given(
    st.one_of(
        st.lists(PIECES, max_size=20).map(b"".join),
        st.builds(
            lambda first, lines: b"\r\n".join([first, *lines]),
            st.sampled_from([b"GET / HTTP/1.1", b"GET /\xe9 HTTP/1.1", b"GET  / HTTP/1.1", b"HEAD / HTTP/1.1"]),
            st.lists(LINES, max_size=6),
        ),
    ).map(lambda head: head + b"\r\n\r\n")
)
@example(HEAD)
def test_the_same_as_h11(head: bytes) -> None:
    """Each head that is parsed here means the same to h11, so nothing gets in that h11 would refuse."""
    usual = parse_usual(head)
    if usual is not None:
        target, fields = usual
        assert by_h11(head) == (b"GET", target, b"1.1", fields)
