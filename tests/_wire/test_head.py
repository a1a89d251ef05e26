from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from trio_rooms._config import Limits
from trio_rooms._wire.head import HandshakeError, Hangup, read_head
from trio_rooms._wire.request import HandshakeRequest

HEAD = (
    b"GET /ws?token=x HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
FRAME = b"\x81\x85abcd\x09\x07\x0f\x08\x0e"


async def read(*chunks: bytes, limits: Limits | None = None, eof: bool = True) -> tuple[HandshakeRequest, bytes]:
    """Read a head that arrives in these chunks, each taken before the next one is sent."""
    ours, theirs = trio.testing.memory_stream_pair()
    result: list[tuple[HandshakeRequest, bytes]] = []

    async def server() -> None:
        result.append(await read_head(ours, limits or Limits()))

    async def client() -> None:
        for chunk in chunks:
            await theirs.send_all(chunk)
            await trio.testing.wait_all_tasks_blocked()
        if eof:
            await theirs.send_eof()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client)
            await server()
            nursery.cancel_scope.cancel()
    return result[0]


async def refused(*chunks: bytes, limits: Limits | None = None) -> HandshakeError:
    """As read, for a head that is refused; does not send EOF, so that only the bytes can be the reason."""
    with pytest.RaisesGroup(HandshakeError) as caught:
        await read(*chunks, limits=limits, eof=False)
    error = caught.value.exceptions[0]
    assert isinstance(error, HandshakeError)
    return error


async def hangup(send: Callable[[trio.abc.HalfCloseableStream], Awaitable[object]]) -> str:
    ours, theirs = trio.testing.memory_stream_pair()
    await send(theirs)
    with trio.fail_after(5), pytest.raises(Hangup) as caught:
        await read_head(ours, Limits())
    return caught.value.reason


async def test_request() -> None:
    """A head becomes a request with everything that was sent, and the address that the caller gave."""
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(HEAD)
    request, trailing = await read_head(ours, Limits(), remote=("192.0.2.1", 4711))
    assert (request.method, request.target, request.http_version) == ("GET", "/ws?token=x", "1.1")
    assert request.headers["host"] == "example.com"
    assert (request.remote, request.remote_port) == ("192.0.2.1", 4711)
    assert trailing == b""


async def test_cut_at_every_byte() -> None:
    """H7: wherever the head and a frame behind it are cut, the request is the same and no byte of the frame is lost."""
    whole = HEAD + FRAME
    expected, _ = await read(HEAD)
    for cut in range(1, len(whole)):
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:

            async def client(cut: int = cut, theirs: trio.abc.HalfCloseableStream = theirs) -> None:
                await theirs.send_all(whole[:cut])
                await trio.testing.wait_all_tasks_blocked()
                await theirs.send_all(whole[cut:])
                await theirs.send_eof()

            nursery.start_soon(client)
            with trio.fail_after(5):
                request, trailing = await read_head(ours, Limits())
                rest = b""
                while data := await ours.receive_some():
                    rest += data
        assert request == expected
        assert trailing + rest == FRAME, cut


async def test_byte_by_byte() -> None:
    """H7: a head that comes one byte at a time is read, and not one byte more than it."""
    request, trailing = await read(*(HEAD[i : i + 1] for i in range(len(HEAD))))
    assert request.path == "/ws"
    assert trailing == b""


async def test_trailing_is_bounded() -> None:
    """Not more than the limit of the head is ever read, however much stands behind it."""
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(HEAD + b"x" * 5_000)
    _, trailing = await read_head(ours, Limits(max_header_bytes=1_000))
    assert trailing == b"x" * (1_001 - len(HEAD))


async def test_eof() -> None:
    """H3: EOF before anything, and within a head, ends the reading at once without a response."""
    assert await hangup(lambda theirs: theirs.send_eof()) == "eof"

    async def half(theirs: trio.abc.HalfCloseableStream) -> None:
        await theirs.send_all(HEAD[:40])
        await theirs.send_eof()

    assert await hangup(half) == "eof"


@pytest.mark.parametrize("error", [OSError, trio.BrokenResourceError, trio.ClosedResourceError])
async def test_broken_stream(error: type[Exception]) -> None:
    """An error of the stream is a hangup too."""
    ours, _theirs = trio.testing.memory_stream_pair()

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise error

    ours.receive_stream.receive_some_hook = fail
    with pytest.raises(Hangup) as caught:
        await read_head(ours, Limits())
    assert caught.value.reason == "reset"


async def test_tls_on_a_plain_port() -> None:
    """H5: a TLS hello is recognised by its first byte and gets no response."""
    assert await hangup(lambda theirs: theirs.send_all(b"\x16\x03\x01\x02\x00\x01")) == "tls"


async def test_0x16_later_is_not_tls() -> None:
    """The byte of a TLS hello means nothing once a request has begun."""
    assert (await refused(b"GET /", b"\x16 HTTP/1.1\r\nHost: h\r\n\r\n")).status == 400


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02",
        b"\x81\xfe",
        b"\x7f",
        b"garbage\r\n\r\n",
        b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /ws HTTP/1.1\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /w\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nBad\xffName: x\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /ws HTTP/1.1\r\n folded: x\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nX: " + b" " * 8_000 + b"\x00\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\x0b\r\n\r\n",
    ],
)
async def test_malformed(data: bytes) -> None:
    """H5: what is not a well-formed HTTP/1 request is 400."""
    error = await refused(data)
    assert (error.status, error.reason) == (400, "bad_request")


@pytest.mark.parametrize("name", [b"User-Agent", b"Cookie", b"Host", b"Origin", b"Sec-WebSocket-Protocol"])
async def test_byte_0xff_in_a_value(name: bytes) -> None:
    """H1: a byte above 0x7F in a value never breaks the reading; whether it may stand there is decided later."""
    head = b"GET / HTTP/1.0\r\n" + name + b": a\xffb\r\n\r\n"
    request, _ = await read(head)
    assert request.headers[name.decode()] == "a\xffb"


async def test_line_feeds_alone() -> None:
    """Lines may end in a line feed alone, and the bytes behind the head are found there too (RFC 9112 section 2.2)."""
    request, trailing = await read(HEAD.replace(b"\r\n", b"\n") + b"\r\n\r\n")
    assert (request.path, trailing) == ("/ws", b"\r\n\r\n")


async def test_any_byte_behind_the_head() -> None:
    """What is refused within a head may stand behind it: frames hold any byte."""
    assert (await read(HEAD + b"\x00\r\x0b\n\r\n"))[1] == b"\x00\r\x0b\n\r\n"


async def test_max_header_bytes() -> None:
    """H4: a head over max_header_bytes is 431, complete or not, and one of just that size passes."""
    padded = HEAD[:-2] + b"X: " + b"x" * 50 + b"\r\n\r\n"
    limits = Limits(max_header_bytes=len(padded))
    assert (await read(padded, limits=limits))[0].headers["x"] == "x" * 50
    limits = Limits(max_header_bytes=len(padded) - 1)
    for chunks in ((padded,), (padded[:-2] + b"Y: y\r\n",), (padded[:60], padded[60:])):
        error = await refused(*chunks, limits=limits)
        assert (error.status, error.reason) == (431, "headers")


async def test_default_header_bytes() -> None:
    """H4: 17 KiB of headers are 431 by default."""
    lines = b"".join(b"X-%d: %s\r\n" % (i, b"x" * 1_000) for i in range(17))
    assert (await refused(HEAD[:-2] + lines)).status == 431


async def test_max_headers() -> None:
    """H4: one header more than max_headers is 431."""
    lines = [b"X-%d: x\r\n" % i for i in range(60)]
    head = b"GET / HTTP/1.1\r\nHost: h\r\n" + b"".join(lines)
    limits = Limits(max_headers=61)
    assert len((await read(head + b"\r\n", limits=limits))[0].headers) == 61
    assert (await refused(head + b"One: more\r\n\r\n", limits=limits)).status == 431


async def test_default_headers() -> None:
    """H4: 65 headers are 431 by default."""
    lines = b"".join(b"X-%d: x\r\n" % i for i in range(64))
    assert (await refused(b"GET / HTTP/1.1\r\nHost: h\r\n" + lines + b"\r\n")).status == 431


async def test_max_header_line() -> None:
    """A header whose name and value exceed max_header_line is 431."""
    limits = Limits(max_header_line=20)
    head = b"GET / HTTP/1.1\r\nHost: h\r\nName: "
    assert (await read(head + b"x" * 16 + b"\r\n\r\n", limits=limits))[0].headers["name"] == "x" * 16
    assert (await refused(head + b"x" * 17 + b"\r\n\r\n", limits=limits)).status == 431


async def test_max_target_bytes() -> None:
    """H4: a target over max_target_bytes is 414, and one of just that size passes."""
    limits = Limits(max_target_bytes=10)
    rest = b" HTTP/1.1\r\nHost: h\r\n\r\n"
    assert (await read(b"GET /" + b"x" * 9 + rest, limits=limits))[0].target == "/" + "x" * 9
    error = await refused(b"GET /" + b"x" * 10 + rest, limits=limits)
    assert (error.status, error.reason) == (414, "target")


async def test_default_target_bytes() -> None:
    """H4: a target of 3 KiB is 414 by default, at the latest when the line is longer than it could ever be."""
    line = b"GET /" + b"x" * 3_072
    assert (await refused(line + b" HTTP/1.1\r\nHost: h\r\n\r\n")).status == 414
    assert (await refused(line)).status == 414
    assert (await refused(line[:1_000], line[1_000:])).status == 414


async def test_long_line_after_request_line() -> None:
    """Only the request line is measured against the target's limit, not what comes behind it."""
    limits = Limits(max_target_bytes=10)
    request, _ = await read(b"GET / HTTP/1.1\r\n", b"Host: h\r\nX: " + b"x" * 500 + b"\r\n\r\n", limits=limits)
    assert request.headers["x"] == "x" * 500


async def test_first_line_longer_than_everything() -> None:
    """A request line longer than all bytes allowed is 414, although the target's own limit would not say so."""
    limits = Limits(max_header_bytes=50, max_target_bytes=1_000)
    assert (await refused(b"GET /" + b"x" * 100, limits=limits)).status == 414


async def test_random_damage() -> None:
    """Whatever is done to the bytes of a request, the outcome is a request, a refusal or a hangup."""
    rng = random.Random(6455)
    outcomes = set()
    for _ in range(1_000):
        damaged = bytearray(HEAD + FRAME)
        for _ in range(rng.randint(1, 4)):
            start = rng.randrange(len(damaged))
            damaged[start : start + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
        limits = Limits(max_header_bytes=rng.choice((len(HEAD), 2 * len(HEAD))))
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(damaged)
        await theirs.send_eof()
        try:
            with trio.fail_after(5):
                request, _ = await read_head(ours, limits)
            assert isinstance(request, HandshakeRequest)
            outcomes.add("request")
        except HandshakeError as error:
            outcomes.add(str(error.status))
        except Hangup as end:
            outcomes.add(end.reason)
    assert outcomes == {"request", "400", "431", "eof"}
