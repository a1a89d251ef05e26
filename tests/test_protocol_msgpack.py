"""The wire protocol in MessagePack: message for message what it is in JSON; and rooms whose members speak both."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import trio

from messages import FORMATS, MSGPACK, V1, receive_all, send_together
from test_protocol import SAME_IN_BOTH, connect, make_manager
from trio_rooms import Config, Connection, Limits, Manager, MessageTooLarge
from trio_rooms.testing import LaggingBroker, TestClient, serve_in_memory

pack = msgspec.msgpack.encode


@pytest.mark.parametrize(("sent", "expected"), SAME_IN_BOTH.values(), ids=SAME_IN_BOTH.keys())
async def test_the_same_as_in_json(sent: str, expected: list[str], autojump_clock: object) -> None:
    """What is asked in MessagePack is answered as in JSON, fields in the same order; texts of errors may differ."""
    async with serve_in_memory(make_manager()) as memory:
        client, _ = await connect(memory, MSGPACK)
        await client.send_bytes(pack(json.loads(sent)))
        answers = await receive_all(client)
        wanted = [json.loads(answer) for answer in expected]
        for answer in (*answers, *wanted):
            if "error" in answer and answer["error"]["code"] == "BAD_MESSAGE":
                assert answer["error"].pop("message")
        assert [list(answer.items()) for answer in answers] == [list(answer.items()) for answer in wanted]


async def test_what_is_sent_unasked(autojump_clock: object) -> None:
    """`$welcome` first, then `$closed` and `$drain`, all in binary frames."""
    manager = make_manager()
    async with serve_in_memory(manager) as memory:
        client = await memory.connect(subprotocol=MSGPACK)
        await client.request("$join", {"room": "r"})
        (conn,) = manager.connections.values()
        room = manager.get_room("r")
        assert room is not None
        room.kick(conn, "BANNED", "why")
        memory.server.begin_shutdown()
        welcome, closed, drain, code = await receive_all(client)
        assert welcome == {"action": "$welcome", "data": {"connection": conn.id}}
        assert closed == {"action": "$closed", "data": {"room": "r", "code": "BANNED", "message": "why"}}
        assert (drain["action"], type(drain["data"]["reconnect_in_ms"])) == ("$drain", int)
        assert code == 1012


@pytest.mark.parametrize(
    "attack", [b"", b"\xc1", b"\x91" * 60_000, b"\x82\xa2id\x01\xa4data\xdd\xff\xff\xff\xff", "{}"]
)
async def test_attacks(attack: bytes | str, autojump_clock: object) -> None:
    """I2: what is no proper message is one BAD_MESSAGE in MessagePack; the connection stays, others see nothing."""
    manager = make_manager()
    errors: list[BaseException] = []
    manager.on_error(lambda conn, error: errors.append(error))
    async with serve_in_memory(manager) as memory:
        client, _ = await connect(memory, MSGPACK)
        await send_together(client, attack)
        (answer,) = await receive_all(client)
        assert answer["error"]["code"] == "BAD_MESSAGE"
        assert len(answer["error"]["message"]) <= 200
        assert await client.request("echo", b"\xff") == b"\xff"
        assert memory.server.statistics().errors_told == {"BAD_MESSAGE": 1}
    assert errors == []


async def test_cancelling(autojump_clock: object) -> None:
    """`$cancel` finds the request that it names, and `$leave` the room."""
    async with serve_in_memory(make_manager()) as memory:
        client, conn = await connect(memory, MSGPACK)
        await client.request("$join", {"room": "r"})
        await send_together(
            client,
            {"action": "hang", "id": "h"},
            {"action": "$cancel", "data": {"id": "h"}},
            {"action": "$leave", "data": {"room": "r"}, "id": 2},
        )
        answers = await receive_all(client)
        # In either order: the one that is cancelled answers in its own task, which has a turn of its own.
        assert {answer["id"]: answer.get("error", {}).get("code") for answer in answers} == {"h": "CANCELLED", 2: None}
        assert len(answers) == 2
        assert not conn.rooms


EVENT = {"bytes": b"\xff", "nan": float("inf"), "n": 2**70, "list": [1.5, None]}
IN_JSON = {"bytes": "/w==", "nan": None, "n": 2**70, "list": [1.5, None]}
IN_MSGPACK = {"bytes": b"\xff", "nan": float("inf"), "n": str(2**70), "list": [1.5, None]}


async def members(memory: Any, *subprotocols: str | None, rooms: tuple[str, ...] = ("r",)) -> list[TestClient]:
    clients = []
    for subprotocol in subprotocols:
        client, conn = await connect(memory, subprotocol)
        for room in rooms:
            await conn.join(room)
        clients.append(client)
    return clients


@pytest.mark.parametrize("lagging", [False, True])
@pytest.mark.parametrize("verb", ["broadcast_to_room", "broadcast_to_rooms", "broadcast_to_all", "publish", "conflate"])
async def test_each_member_in_its_format(verb: str, lagging: bool, autojump_clock: object) -> None:
    """An event reaches members of all formats, each in its own, whichever verb published it and whenever it comes."""
    manager = Manager(broker=LaggingBroker() if lagging else None)
    manager.room("c", overflow="conflate")
    async with serve_in_memory(manager) as memory:
        clients = await members(memory, *FORMATS, *FORMATS, rooms=("c",) if verb == "conflate" else ("b", "r"))
        match verb:
            case "broadcast_to_room":
                manager.broadcast_to_room("r", EVENT)
            case "broadcast_to_rooms":
                manager.broadcast_to_rooms(["a", "r", "b"], EVENT)
            case "broadcast_to_all":
                manager.broadcast_to_all(EVENT)
            case "conflate":
                manager.broadcast_to_room("c", EVENT, key="k")
            case _:
                room = manager.get_room("r")
                assert room is not None
                await room.publish(EVENT)
        name = {"broadcast_to_all": {}, "conflate": {"room": "c"}}.get(verb, {"room": "r"})
        await trio.sleep(5)
        for client in clients:
            expected: Any = IN_MSGPACK if client.subprotocol == MSGPACK else IN_JSON
            assert await receive_all(client) == [expected if client.subprotocol is None else name | {"data": expected}]


@pytest.mark.parametrize("how", ["nowait", "publish", "publish that waits for a place"])
async def test_an_event_is_what_it_was_when_it_was_published(how: str, autojump_clock: object) -> None:
    """A change of the event behind the publish is seen by nobody, however late it is delivered and in which format."""
    manager = Manager(broker=LaggingBroker(bound=1 if "waits" in how else 100))
    async with serve_in_memory(manager) as memory:
        clients = await members(memory, *FORMATS)
        room = manager.get_room("r")
        assert room is not None
        event = {"n": [1]}
        async with trio.open_nursery() as nursery:
            room.publish_nowait({"n": [0]})
            if how == "nowait":
                room.publish_nowait(event)
            else:
                nursery.start_soon(room.publish, event)
                await trio.sleep(0.1)
            event["n"].append(2)
        await trio.sleep(5)
        for client in clients:
            data = [one if client.subprotocol is None else one["data"] for one in await receive_all(client)]
            assert data == [{"n": [0]}, {"n": [1]}]


async def test_it_is_when_publish_is_called(autojump_clock: object) -> None:
    """With the broker of one process, too: what others do to the event while a publish waits is not seen."""
    manager = Manager()
    event = [1]

    async def change() -> None:
        event.append(2)

    async with serve_in_memory(manager) as memory:
        clients = await members(memory, *FORMATS)
        room = manager.get_room("r")
        assert room is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(change)
            await room.publish(event)
        for client in clients:
            (got,) = await receive_all(client)
            assert got in ([1], {"room": "r", "data": [1]})


async def test_packed_once_and_only_where_it_is_needed(autojump_clock: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publication is packed once for all its MessagePack members, and not at all for a room that has none."""
    from trio_rooms import _formats

    packed: list[object] = []
    pack_event = _formats.pack_event
    monkeypatch.setattr(_formats, "pack_event", lambda event, data: packed.append(event) or pack_event(event, data))
    manager = Manager()
    async with serve_in_memory(manager) as memory:
        await members(memory, *FORMATS, *FORMATS, rooms=("a", "b"))
        await members(memory, None, V1, rooms=("text",))
        manager.broadcast_to_room("text", "text")
        assert packed == []
        manager.broadcast_to_room("a", 1)
        assert packed == [1]
        manager.broadcast_to_rooms(["text", "a", "b"], 2)
        assert packed == [1, 2]


async def test_an_event_too_large_in_one_format(autojump_clock: object) -> None:
    """L1: an event that fits in JSON but not in MessagePack is MessageTooLarge, and nobody is sent it or closed."""
    manager = Manager(config=Config(limits=Limits(outbox_bytes=4096)))
    floats = [0.0] * 600  # of four bytes each in JSON, of nine in MessagePack
    async with serve_in_memory(manager) as memory:
        clients = await members(memory, *FORMATS)
        with pytest.raises(MessageTooLarge, match="54"):
            manager.broadcast_to_room("r", floats)
        manager.broadcast_to_room("r", floats[:300])
        for client in clients:
            assert len(await receive_all(client)) == 1


@pytest.mark.parametrize("subprotocol", FORMATS)
async def test_raw_data_goes_round(subprotocol: str | None, autojump_clock: object) -> None:
    """I10: raw data that a handler passes on reaches every member whole, whatever the formats of both."""
    manager = make_manager()

    @manager.on("pass on")
    def pass_on(conn: Connection, data: msgspec.Raw) -> msgspec.Raw:
        manager.broadcast_to_room("r", {"said": data})
        return data

    async with serve_in_memory(manager) as memory:
        clients = await members(memory, *FORMATS)
        sender, _ = await connect(memory, subprotocol)
        assert await sender.request("pass on", {"x": [1, "ü"]}) == {"x": [1, "ü"]}
        for client in clients:
            (got,) = await receive_all(client)
            assert (got if client.subprotocol is None else got["data"]) == {"said": {"x": [1, "ü"]}}


async def test_read_json(autojump_clock: object) -> None:
    """A session reads whole messages in whichever format its client speaks, and writes in it."""
    manager = Manager()

    @manager.session
    async def session(conn: Connection) -> None:
        while True:
            await conn.write_json({"got": await conn.read_json(dict[str, Any])})

    async with serve_in_memory(manager) as memory:
        for subprotocol in FORMATS:
            client, _ = await connect(memory, subprotocol)
            await client.send_json({"x": [1]})
            got = await client.receive_json()
            assert (got if subprotocol is None else got["data"]) == {"got": {"x": [1]}}


async def test_over_trio_websocket(autojump_clock: object) -> None:
    """The transport of trio-websocket carries the binary frames of the format as the native one does."""
    async with serve_in_memory(make_manager(), transport="trio-websocket") as memory:
        client, _ = await connect(memory, MSGPACK)
        assert await client.request("echo", b"\xff") == b"\xff"
        assert await client.stream("count", 2) == [0, 1]
