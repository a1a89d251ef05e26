from __future__ import annotations

import base64

import pytest

from trio_rooms._config import Limits
from trio_rooms._wire.head import HandshakeError
from trio_rooms._wire.headers import Headers
from trio_rooms._wire.request import HandshakeRequest
from trio_rooms._wire.upgrade import (
    AllowedOrigins,
    check_origins,
    check_upgrade,
    choose_subprotocol,
    is_upgrade,
    origin_allowed,
)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
VALID = {
    "host": b"example.com",
    "upgrade": b"websocket",
    "connection": b"Upgrade",
    "sec-websocket-key": KEY.encode(),
    "sec-websocket-version": b"13",
}


def make(
    changes: dict[str, bytes | None] | None = None, *, method: str = "GET", http_version: str = "1.1"
) -> HandshakeRequest:
    """A valid upgrade request with these headers changed, or removed where the value is None."""
    headers = {**VALID, **(changes or {})}
    pairs = [(name.encode(), value) for name, value in headers.items() if value is not None]
    return HandshakeRequest(method=method, target="/ws", headers=Headers(pairs), http_version=http_version)


def check(request: HandshakeRequest, limits: Limits | None = None) -> str:
    return check_upgrade(request, limits or Limits())


def refused(request: HandshakeRequest, limits: Limits | None = None) -> HandshakeError:
    with pytest.raises(HandshakeError) as caught:
        check(request, limits)
    return caught.value


def test_valid() -> None:
    """A correct opening handshake gives its key."""
    assert check(make()) == KEY


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("upgrade", b"h2c, WebSocket"),
        ("connection", b"keep-alive, UPGRADE"),
        ("connection", b"keep-alive,\tupgrade"),
        ("content-length", b"0"),
        ("sec-websocket-protocol", b"a, b"),
        ("origin", b"anything goes here"),
    ],
)
def test_valid_variants(name: str, value: bytes) -> None:
    """Tokens are found in lists and in any case (RFC 6455 section 4.2.1)."""
    assert check(make({name: value})) == KEY


@pytest.mark.parametrize("byte", [b"\xff", b"\x80", b"\x7f", b"\x01", b"\x1b"])
@pytest.mark.parametrize(
    "name",
    [
        "host",
        "connection",
        "upgrade",
        "origin",
        "sec-websocket-key",
        "sec-websocket-version",
        "sec-websocket-protocol",
        "sec-websocket-extensions",
        "sec-websocket-whatever",
    ],
)
def test_interpreted_header_must_be_printable(name: str, byte: bytes) -> None:
    """H1: a byte that is not printable ASCII in a header that is interpreted is 400."""
    value = VALID.get(name, b"x")
    request = make({name: value + b"," + byte})
    assert is_upgrade(request)
    error = refused(request)
    assert (error.status, error.reason) == (400, "bad_request")
    assert "printable" in error.message


@pytest.mark.parametrize("name", ["user-agent", "cookie", "x-custom", "authorization"])
def test_other_header_may_hold_any_byte(name: str) -> None:
    """H1: such bytes are accepted in headers that are not interpreted; real clients send them."""
    assert check(make({name: b"a\xffb\x01"})) == KEY


@pytest.mark.parametrize(
    "request_",
    [
        make(method="POST"),
        make(method="HEAD"),
        make(method="get"),
        make(http_version="1.0"),
        make({"upgrade": None}),
        make({"upgrade": b"websockets"}),
        make({"connection": None}),
        make({"connection": b"keep-alive"}),
        make({"content-length": b"5"}),
        make({"transfer-encoding": b"chunked"}),
        make({"sec-websocket-key": None}),
        make({"sec-websocket-key": b"short"}),
        make({"sec-websocket-key": b""}),
        make({"sec-websocket-key": b"!" * 24}),
        make({"sec-websocket-key": base64.b64encode(b"x" * 15)}),
        make({"sec-websocket-key": base64.b64encode(b"x" * 17)}),
        make({"sec-websocket-key": b"A" * 24}),
        make({"sec-websocket-key": f"{KEY}, {KEY}".encode()}),
    ],
)
def test_faults(request_: HandshakeRequest) -> None:
    """H5: a wrong method, HTTP/1.0, a missing token, a body and a key that is not 16 bytes are 400."""
    error = refused(request_)
    assert (error.status, error.code, error.reason) == (400, "BAD_REQUEST", "bad_request")


@pytest.mark.parametrize("version", [b"8", b"", b"013", b"13, 13", None])
def test_version(version: bytes | None) -> None:
    """H5: any version but 13 is 426 and is told which one would do (RFC 6455 section 4.4)."""
    error = refused(make({"sec-websocket-version": version}))
    assert (error.status, error.reason) == (426, "version")
    assert error.headers == (("Sec-WebSocket-Version", "13"),)


def test_max_subprotocols() -> None:
    """H4: one subprotocol more than max_subprotocols is 400; by default that is the 33rd."""
    many = make({"sec-websocket-protocol": ",".join(f"p{i}" for i in range(33)).encode()})
    assert refused(many).status == 400
    assert check(many, Limits(max_subprotocols=33)) == KEY
    two = make({"sec-websocket-protocol": b"a,b"})
    assert refused(two, Limits(max_subprotocols=1)).status == 400


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"upgrade": None}, True),
        ({"sec-websocket-key": None}, True),
        ({"upgrade": b"H2C, WebSocket", "sec-websocket-key": None}, True),
        ({"upgrade": b"h2c", "sec-websocket-key": None}, False),
        ({"upgrade": None, "sec-websocket-key": None}, False),
    ],
)
def test_is_upgrade(changes: dict[str, bytes | None], expected: bool) -> None:
    """A request is taken for an upgrade if its Upgrade header or a key says so; another protocol's is none."""
    assert is_upgrade(make(changes)) is expected


@pytest.mark.parametrize(
    ("offered", "supported", "chosen"),
    [
        (("b", "a"), ("a", "b"), "b"),
        (("x", "a"), ("a", "b"), "a"),
        (("x",), ("a",), None),
        (("A",), ("a",), None),
        ((), ("a",), None),
        (("a",), (), None),
    ],
)
def test_choose_subprotocol(offered: tuple[str, ...], supported: tuple[str, ...], chosen: str | None) -> None:
    """The client's order decides among what is supported; no match is no subprotocol, not an error."""
    assert choose_subprotocol(offered, supported) == chosen


def allowed(origin: str | None, host: str | None, rule: AllowedOrigins) -> bool:
    request = make(
        {"origin": None if origin is None else origin.encode(), "host": None if host is None else host.encode()}
    )
    return origin_allowed(request, rule)


@pytest.mark.parametrize(
    ("origin", "host", "expected"),
    [
        (None, "example.com", True),
        ("http://example.com", "example.com", True),
        ("https://example.com", "example.com", True),
        ("HTTPS://Example.COM", "eXample.com", True),
        ("https://example.com:443", "example.com", True),
        ("https://example.com", "example.com:443", True),
        ("http://example.com:80", "example.com", True),
        ("http://example.com:8080", "example.com:8080", True),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("http://[::1]", "[::1]", True),
        ("http://example.com", "example.com:443", False),
        ("https://example.com", "example.com:80", False),
        ("http://example.com:8080", "example.com", False),
        ("http://example.com:443", "example.com", False),
        ("http://example.com", "example.com:8080", False),
        ("http://localhost", "127.0.0.1", False),
        ("http://evil.com", "example.com", False),
        ("http://sub.example.com", "example.com", False),
        ("http://evil-example.com", "example.com", False),
        ("null", "example.com", False),
        ("", "example.com", False),
        ("example.com", "example.com", False),
        ("http://", "example.com", False),
        ("http://example.com/", "example.com", False),
        ("http://user@example.com", "example.com", False),
        ("http://evil.com#example.com", "example.com", False),
        ("http://example.com, http://evil.com", "example.com", False),
        ("http://example.com http://evil.com", "example.com", False),
        ("http://example.com:", "example.com", False),
        ("http://example.com:999999", "example.com", False),
        ("http://a\\b", "a\\b", False),
        ("chrome-extension://example.com", "example.com", False),
        ("http://example.com", None, False),
        ("http://example.com", "", False),
        ("http://example.com", "example.com:", False),
        ("http://example.com", "user@example.com", False),
    ],
)
def test_same_origin(origin: str | None, host: str | None, expected: bool) -> None:
    """H6: "same" wants host and port of Origin to equal Host; no Origin is no browser; "null" is refused."""
    assert allowed(origin, host, "same") is expected


@pytest.mark.parametrize(
    ("origin", "pattern", "expected"),
    [
        ("https://app.example.com", "https://app.example.com", True),
        ("https://app.example.com:443", "https://App.Example.com", True),
        ("https://app.example.com", "https://app.example.com:443", True),
        ("http://app.example.com", "https://app.example.com", False),
        ("https://app.example.com:8443", "https://app.example.com", False),
        ("https://app.example.com:8443", "https://app.example.com:8443", True),
        ("https://app.example.com.evil.com", "https://app.example.com", False),
        ("https://a.example.com", "https://*.example.com", True),
        ("https://a.b.example.com", "https://*.example.com", True),
        ("https://example.com", "https://*.example.com", False),
        ("https://evil-example.com", "https://*.example.com", False),
        ("https://.example.com", "https://*.example.com", False),
        ("https://a..example.com", "https://*.example.com", False),
        ("https://a.example.com.evil.com", "https://*.example.com", False),
        ("http://a.example.com", "https://*.example.com", False),
        ("https://a.example.com:8443", "https://*.example.com", False),
        ("https://a.example.com:8443", "https://*.example.com:8443", True),
        ("capacitor://localhost", "capacitor://localhost", True),
        ("capacitor://localhost:1", "capacitor://localhost", False),
        ("null", "https://*.example.com", False),
        ("https://app.example.com", "malformed", False),
    ],
)
def test_origin_patterns(origin: str, pattern: str, expected: bool) -> None:
    """H6: a pattern compares scheme, host and port; its star stands for whole labels only (CVE-2022-42975)."""
    assert allowed(origin, "host.of.ours", [pattern]) is expected


def test_origin_lists() -> None:
    """One matching pattern is enough, an empty list refuses every browser, None allows all; none needs an Origin."""
    assert allowed("https://b.com", "h", ["https://a.com", "https://b.com"])
    assert not allowed("https://b.com", "h", [])
    assert allowed("https://anything.com", "h", None)
    assert allowed("null", "h", None)
    assert allowed(None, "h", [])


@pytest.mark.parametrize("value", ["same", None, [], ("https://a.com", "https://*.b.com:8443", "app://x")])
def test_check_origins_accepts(value: AllowedOrigins) -> None:
    """Well-formed settings pass."""
    check_origins(value)


@pytest.mark.parametrize(
    "value",
    [
        "https://a.com",
        "*",
        ["a.com"],
        ["*"],
        ["null"],
        ["same"],
        ["https://*"],
        ["https://*."],
        ["https://app-*.a.com"],
        ["https://*.*.a.com"],
        ["https://a.com/"],
        ["https://a.com", "https://a.com:port"],
    ],
)
def test_check_origins_refuses(value: AllowedOrigins) -> None:
    """A setting that could match nothing is an error where it is made, also a bare string."""
    with pytest.raises(ValueError, match="origin"):
        check_origins(value)
