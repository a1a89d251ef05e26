from __future__ import annotations

import attrs
import pytest

from trio_rooms._wire.headers import Headers, parse_cookies
from trio_rooms._wire.request import HandshakeRequest

HEADERS = Headers(
    [
        (b"Host", b"example.com"),
        (b"X-Many", b"one"),
        (b"User-Agent", b"caf\xe9"),
        (b"x-many", b"two"),
        (b"Cookie", b"a=1"),
        (b"Cookie", b"b=2"),
    ]
)


def test_lookup_ignores_case() -> None:
    """A header is found whatever the case of the name that was sent and of the one that is asked for."""
    assert HEADERS["HOST"] == HEADERS["host"] == "example.com"
    assert "hOsT" in HEADERS


def test_missing_name() -> None:
    """A name that was not sent is a KeyError, also one that no header could have."""
    for name in ("absent", "", "naïve-€"):
        assert name not in HEADERS
        with pytest.raises(KeyError):
            HEADERS[name]


def test_values_are_latin_1() -> None:
    """A byte above 0x7F in a value is decoded as latin-1 and never fails."""
    assert HEADERS["user-agent"] == "café"


def test_repeated_headers() -> None:
    """Repeated headers are joined with a comma, cookies with a semicolon; getlist keeps them apart."""
    assert HEADERS["x-many"] == "one, two"
    assert HEADERS["cookie"] == "a=1; b=2"
    assert HEADERS.getlist("X-MANY") == ["one", "two"]
    assert HEADERS.getlist("absent") == []


def test_mapping() -> None:
    """Each name is listed once, in lower case, in the order of first appearance; raw keeps every pair."""
    assert list(HEADERS) == ["host", "x-many", "user-agent", "cookie"]
    assert len(HEADERS) == 4
    assert dict(HEADERS)["x-many"] == "one, two"
    assert HEADERS.raw[1] == (b"x-many", b"one")
    assert len(HEADERS.raw) == 6


def test_equality_and_hash() -> None:
    """Headers that say the same are equal and hash alike; the order between names does not count."""
    one = Headers([(b"A", b"1"), (b"B", b"2")])
    other = Headers([(b"b", b"2"), (b"a", b"1")])
    assert one == other == {"a": "1", "b": "2"}
    assert hash(one) == hash(other)
    assert one != Headers([(b"a", b"1")])


def test_immutable() -> None:
    """Neither a header nor an attribute can be set."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        HEADERS.raw = ()  # type: ignore[misc]
    with pytest.raises(TypeError):
        HEADERS["host"] = "evil"  # type: ignore[index]


def test_repr_hides_credentials() -> None:
    """The repr shows names and values but no cookie and no authorization."""
    text = repr(Headers([(b"Host", b"h"), (b"Authorization", b"s3cret"), (b"Cookie", b"s3cret")]))
    assert "'host': 'h'" in text
    assert "s3cret" not in text


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("a=1; b=2", {"a": "1", "b": "2"}),
        ("a=1;b=2;", {"a": "1", "b": "2"}),
        ("a=", {"a": ""}),
        ('a="quoted"; b="', {"a": "quoted", "b": '"'}),
        ("a=x=y", {"a": "x=y"}),
        ("a=%20", {"a": "%20"}),
        ("a=first; a=second", {"a": "first"}),
        ("novalue; =noname; ; a=1", {"a": "1"}),
        ("\x00\xff;;;===", {}),
        ("", {}),
    ],
)
def test_parse_cookies(header: str, expected: dict[str, str]) -> None:
    """Cookies are split at semicolons; what is malformed is left out, the first of two wins, nothing is decoded."""
    assert parse_cookies(Headers([(b"cookie", header.encode("latin-1"))])) == expected


def test_parse_cookies_without_header() -> None:
    """Without a Cookie header there are no cookies."""
    assert parse_cookies(Headers()) == {}


def test_request_properties() -> None:
    """What a request's target and headers say is told by its properties, the path undecoded."""
    request = HandshakeRequest(
        method="GET",
        target="/a%2Fb?x=1&x=2&y=%C3%A9&z=&bad=%FF?",
        headers=Headers(
            [
                (b"Host", b"h:1"),
                (b"Origin", b"https://o"),
                (b"Cookie", b"a=1"),
                (b"Sec-WebSocket-Protocol", b"one, ,two"),
                (b"Sec-WebSocket-Protocol", b"three"),
            ]
        ),
        remote="192.0.2.1",
        remote_port=5,
    )
    assert request.path == "/a%2Fb"
    assert request.query_string == "x=1&x=2&y=%C3%A9&z=&bad=%FF?"
    assert request.query == {"x": "2", "y": "é", "z": "", "bad": "\ufffd?"}
    assert request.cookies == {"a": "1"}
    assert request.subprotocols == ("one", "two", "three")
    assert (request.host, request.origin) == ("h:1", "https://o")


def test_request_without_anything() -> None:
    """Absent headers are None or empty, never an error."""
    request = HandshakeRequest(method="GET", target="*")
    assert (request.path, request.query_string, request.query) == ("*", "", {})
    assert (request.host, request.origin, request.subprotocols, request.cookies) == (None, None, (), {})
    assert (request.remote, request.remote_port, request.http_version) == (None, None, "1.1")


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("http://h/ws?a=1", "/ws", "a=1"),
        ("http://h", "/", ""),
        ("http://h?u=/x", "/", "u=/x"),
        ("/ws?next=http://h/", "/ws", "next=http://h/"),
        ("/http://h/ws", "/http://h/ws", ""),
        ("h:443", "h:443", ""),
    ],
)
def test_request_target_forms(target: str, path: str, query: str) -> None:
    """An absolute URI as target gives its path (RFC 6455 section 4.2.1); one within a path or query is left alone."""
    request = HandshakeRequest(method="GET", target=target)
    assert (request.path, request.query_string) == (path, query)
