from __future__ import annotations

import json

import h11
import pytest

from trio_rooms._wire.responses import error_response, response


def parse(data: bytes, *, method: str = "GET") -> tuple[h11.Response, bytes]:
    """Let h11 judge the bytes as a client would, up to the end of the connection."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    head = client.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert isinstance(client.next_event(), h11.ConnectionClosed)
    return head, body


def test_response() -> None:
    """A response is well-formed, tells its length and closes the connection."""
    head, body = parse(response(200, body=b"ok\n", content_type="text/x", headers=[("X-One", "1")]))
    assert (head.status_code, head.reason, body) == (200, b"OK", b"ok\n")
    assert dict(head.headers) == {
        b"content-type": b"text/x",
        b"content-length": b"3",
        b"x-one": b"1",
        b"connection": b"close",
    }


def test_head_only() -> None:
    """The response to HEAD has the length of the body but not the body."""
    data = response(200, body=b"four", head_only=True)
    head, body = parse(data, method="HEAD")
    assert dict(head.headers)[b"content-length"] == b"4"
    assert body == b""
    assert data.endswith(b"\r\n\r\n")


def test_connection_header_is_replaced() -> None:
    """A Connection header of the caller's stands in place of ours."""
    head, _ = parse(response(426, headers=[("connection", "Upgrade, close")]))
    assert [value for name, value in head.headers if name == b"connection"] == [b"Upgrade, close"]


def test_unregistered_status() -> None:
    """A status without a registered phrase is sent without one."""
    head, _ = parse(response(499))
    assert (head.status_code, head.reason) == (499, b"")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X", "a\r\nSet-Cookie: evil"),
        ("X", "a\nb"),
        ("X", "\x00"),
        ("X", "\x7f"),
        ("X", "é"),
        ("X\r\nY", "a"),
        ("X Y", "a"),
        ("X:", "a"),
        ("", "a"),
    ],
)
def test_bad_headers(name: str, value: str) -> None:
    """Line breaks, control characters and names that are no tokens raise instead of being sent."""
    with pytest.raises(ValueError, match="header"):
        response(200, headers=[(name, value)])


def test_bad_content_type() -> None:
    """The content type is checked like every other value."""
    with pytest.raises(ValueError, match="Content-Type"):
        response(200, content_type="text/html\r\nX: y")


def test_error_response() -> None:
    """An error is a short JSON body whose strings cannot break out of it."""
    head, body = parse(error_response(403, 'CO"DE', "é\r\n", headers=[("Allow", "GET")]))
    assert head.status_code == 403
    assert dict(head.headers)[b"content-type"] == b"application/json"
    assert dict(head.headers)[b"allow"] == b"GET"
    assert json.loads(body) == {"error": {"code": 'CO"DE', "message": "é\r\n"}}


def test_error_response_to_head() -> None:
    """An error answers HEAD without its body."""
    assert parse(error_response(404, "X", "y", head_only=True), method="HEAD")[1] == b""
