"""Registering: decorators give the function back, mistakes show at once, and nothing changes while it is served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trio_rooms import AlreadyServing, Config, Connection, Limits, Manager, RoomOptions, UsageError
from trio_rooms.testing import open_client

HOOKS = [
    "on_connect",
    "on_disconnect",
    "on_message",
    "on_error",
    "on_join_room",
    "on_leave_room",
    "on_room_open",
    "on_room_close",
]


async def function(*args: Any) -> None: ...


async def handler(conn: Connection) -> None: ...


REGISTER: dict[str, Callable[[Manager], object]] = {
    "handle_message": lambda manager: manager.handle_message("act", handler),
    "on": lambda manager: manager.on("act")(handler),
    **{name: lambda manager, name=name: getattr(manager, name)(function) for name in HOOKS},
    "authenticate": lambda manager: manager.authenticate(function),
    "session": lambda manager: manager.session(function),
    "use": lambda manager: manager.use(function),
    "use_connection": lambda manager: manager.use_connection(function),
    "room": lambda manager: manager.room("*", capacity=1),
    "page": lambda manager: manager.page("/", b"page"),
}


@pytest.mark.parametrize("register", REGISTER.values(), ids=REGISTER.keys())
async def test_everything_is_fixed_while_served(register: Callable[[Manager], object], autojump_clock: object) -> None:
    """Each registering method raises AlreadyServing while the manager is served, changes nothing, and works after."""
    manager = Manager()
    async with open_client(manager):
        with pytest.raises(AlreadyServing):
            register(manager)
    register(manager)


@pytest.mark.parametrize("name", [*HOOKS, "authenticate", "session"])
def test_decorators_give_the_function_back(name: str) -> None:
    """A registered function can still be called by its name."""
    assert getattr(Manager(), name)(function) is function


def test_on_gives_the_function_back() -> None:
    """`@manager.on("action")` leaves the handler as it was."""
    assert Manager().on("act")(handler) is handler
    assert Manager().on("act", concurrent=True)(handler) is handler


@pytest.mark.parametrize("name", [*HOOKS, "authenticate", "session", "use", "use_connection"])
@pytest.mark.parametrize("wrong", [None, "function", [function]], ids=repr)
def test_what_is_no_function_is_refused(name: str, wrong: object) -> None:
    """What cannot be called is a UsageError where it is registered, not at the first message."""
    with pytest.raises(UsageError, match=name):
        getattr(Manager(), name)(wrong)


def test_middleware_of_the_constructor_is_checked() -> None:
    """The same holds for the middleware that a manager is made with."""
    with pytest.raises(UsageError, match="use"):
        Manager(middleware=["no middleware"])  # type: ignore[list-item]


@pytest.mark.parametrize("name", ["authenticate", "session"])
def test_there_is_one_of_these(name: str) -> None:
    """A second `authenticate` or `session` is refused."""
    manager = Manager()
    getattr(manager, name)(function)
    with pytest.raises(UsageError, match=f"{name} function already"):
        getattr(manager, name)(function)


def test_a_bare_on_is_refused() -> None:
    """`@manager.on` without an action would register nothing."""
    with pytest.raises(UsageError, match="action is missing"):
        Manager().on(handler)  # type: ignore[arg-type]


def test_handlers_are_checked() -> None:
    """A second handler of an action, a name of the library's and a wrong signature are refused."""
    manager = Manager()
    manager.handle_message("act", handler)
    with pytest.raises(UsageError, match="already"):
        manager.on("act")(handler)
    with pytest.raises(UsageError, match="library"):
        manager.handle_message("$join", handler)
    with pytest.raises(UsageError, match="must take"):
        manager.on("other")(lambda: None)


@pytest.mark.parametrize(
    ("options", "fields", "why"),
    [
        (RoomOptions(), {"capacity": 1}, "not both"),
        (None, {"capacity": 0}, "capacity"),
        (None, {"overflow": "explode"}, "overflow"),
        (None, {"linger": -1}, "linger"),
        (None, {"history": 5}, "history"),
    ],
)
def test_room_options_are_checked(options: RoomOptions | None, fields: dict[str, Any], why: str) -> None:
    """Options that cannot be are a UsageError that names the pattern or the mistake."""
    with pytest.raises(UsageError, match=why):
        Manager().room("chat.*", options, **fields)


async def test_the_first_pattern_wins(autojump_clock: object) -> None:
    """Options come from the first pattern that matches, whole; a RoomOptions is as good as its fields."""
    manager = Manager()
    manager.room("chat.vip", RoomOptions(capacity=1))
    manager.room("chat.*", capacity=2, linger=3.0)
    manager.room("*", capacity=9)
    manager.handle_message("sync", handler)
    options = {}

    @manager.on_connect
    async def connected(conn: Connection) -> None:
        for name in ("chat.vip", "chat.x", "else"):
            options[name] = (await conn.join(name)).room.options

    async with open_client(manager) as client:
        await client.request("sync")
    assert options == {
        "chat.vip": RoomOptions(capacity=1),
        "chat.x": RoomOptions(capacity=2, linger=3.0),
        "else": RoomOptions(capacity=9),
    }


@pytest.mark.parametrize("path", ["", "index.html", "/a?b"])
def test_paths_of_pages_are_checked(path: str) -> None:
    """A page has an absolute path without a query."""
    with pytest.raises(UsageError, match="not a path"):
        Manager().page(path, b"")


def test_a_page_from_a_file(tmp_path: Any) -> None:
    """A page given as a path is read when it is registered; a missing file shows there."""
    manager = Manager()
    file = tmp_path / "page.html"
    with pytest.raises(FileNotFoundError):
        manager.page("/", file)
    file.write_bytes(b"before")
    manager.page("/", file, content_type="text/plain")
    manager.page("/text", str(file))
    file.write_bytes(b"after")
    pages = manager._registry.pages
    assert (pages["/"].body, pages["/"].content_type) == (b"before", "text/plain")
    assert pages["/text"].content_type == "text/html; charset=utf-8"


def test_config_is_kept() -> None:
    """The manager has the configuration it was made with, or the defaults."""
    config = Config(limits=Limits(max_handlers=3))
    assert Manager(config=config).config is config
    assert Manager().config == Config()
