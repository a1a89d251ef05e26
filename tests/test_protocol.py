"""The wire protocol, line by line and in both formats: what goes in, and exactly what JSON comes out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from messages import TEXT_FORMATS as FORMATS
from messages import V1, hang, receive_all, send_together
from trio_rooms import ActionError, Config, Connection, Limits, Manager, Message
from trio_rooms.testing import MemoryServer, TestClient, serve_in_memory


@attrs.frozen
class Point:
    x: int


def make_manager(**options: Any) -> Manager:
    """A manager with a handler for each thing that a client can ask for."""
    manager = Manager(**options)

    async def authorize(conn: Connection, room: str, data: Any) -> Any:
        return {"welcome": data} if data is not None else True

    manager.room("no.*")
    manager.room("full", capacity=1, authorize=authorize)
    manager.room("*", authorize=authorize)
    manager.handle_message("echo", lambda conn, message: message.data)
    manager.handle_message("nothing", lambda conn: None)
    manager.handle_message("hang", hang, concurrent=True)
    manager.handle_message("room", lambda conn, message: message.room)

    @manager.on("point")
    async def point(conn: Connection, data: Point) -> Point:
        return data

    @manager.on("refuse")
    async def refuse(conn: Connection) -> None:
        raise ActionError("NO", "not you", temporary=True)

    @manager.on("join")
    async def join(conn: Connection, room: str) -> None:
        await conn.join(room)

    @manager.on("count")
    async def count(conn: Connection, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number
        if to > 2:
            raise ActionError("ENOUGH")

    return manager


async def exact(client: TestClient) -> list[str]:
    """Everything that comes, as it is on the wire."""
    got: list[str] = []
    with trio.move_on_after(1):
        while True:
            message = await client.receive()
            assert isinstance(message, str)
            got.append(message)
    return got


async def connect(memory: MemoryServer, subprotocol: str | None) -> tuple[TestClient, Connection]:
    """A client that has read its welcome, and the server's end of it."""
    known = set(memory.manager.connections)
    client = await memory.connect(subprotocol=subprotocol)
    await wait_all_tasks_blocked()
    (ident,) = set(memory.manager.connections) - known
    if subprotocol is not None:
        await client.receive()
    return client, memory.manager.connections[ident]


def lasting(ident: int | None, code: str, message: str) -> str:
    """An error that is not temporary, on the wire."""
    begin = "{" if ident is None else f'{{"id":{ident},'
    return f'{begin}"error":{{"code":"{code}","message":"{message}","temporary":false}}}}'


LIBRARYS = "names with a leading $ are the library's"
BAD = '"code":"BAD_MESSAGE","message":'

#: What goes in, and what comes out in both formats.
SAME_IN_BOTH: dict[str, tuple[str, list[str]]] = {
    "reply": ('{"action":"echo","data":{"a":[1,null]},"id":1}', ['{"id":1,"data":{"a":[1,null]}}']),
    "reply of nothing": ('{"action":"nothing","id":1}', ['{"id":1,"data":null}']),
    "reply to an id of text": ('{"action":"nothing","id":"x y"}', ['{"id":"x y","data":null}']),
    "reply to the id 0": ('{"action":"nothing","id":0}', ['{"id":0,"data":null}']),
    "reply to an empty id": ('{"action":"nothing","id":""}', ['{"id":"","data":null}']),
    "reply to the largest id": (
        '{"action":"nothing","id":9223372036854775807}',
        ['{"id":9223372036854775807,"data":null}'],
    ),
    "no id, no reply": ('{"action":"echo","data":1}', []),
    "an id of null is none": ('{"action":"echo","id":null}', []),
    "type in the place of action": ('{"type":"echo","data":1,"id":1}', ['{"id":1,"data":1}']),
    "action wins over type": ('{"type":"hang","action":"echo","data":1,"id":1}', ['{"id":1,"data":1}']),
    "room": ('{"action":"room","room":"kitchen","id":1}', ['{"id":1,"data":"kitchen"}']),
    "typed data": ('{"action":"point","data":{"x":1},"id":1}', ['{"id":1,"data":{"x":1}}']),
    "error": (
        '{"action":"refuse","id":1}',
        ['{"id":1,"error":{"code":"NO","message":"not you","temporary":true}}'],
    ),
    "error without id": (
        '{"action":"refuse"}',
        ['{"error":{"code":"NO","message":"not you","temporary":true}}'],
    ),
    "wrong data": (
        '{"action":"point","data":{"x":"1"},"id":1}',
        [f'{{"id":1,"error":{{{BAD}"Expected `int`, got `str` - at `$.x`","temporary":false}}}}'],
    ),
    "absent data": (
        '{"action":"point","id":1}',
        [f'{{"id":1,"error":{{{BAD}"Expected `object`, got `null`","temporary":false}}}}'],
    ),
    "wrong field": (
        '{"action":5,"id":1}',
        [f'{{"id":1,"error":{{{BAD}"Expected `str | null`, got `int` - at `$.action`","temporary":false}}}}'],
    ),
    "wrong id": (
        '{"action":"echo","id":true}',
        [f'{{"error":{{{BAD}"Expected `int | str | null`, got `bool` - at `$.id`","temporary":false}}}}'],
    ),
    "no action": (
        '{"data":1,"id":1}',
        [f'{{"id":1,"error":{{{BAD}"neither action nor type","temporary":false}}}}'],
    ),
    "no object": (
        "[]",
        [f'{{"error":{{{BAD}"Expected `object`, got `array`","temporary":false}}}}'],
    ),
    "unknown action": (
        '{"action":"what","id":1}',
        ['{"id":1,"error":{"code":"UNKNOWN_ACTION","message":"no such action","temporary":false}}'],
    ),
    "unknown action of the library": (
        '{"action":"$what"}',
        ['{"error":{"code":"UNKNOWN_ACTION","message":"no such action","temporary":false}}'],
    ),
    "deadline": (
        '{"action":"hang","id":1,"timeout_ms":100}',
        ['{"id":1,"error":{"code":"DEADLINE_EXCEEDED","message":"the deadline has passed","temporary":true}}'],
    ),
    "stream": (
        '{"action":"count","data":2,"id":1}',
        ['{"id":1,"data":0,"more":true}', '{"id":1,"data":1,"more":true}', '{"id":1,"more":false}'],
    ),
    "empty stream": ('{"action":"count","data":0,"id":"s"}', ['{"id":"s","more":false}']),
    "stream that fails": (
        '{"action":"count","data":3,"id":1}',
        [
            *(f'{{"id":1,"data":{n},"more":true}}' for n in range(3)),
            '{"id":1,"error":{"code":"ENOUGH","message":"","temporary":false}}',
        ],
    ),
    "$join": ('{"action":"$join","data":{"room":"r"},"id":1}', ['{"id":1,"data":{"room":"r"}}']),
    "$join with data": (
        '{"action":"$join","data":{"room":"r","data":[1]},"id":1}',
        ['{"id":1,"data":{"room":"r","data":{"welcome":[1]}}}'],
    ),
    "$join by type": ('{"type":"$join","data":{"room":"r"},"id":1}', ['{"id":1,"data":{"room":"r"}}']),
    "$join denied": (
        '{"action":"$join","data":{"room":"no.way"},"id":1}',
        ['{"id":1,"error":{"code":"DENIED","message":"not allowed","temporary":false}}'],
    ),
    "$join of no room": (
        '{"action":"$join","data":{"room":"$x"},"id":1}',
        [
            f'{{"id":1,"error":{{"code":"BAD_ROOM","message":"{LIBRARYS}","temporary":false}}}}',
        ],
    ),
    "$leave": ('{"action":"$leave","data":{"room":"r"},"id":1}', ['{"id":1,"data":{"room":"r"}}']),
    "$leave without id": ('{"action":"$leave","data":{"room":"r"}}', []),
    "$cancel of nothing": ('{"action":"$cancel","data":{"id":5},"id":1}', []),
    "$cancel of what?": (
        '{"action":"$cancel","data":{}}',
        [f'{{"error":{{{BAD}"Object missing required field `id`","temporary":false}}}}'],
    ),
}


@pytest.mark.parametrize("subprotocol", FORMATS)
@pytest.mark.parametrize(("sent", "expected"), SAME_IN_BOTH.values(), ids=SAME_IN_BOTH.keys())
async def test_replies(sent: str, expected: list[str], subprotocol: str | None, autojump_clock: object) -> None:
    """Replies and errors are the same in both formats, to the byte."""
    async with serve_in_memory(make_manager()) as memory:
        client, _ = await connect(memory, subprotocol)
        await client.send_text(sent)
        assert await exact(client) == expected


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_cancelled(subprotocol: str | None, autojump_clock: object) -> None:
    """`$cancel` has no reply; the cancelled request is answered CANCELLED."""
    async with serve_in_memory(make_manager()) as memory:
        client, _ = await connect(memory, subprotocol)
        await client.send_text('{"action":"hang","id":"h"}')
        await client.send_text('{"action":"$cancel","data":{"id":"h"}}')
        assert await exact(client) == [
            '{"id":"h","error":{"code":"CANCELLED","message":"the request was cancelled","temporary":false}}'
        ]


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_the_other_codes(subprotocol: str | None, autojump_clock: object) -> None:
    """BUSY, DUPLICATE_ID, ROOM_FULL and TOO_MANY_ROOMS on the wire."""
    config = Config(limits=Limits(max_handlers=1, max_rooms_per_connection=1))
    async with serve_in_memory(make_manager(config=config)) as memory:
        first, _ = await connect(memory, None)
        await first.request("$join", {"room": "full"})
        client, _ = await connect(memory, subprotocol)
        for message in (
            '{"action":"hang","id":1}',
            '{"action":"hang","id":1}',
            '{"action":"hang","id":2}',
            '{"action":"$join","data":{"room":"full"},"id":3}',
            '{"action":"$join","data":{"room":"r"},"id":4}',
            '{"action":"$join","data":{"room":"s"},"id":5}',
        ):
            await client.send_text(message)
        assert await exact(client) == [
            lasting(1, "DUPLICATE_ID", "a request with this id is in flight"),
            '{"id":2,"error":{"code":"BUSY","message":"too many requests in flight","temporary":true}}',
            '{"id":3,"error":{"code":"ROOM_FULL","message":"the room is full","temporary":true}}',
            '{"id":4,"data":{"room":"r"}}',
            lasting(5, "TOO_MANY_ROOMS", "this connection is in too many rooms"),
        ]


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_room_not_found(subprotocol: str | None, autojump_clock: object) -> None:
    """ROOM_NOT_FOUND, where rooms are declared."""
    async with serve_in_memory(Manager(config=Config(rooms="declared"))) as memory:
        client, _ = await connect(memory, subprotocol)
        await client.send_text('{"action":"$join","data":{"room":"r"},"id":1}')
        assert await exact(client) == [
            '{"id":1,"error":{"code":"ROOM_NOT_FOUND","message":"no such room","temporary":false}}'
        ]


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_binary_frames(subprotocol: str | None, autojump_clock: object) -> None:
    """I2: a binary frame is BAD_MESSAGE in a text format, whatever it holds; the connection stays."""
    async with serve_in_memory(make_manager()) as memory:
        client, _ = await connect(memory, subprotocol)
        for data in (b"", b"\xff\x00", b'{"action":"echo","id":1}'):
            await client.send_bytes(data)
            assert await exact(client) == [lasting(None, "BAD_MESSAGE", "binary messages are not part of this format")]
        assert await client.request("echo", 1) == 1


async def test_since(autojump_clock: object) -> None:
    """`since`: NEEDS_V1 in plain; `"recovered": false` in v1, because no room has a history in this version."""
    sent = '{"action":"$join","data":{"room":"r","since":{"epoch":"e","offset":1},"data":2},"id":1}'
    async with serve_in_memory(make_manager()) as memory:
        plain, _ = await connect(memory, None)
        await plain.send_text(sent)
        assert await exact(plain) == [
            '{"id":1,"error":{"code":"NEEDS_V1","message":"since needs a trio-rooms.v1 subprotocol","temporary":false}}'
        ]
        v1, _ = await connect(memory, V1)
        await v1.send_text(sent)
        assert await exact(v1) == ['{"id":1,"data":{"room":"r","recovered":false,"data":{"welcome":2}}}']


@pytest.mark.parametrize(
    ("subprotocol", "expected"),
    [
        (None, ['{"n":1}', '"text"', "null", "[2]"]),
        (V1, [*(f'{{"room":"r","data":{data}}}' for data in ('{"n":1}', '"text"', "null", "[2]"))]),
    ],
    ids=["plain", "v1"],
)
async def test_publications(subprotocol: str | None, expected: list[str], autojump_clock: object) -> None:
    """An event of a room: plain as it is, v1 with the room."""
    manager = make_manager()
    async with serve_in_memory(manager) as memory:
        client, _ = await connect(memory, subprotocol)
        await client.request("$join", {"room": "r"})
        for event in ({"n": 1}, "text", None, [2]):
            manager.broadcast_to_room("r", event)
        assert await exact(client) == expected


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_a_publication_to_several_rooms(subprotocol: str | None, autojump_clock: object) -> None:
    """One copy, as an event of the first of the rooms that the member is in."""
    manager = make_manager()
    async with serve_in_memory(manager) as memory:
        client, _ = await connect(memory, subprotocol)
        for room in ("b", "c"):
            await client.request("$join", {"room": room})
        manager.broadcast_to_rooms(["a", "c", "b"], [1])
        assert await exact(client) == ["[1]" if subprotocol is None else '{"room":"c","data":[1]}']


@pytest.mark.parametrize(
    ("subprotocol", "expected"),
    [
        (None, ["[1]", '{"action":"act","data":[1]}']),
        (V1, ['{"data":[1]}', '{"action":"act","data":[1]}']),
    ],
    ids=["plain", "v1"],
)
@pytest.mark.parametrize("how", ["all", "send", "send_nowait", "send_to_connection", "send_to_id"])
async def test_direct_messages(how: str, subprotocol: str | None, expected: list[str], autojump_clock: object) -> None:
    """A message to one connection, or to all: plain the object or {"action", "data"}, v1 always an envelope."""
    manager = make_manager()
    async with serve_in_memory(manager) as memory:
        client, conn = await connect(memory, subprotocol)
        for action in (None, "act"):
            match how:
                case "all":
                    manager.broadcast_to_all([1], action=action)
                case "send":
                    await conn.send([1], action=action)
                case "send_nowait":
                    conn.send_nowait([1], action=action)
                case "send_to_connection":
                    manager.send_to_connection(conn, [1], action=action)
                case _:
                    manager.send_to_connection(conn.id, [1], action=action)
        assert await exact(client) == expected


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_write_json(subprotocol: str | None, autojump_clock: object) -> None:
    """`write_json` is `send` by another name."""
    async with serve_in_memory(make_manager()) as memory:
        client, conn = await connect(memory, subprotocol)
        await conn.write_json({"a": 1})
        assert await exact(client) == ['{"a":1}' if subprotocol is None else '{"data":{"a":1}}']


async def test_welcome(autojump_clock: object) -> None:
    """`$welcome` is the first frame of a v1 client, ahead of what `on_connect` sends; plain gets none."""
    manager = make_manager()

    @manager.on_connect
    async def greet(conn: Connection) -> None:
        await conn.send("hello")

    async with serve_in_memory(manager) as memory:
        plain = await memory.connect()
        assert await exact(plain) == ['"hello"']
        known = set(manager.connections)
        v1 = await memory.connect(subprotocol=V1)
        assert v1.subprotocol == V1
        got = await exact(v1)
        (ident,) = set(manager.connections) - known
        assert got == [f'{{"action":"$welcome","data":{{"connection":"{ident}"}}}}', '{"data":"hello"}']


@pytest.mark.parametrize("subprotocol", FORMATS)
@pytest.mark.parametrize("how", ["kick", "close", "leave"])
async def test_closed(how: str, subprotocol: str | None, autojump_clock: object) -> None:
    """`$closed` tells a v1 client that it is no longer a member, unless it left by itself; plain hears nothing."""
    manager = make_manager()
    async with serve_in_memory(manager) as memory:
        client, conn = await connect(memory, subprotocol)
        await client.request("$join", {"room": "r"})
        room = manager.get_room("r")
        assert room is not None
        match how:
            case "kick":
                room.kick(conn, "BANNED", "why")
            case "close":
                room.close("OVER", "the end")
            case _:
                conn.leave("r")
        told = {"kick": '"code":"BANNED","message":"why"', "close": '"code":"OVER","message":"the end"'}
        expected = [f'{{"action":"$closed","data":{{"room":"r",{told[how]}}}}}'] if how in told else []
        assert await exact(client) == ([] if subprotocol is None else expected)
        assert await client.request("echo", 1) == 1


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_drain(subprotocol: str | None, autojump_clock: object) -> None:
    """`$drain` tells a v1 client when to come back; plain sees only the close."""
    async with serve_in_memory(make_manager()) as memory:
        client, _ = await connect(memory, subprotocol)
        memory.server.begin_shutdown()
        got = await receive_all(client)
        assert got[-1] == 1012
        if subprotocol is None:
            assert got[:-1] == []
        else:
            (drain,) = got[:-1]
            assert set(drain) == {"action", "data"}
            assert drain["action"] == "$drain"
            assert set(drain["data"]) == {"reconnect_in_ms"}
            assert type(drain["data"]["reconnect_in_ms"]) is int


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        (None, None),
        (V1, V1),
        (["other", V1], V1),
        ("trio-rooms.v2.json", None),
        ("trio-rooms.v1.cbor", None),
        ("TRIO-ROOMS.V1.JSON", None),
    ],
    ids=str,
)
async def test_subprotocols(offered: Any, selected: str | None, autojump_clock: object) -> None:
    """The subprotocol selects the format; a client that offers only unknown ones gets plain, without one."""
    manager = make_manager()
    async with serve_in_memory(manager) as memory:
        client = await memory.connect(subprotocol=offered)
        assert client.subprotocol == selected
        (conn,) = manager.connections.values()
        assert conn.subprotocol == selected
        await conn.send(1)
        assert (await exact(client))[-1] == ("1" if selected is None else '{"data":1}')


async def test_nothing_is_sent_unasked_in_plain(autojump_clock: object) -> None:
    """In plain nothing is sent that the program did not send or the client did not ask for, a whole life long."""
    manager = make_manager()
    async with serve_in_memory(manager) as memory:
        client, conn = await connect(memory, None)
        await send_together(
            client,
            {"action": "nothing"},
            {"action": "join", "data": "r"},
            {"action": "$join", "data": {"room": "s"}},
            {"action": "$leave", "data": {"room": "t"}},
            {"action": "$cancel", "data": {"id": 1}},
        )
        assert await receive_all(client, 100) == []
        room = manager.get_room("r")
        assert room is not None
        room.kick(conn)
        memory.server.begin_shutdown()
        assert await receive_all(client, 100) == [1012]


ATTACKS = {
    "100,000 arrays": f'{{"action":"echo","id":1,"data":{"[" * 30_000}{"]" * 30_000}}}',
    "open arrays": f'{{"action":"echo","id":1,"data":{"[" * 60_000}',
    "objects": '{"a":' * 10_000 + "1" + "}" * 10_000,
    "33 deep": f'{{"action":"echo","id":1,"data":{"[" * 33}{"]" * 33}}}',
    "900 deep for a type": f'{{"action":"point","id":1,"data":{"[" * 900}{"]" * 900}}}',
    "digits": f'{{"action":"point","id":1,"data":{{"x":{"9" * 4301}}}}}',
    "digits of an id": f'{{"action":"echo","id":{"9" * 4301}}}',
    "large id": '{"action":"echo","id":9223372036854775808}',
    "long id": json.dumps({"action": "echo", "id": "x" * 65}),
    "id with a control character": '{"action":"echo","id":"\\u0000"}',
    "id of a fraction": '{"action":"echo","id":1.5}',
    "NaN": '{"action":"echo","id":1,"data":NaN}',
    "1e999": '{"action":"point","id":1,"data":{"x":1e999}}',
    "surrogate in data": '{"action":"echo","id":1,"data":"\\ud800"}',
    "surrogate in action": '{"action":"\\ud800","id":1}',
    "BOM": '\ufeff{"action":"echo"}',
    "trailing": '{"action":"echo"}{}',
    "empty": "",
    "negative time": '{"action":"echo","timeout_ms":-1}',
    "breadth": f'{{"action":"point","id":1,"data":[{"[]," * 20_000}[]]}}',
}


@pytest.mark.parametrize("subprotocol", FORMATS)
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
async def test_attacks(attack: str, subprotocol: str | None, autojump_clock: object) -> None:
    """I2: what is no proper message is one BAD_MESSAGE of bounded length; the connection stays, others see nothing."""
    manager = make_manager()
    errors = []
    manager.on_error(lambda conn, error: errors.append(error))
    async with serve_in_memory(manager) as memory:
        other, _ = await connect(memory, None)
        await other.request("$join", {"room": "r"})
        client, _ = await connect(memory, subprotocol)
        await client.send_text(attack)
        (answer,) = await exact(client)
        assert json.loads(answer)["error"]["code"] == "BAD_MESSAGE"
        assert len(answer) < 400
        assert "Traceback" not in answer
        assert "Error" not in answer
        assert await client.request("echo", 1) == 1
        manager.broadcast_to_room("r", 1)
        assert await exact(other) == ["1"]
        assert memory.server.statistics().errors_told == {"BAD_MESSAGE": 1}
    assert errors == []


async def test_a_flood_of_unknown_actions(autojump_clock: object) -> None:
    """I2: each unknown action is one error; names of actions are no labels, so nothing grows with them."""
    manager = make_manager()
    async with serve_in_memory(manager) as memory:
        client, _ = await connect(memory, None)
        for batch in range(10):
            await send_together(client, *({"action": f"unknown {batch} {n}"} for n in range(100)))
            answers = await receive_all(client)
            assert {answer["error"]["code"] for answer in answers} == {"UNKNOWN_ACTION"}
            assert len(answers) == 100
        assert memory.server.statistics().errors_told == {"UNKNOWN_ACTION": 1000}


async def test_a_duplicate_key_is_seen_the_same_everywhere(autojump_clock: object) -> None:
    """I2: of a repeated key the last counts, for routing, hooks, middleware and handler alike."""
    manager = make_manager()
    seen: list[Any] = []
    manager.on_message(lambda conn, message: seen.append((message.action, message.data)))

    @manager.on("last")
    async def last(conn: Connection, message: Message) -> Any:
        return message.data

    async with serve_in_memory(manager) as memory:
        client, _ = await connect(memory, None)
        await client.send_text('{"action":"nothing","action":"last","data":{"x":1,"x":2},"id":1,"id":2}')
        assert await exact(client) == ['{"id":2,"data":{"x":2}}']
    assert seen == [("last", {"x": 2})]


async def test_values_that_json_lacks(autojump_clock: object) -> None:
    """NaN and infinities become null, keys that are numbers text, bytes base64: in replies and events."""
    manager = make_manager()
    manager.handle_message("odd", lambda conn: {1: float("nan"), "b": b"\xff", "i": [float("inf")]})
    async with serve_in_memory(manager) as memory:
        client, _ = await connect(memory, None)
        await client.send_text('{"action":"odd","id":1}')
        assert await exact(client) == ['{"id":1,"data":{"1":null,"b":"/w==","i":[null]}}']
