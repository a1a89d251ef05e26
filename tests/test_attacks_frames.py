"""Attacks with frames, over real sockets, each with the reaction that is promised and an innocent client beside.

What the tables of probes.py hold is one violation each; what takes more is a test of its own. Over the native
transport, which reads the frames itself; what trio-websocket can do of it is in test_probes.py. Not here, because it
does not exist yet: rate limits, by which a flood of small messages or of pings would end.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from doors import make_manager, reset
from hall import of, record
from probes import MALFORMED, MAX, NO_TEXT, VIOLATIONS, fragmented
from sieges import ANSWER, ECHO, ROOM, Attacker, Siege, besieged
from trio_rooms import Close, Config, Limits, Manager
from trio_rooms.testing import (
    Opcode,
    ServerFrame,
    client_frame,
    close_payload,
    handshake_bytes,
    parse_server_frames,
)
from trio_rooms.testing._raw import split_response

pytestmark = pytest.mark.sockets

TEXT, CLOSE = Opcode.TEXT, Opcode.CLOSE
ENTER = client_frame(TEXT, json.dumps({"action": "enter", "data": ROOM, "id": 1}).encode())

#: Of either end's socket, where the kernel is not to take megabytes for a client that does not read.
SMALL_BUFFER = 4096


def manager_with(config: dict[str, Any] | None = None, **limits: Any) -> Manager:
    """An echo with small limits and no pings of its own."""
    limits = {"max_message_bytes": MAX, **limits}
    return make_manager(Config(ping_interval=10_000, **(config or {}), limits=Limits(**limits)))


async def ended(siege: Siege, attacker: Attacker, code: int) -> None:
    """The attacker is told this code, and nothing else, then the stream ends; it is counted once, as ours."""
    (frame,) = await attacker.sees()
    assert (frame.opcode, frame.payload[:2]) == (CLOSE, close_payload(code))
    assert [(close.code, close.by) for close in siege.told] == [(code, "server")]
    assert siege.server.statistics().closes == {f"server:{code}": 1}


# 2.2, the rows of one frame or a few


@pytest.mark.parametrize(("data", "code"), VIOLATIONS.values(), ids=VIOLATIONS)
async def test_violations(data: bytes, code: int) -> None:
    """2.2: each violation is told on the wire with its code, then TCP ends; what stands behind it is not looked at."""
    async with besieged(manager_with(), transport="native") as siege, siege.enter() as attacker:
        await attacker.send(data + ECHO * 100)
        await ended(siege, attacker, code)


@pytest.mark.parametrize("name", ["1002: unmasked text", "1007: 0xff", "1009: text"])
async def test_a_violation_with_the_request(name: str) -> None:
    """2.2: a violation in one segment with the request is no other than one that comes later."""
    data, code = VIOLATIONS[name]
    async with besieged(manager_with(), transport="native") as siege:
        response = split_response(await siege.ask(handshake_bytes() + data + ECHO * 100))
        assert response is not None
        (frame,) = parse_server_frames(response[2])
        assert (response[0], frame.opcode, frame.payload[:2]) == (101, CLOSE, close_payload(code))
        await siege.gone()
        assert [(close.code, close.by) for close in siege.told] == [(code, "server")]


@pytest.mark.parametrize(
    ("frame", "bad"),
    [
        (client_frame(TEXT, b"x" * 50 + b"\xff" + b"x" * 400), 8 + 51),
        (fragmented(b"x" * 50, b"y" * 10 + b"\xe2\x82\xff" + b"z" * 80), 6 + 50 + 6 + 13),
        (fragmented(b"\xe2", b"\x82", b"(" + b"z" * 80), 7 + 7 + 7),
    ],
    ids=["in a frame", "late in a fragment", "split over fragments"],
)
async def test_bad_text_ends_at_its_first_byte(frame: bytes, bad: int) -> None:
    """2.2: text that is not UTF-8 is 1007 when its first bad byte has come, though its frame is not complete."""
    async with besieged(manager_with(), transport="native") as siege, siege.enter() as attacker:
        await attacker.send(frame[: bad - 1])
        await siege.is_unnoticed()
        assert siege.told == []
        await attacker.send(frame[bad - 1 : bad])
        await ended(siege, attacker, 1007)


@pytest.mark.parametrize("length", [MAX + 1, 1 << 31, 1 << 62, (1 << 63) - 1])
async def test_a_length_that_is_only_declared(length: int) -> None:
    """2.2: a frame that declares more than ``max_message_bytes`` is 1009 at its header."""
    async with besieged(manager_with(), transport="native") as siege, siege.enter() as attacker:
        await attacker.send(client_frame(TEXT, b"x" * 10, length=length))
        await ended(siege, attacker, 1009)


async def is_too_big(siege: Siege, attacker: Attacker, data: bytes) -> None:
    """Send more than is ever read, and be told 1009 meanwhile."""
    seen = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attacker.send, data)
        while len(seen) < 4:
            seen += await attacker.stream.receive_some()
    assert (seen[0] & 15, seen[2:4]) == (CLOSE, close_payload(1009))
    await attacker.stream.aclose()
    await siege.gone()
    assert [(close.code, close.by) for close in siege.told] == [(1009, "server")]


async def test_a_message_of_2_mib() -> None:
    """2.2: who sends 2 MiB is told 1009 while it sends, and is not read to the end."""
    async with besieged(make_manager(), transport="native") as siege, siege.enter() as attacker:
        await is_too_big(siege, attacker, client_frame(TEXT, b"x" * (2 << 20)))


async def test_fragments_without_end() -> None:
    """2.2: 300,000 empty fragments are 1009 at the first that is beyond ``max_fragments``."""
    flood = client_frame(TEXT, b"", fin=False) + client_frame(Opcode.CONTINUATION, b"", fin=False) * 300_000
    async with besieged(manager_with(), transport="native") as siege, siege.enter() as attacker:
        await is_too_big(siege, attacker, flood)


@pytest.mark.parametrize("count", [64, 65])
async def test_as_many_fragments_as_may_be(count: int) -> None:
    """2.2: a message in 64 fragments is one; in 65 it is 1009."""
    parts = [ECHO[6:], *[b" "] * (count - 1)]  # behind its header the echo is masked with zeros
    async with besieged(manager_with(), transport="native") as siege, siege.enter() as attacker:
        await attacker.send(fragmented(*parts))
        if count == 64:
            assert await attacker.sees_text() == ANSWER
        else:
            await ended(siege, attacker, 1009)


@pytest.mark.parametrize(
    "begun", [client_frame(TEXT, b"a", fin=False), ECHO[:3], ECHO[:10]], ids=["fragment", "header", "frame"]
)
async def test_a_message_without_end(begun: bytes) -> None:
    """2.2: a message that has begun and does not end within ``message_timeout`` is 1008."""
    async with besieged(manager_with(message_timeout=0.1), transport="native") as siege, siege.enter() as attacker:
        await attacker.send(begun)
        await ended(siege, attacker, 1008)


async def test_compression() -> None:
    """2.2: no bomb explodes, for nothing is inflated: compression is not negotiated, and RSV1 is 1002."""
    async with besieged(manager_with(), transport="native") as siege, siege.enter() as attacker:
        await attacker.send(MALFORMED["compressed"])
        await ended(siege, attacker, 1002)


# 2.2, floods and clients that do not read


@pytest.mark.parametrize("reads", [True, False], ids=["reading", "not reading"])
async def test_a_flood_of_tiny_messages(reads: bool) -> None:
    """2.2: while one client sends tiny messages without end, every request of another is answered in its turn."""
    async with besieged(manager_with(), transport="native") as siege, siege.enter() as attacker:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def flood() -> None:
                while True:
                    await attacker.send(client_frame(TEXT, b"1") * 1000)
                    await trio.lowlevel.checkpoint()

            @nursery.start_soon
            async def read() -> None:
                while reads:
                    await attacker.stream.receive_some()

            for _ in range(20):
                await siege.is_unnoticed()
            nursery.cancel_scope.cancel()
        assert siege.told == []
        reset(attacker.stream)


async def test_a_flood_of_pings_that_reads_nothing() -> None:
    """2.2: of pings whose pongs nobody takes a few are remembered, until ``write_timeout`` aborts the connection."""
    manager = manager_with({"write_timeout": 0.2})
    async with (
        besieged(manager, listeners=await cramped(), transport="native") as siege,
        siege.enter(receive_buffer=SMALL_BUFFER) as attacker,
    ):
        most = 0
        while not siege.told:
            await attacker.send(client_frame(Opcode.PING, b"x" * 125) * 100)
            most = max(most, len(getattr(attacker.conn._transport, "_pongs_due", ())))
        assert siege.told == [Close(1006, "a write timed out", "network")]
        assert 1 <= most <= 16


async def test_a_client_that_never_reads() -> None:
    """2.2: who does not read overflows its own outbox, and is closed with 4008; other members get everything."""
    async with (
        besieged(manager_with(), listeners=await cramped(), transport="native") as siege,
        siege.enter(receive_buffer=SMALL_BUFFER) as attacker,
    ):
        await attacker.send(ENTER)
        assert json.loads(await attacker.sees_text())["id"] == 1
        closed = 0
        for number in range(100_000):
            closed += siege.manager.broadcast_to_room(ROOM, [number, "x" * 1000]).closed
            assert (await siege.innocent.receive_json())[0] == number
            if closed:
                break
        assert closed == 1
        reset(attacker.stream)
        await siege.gone()
        assert [(close.code, close.by) for close in siege.told] == [(4008, "server")]


async def test_a_write_that_nobody_takes() -> None:
    """2.2: a message that is not taken within ``write_timeout`` ends its connection by abort."""
    async with (
        besieged(manager_with({"write_timeout": 0.2}), listeners=await cramped(), transport="native") as siege,
        siege.enter(receive_buffer=SMALL_BUFFER) as attacker,
    ):
        attacker.conn.send_nowait("x" * 900_000)
        await attacker.conn.wait_closed()
        assert siege.told == [Close(1006, "a write timed out", "network")]


async def cramped() -> list[trio.SocketListener]:
    """A listener whose connections have small buffers in the kernel, which they inherit."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listener.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, SMALL_BUFFER)
    return [listener]


# 2.2, ends


async def test_no_answer_to_our_close() -> None:
    """2.2: a client that does not answer our close frame is left after ``close_timeout``."""
    manager = manager_with({"close_timeout": 0.1})
    async with besieged(manager, transport="native") as siege, siege.enter() as attacker:
        attacker.conn.close(4001)
        await attacker.conn.wait_closed()
        assert await attacker.sees() == [ServerFrame(CLOSE, close_payload(4001))]
        assert siege.told == [Close(4001)]


@pytest.mark.parametrize(
    "behind",
    [ECHO * 500, client_frame(CLOSE, close_payload(1000)) * 2, MALFORMED["unmasked text"], b"\xff" * 50_000],
    ids=["messages", "two closes", "a violation", "noise"],
)
async def test_data_behind_our_close(behind: bytes) -> None:
    """2.2: what comes behind our close frame is dropped, within a bound; no second close frame is sent."""
    manager = manager_with({"close_timeout": 0.2})
    async with besieged(manager, transport="native") as siege, siege.enter() as attacker:
        attacker.conn.close(4001)
        await attacker.send(behind)
        assert await attacker.sees() == [ServerFrame(CLOSE, close_payload(4001))]
        assert siege.told == [Close(4001)]
        assert siege.server.statistics().messages_received <= 2  # the innocent's


@pytest.mark.parametrize("cut", [1, 2, 5, 6, len(ECHO) - 1])
async def test_reset_in_the_middle_of_a_frame(cut: int) -> None:
    """2.2: a reset within a frame is 1006 by the network; the room is left once."""
    manager = manager_with()
    log = record(manager)
    async with besieged(manager, transport="native") as siege, siege.enter() as attacker:
        await attacker.send(ENTER)
        assert json.loads(await attacker.sees_text())["id"] == 1
        await attacker.send(ECHO[:cut])
        reset(attacker.stream)
        await siege.gone()
        assert siege.told == [Close(1006, "", "network")]
        assert of(log, "leave", attacker.conn) == [(ROOM, "disconnected")]
        assert of(log, "disconnect", attacker.conn) == [(1006,)]


async def test_two_hundred_of_each() -> None:
    """2.2: two hundred resets within a frame and as many violations, one after the other, are as many ends."""
    manager = manager_with()
    codes: list[int] = []
    manager.on_disconnect(lambda conn, close: codes.append(close.code))
    async with besieged(manager, transport="native") as siege:
        for _ in range(200):
            async with siege.enter() as attacker:
                await attacker.send(ECHO[:9])
                reset(attacker.stream)
            async with siege.enter() as attacker:
                await attacker.send(NO_TEXT["0xff"])
        await siege.gone()
        assert sorted(codes) == [1006] * 200 + [1007] * 200
