"""L1: every limit at its least bites on the wire, with its code and its count; what clients make up grows nothing.

A new limit needs a scenario here: a function of its name, under ``@least``, in which it is as low as can be.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hall import Guest, Hall, hall
from messages import hang, receive_all, send_together
from probes import fragmented
from trio_rooms import Config, Connection, Limits, Manager
from trio_rooms.testing import HandshakeRefused, Opcode, client_frame, handshake_bytes

Scenario = Callable[[Hall], Awaitable[None]]

#: Where it is not 1: as low as makes a difference, and for the head what the request's first line takes.
LEAST: dict[str, float] = {"message_timeout": 1e-3, "handler_timeout": 1e-3, "max_header_bytes": 40}

SCENARIOS: dict[str, Scenario] = {}


def least(scenario: Scenario) -> Scenario:
    """Register what is to be seen when the limit of this name is as low as can be."""
    SCENARIOS[scenario.__name__] = scenario
    return scenario


async def admit(conn: Connection, room: str, data: object) -> bool:
    return True


def make_manager(limits: Limits) -> Manager:
    """A program for all of the scenarios; no pings come between."""
    manager = Manager(config=Config(limits=limits, ping_interval=10_000, read_buffer_size=64))
    manager.room("*", authorize=admit)
    manager.handle_message("echo", lambda conn, message: message.data)
    manager.handle_message("hang", hang)
    manager.handle_message("beside", hang, concurrent=True)
    return manager


async def error_of(guest: Guest, **message: Any) -> str:
    """The code that this message is answered with."""
    await guest.client.send_json(message)
    reply = await guest.client.receive_json()
    assert "error" in reply
    return str(reply["error"]["code"])


async def refuses(place: Hall, status: int, code: str, reason: str, **options: Any) -> None:
    """A client is refused with this status and code, and counted once for this reason."""
    with pytest.raises(HandshakeRefused) as refused:
        await place.memory.connect(**options)
    assert (refused.value.status, refused.value.code) == (status, code)
    assert place.server.statistics().handshakes_rejected == {reason: 1}


# At the door


@least
async def max_connections(place: Hall) -> None:
    await place.enter()
    await refuses(place, 503, "FULL", "full")


@least
async def max_pending_handshakes(place: Hall) -> None:
    streams = []
    for _ in range(2):
        streams.append(place.memory.open_stream())
        await streams[-1].send_all(b"GET /ws")
        await wait_all_tasks_blocked()
    statistics = place.server.statistics()
    assert (statistics.pending_handshakes, statistics.handshakes_rejected) == (1, {"pushed_out": 1})
    assert await streams[0].receive_some() == b""
    await streams[1].send_all(handshake_bytes()[7:])
    assert (await streams[1].receive_some()).startswith(b"HTTP/1.1 101 ")
    await streams[1].aclose()


@least
async def max_header_bytes(place: Hall) -> None:
    await refuses(place, 431, "HEADERS_TOO_LARGE", "headers")


@least
async def max_headers(place: Hall) -> None:
    await refuses(place, 431, "HEADERS_TOO_LARGE", "headers")


@least
async def max_header_line(place: Hall) -> None:
    await refuses(place, 431, "HEADERS_TOO_LARGE", "headers")


@least
async def max_target_bytes(place: Hall) -> None:
    await refuses(place, 414, "TARGET_TOO_LONG", "target")


@least
async def max_subprotocols(place: Hall) -> None:
    await place.memory.connect(subprotocol="trio-rooms.v1.json")
    await refuses(place, 400, "BAD_REQUEST", "bad_request", subprotocol=["trio-rooms.v1.json", "another"])


# Frames


async def closes(place: Hall, data: bytes, code: int) -> None:
    """These bytes end a connection with this code."""
    guest = await place.enter()
    await guest.client.send_raw(data)
    await guest.client.expect_close(code, skip_messages=True)
    await guest.conn.wait_closed()
    assert place.server.statistics().closes == {f"server:{code}": 1}


@least
async def max_message_bytes(place: Hall) -> None:
    await closes(place, client_frame(Opcode.TEXT, b"1") + client_frame(Opcode.TEXT, b"22"), 1009)
    assert place.server.statistics().errors_told == {"BAD_MESSAGE": 1}  # one byte of it was taken


@least
async def max_fragments(place: Hall) -> None:
    await closes(place, fragmented(b'{"action":', b'"echo"}'), 1009)


@least
async def message_timeout(place: Hall) -> None:
    await closes(place, client_frame(Opcode.TEXT, b"x", fin=False), 1008)


# Messages


@least
async def inbox_messages(place: Hall) -> None:
    guest = await place.enter()
    await send_together(guest.client, *({"action": "hang", "data": "x" * 64} for _ in range(100)))
    await wait_all_tasks_blocked()
    assert place.server.statistics().messages_received <= 4  # in work, in the inbox, and what one read brings


@least
async def max_handlers(place: Hall) -> None:
    guest = await place.enter()
    await guest.client.send_json({"action": "beside"})
    assert await error_of(guest, action="beside", id=2) == "BUSY"
    assert place.server.statistics().errors_told == {"BUSY": 1}


@least
async def handler_timeout(place: Hall) -> None:
    assert await error_of(await place.enter(), action="hang", id=1) == "DEADLINE_EXCEEDED"
    assert place.server.statistics().errors_told == {"DEADLINE_EXCEEDED": 1}


@least
async def max_depth(place: Hall) -> None:
    guest = await place.enter()
    assert await guest.client.request("echo", []) == []
    assert await error_of(guest, action="echo", data=[[]], id=2) == "BAD_MESSAGE"
    assert place.server.statistics().errors_told == {"BAD_MESSAGE": 1}


@least
async def max_id_chars(place: Hall) -> None:
    guest = await place.enter()
    assert await guest.client.request("echo", 1, id="a") == 1
    assert await error_of(guest, action="echo", id="ab") == "BAD_MESSAGE"
    assert place.server.statistics().errors_told == {"BAD_MESSAGE": 1}


# Rooms


async def joins_but_not(place: Hall, guest: Guest, room: str, code: str) -> None:
    """The room "a" is joined; the other one is refused with this code."""
    await guest.client.request("$join", {"room": "a"})
    assert await error_of(guest, action="$join", data={"room": room}, id="no") == code
    assert place.server.statistics().errors_told == {code: 1}
    assert [room.name for room in place.manager.rooms()] == list(guest.conn.rooms) == ["a"]


@least
async def max_room_name_bytes(place: Hall) -> None:
    await joins_but_not(place, await place.enter(), "ab", "BAD_ROOM")


@least
async def max_rooms_per_connection(place: Hall) -> None:
    await joins_but_not(place, await place.enter(), "b", "TOO_MANY_ROOMS")


@least
async def max_rooms(place: Hall) -> None:
    await joins_but_not(place, await place.enter(), "b", "TOO_MANY_ROOMS")


# The way out


@least
async def outbox_messages(place: Hall) -> None:
    guest, faults = await place.enter_faulty()
    await guest.conn.join("a")
    faults.stall_sending()
    reports = []
    for number in range(3):  # one is being written, one waits
        reports.append(place.manager.broadcast_to_room("a", number))
        await wait_all_tasks_blocked()
    assert sum(report.closed for report in reports) == 1
    faults.resume_sending()
    await guest.conn.wait_closed()
    assert place.server.statistics().closes == {"server:4008": 1}


@least
async def outbox_bytes(place: Hall) -> None:
    guest = await place.enter()
    await guest.client.send_json({"action": "echo", "id": 1})
    await guest.client.expect_close(1011)
    await guest.conn.wait_closed()
    assert place.server.statistics().closes == {"server:1011": 1}


@least
async def session_messages(place: Hall) -> None:
    guest = await place.enter()
    await send_together(guest.client, {"action": "s"}, {"action": "s"}, {"action": "echo", "id": 1})
    assert await receive_all(guest.client) == []  # the second finds no room, and what is behind it waits


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(Limits)])
async def test_the_least(name: str, autojump_clock: MockClock) -> None:
    """L1: each limit at its minimum is enforced on the wire, told with its code, and counted."""
    manager = make_manager(Limits(**{name: LEAST.get(name, 1)}))
    if name == "session_messages":
        manager.session(hang)
    async with hall(manager, transport="native") as place:
        await SCENARIOS[name](place)


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(Limits)])
async def test_the_least_by_default(name: str, autojump_clock: MockClock) -> None:
    """L1: it is the limit that was seen: by default nothing of that happens."""
    manager = make_manager(Limits())
    if name == "session_messages":
        manager.session(hang)
    async with hall(manager, transport="native") as place:
        with pytest.raises((AssertionError, pytest.fail.Exception, trio.TooSlowError)), trio.fail_after(20):
            await SCENARIOS[name](place)


async def growth(place: Hall, messages: Callable[[list[str]], list[object]]) -> int:
    """Send messages about 100,000 names, a hundred at a time; by how many blocks of memory the process has grown."""
    stream = place.memory.open_stream()
    await stream.send_all(handshake_bytes())
    blocks = []
    for hundred in range(1001):
        texts = [json.dumps(message).encode() for message in messages([f"{hundred}-{n}" for n in range(100)])]
        await stream.send_all(b"".join(client_frame(Opcode.TEXT, text) for text in texts))
        await wait_all_tasks_blocked()
        await stream.receive_some()
        if hundred % 1000 == 0:
            gc.collect()
            blocks.append(sys.getallocatedblocks())
    await stream.aclose()
    return blocks[1] - blocks[0]


#: One string kept of each name would be 100,000.
NOTHING = 10_000


async def test_actions_and_ids_that_clients_make_up(autojump_clock: MockClock) -> None:
    """L1: 100,000 actions and ids, each another, leave labels and memory as they were."""
    async with hall(make_manager(Limits())) as place:
        grown = await growth(
            place, lambda names: [{"action": f"of-{name}", "id": f"id-{name}", "room": name} for name in names]
        )
        assert grown < NOTHING
        statistics = place.server.statistics()
        assert statistics.errors_told == {"UNKNOWN_ACTION": 100_100}
        assert statistics.written == 100_100


async def test_rooms_that_clients_make_up(autojump_clock: MockClock) -> None:
    """L1: 100,000 rooms, each another, joined and left again, leave maps and memory as they were."""
    manager = make_manager(Limits())

    @manager.on("visit")
    async def visit(conn: Connection, data: list[str]) -> int:
        for room in data:
            await conn.join(room)
            conn.leave(room)
        return len(manager.rooms())

    async with hall(manager) as place:
        grown = await growth(place, lambda names: [{"action": "visit", "data": names, "id": 1}])
        assert grown < NOTHING
        statistics = place.server.statistics()
        assert (statistics.messages_received, statistics.rooms) == (1001, 0)
        assert statistics.errors_told == {}
