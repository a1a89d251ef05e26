from __future__ import annotations

import json
import ssl
from functools import partial
from typing import Any, get_args

import attrs
import pytest
import trio
import trio.testing

from trio_rooms._config import Config, Limits
from trio_rooms._errors import Refuse
from trio_rooms._handshake import HandshakePolicy, Page, Upgrade, shake_hands
from trio_rooms._identity import Identity
from trio_rooms._wire.head import Reason
from trio_rooms._wire.request import HandshakeRequest

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = {
    "Host": "example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
PLAIN = {"Host": "example.com"}
HEALTH = Page(b"ok\n", "text/plain")
SECRET = "the password is hunter2"


def head(method: str = "GET", target: str = "/ws", headers: dict[str, str] | None = None, **more: str) -> bytes:
    """The bytes of a request, an upgrade unless other headers are given; more: headers, _ standing for -."""
    fields = dict(UPGRADE if headers is None else headers)
    fields.update({name.replace("_", "-"): value for name, value in more.items()})
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


@attrs.define(eq=False)
class Server:
    """A policy, and what was reported to it."""

    settings: dict[str, Any] = attrs.field(factory=dict)
    rejected: list[Reason] = attrs.field(factory=list)
    failed: list[Exception] = attrs.field(factory=list)
    heads: int = 0

    @property
    def policy(self) -> HandshakePolicy:
        defaults: dict[str, Any] = {
            "config": Config(),
            "path": "/ws",
            "allowed_origins": "same",
            "pages": {"/healthz": HEALTH},
            "authenticate": None,
            "subprotocols": (),
            "refusing": lambda: None,
            "rejected": self.rejected.append,
            "failed": self.failed.append,
        }
        return HandshakePolicy(**{**defaults, **self.settings})

    async def shake_hands(self, stream: trio.abc.Stream) -> Upgrade | None:
        def head_complete() -> None:
            self.heads += 1

        return await shake_hands(stream, self.policy, remote=("192.0.2.1", 4711), head_complete=head_complete)


async def receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


@attrs.frozen
class Answer:
    """What a client got back until EOF."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        assert self.headers["content-type"] == "application/json"
        assert set(json.loads(self.body)) == {"error"}
        return str(json.loads(self.body)["error"]["code"])


def parse(data: bytes) -> Answer:
    start, _, body = data.partition(b"\r\n\r\n")
    status_line, *lines = start.decode("ascii").split("\r\n")
    version, status, _ = status_line.split(" ", 2)
    assert version == "HTTP/1.1"
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return Answer(int(status), headers, body)


async def exchange(server: Server, data: bytes) -> bytes:
    """Send bytes, expect no upgrade, hang up once the server has; return everything that came back."""
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(data)
    received = b""

    async def client() -> None:
        nonlocal received
        received = await receive_all(theirs)
        await theirs.aclose()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client)
            assert await server.shake_hands(ours) is None
    await assert_closed(ours)
    return received


async def assert_closed(stream: trio.abc.Stream) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"x")


async def ask(data: bytes, **settings: Any) -> tuple[Answer, Server]:
    server = Server(settings)
    answer = parse(await exchange(server, data))
    assert answer.headers.get("connection") in ("close", "Upgrade, close")
    assert int(answer.headers["content-length"]) == len(answer.body) or data.startswith(b"HEAD")
    assert set(server.rejected) <= set(get_args(Reason))
    return answer, server


async def refused(data: bytes, status: int, reason: str, **settings: Any) -> Answer:
    """Assert that the request is refused with this status, once, under this reason."""
    answer, server = await ask(data, **settings)
    assert (answer.status, server.rejected) == (status, [reason])
    return answer


async def upgraded(data: bytes, **settings: Any) -> Upgrade:
    """Assert that the request is upgraded and that nothing was written to its stream."""
    server = Server(settings)
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(data)
    with trio.fail_after(30):
        upgrade = await server.shake_hands(ours)
    assert upgrade is not None
    assert (server.rejected, server.heads) == ([], 1)
    await ours.send_all(b"x")
    assert await theirs.receive_some() == b"x"
    return upgrade


async def authenticate_as(identity: Any, _request: HandshakeRequest) -> Any:
    await trio.lowlevel.checkpoint()
    return identity


async def never(_request: HandshakeRequest) -> Identity:
    await trio.sleep_forever()


async def fail_with(error: BaseException, _request: HandshakeRequest) -> Identity:
    await trio.lowlevel.checkpoint()
    raise error


async def test_upgrade(autojump_clock: trio.testing.MockClock) -> None:
    """A valid handshake gives everything a transport and a connection need; nothing is written."""
    upgrade = await upgraded(head(target="/ws?a=1"))
    assert upgrade.request.query == {"a": "1"}
    assert (upgrade.request.remote, upgrade.request.remote_port) == ("192.0.2.1", 4711)
    assert (upgrade.key, upgrade.subprotocol, upgrade.trailing) == (KEY, None, b"")
    assert upgrade.identity == Identity()


async def test_trailing_bytes(autojump_clock: trio.testing.MockClock) -> None:
    """H7: what came in one segment with the request is handed on, also while authenticate takes its time."""

    async def slow(_request: HandshakeRequest) -> Identity:
        await trio.sleep(5)
        return Identity(user="ann")

    frame = b"\x81\x80abcd"
    upgrade = await upgraded(head() + frame, authenticate=slow)
    assert (upgrade.trailing, upgrade.identity.user) == (frame, "ann")


async def test_subprotocol(autojump_clock: trio.testing.MockClock) -> None:
    """The client's order decides among the supported subprotocols."""
    offer = head(Sec_WebSocket_Protocol="x, v1.b, v1.a")
    assert (await upgraded(offer, subprotocols=("v1.a", "v1.b"))).subprotocol == "v1.b"
    assert (await upgraded(offer)).subprotocol is None


async def test_any_path(autojump_clock: trio.testing.MockClock) -> None:
    """With a path of None upgrades are accepted anywhere, and plain requests told so anywhere but on a page."""
    assert (await upgraded(head(target="/elsewhere"), path=None)).request.path == "/elsewhere"
    await refused(head(target="/elsewhere", headers=PLAIN), 426, "upgrade_required", path=None)
    assert (await ask(head(target="/healthz", headers=PLAIN), path=None))[0].status == 200


@pytest.mark.parametrize("name", list(UPGRADE))
async def test_bad_byte(autojump_clock: trio.testing.MockClock, name: str) -> None:
    """H1: byte 0xFF in any header of the handshake is 400."""
    await refused(head(headers={**UPGRADE, name: UPGRADE[name] + "\xff"}), 400, "bad_request")


@pytest.mark.parametrize("name", ["Origin", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"])
async def test_bad_byte_in_optional_header(autojump_clock: trio.testing.MockClock, name: str) -> None:
    """H1: byte 0xFF in another header that is interpreted is 400, not 403 or an exception."""
    await refused(head(headers={**UPGRADE, name: "a\xff"}), 400, "bad_request")


async def test_bad_byte_elsewhere(autojump_clock: trio.testing.MockClock) -> None:
    """H1: byte 0xFF in User-Agent and Cookie is accepted."""
    upgrade = await upgraded(head(User_Agent="caf\xff", Cookie="a=\xff"))
    assert upgrade.request.cookies == {"a": "\xff"}


@pytest.mark.parametrize("sent", [b"", head()[:50], b"GET"])
async def test_incomplete_head(autojump_clock: trio.testing.MockClock, sent: bytes) -> None:
    """H3: a head that is not complete after handshake_timeout is 408, at once then and not before."""
    start = trio.current_time()
    answer, server = await ask(sent)
    assert (answer.status, answer.code, server.rejected, server.heads) == (408, "TIMEOUT", ["timeout"], 0)
    assert trio.current_time() - start == pytest.approx(10)


async def test_one_byte_per_second(autojump_clock: trio.testing.MockClock) -> None:
    """H3: the deadline is for the whole head, however often a byte comes; the peer has 1 s more to hang up."""
    server = Server()
    ours, theirs = trio.testing.memory_stream_pair()
    start = trio.current_time()
    received = b""

    async def trickle() -> None:
        for byte in head()[:11]:
            await theirs.send_all(bytes([byte]))
            await trio.sleep(1)

    async def listen() -> None:
        nonlocal received
        received = await receive_all(theirs)
        assert trio.current_time() - start == pytest.approx(10)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle)
            nursery.start_soon(listen)
            assert await server.shake_hands(ours) is None
            assert trio.current_time() - start == pytest.approx(11)
    assert parse(received).status == 408


async def test_handshake_timeout_is_a_setting(autojump_clock: trio.testing.MockClock) -> None:
    """H3: handshake_timeout decides when an incomplete head is given up."""
    start = trio.current_time()
    await refused(b"GET", 408, "timeout", config=Config(handshake_timeout=2))
    assert trio.current_time() - start == pytest.approx(2)


@pytest.mark.parametrize("sent", [b"", head()[:50]])
async def test_eof(autojump_clock: trio.testing.MockClock, sent: bytes) -> None:
    """H3: EOF before the head is complete ends the handshake in that instant, without a response."""
    server = Server()
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(sent)
    await theirs.send_eof()
    start = trio.current_time()
    with trio.fail_after(30):
        assert await server.shake_hands(ours) is None
    assert trio.current_time() == start
    assert await receive_all(theirs) == b""
    assert (server.rejected, server.heads) == (["hangup"], 0)


async def test_tls_on_a_plain_port(autojump_clock: trio.testing.MockClock) -> None:
    """H5: a TLS hello is met with silence."""
    server = Server()
    assert await exchange(server, b"\x16\x03\x01\x02\x00") == b""
    assert server.rejected == ["tls"]


HTTP_1_0 = head().replace(b"HTTP/1.1", b"HTTP/1.0")


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (head(headers=PLAIN), 426, "upgrade_required"),
        (head("POST", headers=PLAIN), 426, "upgrade_required"),
        (head(target="/", headers=PLAIN), 404, "not_found"),
        (head("POST", target="/", headers=PLAIN), 404, "not_found"),
        (head(target="/"), 404, "not_found"),
        (head(target="/ws/"), 404, "not_found"),
        (head(target="/%77s"), 404, "not_found"),
        (head(target="/healthz"), 404, "not_found"),
        (head("POST", target="/healthz", headers=PLAIN), 405, "method"),
        (head("POST"), 400, "bad_request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request"),
        (b"\x00\x01garbage", 400, "bad_request"),
        (HTTP_1_0, 400, "bad_request"),
        (head(Sec_WebSocket_Key="short"), 400, "bad_request"),
        (head(Sec_WebSocket_Version="8"), 426, "version"),
        (head(headers={name: value for name, value in UPGRADE.items() if name != "Host"}), 400, "bad_request"),
        (head(headers={**UPGRADE, "host": "other"}), 400, "bad_request"),
    ],
)
async def test_refusals(autojump_clock: trio.testing.MockClock, data: bytes, status: int, reason: str) -> None:
    """H5: each thing that is not a valid handshake on our path has its status; the stream is closed at once."""
    start = trio.current_time()
    await refused(data, status, reason)
    assert trio.current_time() == start


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (head(X="x" * 17 * 1024), 431, "headers"),
        (head(headers={**UPGRADE, **{f"X{i}": "x" for i in range(60)}}), 431, "headers"),
        (head(target="/" + "x" * 3 * 1024), 414, "target"),
        (head(Sec_WebSocket_Protocol=",".join(f"p{i}" for i in range(33))), 400, "subprotocols"),
    ],
)
async def test_default_limits(autojump_clock: trio.testing.MockClock, data: bytes, status: int, reason: str) -> None:
    """H4: 17 KiB of headers, 65 of them, a target of 3 KiB and 33 subprotocols are refused by default."""
    await refused(data, status, reason)


@pytest.mark.parametrize(
    ("limits", "status", "reason"),
    [
        (Limits(max_header_bytes=100), 431, "headers"),
        (Limits(max_headers=4), 431, "headers"),
        (Limits(max_header_line=20), 431, "headers"),
        (Limits(max_target_bytes=2), 414, "target"),
        (Limits(max_subprotocols=1), 400, "subprotocols"),
    ],
)
async def test_limits_are_passed_on(
    autojump_clock: trio.testing.MockClock, limits: Limits, status: int, reason: str
) -> None:
    """L1: each limit of a handshake, set low, bites on the wire."""
    data = head(Sec_WebSocket_Protocol="a, b")
    await upgraded(data)
    await refused(data, status, reason, config=Config(limits=limits))


async def test_upgrade_required(autojump_clock: trio.testing.MockClock) -> None:
    """H5: a plain request on the WebSocket's path is told what to do (RFC 9110 section 15.5.22)."""
    answer = await refused(head(headers=PLAIN), 426, "upgrade_required")
    assert answer.code == "UPGRADE_REQUIRED"
    assert (answer.headers["upgrade"], answer.headers["connection"]) == ("websocket", "Upgrade, close")
    assert answer.headers["sec-websocket-version"] == "13"


async def test_wrong_version_names_the_right_one(autojump_clock: trio.testing.MockClock) -> None:
    """H5: an unknown version is answered with the one we speak (RFC 6455 section 4.4)."""
    answer = await refused(head(Sec_WebSocket_Version="8"), 426, "version")
    assert answer.headers["sec-websocket-version"] == "13"


async def test_page(autojump_clock: trio.testing.MockClock) -> None:
    """A page answers GET and HEAD and is no refusal."""
    answer, server = await ask(head(target="/healthz?x", headers=PLAIN))
    assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"ok\n", "text/plain")
    assert (server.rejected, server.heads) == ([], 1)
    answer, server = await ask(head("HEAD", target="/healthz", headers=PLAIN))
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "3")
    assert server.rejected == []


async def test_page_allows_get_and_head(autojump_clock: trio.testing.MockClock) -> None:
    """Another method on a page is 405 and is told which ones would do."""
    answer = await refused(head("DELETE", target="/healthz", headers=PLAIN), 405, "method")
    assert answer.headers["allow"] == "GET, HEAD"


async def test_page_on_the_path_of_the_websocket(autojump_clock: trio.testing.MockClock) -> None:
    """A page and the WebSocket may share a path: a plain GET gets the page, an upgrade the WebSocket."""
    pages = {"/ws": HEALTH}
    assert (await ask(head(headers=PLAIN), pages=pages))[0].body == b"ok\n"
    await upgraded(head(), pages=pages)
    await refused(head("POST", headers=PLAIN), 405, "method", pages=pages)


async def test_refusal_of_head_has_no_body(autojump_clock: trio.testing.MockClock) -> None:
    """A refused HEAD gets the length of the error, not the error."""
    answer = await refused(head("HEAD", target="/nowhere", headers=PLAIN), 404, "not_found")
    assert answer.body == b""
    assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize(
    ("origin", "allowed_origins", "accepted"),
    [
        ("https://example.com", "same", True),
        ("https://evil.com", "same", False),
        ("null", "same", False),
        (None, "same", True),
        ("https://evil-example.com", ["https://*.example.com"], False),
        ("https://app.example.com", ["https://*.example.com"], True),
        ("https://evil.com", None, True),
    ],
)
async def test_origin(
    autojump_clock: trio.testing.MockClock, origin: str | None, allowed_origins: Any, accepted: bool
) -> None:
    """H6: a foreign origin is 403; same origin, no origin and a matching pattern are upgraded."""
    data = head() if origin is None else head(Origin=origin)
    if accepted:
        await upgraded(data, allowed_origins=allowed_origins)
    else:
        answer = await refused(data, 403, "origin", allowed_origins=allowed_origins)
        assert answer.code == "ORIGIN_NOT_ALLOWED"


def test_malformed_origin_pattern() -> None:
    """H6: a pattern that can match nothing fails when the policy is made."""
    with pytest.raises(ValueError, match="origin"):
        _ = Server({"allowed_origins": ["example.com"]}).policy


async def test_refusing(autojump_clock: trio.testing.MockClock) -> None:
    """While refusing, every complete request gets the status and Retry-After, pages too."""
    for data in (head(), head(target="/healthz", headers=PLAIN), head(Origin="https://evil.com")):
        answer = await refused(data, 503, "unavailable", refusing=lambda: (503, "DRAINING"))
        assert (answer.code, answer.headers["retry-after"]) == ("DRAINING", "1")


async def test_order(autojump_clock: trio.testing.MockClock) -> None:
    """refusing is asked when the head is complete, the origin is checked next, authenticate is asked last."""
    asked: list[str] = []

    def refusing() -> None:
        assert server.heads == 1
        asked.append("refusing")

    async def authenticate(_request: HandshakeRequest) -> Identity:
        await trio.lowlevel.checkpoint()
        asked.append("authenticate")
        return Identity()

    server = Server({"refusing": refusing, "authenticate": authenticate})
    assert parse(await exchange(server, head(Origin="https://evil.com"))).status == 403
    assert asked == ["refusing"]
    await exchange(server, b"garbage\r\n\r\n")
    assert asked == ["refusing"]
    server.heads = 0
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(head())
    assert await server.shake_hands(ours) is not None
    assert asked == ["refusing", "refusing", "authenticate"]


async def test_authenticate_sees_the_request(autojump_clock: trio.testing.MockClock) -> None:
    """authenticate gets the request, and its identity goes into the upgrade."""
    seen: list[HandshakeRequest] = []

    async def authenticate(request: HandshakeRequest) -> Identity:
        await trio.lowlevel.checkpoint()
        seen.append(request)
        return Identity(user=request.query["user"])

    upgrade = await upgraded(head(target="/ws?user=ann"), authenticate=authenticate)
    assert upgrade.identity == Identity(user="ann")
    assert seen == [upgrade.request]


async def test_authenticate_returns_none(autojump_clock: trio.testing.MockClock) -> None:
    """H8: None is 401."""
    answer = await refused(head(), 401, "unauthorized", authenticate=partial(authenticate_as, None))
    assert answer.code == "UNAUTHORIZED"


async def test_authenticate_refuses(autojump_clock: trio.testing.MockClock) -> None:
    """Refuse decides over status and code."""
    authenticate = partial(fail_with, Refuse(403, "BANNED"))
    answer = await refused(head(), 403, "refused", authenticate=authenticate)
    assert answer.code == "BANNED"


@pytest.mark.parametrize(
    "error",
    [
        ValueError(SECRET),
        OSError(SECRET),
        RecursionError(SECRET),
        trio.ClosedResourceError(SECRET),
        ExceptionGroup(SECRET, [Refuse(403)]),
    ],
)
async def test_authenticate_raises(autojump_clock: trio.testing.MockClock, error: Exception) -> None:
    """H8: any exception but Refuse is 500 without detail, and is reported."""
    answer, server = await ask(head(), authenticate=partial(fail_with, error))
    assert (answer.status, answer.code, server.rejected) == (500, "INTERNAL", ["authenticate_error"])
    assert server.failed == [error]
    assert SECRET.encode() not in answer.body


async def test_authenticate_returns_nonsense(autojump_clock: trio.testing.MockClock) -> None:
    """H8: something that is no Identity is the program's error: 500 and reported, never an upgrade."""
    answer, server = await ask(head(), authenticate=partial(authenticate_as, {"user": "root"}))
    assert answer.status == 500
    assert [type(error) for error in server.failed] == [TypeError]


async def test_authenticate_sleeps(autojump_clock: trio.testing.MockClock) -> None:
    """H8: authenticate that runs past handshake_timeout, counted from the start, is cancelled: 503."""
    ours, theirs = trio.testing.memory_stream_pair()
    server = Server({"authenticate": never})
    start = trio.current_time()

    async def client() -> None:
        await trio.sleep(4)
        await theirs.send_all(head())
        assert parse(await receive_all(theirs)).status == 503
        assert trio.current_time() - start == pytest.approx(10)
        await theirs.aclose()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client)
            assert await server.shake_hands(ours) is None
    assert (server.rejected, server.failed) == (["authenticate_timeout"], [])


async def test_authenticate_fails_while_it_is_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    """H8: an error of authenticate's own cleanup at the deadline is 500 and reported, not a crash."""

    async def cleanup_fails() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError(SECRET)

    async def authenticate(_request: HandshakeRequest) -> Identity:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cleanup_fails)
            nursery.start_soon(trio.sleep_forever)
        return Identity()

    answer, server = await ask(head(), authenticate=authenticate)
    assert (answer.status, server.rejected) == (500, ["authenticate_error"])
    assert len(server.failed) == 1
    assert SECRET.encode() not in answer.body


@pytest.mark.parametrize("during", ["head", "authenticate", "answer"])
async def test_cancel(autojump_clock: trio.testing.MockClock, during: str) -> None:
    """A cancel from outside closes the stream and propagates, wherever it strikes."""
    server = Server({"authenticate": never})
    ours, theirs = trio.testing.memory_stream_pair()
    sent = {"head": head()[:50], "authenticate": head(), "answer": head(headers=PLAIN)}
    await theirs.send_all(sent[during])
    with trio.fail_after(30):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.shake_hands, ours)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
        await assert_closed(ours)
        await receive_all(theirs)
    assert server.failed == []


async def test_cancel_together_with_an_error(autojump_clock: trio.testing.MockClock) -> None:
    """An error that comes together with a cancel from outside leaves with it and is not taken for a mere 500."""

    async def cleanup_fails() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError(SECRET)

    async def authenticate(_request: HandshakeRequest) -> Identity:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cleanup_fails)
            nursery.start_soon(trio.sleep_forever)
        return Identity()

    server = Server({"authenticate": authenticate})
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(head())
    with trio.fail_after(30):
        with pytest.RaisesGroup(ValueError, flatten_subgroups=True):
            with trio.move_on_after(1):
                await server.shake_hands(ours)
        await assert_closed(ours)
    assert server.failed == []


async def test_peer_gone_before_the_answer(autojump_clock: trio.testing.MockClock) -> None:
    """A peer that is gone when its response is written ends the handshake quietly."""

    async def authenticate(_request: HandshakeRequest) -> None:
        await theirs.aclose()

    server = Server({"authenticate": authenticate})
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(head())
    with trio.fail_after(30):
        assert await server.shake_hands(ours) is None
    assert server.rejected == ["unauthorized"]
    await assert_closed(ours)


@pytest.mark.parametrize(("close_timeout", "expected"), [(5.0, 1.0), (0.25, 0.25)])
async def test_peer_takes_no_answer(
    autojump_clock: trio.testing.MockClock, close_timeout: float, expected: float
) -> None:
    """A response that cannot be written is given up after 1 s, or close_timeout if that is less."""
    server = Server({"config": Config(close_timeout=close_timeout)})
    ours, theirs = trio.testing.memory_stream_pair()
    ours.send_stream.send_all_hook = trio.sleep_forever
    await theirs.send_all(head(headers=PLAIN))
    start = trio.current_time()
    with trio.fail_after(30):
        assert await server.shake_hands(ours) is None
    assert trio.current_time() - start == pytest.approx(expected)
    await assert_closed(ours)


async def test_peer_does_not_hang_up(autojump_clock: trio.testing.MockClock) -> None:
    """A peer that holds its side open after the response is closed on after 1 s."""
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(head(headers=PLAIN))
    start = trio.current_time()
    with trio.fail_after(30):
        assert await Server().shake_hands(ours) is None
    assert trio.current_time() - start == pytest.approx(1)
    assert parse(await receive_all(theirs)).status == 426
    await assert_closed(ours)


async def test_drain_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    """Behind a refused request 64 KiB are read and dropped, no more: a flood cannot hold the task."""
    ours, theirs = trio.testing.memory_stream_pair()
    taken = 0

    async def count(max_bytes: int | None = None) -> bytearray:
        nonlocal taken
        data = await receive(max_bytes)
        taken += len(data)
        return data

    receive = ours.receive_stream.receive_some
    ours.receive_stream.receive_some = count  # type: ignore[method-assign]
    await theirs.send_all(head(headers=PLAIN) + b"x" * 300_000)
    start = trio.current_time()
    with trio.fail_after(30):
        assert await Server().shake_hands(ours) is None
    assert trio.current_time() == start
    assert taken == Limits().max_header_bytes + 1 + 64 * 1024


class NoHalfClose(trio.abc.Stream):
    """A stream that cannot shut down one direction, as TLS."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.closes = 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        self.closes += 1
        await self._stream.aclose()
        if self.closes > 1:
            raise trio.BrokenResourceError


async def test_stream_without_half_close(autojump_clock: trio.testing.MockClock) -> None:
    """A stream without half-close is answered too, closed politely, and an error of its close is no concern."""
    inner, theirs = trio.testing.memory_stream_pair()
    ours = NoHalfClose(inner)
    await theirs.send_all(head(headers=PLAIN))
    await theirs.send_eof()
    with trio.fail_after(30):
        assert await Server().shake_hands(ours) is None
    assert parse(await receive_all(theirs)).status == 426
    assert ours.closes == 2


async def test_silent_tls_client(autojump_clock: trio.testing.MockClock) -> None:
    """H3: the TLS handshake counts into handshake_timeout; where it never ended, there is no way to respond."""
    inner, _theirs = trio.testing.memory_stream_pair()
    ours = trio.SSLStream(inner, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), server_side=True)
    server = Server()
    start = trio.current_time()
    with trio.fail_after(30):
        assert await server.shake_hands(ours) is None
    assert trio.current_time() - start == pytest.approx(10)
    assert server.rejected == ["timeout"]
    await assert_closed(inner)


async def test_plain_text_to_tls(autojump_clock: trio.testing.MockClock) -> None:
    """H5: a plain request on a TLS port ends the handshake at once."""
    inner, theirs = trio.testing.memory_stream_pair()
    ours = trio.SSLStream(inner, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), server_side=True)
    server = Server()
    await theirs.send_all(head())
    start = trio.current_time()
    with trio.fail_after(30):
        assert await server.shake_hands(ours) is None
    assert trio.current_time() == start
    assert server.rejected == ["tls_failed"]
    await assert_closed(inner)


def test_identity() -> None:
    """An identity is frozen, hashable, and holds a read-only copy of its claims, which its repr does not show."""
    claims = {"role": SECRET}
    identity = Identity(user="ann", claims=claims, expires_at=1.5)
    claims["role"] = "admin"
    assert identity.claims == {"role": SECRET}
    with pytest.raises(TypeError):
        identity.claims["role"] = "admin"  # type: ignore[index]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        identity.user = "bob"  # type: ignore[misc]
    assert SECRET not in repr(identity)
    same = Identity(user="ann", claims={"role": SECRET}, expires_at=1.5)
    assert identity == same
    assert hash(identity) == hash(same)
    assert identity != Identity(user="ann", claims={"role": "other"}, expires_at=1.5)
