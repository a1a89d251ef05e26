"""Requests, streamed replies, and what the server asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fake_server import FakeServer, Started, connected
from trio_rooms import ActionError, EncodingError, UsageError
from trio_rooms.client import (
    ClientConfig,
    ClientEnded,
    Direct,
    Event,
    Gap,
    NotConfirmed,
    RequestFailed,
    StreamOverflow,
    open_rooms,
)


async def test_a_reply(autojump_clock: MockClock) -> None:
    """The data of the reply; what is left out of a request is not in it."""
    async with connected() as (client, _, conn, nursery):
        asked = Started(nursery, client.request, "echo", {"a": 1}, room="kitchen")
        request = await conn.receive()
        assert request.pop("timeout_ms") == 3_600_000  # the bound of each test in time
        assert request == {"action": "echo", "data": {"a": 1}, "id": request["id"], "room": "kitchen"}
        await conn.reply(request, [1, 2])
        assert await asked.result() == [1, 2]
        asked = Started(nursery, client.request, "now")
        request = await conn.receive()
        assert set(request) == {"action", "id", "timeout_ms"}
        await conn.reply(request)
        assert await asked.result() is None


async def test_an_error(autojump_clock: MockClock) -> None:
    """The code, the message and whether it may pass."""
    async with connected() as (client, _, conn, nursery):
        asked = Started(nursery, client.request, "echo")
        await conn.fail(await conn.receive(), "BUSY", temporary=True)
        with pytest.raises(RequestFailed) as raised:
            await asked.result()
        assert (raised.value.code, raised.value.message, raised.value.temporary) == ("BUSY", "no", True)


async def test_replies_in_any_order(autojump_clock: MockClock) -> None:
    """Each goes to its own request."""
    async with connected() as (client, _, conn, nursery):
        first = Started(nursery, client.request, "one")
        await wait_all_tasks_blocked()
        second = Started(nursery, client.request, "two")
        one, two = await conn.receive(), await conn.receive()
        await conn.reply(two, 2)
        assert await second.result() == 2
        await conn.reply(one, 1)
        assert await first.result() == 1


async def test_a_request_waits_for_a_connection(autojump_clock: MockClock) -> None:
    """While there is none nothing is lost by waiting."""
    server = FakeServer()
    server.down = True
    async with open_rooms("ws://test/ws", connect=server.connect) as client, trio.open_nursery() as nursery:
        asked = Started(nursery, client.request, "echo")
        await trio.sleep(10)
        server.down = False
        conn = await server.accept()
        await conn.reply(await conn.expect("echo"), 1)
        assert await asked.result() == 1


async def test_lost(autojump_clock: MockClock) -> None:
    """After a loss nobody knows whether a request was done, and the program is told that."""
    async with connected() as (client, server, conn, nursery):
        asked = Started(nursery, client.request, "pay")
        await conn.expect("pay")
        await conn.cut()
        with pytest.raises(NotConfirmed, match="pay"):
            await asked.result()
        conn = await server.accept()
        other = Started(nursery, client.request, "echo")
        await conn.reply(await conn.expect("echo"), 1)
        assert await other.result() == 1


async def test_idempotent(autojump_clock: MockClock) -> None:
    """A request that may be done twice is asked again, under another id."""
    async with connected() as (client, server, conn, nursery):
        asked = Started(nursery, client.request, "set", 5, idempotent=True)
        first = await conn.expect("set", 5)
        await conn.cut()
        conn = await server.accept()
        second = await conn.expect("set", 5)
        assert second["id"] != first["id"]
        await conn.reply(second, "done")
        assert await asked.result() == "done"


async def test_idempotent_but_forbidden(autojump_clock: MockClock) -> None:
    """What the server took for a violation is not sent again and again."""
    async with connected() as (client, _, conn, nursery):
        asked = Started(nursery, client.request, "set", "x" * 1_000, idempotent=True)
        await conn.expect("set")
        await conn.close(1009)
        with pytest.raises(NotConfirmed):
            await asked.result()


async def test_not_sent_yet(autojump_clock: MockClock) -> None:
    """A request that was still in the queue is certainly not done, so it is asked on the next connection."""
    server = FakeServer()
    gates, connect = gated(server)

    async with open_rooms("ws://test/ws", connect=connect) as client, trio.open_nursery() as nursery:
        conn = await server.accept()
        await client.wait_open()
        gates[0].close_gate()
        first = Started(nursery, client.request, "first")
        await wait_all_tasks_blocked()
        second = Started(nursery, client.request, "second")
        await wait_all_tasks_blocked()
        await conn.cut()
        with pytest.raises(NotConfirmed):
            await first.result()
        conn = await server.accept()
        await conn.reply(await conn.expect("second"), 2)
        assert await second.result() == 2


class Gate(trio.abc.SendStream):
    """Holds back what is sent."""

    def __init__(self, stream: trio.abc.SendStream) -> None:
        self._stream = stream
        self._open = trio.Event()
        self._open.set()

    def close_gate(self) -> None:
        self._open = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._open.wait()
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_cancel(autojump_clock: MockClock) -> None:
    """Whoever does not wait any more says so; an answer that comes anyway is counted and dropped."""
    async with connected() as (client, _, conn, nursery):
        with trio.move_on_after(5) as scope:
            await client.request("slow")
        assert scope.cancelled_caught
        request = await conn.expect("slow")
        assert request["timeout_ms"] == 5_000
        await conn.expect("$cancel", {"id": request["id"]})
        await conn.fail(request, "CANCELLED")
        asked = Started(nursery, client.request, "echo")
        await conn.reply(await conn.expect("echo"), 1)
        assert await asked.result() == 1
        assert client.statistics().unexpected == 1


async def test_what_cannot_be_encoded(autojump_clock: MockClock) -> None:
    """It is an error where it is sent, and nothing is left of it."""
    async with connected() as (client, _, conn, nursery):
        for data in (object(), {"a": {1, object()}}):
            with pytest.raises(EncodingError):
                await client.request("echo", data)
            with pytest.raises(EncodingError):
                await client.send("echo", data)
        asked = Started(nursery, client.request, "echo")
        await conn.reply(await conn.expect("echo"))
        await asked.result()


async def test_attrs(autojump_clock: MockClock) -> None:
    """Values of a program's classes are objects on the wire."""

    @attrs.frozen
    class Point:
        x: int

    async with connected() as (client, _, conn, _):
        await client.send("move", Point(3), room="r")
        assert await conn.receive() == {"action": "move", "data": {"x": 3}, "room": "r"}


async def test_stream(autojump_clock: MockClock) -> None:
    """Each item, and then the end."""
    async with connected() as (client, _, conn, nursery):
        got: list[Any] = []

        async def take() -> None:
            async with client.stream("count", 3) as items:
                got.extend([item async for item in items])

        taken = Started(nursery, take)
        request = await conn.expect("count", 3)
        for number in range(3):
            await conn.send({"id": request["id"], "data": number, "more": True})
        await conn.send({"id": request["id"], "more": False})
        await taken.result()
        assert got == [0, 1, 2]


async def test_stream_that_is_left(autojump_clock: MockClock) -> None:
    """Who leaves earlier cancels the request."""
    async with connected() as (client, _, conn, nursery):

        async def take() -> Any:
            async with client.stream("count", room="r") as items:
                return await anext(items)

        taken = Started(nursery, take)
        request = await conn.expect("count")
        assert request["room"] == "r"
        await conn.send({"id": request["id"], "data": 0, "more": True})
        assert await taken.result() == 0
        await conn.expect("$cancel", {"id": request["id"]})


async def test_stream_that_ends_badly(autojump_clock: MockClock) -> None:
    """An error, and a loss, stand behind the items that came."""
    async with connected() as (client, server, conn, _):
        async with client.stream("count") as items:
            request = await conn.expect("count")
            await conn.send({"id": request["id"], "data": 0, "more": True})
            await conn.fail(request, "INTERNAL")
            assert await anext(items) == 0
            with pytest.raises(RequestFailed):
                await anext(items)
        async with client.stream("count") as items:
            request = await conn.expect("count")
            await conn.send({"id": request["id"], "data": 0, "more": True})
            await conn.cut()
            assert await anext(items) == 0
            with pytest.raises(NotConfirmed):
                await anext(items)
        conn = await server.accept()
        async with client.stream("count") as items:
            request = await conn.expect("count")
            await conn.reply(request, "all")
            assert [item async for item in items] == ["all"]


async def test_stream_overflow(autojump_clock: MockClock) -> None:
    """Items that nobody takes are bounded; the request is cancelled, and what came can still be taken."""
    async with connected(config=ClientConfig(buffer_messages=2)) as (client, _, conn, _):
        async with client.stream("count") as items:
            request = await conn.expect("count")
            for number in range(3):
                await conn.send({"id": request["id"], "data": number, "more": True})
            await wait_all_tasks_blocked()
            assert [await anext(items), await anext(items)] == [0, 1]
            with pytest.raises(StreamOverflow):
                await anext(items)
        await conn.expect("$cancel", {"id": request["id"]})


async def test_request_of_a_stream(autojump_clock: MockClock) -> None:
    """Whoever asks for one reply and gets many is told which call it takes."""
    async with connected() as (client, _, conn, nursery):
        asked = Started(nursery, client.request, "count")
        request = await conn.expect("count")
        await conn.send({"id": request["id"], "data": 0, "more": True})
        with pytest.raises(UsageError, match="stream"):
            await asked.result()
        await conn.expect("$cancel", {"id": request["id"]})


def gated(server: FakeServer) -> tuple[list[Gate], Callable[[], Awaitable[trio.abc.Stream]]]:
    """How to connect to a server so that the test can stop what is sent; with the gates, one for each connection."""
    gates: list[Gate] = []

    async def connect() -> trio.abc.Stream:
        stream = await server.connect()
        assert isinstance(stream, trio.StapledStream)
        gates.append(Gate(stream.send_stream))
        return trio.StapledStream(gates[-1], stream.receive_stream)

    return gates, connect


async def test_the_queue_is_bounded(autojump_clock: MockClock) -> None:
    """Senders wait for a place, and get it."""
    server = FakeServer()
    gates, connect = gated(server)
    config = ClientConfig(send_messages=2, write_timeout=1_000, ping_interval=1_000)
    async with open_rooms("ws://test/ws", connect=connect, config=config) as client, trio.open_nursery() as nursery:
        conn = await server.accept()
        await client.wait_open()
        gates[0].close_gate()
        sent = []
        for number in range(5):
            sent.append(Started(nursery, client.send, "x", number))
            await wait_all_tasks_blocked()
        assert [one.done for one in sent] == [True, True, True, False, False]  # one with the writer, two in the queue
        gates[0]._open.set()
        arrived = [(await conn.expect("x"))["data"] for _ in range(5)]
        assert arrived[:3] == [0, 1, 2]
        assert sorted(arrived) == [0, 1, 2, 3, 4]  # those that wait get their places in no certain order
        # A server that asks and does not read is given up.
        gates[0].close_gate()
        await client.send("x")
        for ident in range(6):
            await conn.send({"action": "ask", "id": ident})
        await server.accept()
        assert "does not read" in str(client.trouble)


async def test_a_place_that_is_given_back(autojump_clock: MockClock) -> None:
    """A request that is cancelled before it was written makes way for a sender, though nothing is written."""
    server = FakeServer()
    gates, connect = gated(server)
    config = ClientConfig(send_messages=1, write_timeout=1_000, ping_interval=1_000)
    async with open_rooms("ws://test/ws", connect=connect, config=config) as client, trio.open_nursery() as nursery:
        conn = await server.accept()
        await client.wait_open()
        gates[0].close_gate()
        await client.send("first")
        await wait_all_tasks_blocked()
        second = Started(nursery, client.request, "second")
        await wait_all_tasks_blocked()
        third = Started(nursery, client.send, "third")
        await wait_all_tasks_blocked()
        assert not third.done
        second.scope.cancel()
        await wait_all_tasks_blocked()
        assert third.done
        gates[0]._open.set()
        await conn.expect("first")
        await conn.expect("third")


async def test_many_that_are_cancelled_at_once(autojump_clock: MockClock) -> None:
    """The bound is for what the server can make us say: more is said of the program's own, and the connection stays."""
    config = ClientConfig(send_messages=2, ping_interval=1_000)
    async with connected(config=config) as (client, _, conn, nursery):
        asked = [Started(nursery, client.request, "wait") for _ in range(10)]
        idents = [(await conn.expect("wait"))["id"] for _ in asked]
        for one in asked:
            one.scope.cancel()
        assert sorted([(await conn.expect("$cancel"))["data"]["id"] for _ in asked]) == sorted(idents)


# What the server asks


async def test_handlers(autojump_clock: MockClock) -> None:
    """Async or not, registered before or after: what they return is the answer."""
    async with connected(handlers={"add": lambda data: data["a"] + data["b"]}) as (client, _, conn, _):

        @client.on("slow")
        async def slow(data: Any) -> str:
            await trio.sleep(1)
            return f"slow {data}"

        await conn.send({"action": "slow", "id": "s", "data": 1})
        await conn.send({"action": "add", "id": "a", "data": {"a": 1, "b": 2}})
        assert await conn.receive() == {"id": "a", "data": 3}
        assert await conn.receive() == {"id": "s", "data": "slow 1"}


async def test_handlers_that_fail(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """The server learns a code, and the text of an ActionError only."""

    def refuse(data: Any) -> None:
        raise ActionError("NOT_NOW", "later", temporary=True)

    def crash(data: Any) -> None:
        raise ZeroDivisionError("secret")

    handlers = {"refuse": refuse, "crash": crash, "odd": lambda data: object()}
    async with connected(handlers=handlers) as (_, _, conn, _):
        await conn.send({"action": "refuse", "id": 1})
        error = {"code": "NOT_NOW", "message": "later", "temporary": True}
        assert await conn.receive() == {"id": 1, "error": error}
        for action in ("crash", "odd"):
            await conn.send({"action": action, "id": 2})
            answer = await conn.receive()
            assert answer["error"]["code"] == "INTERNAL"
            assert "secret" not in str(answer)
        await conn.send({"action": "nobody", "id": 3})
        assert (await conn.receive())["error"]["code"] == "UNKNOWN_ACTION"
    assert "secret" in caplog.text


async def test_handlers_are_bounded(autojump_clock: MockClock) -> None:
    """Beyond the bound a request is answered BUSY, and a message is dropped and counted."""

    async def hang(data: Any) -> None:
        await trio.sleep_forever()

    async with connected(handlers={"hang": hang}, config=ClientConfig(max_handlers=2)) as (client, _, conn, _):
        for ident in range(3):
            await conn.send({"action": "hang", "id": ident})
        await conn.send({"action": "hang"})
        assert (await conn.receive())["error"] == {
            "code": "BUSY",
            "message": "too many requests in flight",
            "temporary": True,
        }
        await wait_all_tasks_blocked()
        assert client.statistics().dropped == 1


async def test_handlers_are_cancelled(autojump_clock: MockClock) -> None:
    """When the server does not wait any more, and when the connection that asked is lost; those of messages go on."""
    ended = []

    async def hang(data: Any) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(data)

    async with connected(handlers={"hang": hang}) as (_, server, conn, _):
        for ident in ("$1", "$2"):
            await conn.send({"action": "hang", "id": ident, "data": ident})
        await conn.send({"action": "hang", "data": "message"})
        for ident in ("$1", "$7", []):
            await conn.send({"action": "$cancel", "data": {"id": ident}})
        await wait_all_tasks_blocked()
        assert ended == ["$1"]
        await conn.cut()
        conn = await server.accept()
        assert ended == ["$1", "$2"]
        await conn.send({"action": "hang", "id": [], "data": 1})
        assert await conn.expect_close() == 1002


async def test_a_handler_may_ask(autojump_clock: MockClock) -> None:
    """Its answer may depend on the server's."""
    async with connected() as (client, _, conn, _):

        @client.on("where")
        async def where(data: Any) -> Any:
            return await client.request("here")

        await conn.send({"action": "where", "id": 1})
        await conn.reply(await conn.expect("here"), "kitchen")
        assert await conn.receive() == {"id": 1, "data": "kitchen"}


async def test_a_handler_that_asks_when_the_connection_is_lost(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It is cancelled, as any that the server waits for: that is no failure of the program's."""
    async with connected() as (client, server, conn, _):

        @client.on("ask")
        async def ask(data: object) -> object:
            return await client.request("more")

        await conn.send({"action": "ask", "id": "s1"})
        await conn.expect("more")
        await conn.cut()
        await server.accept()
        assert not caplog.records


async def test_messages(autojump_clock: MockClock) -> None:
    """What has a handler goes to it; the rest is received, in order."""
    heard = []
    async with connected(handlers={"greet": heard.append}) as (client, _, conn, _):
        await conn.send({"action": "greet", "data": "hello"})
        await conn.send({"action": "news", "data": 1})
        await conn.send({"data": 2})
        await conn.send({"room": "elsewhere", "data": 3})
        assert await client.receive() == Direct("news", 1)
        assert await client.receive() == Direct(None, 2)
        assert await client.receive() == Event("elsewhere", 3)
        assert heard == ["hello"]


async def test_two_that_receive(autojump_clock: MockClock) -> None:
    """Each message goes to one of them, and the end to both."""
    server = FakeServer()
    async with trio.open_nursery() as nursery:
        async with open_rooms("ws://test/ws", connect=server.connect) as client:
            conn = await server.accept()
            both = []
            for _ in range(2):
                both.append(Started(nursery, client.receive))
                await wait_all_tasks_blocked()
            await conn.send({"data": 1})
            await wait_all_tasks_blocked()
            assert sorted(one.done for one in both) == [False, True]
            await conn.send({"data": 2})
            assert sorted([(await one.result()).data for one in both]) == [1, 2]
            both = []
            for _ in range(2):
                both.append(Started(nursery, client.receive))
                await wait_all_tasks_blocked()
        for one in both:
            with pytest.raises(ClientEnded):
                await one.result()


async def test_messages_that_nobody_receives(autojump_clock: MockClock) -> None:
    """They are bounded; what was dropped is counted, and a gap stands in its place."""
    async with connected(config=ClientConfig(buffer_messages=2)) as (client, _, conn, _):
        for number in range(5):
            await conn.send({"data": number})
        await wait_all_tasks_blocked()
        assert client.statistics().dropped == 3
        assert [await client.receive() for _ in range(3)] == [
            Direct(None, 0),
            Direct(None, 1),
            Gap(None, "overflow"),
        ]
        await conn.send({"data": 5})
        assert await client.receive() == Direct(None, 5)


async def test_buffer_bytes(autojump_clock: MockClock) -> None:
    """Bounded in bytes, too; one message is taken whatever its size."""
    async with connected(config=ClientConfig(buffer_bytes=100)) as (client, _, conn, _):
        await conn.send({"data": "x" * 200})
        await conn.send({"data": 1})
        await wait_all_tasks_blocked()
        assert client.statistics().dropped == 1
        assert await client.receive() == Direct(None, "x" * 200)
        assert isinstance(await client.receive(), Gap)


async def test_errors_without_an_id(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """They are for people; and actions of the library's that are not known mean nothing."""
    async with connected() as (client, _, conn, _):
        await conn.send({"error": {"code": "BAD_MESSAGE"}})
        await conn.send({"action": "$later", "data": 1})
        await conn.send({"data": 1})
        assert await client.receive() == Direct(None, 1)
    assert "BAD_MESSAGE" in caplog.text


async def test_leaving_ends_what_waits(autojump_clock: MockClock) -> None:
    """Whoever waits elsewhere when the block is left is told so."""
    server = FakeServer()
    async with trio.open_nursery() as nursery:
        async with open_rooms("ws://test/ws", connect=server.connect) as client:
            conn = await server.accept()
            Started(nursery, conn.expect_close)
            received = Started(nursery, client.receive)
            asked = Started(nursery, client.request, "echo")
            await wait_all_tasks_blocked()
        with pytest.raises(ClientEnded):
            await received.result()
        with pytest.raises((ClientEnded, NotConfirmed)):
            await asked.result()
        with pytest.raises(ClientEnded):
            await client.request("echo")
