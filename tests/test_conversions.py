"""The table of docs/protocol.md that says where JSON and MessagePack differ, row by row and in both directions."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import attrs
import msgspec
import pytest

from limit_tables import rows
from messages import MSGPACK, receive_all, send_together
from test_protocol import connect
from trio_rooms import Connection, EncodingError, Manager
from trio_rooms.testing import serve_in_memory

NAN, INF = float("nan"), float("inf")
AWARE, NAIVE = datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 2)  # noqa: DTZ001 - it is about those, too
STAMP = b"\xd6\xff\x65\x93\x52\x00"
REFUSED = "refused"


@attrs.frozen
class Sent:
    """What a program sends, and what its clients get: text of JSON, and what MessagePack decodes to."""

    obj: Any
    json: str
    msgpack: Any


@attrs.frozen
class Taken:
    """What a client sends in one of the formats, for which type, and what the handler gets."""

    data: str | bytes
    type: Any
    expected: Any


def packed(value: object, type_: Any, expected: object) -> Taken:
    return Taken(msgspec.msgpack.encode(value), type_, expected)


BIG = 2**64
BIG_TEXT = str(BIG)

ROWS: dict[str, list[Sent | Taken]] = {
    "NaN, infinities": [
        Sent([NAN, INF, -INF], "[null,null,null]", [NAN, INF, -INF]),
        Taken("NaN", float, REFUSED),
        Taken("1e999", float, REFUSED),
        packed(INF, float, INF),
        packed(NAN, Any, NAN),
    ],
    "integers beyond 64 bits": [
        Sent([BIG, -(2**63) - 1], f"[{BIG},{-(2**63) - 1}]", [BIG_TEXT, str(-(2**63) - 1)]),
        Sent([BIG - 1, -(2**63)], f"[{BIG - 1},{-(2**63)}]", [BIG - 1, -(2**63)]),
        Taken(BIG_TEXT, int, BIG),
        packed(BIG - 1, int, BIG - 1),
        packed(BIG_TEXT, int, REFUSED),
    ],
    "a float without fraction": [
        Sent([1.0, 1], "[1.0,1]", [1.0, 1]),
        Taken("1.0", int, REFUSED),
        Taken("1", float, 1.0),
        packed(1.0, int, REFUSED),
        packed(1, float, 1.0),
    ],
    "keys that are numbers": [
        Sent({1: 2, 1.5: 3}, '{"1":2,"1.5":3}', {1: 2, 1.5: 3}),
        Taken('{"1":2}', dict[int, int], {1: 2}),
        Taken('{"1":2}', Any, {"1": 2}),
        packed({1: 2}, dict[int, int], {1: 2}),
        packed({1: 2}, Any, {1: 2}),
        packed({"1": 2}, dict[int, int], REFUSED),
    ],
    "keys that are neither text nor numbers": [
        packed({None: 1, (1, 2): 2, b"b": 3}, Any, {None: 1, (1, 2): 2, b"b": 3}),
        Taken(b"\x81\x80\x01", Any, REFUSED),
    ],
    "a key twice": [
        Taken('{"a":1,"a":2}', Any, {"a": 2}),
        Taken(b"\x82\xa1a\x01\xa1a\x02", Any, {"a": 2}),
    ],
    "bytes": [
        Sent(b"\xff", '"/w=="', b"\xff"),
        Taken('"/w=="', bytes, b"\xff"),
        Taken('"/w=="', Any, "/w=="),
        Taken('"?"', bytes, REFUSED),
        packed(b"\xff", bytes, b"\xff"),
        packed(b"\xff", Any, b"\xff"),
        packed("/w==", bytes, REFUSED),
    ],
    "datetime with a time zone": [
        Sent(AWARE, '"2024-01-02T00:00:00Z"', AWARE),
        Taken('"2024-01-02T00:00:00Z"', datetime, AWARE),
        Taken('"2024-01-02T00:00:00Z"', Any, "2024-01-02T00:00:00Z"),
        Taken(STAMP, datetime, AWARE),
        Taken(STAMP, Any, AWARE),
        packed("2024-01-02T00:00:00Z", datetime, AWARE),
    ],
    "datetime without, date, time, timedelta": [
        Sent(
            [NAIVE, date(2024, 1, 2), time(3, 4), timedelta(seconds=5)],
            '["2024-01-02T00:00:00","2024-01-02","03:04:00","PT5S"]',
            ["2024-01-02T00:00:00", "2024-01-02", "03:04:00", "PT5S"],
        ),
        Taken('"2024-01-02"', date, date(2024, 1, 2)),
        packed("2024-01-02", date, date(2024, 1, 2)),
        Taken(STAMP, date, REFUSED),
    ],
    "UUID": [
        Sent(uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"', str(uuid.UUID(int=1))),
        Taken('"00000000-0000-0000-0000-000000000001"', uuid.UUID, uuid.UUID(int=1)),
        packed(str(uuid.UUID(int=1)), uuid.UUID, uuid.UUID(int=1)),
        packed(uuid.UUID(int=1).bytes, uuid.UUID, uuid.UUID(int=1)),
    ],
    "Decimal": [
        Sent(Decimal("1.50"), '"1.50"', "1.50"),
        Taken('"1.50"', Decimal, Decimal("1.50")),
        Taken("1.50", Decimal, Decimal("1.50")),
        packed("1.50", Decimal, Decimal("1.50")),
        packed(1.5, Decimal, Decimal("1.5")),
    ],
    "sets, tuples": [
        Sent([{1}, (2, 3)], "[[1],[2,3]]", [[1], [2, 3]]),
        Taken("[1,1]", set[int], {1}),
        packed([1, 1], set[int], {1}),
    ],
    "extension types": [
        packed(msgspec.msgpack.Ext(5, b"x"), Any, REFUSED),
    ],
    "`msgspec.Raw`": [
        Sent(msgspec.Raw(b'{"a": 1}'), '{"a": 1}', {"a": 1}),
        Taken('{"a": 1}', msgspec.Raw, b'{"a": 1}'),
        packed({"a": b"\xff"}, msgspec.Raw, b'{"a":"/w=="}'),
    ],
}


def each(kind: type[Sent | Taken]) -> pytest.MarkDecorator:
    """The examples of one kind, of all rows."""
    found: Iterable[Any] = (
        pytest.param(example, id=f"{name}-{number}")
        for name, examples in ROWS.items()
        for number, example in enumerate(examples)
        if isinstance(example, kind)
    )
    return pytest.mark.parametrize("example", list(found))


def test_each_row_is_tested() -> None:
    """The rows of the table and those of the tests are the same, in the same order."""
    columns = ("value", "from the server, JSON", "from the server, MessagePack", "to the server, JSON")
    table = rows("protocol.md", *columns, "to the server, MessagePack")
    assert [name for name, *_ in table] == list(ROWS)


@each(Sent)
async def test_from_the_server(example: Sent, autojump_clock: object) -> None:
    """What a program replies, sends, or publishes leaves in each format as the table says."""
    manager = Manager()
    manager.handle_message("get", lambda conn: example.obj)
    async with serve_in_memory(manager) as memory:
        plain, one = await connect(memory, None)
        packs, other = await connect(memory, MSGPACK)
        for conn in (one, other):
            await conn.join("r")
            await conn.send(example.obj)
        manager.broadcast_to_room("r", example.obj)
        await plain.send_json({"action": "get", "id": 1})
        reply = f'{{"id":1,"data":{example.json}}}'
        assert [await plain.receive() for _ in range(3)] == [example.json, example.json, reply]
        await packs.send_json({"action": "get", "id": 1})
        for message in await receive_all(packs):
            assert _same(message["data"], example.msgpack)


@each(Taken)
async def test_to_the_server(example: Taken, autojump_clock: object) -> None:
    """What a client sends in a format becomes in the handler what the table says, or is BAD_MESSAGE."""
    manager = Manager()
    got: list[Any] = []

    async def take(conn: Connection, data: object) -> None:
        got.append(data)

    take.__annotations__["data"] = example.type
    manager.handle_message("take", take)
    async with serve_in_memory(manager) as memory:
        client, _ = await connect(memory, None if isinstance(example.data, str) else MSGPACK)
        if isinstance(example.data, str):
            await send_together(client, f'{{"action":"take","data":{example.data}}}')
        else:
            await send_together(client, b"\x82\xa6action\xa4take\xa4data" + example.data)
        answers = await receive_all(client)
    if example.expected is REFUSED:
        assert [answer["error"]["code"] for answer in answers] == ["BAD_MESSAGE"]
        assert got == []
    else:
        assert answers == []
        (value,) = got
        assert _same(bytes(value) if example.type is msgspec.Raw else value, example.expected)


async def test_keys_that_json_cannot_have(autojump_clock: object) -> None:
    """Events are for clients of both, so such keys cannot be published; one MessagePack client can be sent them."""
    manager = Manager()
    async with serve_in_memory(manager) as memory:
        client, conn = await connect(memory, MSGPACK)
        _, plain = await connect(memory, None)
        for key in (None, True, (1, 2)):
            with pytest.raises(EncodingError):
                manager.broadcast_to_room("r", {key: 1})
            with pytest.raises(EncodingError):
                await plain.send({key: 1})
            await conn.send({key: 1})
            assert await receive_all(client) == [{"data": {key: 1}}]


def _same(found: Any, expected: Any) -> bool:
    """Equal in value and type, and NaN is NaN."""
    if isinstance(expected, float) and math.isnan(expected):
        return isinstance(found, float) and math.isnan(found)
    if type(found) is not type(expected):
        return False
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(_same, found, expected))
    return bool(found == expected)
