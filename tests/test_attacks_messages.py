"""Attacks with messages, over real sockets, each with the reaction that is promised and an innocent client beside.

Not here, because they do not exist yet: rate limits (by which floods of unknown actions and of joins would end), tokens
that expire and ``$refresh``, positions of recovery, requests of the server, whose answers could be forged. How a token
is compared is the program's own ``authenticate``. The rows on MessagePack are with that format.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import pytest
import trio

from doors import connect, make_manager
from messages import hang
from sieges import ROOM, Siege, besieged, no_errors_logged
from trio_rooms import Config, Connection, Limits, Manager, Message, Room
from trio_rooms.middleware import logger
from trio_rooms.testing import Closed, Opcode, ReplyError, TestClient, client_frame

pytestmark = pytest.mark.sockets

V1 = "trio-rooms.v1.json"
SECRET = "the password is hunter2"
BELL = "\x1b[31m\x07"


@attrs.frozen
class Order:
    """A payload that is checked."""

    item: str
    count: int = 1


def manager_with(config: dict[str, Any] | None = None, **limits: Any) -> Manager:
    """An echo, and handlers that the rows are about."""
    manager = make_manager(Config(**(config or {}), limits=Limits(**limits)))
    manager.room("open-*", authorize=let_in)
    manager.room("full-*", authorize=let_in, capacity=1)
    manager.handle_message("hang", hang)
    manager.handle_message("beside", hang, concurrent=True)

    @manager.on("order")
    def order(conn: Connection, data: Order) -> Order:
        return data

    return manager


async def let_in(conn: Connection, room: str, data: Any) -> bool:
    return True


@asynccontextmanager
async def entered(siege: Siege, **options: Any) -> AsyncGenerator[TestClient]:
    """An attacker with manners as far as the frames go; it goes with a close frame if it can."""
    async with await connect(siege.server, **options) as client:
        yield client
        with trio.move_on_after(5):
            await client.close()


async def is_told(client: TestClient, text: str, code: str) -> dict[str, Any]:
    """Send a text, and be told this error and nothing of our inside, on a connection that stays; the error."""
    await client.send_text(text)
    answer = await client.receive_json()
    error: dict[str, Any] = answer["error"]
    assert error["code"] == code
    assert len(error["message"]) <= 200
    assert "Traceback" not in error["message"]
    assert await client.request("echo", "as before") == "as before"
    return error


def with_data(raw: str) -> str:
    """A request whose data are these."""
    return f'{{"action":"echo","id":1,"data":{raw}}}'


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + "1" * (opening != "[") + closing * depth


#: What is no message, and what is told of it.
BAD = {
    "empty": "",
    "a blank": " ",
    "no JSON": "hello",
    "half of an object": '{"action":"echo"',
    "an array": '["echo"]',
    "null": "null",
    "a number": "1",
    "a BOM": "\ufeff" + with_data("1"),
    "trailing data": with_data("1") + "x",
    "two messages": with_data("1") * 2,
    "30,000 arrays": with_data(nested(30_000)),
    "10,000 objects": with_data(nested(10_000, '{"a":', "}")),
    "30,000 arrays beside": f'{{"action":"echo","x":{nested(30_000)}}}',
    "30,000 arrays that do not end": with_data("[" * 30_000),
    "900 levels": with_data(nested(900)),
    "33 levels": with_data(nested(33)),
    "an integer of 4,301 digits": with_data("9" * 4_301),
    "an integer of 60,000 digits": with_data("9" * 60_000),
    "NaN": with_data("NaN"),
    "Infinity": with_data("-Infinity"),
    "1e999": with_data("1e999"),
    "a lone surrogate": with_data('"\\ud800"'),
    "half of a pair": with_data('"\\udc00\\ud800"'),
    "a raw control character": with_data('"\x01"'),
    "action of another type": '{"action":1}',
    "no action": '{"id":1}',
    **{
        f"id {raw:.20}": f'{{"action":"echo","id":{raw}}}'
        for raw in ("true", "1.5", "{}", "[1]", "9" * 4_000, str(2**63), f'"{"x" * 65}"', '"a\\u0000"', '"\\n"')
    },
    **{f"timeout {raw}": f'{{"action":"echo","timeout_ms":{raw}}}' for raw in ("0", "-1", '"1"', "1e999", "NaN")},
    "room of another type": '{"action":"echo","room":{}}',
    "data of another type": '{"action":"order","data":{"item":1}}',
    "too little data": '{"action":"order","data":{}}',
    "no data": '{"action":"order"}',
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
async def test_bad_messages(text: str) -> None:
    """2.3: what is no message is one BAD_MESSAGE of bounded length; the connection stays."""
    async with besieged(manager_with()) as siege, entered(siege) as client:
        await is_told(client, text, "BAD_MESSAGE")
        assert siege.server.statistics().errors_told == {"BAD_MESSAGE": 1}
        assert siege.told == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"action":"echo","id":true}', "$.id"),
        ('{"action":"echo","id":1.5}', "$.id"),
        ('{"action":"echo","id":{}}', "$.id"),
        ('{"action":"order","data":{"item":1}}', "$.item"),
        ('{"action":"order","data":{"item":"x","count":"1"}}', "$.count"),
    ],
)
async def test_which_field(text: str, path: str) -> None:
    """2.3: BAD_MESSAGE names the path of the wrong field, which is the client's own."""
    async with besieged(manager_with()) as siege, entered(siege) as client:
        assert f"`{path}`" in (await is_told(client, text, "BAD_MESSAGE"))["message"]


#: What JSON allows though it looks odd, and what comes back.
FINE = {
    "duplicate keys": ('{"a":1,"a":2}', {"a": 2}),
    "an escaped NUL": ('"\\u0000"', "\0"),
    "an integer of 4,000 digits": ("9" * 4_000, 10**4_000 - 1),
    "32 levels": (nested(32), json.loads(nested(32))),
    "many small arrays": ("[" + ",".join(["[]"] * 20_000) + "]", [[]] * 20_000),
    "a pair of surrogates": ('"\\ud83d\\ude00"', "😀"),
}


@pytest.mark.parametrize(("raw", "data"), FINE.values(), ids=FINE)
async def test_odd_but_fine(raw: str, data: Any) -> None:
    """2.3: the last of duplicate keys counts, for everybody the same; other oddities pass as they are."""
    async with besieged(manager_with()) as siege, entered(siege) as client:
        await client.send_text(with_data(raw))
        assert await client.receive_json() == {"id": 1, "data": data}


async def test_the_size_is_a_limit_of_work() -> None:
    """2.3: 1 MiB of small arrays is not decoded: 1009, by its size."""
    async with besieged(manager_with()) as siege, entered(siege) as client:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                with suppress(trio.BrokenResourceError, Closed):  # it is not read to the end
                    await client.send_text(with_data("[" + ",".join(["[]"] * 350_000) + "]"))

            await client.expect_close(1009)
        assert siege.server.statistics().messages_received == 1  # the innocent's


async def test_an_id_that_is_in_flight() -> None:
    """2.3: an id that is used again while it is in flight is DUPLICATE_ID; the request that has it goes on."""
    async with besieged(manager_with()) as siege, entered(siege) as client:
        await client.send_action("beside", id=7)
        for _ in range(3):
            await client.send_action("echo", id=7)
            assert (await client.receive_json())["error"]["code"] == "DUPLICATE_ID"
        await client.send_action("$cancel", {"id": 7})
        assert (await client.receive_json())["error"]["code"] == "CANCELLED"
        assert await client.request("echo", 1, id=7) == 1


async def test_replies_that_nobody_asked_for() -> None:
    """2.3: what looks like a reply to a request of ours is a message without an action, and no more."""
    async with besieged(manager_with()) as siege, entered(siege) as client:
        for text in ('{"id":1,"data":1}', '{"id":1,"error":{"code":"X"}}', '{"id":1,"more":true}'):
            await is_told(client, text, "BAD_MESSAGE")


async def test_a_flood_of_unknown_actions() -> None:
    """2.3: each of a thousand unknown actions is one error; they are counted under one label."""
    async with besieged(manager_with()) as siege, entered(siege) as client:
        for number in range(1000):
            await client.send_action(f"no-{number}", id=number)
            assert (await client.receive_json())["error"]["code"] == "UNKNOWN_ACTION"
        assert siege.server.statistics().errors_told == {"UNKNOWN_ACTION": 1000}


async def test_a_flood_of_joins() -> None:
    """2.3: beyond ``max_rooms_per_connection`` a join is TOO_MANY_ROOMS; rooms that were left are not kept."""
    async with besieged(manager_with(max_rooms_per_connection=10)) as siege, entered(siege, subprotocol=V1) as client:
        await client.receive_json()
        for number in range(10):
            await client.request("$join", {"room": f"open-{number}"})
        for number in range(10, 30):
            with pytest.raises(ReplyError, match="TOO_MANY_ROOMS"):
                await client.request("$join", {"room": f"open-{number}"})
        assert len(siege.manager.rooms()) == 11
        for number in range(10):
            await client.request("$leave", {"room": f"open-{number}"})
        assert [room.name for room in siege.manager.rooms()] == [ROOM]
        for number in range(200):
            await client.request("$join", {"room": f"open-x{number}"})
            await client.request("$leave", {"room": f"open-x{number}"})
        assert [room.name for room in siege.manager.rooms()] == [ROOM]


async def test_rooms_of_all_clients() -> None:
    """2.3: beyond ``max_rooms`` no client opens another room; rooms that there are take members as before."""
    async with besieged(manager_with(max_rooms=3)) as siege, entered(siege) as one, entered(siege) as two:
        await one.request("$join", {"room": "open-1"})
        await two.request("$join", {"room": "open-2"})
        for client in (one, two):
            with pytest.raises(ReplyError, match="TOO_MANY_ROOMS"):
                await client.request("$join", {"room": "open-3"})
        await two.request("$join", {"room": "open-1"})


async def test_joins_that_are_refused() -> None:
    """2.3: a join that is denied, or to a full room, opens no room and keeps no place."""
    async with besieged(manager_with()) as siege, entered(siege) as one, entered(siege) as two:
        await one.request("$join", {"room": "full-1"})
        for number in range(100):
            with pytest.raises(ReplyError, match="DENIED"):
                await two.request("$join", {"room": f"closed-{number}"})
            with pytest.raises(ReplyError, match="ROOM_FULL"):
                await two.request("$join", {"room": "full-1"})
        assert {room.name for room in siege.manager.rooms()} == {ROOM, "full-1"}


ODD_ROOMS = [
    *[
        "",
        "x" * 256,
        "ü" * 128,
        "$lobby",
        "$",
        "a..b",
        ".a",
        "a.",
        ".",
        "..",
        "a b",
        " ",
        "a\tb",
        "a\nb",
        "a\r",
        "a\0b",
    ],
    *["\x7f", "\x80", "\x9f", "a\u2028", "\u2029", "\u202eybbol", "\u2066a", "\u200f", "\u061c"],
    *["*", "a*", "a.>", ">", "a?", "a[b", "a]", "a\\b", BELL],
]


@pytest.mark.parametrize("name", ODD_ROOMS, ids=ascii)
async def test_odd_room_names(name: str) -> None:
    """2.3, M5: a name that could mean something to a broker, a shell or a reader is BAD_ROOM, and opens no room."""
    async with besieged(manager_with()) as siege, entered(siege) as client:
        with pytest.raises(ReplyError, match="BAD_ROOM"):
            await client.request("$join", {"room": name})
        with pytest.raises(ReplyError, match="BAD_ROOM"):
            await client.request("enter", name)
        assert [room.name for room in siege.manager.rooms()] == [ROOM]


async def test_names_are_compared_as_bytes() -> None:
    """2.3: two spellings of one character are two rooms; nothing is normalised."""
    async with besieged(manager_with()) as siege, entered(siege) as client:
        await client.request("$join", {"room": "open-\u00e9"})
        await client.request("$join", {"room": "open-e\u0301"})
        assert len(siege.manager.rooms()) == 3


async def test_lines_in_the_log() -> None:
    """2.3: whatever a client puts into names, each record is one line of printable characters, of bounded length."""
    evil = f"a\nERROR forged{BELL}\u2028\u202e" + "x" * 5_000
    with no_errors_logged() as records:
        logging.getLogger("trio_rooms").setLevel(logging.DEBUG)
        try:
            manager = manager_with()
            manager.use(logger())
            path = "/ws?%0a%1b[31m"
            async with besieged(manager) as siege, await connect(siege.server, path=path) as client:
                await client.send_action(evil, id=evil[:30])
                await client.send_action("echo", evil, room=evil, id=1)
                await client.send_action("enter", evil, id="b\u2028\u202e")
                await client.send_action("$join", {"room": evil})
                for _ in range(4):
                    await client.receive_json()
                await client.close(4999, f"bye{BELL}")
        finally:
            logging.getLogger("trio_rooms").setLevel(logging.NOTSET)
    assert records
    for record in records:
        text = record.getMessage()
        assert text.isprintable()
        assert len(text) < 1_000


@pytest.mark.parametrize(
    ("action", "data", "code"),
    [
        ("fail", None, 1011),
        ("echo", "fail", 1000),
        ("$join", {"room": "fails"}, 1000),
        ("$join", {"room": "unsure"}, 1000),
    ],
    ids=["handler", "on_message", "on_join_room", "authorize"],
)
async def test_no_detail_is_told(action: str, data: Any, code: int) -> None:
    """2.3: of an exception of the program a client learns INTERNAL and fixed texts; the log has the exception."""
    quiet = logging.getLogger("attacks")
    errors: list[BaseException] = []
    manager = Manager(logger=quiet)
    manager.handle_message("echo", lambda conn, message: message.data)
    manager.room("fails", authorize=let_in)
    manager.on_error(lambda conn, error: errors.append(error))

    @manager.on("fail")
    def fail(conn: Connection) -> None:
        raise ValueError(SECRET)

    @manager.on_message
    def check(conn: Connection, message: Message) -> None:
        if message.data == "fail":
            fail(conn)

    @manager.on_join_room
    def joining(conn: Connection, room: Room) -> None:
        if room.name == "fails":
            fail(conn)

    async def authorize(conn: Connection, room: str, data: Any) -> bool:
        raise ValueError(SECRET)

    manager.room("unsure", authorize=authorize)
    quiet.setLevel(logging.CRITICAL + 1)
    async with besieged(manager) as siege, await connect(siege.server) as client:
        await client.send_action(action, data, id=1)
        answer = await client.receive_json()
        closed = await (client.expect_close() if code == 1011 else client.close())
        assert (answer["error"]["code"], closed.code) == ("INTERNAL", code)
        assert SECRET not in json.dumps(answer) + closed.reason
        assert len(closed.reason.encode()) <= 123
        assert [str(error) for error in errors] == [SECRET]


async def test_one_slow_handler() -> None:
    """2.3: a handler that hangs holds its own connection's messages; its pings are answered, and others are served."""
    async with besieged(manager_with({"close_timeout": 0.2})) as siege, await connect(siege.server) as client:
        await client.send_action("hang", id=1)
        for _ in range(5):
            await client.send_action("echo", 1)
        await client.ping(b"p")
        assert await client.receive_pong() == b"p"
        await siege.is_unnoticed()
        assert client.pending == ()
        await client.send_action("$cancel", {"id": 1})
        assert (await client.receive_json())["error"]["code"] == "CANCELLED"
        assert await client.request("echo", 2) == 2


async def test_slow_handlers_beside() -> None:
    """2.3: of concurrent handlers ``max_handlers`` are in flight; more of them are BUSY."""
    async with besieged(manager_with({"close_timeout": 0.2}, max_handlers=3)) as siege, entered(siege) as client:
        for number in range(3):
            await client.send_action("beside", id=f"b{number}")
        for number in range(3, 10):
            with pytest.raises(ReplyError, match="BUSY"):
                await client.request("beside", id=f"b{number}")
        assert await client.request("echo", 1) == 1


async def test_a_limit_of_time() -> None:
    """2.3: with ``handler_timeout`` a handler that hangs is DEADLINE_EXCEEDED."""
    async with besieged(manager_with(handler_timeout=0.1)) as siege, entered(siege) as client:
        with pytest.raises(ReplyError, match="DEADLINE_EXCEEDED"):
            await client.request("hang")
        assert await client.request("echo", 1) == 1


async def test_an_inbox_that_is_full() -> None:
    """2.3: behind a handler that hangs no more is read than the inbox holds and one read brings; TCP slows the peer."""
    manager = manager_with({"close_timeout": 0.2, "read_buffer_size": 1000}, inbox_messages=2)
    async with besieged(manager) as siege, siege.enter() as attacker:
        await attacker.send(client_frame(Opcode.TEXT, b'{"action":"hang"}'))
        with trio.move_on_after(0.2) as scope:  # by then the kernel takes no more, or there is no bound
            while True:
                await attacker.send(client_frame(Opcode.TEXT, b'{"action":"echo"}') * 1000)
        assert scope.cancelled_caught
        assert siege.server.statistics().messages_received < 200
        await siege.is_unnoticed()
        attacker.conn.close(4000)
        await attacker.conn.wait_closed()
