"""For the servers of web pages in memory: what a browser gets from them, and what they refuse."""

from __future__ import annotations

import re

import pytest

from trio_rooms.testing import MemoryServer, ReplyError, TestClient


async def refusal(client: TestClient, action: str, data: object) -> ReplyError:
    """The error that a request is answered with."""
    with pytest.raises(ReplyError) as caught:
        await client.request(action, data)
    return caught.value


async def get(server: MemoryServer, path: str) -> tuple[str, bytes]:
    """Head and body of what a browser gets."""
    async with server.open_stream() as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: testserver\r\n\r\n".encode())
        answer = b"".join([chunk async for chunk in stream])
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.decode().lower(), body


async def check_files(server: MemoryServer, *scripts: str) -> None:
    """The page is served, and all that it loads: style.css, app.js and its further scripts, nothing from elsewhere."""
    head, page = await get(server, "/")
    assert head.startswith("http/1.1 200")
    assert "content-type: text/html; charset=utf-8" in head
    links = re.findall(rb'(?:href|src)="(?!data:|#)([^"]+)"', page)
    assert links == [b"style.css", b"app.js"]
    ids = re.findall(rb'\bid="([^"]+)"', page)
    assert len(set(ids)) == len(ids), "the first of two would be found for both"
    imported = set()
    for name in ("style.css", "app.js", *scripts):
        head, body = await get(server, f"/{name}")
        assert head.startswith("http/1.1 200"), name
        assert f"content-type: text/{'css' if name.endswith('.css') else 'javascript'}" in head
        # The names of XML's vocabularies look like addresses, but nobody loads them.
        assert not re.search(rb"https?://(?!www\.w3\.org/)", body), name
        imported |= set(re.findall(r'^import .* from "\./(.+)";$', body.decode(), re.MULTILINE))
    assert imported == set(scripts)
