"""Each cause of an end, its bytes whole and one by one; what the wire shows, and what the program is told.

For the transport that the suite runs over: what both promise. What only the native one does is in
test_native_ends.py.
"""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hall import Gate
from probes import (
    ANSWER,
    BEHIND,
    CLOSE,
    ECHO,
    MALFORMED,
    NO_TEXT,
    PING,
    PONG,
    TEXT,
    TOO_BIG,
    VIOLATIONS,
    Probe,
    close,
    fragmented,
    make_manager,
    probing,
)
from trio_rooms import Close, Connection
from trio_rooms.testing import ServerFrame, client_frame, close_payload, parse_server_frames


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize(("data", "code"), VIOLATIONS.values(), ids=VIOLATIONS)
async def test_violations(autojump_clock: MockClock, data: bytes, code: int, bytewise: bool) -> None:
    """P3: every violation is told with its code, then the stream ends; what stands behind it is not looked at."""
    async with probing(bytewise=bytewise) as probe:
        await probe.send(data + BEHIND)
        *pongs, frame = parse_server_frames(await probe.sees())
        assert (frame.opcode, frame.payload[:2]) == (CLOSE, close_payload(code))
        # trio-websocket counts characters while it reads on; that they are too many bytes is noticed behind it.
        late = "😀".encode() in data
        assert pongs == [] or late
        assert [(close.code, close.by) for close in probe.told] == [(code, "server")]
        assert probe.place.server.statistics().closes == {f"server:{code}": 1}
        assert trio.current_time() <= (5 if late else 1)


# Ends by the peer


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        *((code, "") for code in (None, 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 4999)),
        (1000, "bye"),
        (1000, "ü"),
        (4321, "x" * 123),
        (4321, "ü" * 61 + "x"),
    ],
)
async def test_the_peer_closes(autojump_clock: MockClock, code: int | None, reason: str, bytewise: bool) -> None:
    """Each code that may be sent is told with its reason, answered with the same code, and then the stream ends."""
    async with probing(bytewise=bytewise) as probe:
        await probe.send(close(code, reason))
        (frame,) = parse_server_frames(await probe.sees())
        assert (frame.opcode, frame.payload[:2]) == (CLOSE, close_payload(code))
        assert probe.told == [Close(1005 if code is None else code, reason, "peer")]


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize(
    "behind",
    [BEHIND, close(4000), client_frame(TEXT, b"\xff"), b"\xff" * 200, ECHO[:5]],
    ids=["frames", "another close", "a violation", "noise", "half a frame"],
)
async def test_data_behind_the_peers_close(autojump_clock: MockClock, behind: bytes, bytewise: bool) -> None:
    """What stands behind the peer's close frame is neither answered nor judged, and the close is."""
    async with probing(bytewise=bytewise) as probe:
        await probe.send(close(1000) + behind)
        assert parse_server_frames(await probe.sees()) == [ServerFrame(CLOSE, close_payload(1000))]
        assert probe.told == [Close(1000, "", "peer")]
        assert trio.current_time() <= 1


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("ours_first", [False, True])
async def test_two_closes_cross(autojump_clock: MockClock, ours_first: bool, bytewise: bool) -> None:
    """Our close and the peer's, sent before either has seen the other's, are one end with one close frame of ours."""
    async with probing(bytewise=bytewise) as probe:
        if ours_first:
            probe.guest.conn.close(4001)
            await probe.send(close(1000))
        else:
            await probe.send(close(1000))
            probe.guest.conn.close(4001)
        (frame,) = parse_server_frames(await probe.sees())
        assert frame.opcode == CLOSE
        (told,) = probe.told
        assert (told.code, told.by) == (4001, "server")
        assert trio.current_time() <= 1


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("violation", [MALFORMED["unmasked text"], NO_TEXT["0xff"], TOO_BIG["text"], b"\xff" * 300])
async def test_a_violation_crosses_our_close(autojump_clock: MockClock, violation: bytes, bytewise: bool) -> None:
    """A violation behind our close frame changes nothing: that was the only close frame, and the stream ends."""
    async with probing(bytewise=bytewise) as probe:
        probe.guest.conn.close(4001)
        await wait_all_tasks_blocked()
        await probe.send(violation)
        assert parse_server_frames(await probe.sees()) == [ServerFrame(CLOSE, close_payload(4001))]
        assert probe.told == [Close(4001)]
        assert trio.current_time() <= 5


# Ends by the network


@pytest.mark.parametrize("frame", [ECHO, client_frame(PING, b"xx"), close(1000, "bye"), fragmented(b'"a', b'b"')])
async def test_end_of_file_in_the_middle_of_a_frame(autojump_clock: MockClock, frame: bytes) -> None:
    """An end of file within a frame, at each byte of it, is 1006 by the network; nothing is answered to it."""
    for count in range(1, len(frame)):
        async with probing() as probe:
            began = trio.current_time()
            await probe.send(frame[:count])
            await wait_all_tasks_blocked()
            await probe.guest.client.aclose()
            assert await probe.guest.conn.wait_closed() == Close(1006, "", "network")
            assert trio.current_time() == began
            assert probe.place.server.statistics().messages_received == 1  # the one of ``probing``


@pytest.mark.parametrize("frame", [ECHO, close(1000, "bye")])
async def test_reset_in_the_middle_of_a_frame(autojump_clock: MockClock, frame: bytes) -> None:
    """A connection that breaks within a frame, at each byte of it, is 1006 by the network."""
    for count in range(len(frame)):
        async with probing() as probe:
            began = trio.current_time()
            probe.faults.cut_receiving_at(count)
            await probe.send(frame)
            assert await probe.guest.conn.wait_closed() == Close(1006, "", "network")
            assert trio.current_time() == began
            assert await probe.sees() == b""


# Control frames


async def test_pongs_that_nobody_asked_for(autojump_clock: MockClock) -> None:
    """K3: unsolicited pongs of every length, ten thousand of them, are answered with nothing and end nothing."""
    async with probing() as probe:
        await probe.send(b"".join(client_frame(PONG, b"x" * (n % 126)) for n in range(10_000)))
        assert await probe.guest.client.request("echo", 1) == 1
        await probe.guest.client.receive_nothing(10)
        assert probe.guest.conn.rtt is None


async def test_a_flood_of_pings(autojump_clock: MockClock) -> None:
    """Of ten thousand pings, the last is answered, pongs keep the order of their pings, and what follows is served."""
    async with probing() as probe:
        await probe.send(b"".join(client_frame(PING, b"%05d" % n) for n in range(10_000)) + ECHO)
        frames: list[ServerFrame] = []
        while not {ANSWER, ServerFrame(PONG, b"09999")} <= set(frames):
            frames += parse_server_frames(await probe.guest.client.receive_raw())
        pongs = [frame.payload for frame in frames if frame.opcode == PONG]
        assert pongs == sorted(set(pongs))
        assert len(pongs) + 1 == len(frames)


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
async def test_pings_and_a_close_while_the_handler_is_busy(autojump_clock: MockClock, bytewise: bool) -> None:
    """P6: with a busy handler, five pings and a close are answered within no time, the last ping at least."""
    manager = make_manager()
    gate = Gate()

    @manager.on("wait")
    async def wait(conn: Connection) -> None:
        await gate()

    async with probing(manager, bytewise=bytewise) as probe:
        await probe.guest.client.send_action("wait")
        await gate.reached.wait()
        await probe.send(b"".join(client_frame(PING, b"%d" % n) for n in range(5)) + close(4321))
        *pongs, last = parse_server_frames(await read_to_close(probe))
        assert last == ServerFrame(CLOSE, close_payload(4321))
        assert {pong.opcode for pong in pongs} == {PONG}
        assert pongs[-1].payload == b"4"
        assert trio.current_time() == 0
        gate.open.set()
        assert await probe.sees() == b""


async def read_to_close(probe: Probe) -> bytes:
    """What comes, a close frame at its end."""
    data = b""
    while not any(frame.opcode == CLOSE for frame in parse_server_frames(data, allow_partial=True)):
        data += await probe.guest.client.receive_raw()
    return data


# In the middle of a write

WHOLE = b'\x81\x06"torn"'


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("k", range(len(WHOLE)))
async def test_the_peer_closes_in_the_middle_of_a_frame(autojump_clock: MockClock, k: int, resumed: bool) -> None:
    """P5, P7: a ping and a close that find a frame half written wait for it; if it stays torn, nothing follows it."""
    async with probing() as probe:
        probe.faults.stall_sending(k)
        probe.guest.conn.send_nowait("torn")
        await wait_all_tasks_blocked()
        await probe.send(client_frame(PING, b"p") + close(4321))
        await wait_all_tasks_blocked()
        if not resumed:
            assert await probe.sees() == WHOLE[:k]
            assert trio.current_time() <= 15  # write_timeout, or close_timeout behind it
            return
        probe.faults.resume_sending()
        frames = parse_server_frames(await probe.sees())
        assert frames[-1] == ServerFrame(CLOSE, close_payload(4321))
        assert frames[0] == ServerFrame(TEXT, b'"torn"')
        assert [frame.payload for frame in frames[1:-1]] in ([], [b"p"])
        assert probe.told == [Close(4321, "", "peer")]


@pytest.mark.parametrize("k", range(len(WHOLE)))
async def test_a_violation_in_the_middle_of_a_frame(autojump_clock: MockClock, k: int) -> None:
    """P3, P7: a violation that finds a frame half written is told behind the frame, or not at all, never within it."""
    async with probing() as probe:
        probe.faults.stall_sending(k)
        probe.guest.conn.send_nowait("torn")
        await wait_all_tasks_blocked()
        await probe.send(MALFORMED["unmasked text"])
        await wait_all_tasks_blocked()
        probe.faults.resume_sending()
        seen = await probe.sees()
        assert seen == WHOLE[:k] or (
            seen.startswith(WHOLE) and [frame.opcode for frame in parse_server_frames(seen)] == [TEXT, CLOSE]
        )
        assert [(close.code, close.by) for close in probe.told] == [(1002, "server")]


@pytest.mark.parametrize("k", range(len(WHOLE)))
async def test_a_write_that_fails(autojump_clock: MockClock, k: int) -> None:
    """P7: a connection that breaks when k bytes of a frame have left takes no byte more, and is 1006."""
    async with probing() as probe:
        probe.faults.cut_sending_at(k)
        probe.guest.conn.send_nowait("torn")
        probe.guest.conn.send_nowait("second")
        assert await probe.guest.conn.wait_closed() == Close(1006, "", "network")
        assert await probe.sees() == WHOLE[:k]
