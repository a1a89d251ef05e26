"""One record for each message, with fields of its own, and nothing in it that a client could forge."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from messages import receive_all
from trio_rooms import ActionError, Config, Connection, Context, Identity, Limits, Manager
from trio_rooms.middleware import logger, recovery
from trio_rooms.testing import ReplyError, TestClient, open_client, serve_in_memory

NAME = "tests.middleware.logger"


def logging_manager(level: int = logging.INFO, **options: Any) -> Manager:
    """A manager with the logger middleware, and handlers that end in different ways."""
    manager = Manager(middleware=[logger(level=level)], logger=logging.getLogger(NAME), **options)

    @manager.on("ok")
    async def ok(conn: Connection) -> str:
        await trio.sleep(1.5)
        return "secret result"

    @manager.on("refuse")
    async def refuse(conn: Connection) -> None:
        raise ActionError("NO", "secret reason")

    @manager.on("boom")
    async def boom(conn: Connection) -> None:
        raise ValueError("secret")

    @manager.on("hang", concurrent=True)
    async def hang(conn: Connection) -> None:
        await trio.sleep_forever()

    @manager.on("stream")
    async def stream(conn: Connection) -> AsyncIterator[int]:
        yield 1
        await trio.sleep(2)

    return manager


async def ask(client: TestClient, action: str, **fields: Any) -> None:
    """Send a request whose answer does not matter."""
    await client.send_action(action, {"secret": 1}, **fields)
    await receive_all(client, 5)


def fields(record: logging.LogRecord) -> tuple[Any, ...]:
    return tuple(getattr(record, name) for name in ("action", "request_id", "outcome", "duration"))


async def test_each_message_is_one_record(caplog: pytest.LogCaptureFixture, autojump_clock: object) -> None:
    """Action, id, outcome and duration are fields of the record; so are the connection and its user."""
    caplog.set_level(logging.INFO, NAME)
    manager = logging_manager()

    @manager.authenticate
    async def authenticate(request: Any) -> Identity:
        return Identity(user="alice")

    async with open_client(manager) as client:
        (conn,) = manager.connections.values()
        await ask(client, "ok", id=1)
        await ask(client, "refuse", id="two")
        await ask(client, "stream", id=3)
        await ask(client, "hang", id=4, timeout_ms=500)
        await ask(client, "ok")
        assert [fields(record) for record in caplog.records] == [
            ("ok", 1, "ok", pytest.approx(1.5)),
            ("refuse", "two", "NO", pytest.approx(0.0)),
            ("stream", 3, "ok", pytest.approx(2.0)),
            ("hang", 4, "cancelled", pytest.approx(0.5)),
            ("ok", None, "ok", pytest.approx(1.5)),
        ]
        for record in caplog.records:
            assert (record.levelno, record.name) == (logging.INFO, NAME)
            assert (record.connection, record.user) == (conn.id, "alice")  # type: ignore[attr-defined]
            assert record.exc_info is None
        assert caplog.messages[0] == "'ok' ok in 1500.0 ms"
        assert "secret" not in caplog.text


async def test_a_crash_is_logged_as_error(caplog: pytest.LogCaptureFixture, autojump_clock: object) -> None:
    """An exception is the outcome "error"; with recovery inside it is INTERNAL, with recovery outside "error"."""
    caplog.set_level(logging.INFO, NAME)
    for inner, outcome in ((None, "error"), (recovery(), "INTERNAL")):
        caplog.clear()
        manager = logging_manager()
        if inner is not None:
            manager.use(inner)
        async with open_client(manager) as client:
            await ask(client, "boom", id=1)
        outcomes = [record.outcome for record in caplog.records if hasattr(record, "outcome")]
        assert outcomes == [outcome]


@pytest.mark.parametrize("level", [logging.DEBUG, logging.WARNING])
async def test_level(level: int, caplog: pytest.LogCaptureFixture, autojump_clock: object) -> None:
    """`level` is the level of the records; below that of the manager's logger nothing is logged."""
    caplog.set_level(logging.INFO, NAME)
    async with open_client(logging_manager(level)) as client:
        await ask(client, "ok")
    assert [record.levelno for record in caplog.records] == ([level] if level >= logging.INFO else [])


async def test_cancel_and_close_are_logged(caplog: pytest.LogCaptureFixture, autojump_clock: object) -> None:
    """A handler that is cancelled, by `$cancel` or by the end of its connection, leaves its record."""
    caplog.set_level(logging.INFO, NAME)
    async with serve_in_memory(logging_manager()) as memory:
        client = await memory.connect()
        await client.send_action("hang", id=1)
        await client.send_action("hang", id=2)
        await wait_all_tasks_blocked()
        await client.send_action("$cancel", {"id": 1})
        await client.receive()
        await client.aclose()
        await trio.sleep(10)
    assert [(record.request_id, record.outcome) for record in caplog.records] == [  # type: ignore[attr-defined]
        (1, "cancelled"),
        (2, "cancelled"),
    ]


FORGED = [
    "act\n2024-01-01 ERROR forged",
    "act\r\nforged",
    "act\x1b[2J\x00",
    "act\u2028forged",
    "act\u202eforged",
    "act' ok in 0.0 ms",
    "%s%s%s%d",
    "{0}",
    "x" * 100_000,
]


@pytest.mark.parametrize("action", FORGED, ids=range(len(FORGED)))
async def test_an_action_cannot_forge_a_line(
    action: str, caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    """I2: an action is shown by repr and cut to 200 characters: one line, whatever the client calls it."""
    caplog.set_level(logging.INFO, NAME)
    manager = Manager(
        middleware=[logger()],
        logger=logging.getLogger(NAME),
        config=Config(limits=Limits(max_message_bytes=200_000)),
    )
    manager.handle_message(action, lambda conn: None)
    async with open_client(manager) as client:
        await client.request(action, id="an id")
    (record,) = caplog.records
    line = record.getMessage()
    assert line.isprintable()
    assert len(line) < 300
    assert line.startswith(f"{action[:200]!r} ok in")
    assert record.action == action[:200]  # type: ignore[attr-defined]


@pytest.mark.parametrize("action", FORGED, ids=range(len(FORGED)))
async def test_a_crash_cannot_forge_a_line_either(
    action: str, caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    """I2: the library's own record of a failed action is one line, too."""
    manager = Manager(logger=logging.getLogger(NAME), config=Config(limits=Limits(max_message_bytes=200_000)))

    async def boom(conn: Connection) -> None:
        raise ValueError

    manager.handle_message(action, boom)
    async with open_client(manager) as client:
        with pytest.raises(ReplyError):
            await client.request(action)
    (record,) = caplog.records
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 300


async def test_unknown_actions_are_not_logged(caplog: pytest.LogCaptureFixture, autojump_clock: object) -> None:
    """What has no handler passes no middleware: a flood of it fills no log."""
    caplog.set_level(logging.DEBUG)
    async with open_client(logging_manager()) as client:
        await ask(client, "unknown", id=1)
        await client.send_text("{")
        await ask(client, "$join", id=2)
    assert not [record for record in caplog.records if record.name == NAME]


class Prefix(logging.LoggerAdapter[Any]):
    """An adapter that changes the message."""

    def process(self, msg: Any, kwargs: Any) -> Any:
        return f"[{self.extra['node']}] {msg}", {**kwargs, "extra": self.extra}  # type: ignore[index]


async def test_adapters_add_up(caplog: pytest.LogCaptureFixture, autojump_clock: object) -> None:
    """A manager may be given a LoggerAdapter, or several: their fields and prefixes are kept beside ours."""
    caplog.set_level(logging.INFO, NAME)
    inner = logging.LoggerAdapter(logging.getLogger(NAME), {"region": "eu", "node": "hidden", "action": "hidden"})
    manager = Manager(middleware=[logger()], logger=Prefix(inner, {"node": "n1"}))

    @manager.on("act")
    async def act(conn: Connection) -> None:
        conn.logger.info("from the handler", extra={"mine": 1})

    async with open_client(manager) as client:
        (conn,) = manager.connections.values()
        await client.request("act", id=1)
    for record in caplog.records:
        assert (record.region, record.node, record.connection) == ("eu", "n1", conn.id)  # type: ignore[attr-defined]
    first, second = caplog.records
    assert first.getMessage() == "[n1] from the handler"
    assert (first.mine, first.action) == (1, "hidden")  # type: ignore[attr-defined]
    assert second.action == "act"  # type: ignore[attr-defined]


class WithStack(logging.LoggerAdapter[Any]):
    """An adapter that wants more than fields."""

    def process(self, msg: Any, kwargs: Any) -> Any:
        return msg, {**kwargs, "stack_info": True}


@pytest.mark.parametrize("with_stack", [False, True])
async def test_records_are_whole(with_stack: bool, caplog: pytest.LogCaptureFixture, autojump_clock: object) -> None:
    """A record names its place in the program, passes the logger's filters, and has what adapters add."""
    caplog.set_level(logging.INFO, NAME)
    log = logging.getLogger(NAME)
    manager = Manager(middleware=[logger()], logger=WithStack(log, {}) if with_stack else log)
    manager.handle_message("act", lambda conn: None)
    manager.handle_message("quiet", lambda conn: None)

    def loud(record: logging.LogRecord) -> bool:
        return record.action != "quiet"  # type: ignore[attr-defined,no-any-return]

    log.addFilter(loud)
    try:
        async with open_client(manager) as client:
            await client.request("act", id=1)
            await client.request("quiet", id=1)
    finally:
        log.removeFilter(loud)
    (record,) = caplog.records
    assert (record.module, record.funcName, record.lineno > 1) == ("logger", "_log", True)
    assert bool(record.stack_info) is with_stack


async def test_what_middleware_inside_returns_passes(autojump_clock: object) -> None:
    """The logger changes neither results nor errors."""

    async def instead(ctx: Context, call_next: Any) -> str:
        return "instead"

    manager = logging_manager()
    manager.use(instead)
    async with open_client(manager) as client:
        assert await client.request("boom") == "instead"
