"""Registering: handlers, hooks, middleware, pages, room options. The half of a manager that serve freezes."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from ._errors import UsageError
from ._handshake import Page
from ._hooks import HookName
from ._identity import Identity
from ._registry import ConnectionMiddleware, Middleware, Registry, Session
from ._room_options import RoomOptions
from ._wire.request import HandshakeRequest

F = TypeVar("F", bound=Callable[..., Any])
A = TypeVar("A", bound=Callable[[HandshakeRequest], Awaitable[Identity | None]])


class Registrar:
    """The registering methods of :class:`Manager`. All raise :exc:`AlreadyServing` while it is served."""

    def __init__(self, middleware: Iterable[Middleware]) -> None:
        self._registry = Registry()
        self.use(*middleware)

    def handle_message(self, action: str, handler: Callable[..., Any], *, concurrent: bool = False) -> None:
        """Register the handler of an action.

        It takes ``(conn)`` or ``(conn, data)``. What ``data`` is says its annotation: none, or Message, gives
        the :class:`Message`; ``msgspec.Raw`` the raw JSON, which it is for MessagePack clients,
        too; any other type is built and validated by msgspec, and a client that sends something else is told
        ``BAD_MESSAGE`` with the path of the wrong field. Data that is absent is null; ``data`` must not have a
        default, which would never be used.

        It may be ``async def``, ``def`` (runs inline, so it must not block), or an async generator, whose items
        are streamed as replies. What it returns is the reply to a message that carried an ``id``. Handlers of
        one connection run one after another; ``concurrent=True`` and generators run beside, at most
        ``limits.max_handlers`` of them. A connection that ends cancels its handlers.

        Raises :exc:`UsageError` for a second handler of the same action, for a name with a leading ``$``, and
        for a signature or an annotation that can never work.
        """
        self._registry.router.add(action, handler, concurrent=concurrent)

    def on(self, action: str, *, concurrent: bool = False) -> Callable[[F], F]:
        """``@manager.on("action")``: :meth:`handle_message` as a decorator."""
        if callable(action):  # a bare `@manager.on` would register nothing, without a word
            raise UsageError('an action is missing: @manager.on("action")')

        def register(handler: F) -> F:
            self.handle_message(action, handler, concurrent=concurrent)
            return handler

        return register

    def on_binary(self, handler: F) -> F:
        """``async def handler(conn, data: bytes)``: the handler of binary messages, one for a manager.

        From plain and JSON clients those are binary frames, which without it are answered ``BAD_MESSAGE``; from
        MessagePack clients messages whose ``data`` is bytes and that have no action. It has its turn among the ordered
        handlers, behind ``on_message`` and middleware, whose ``message.binary`` is true. It may be ``def``, and may
        take a :class:`Message`. There is no ``id``, so nobody gets what it returns (but for a MessagePack client that
        has sent one); errors are told.

        Raises :exc:`UsageError` for a second one, an async generator, and another signature.
        """
        self._registry.router.set_binary(handler)
        return handler

    def on_connect(self, hook: F) -> F:
        """``on_connect(conn)``: before the first message. Raising closes 1011; an ActionError 4500 with its code.

        As every hook it may be ``def`` or ``async def``, may be one of several, and may take ``config.hook_timeout``
        seconds; one that takes longer is cancelled and has raised :exc:`HookTimeout`.
        """
        return self._hook("on_connect", hook)

    def on_disconnect(self, hook: F) -> F:
        """``on_disconnect(conn, close)``: once, after whatever end, if ``on_connect`` had begun.

        The rooms are left already. What it raises is reported.
        """
        return self._hook("on_disconnect", hook)

    def on_message(self, hook: F) -> F:
        """``on_message(conn, message)``: before each message's handler.

        Raising answers the message with an error instead of running its handler.
        """
        return self._hook("on_message", hook)

    def on_error(self, hook: F) -> F:
        """``on_error(conn_or_None, error)``: for each exception that is not an ActionError.

        They come from handlers, hooks and tasks. What it raises is logged.
        """
        return self._hook("on_error", hook)

    def on_join_room(self, hook: F) -> F:
        """``on_join_room(conn, room)``: before membership begins. Raising vetoes the join."""
        return self._hook("on_join_room", hook)

    def on_leave_room(self, hook: F) -> F:
        """``on_leave_room(conn, room, reason)``: once for each join whose ``on_join_room`` had begun.

        Reasons: "left", "kicked", "closed", "disconnected", "vetoed", "cancelled".
        """
        return self._hook("on_leave_room", hook)

    def on_room_open(self, hook: F) -> F:
        """``on_room_open(room)``: the first join waits for it, so it may load state.

        Raising fails the joins that wait with ``ROOM_FAILED``, and the room is discarded.
        """
        return self._hook("on_room_open", hook)

    def on_room_close(self, hook: F) -> F:
        """``on_room_close(room)``: after the last member has left and ``linger`` has passed, or ``room.close``.

        A new room of the same name opens only after it.
        """
        return self._hook("on_room_close", hook)

    def on_user_online(self, hook: F) -> F:
        """``on_user_online(room, user)``: a user's first connection has joined a room that has presence.

        More connections of the same user are no news, nor is one that comes back within its ``grace``. The hooks of
        one room run one after another; each call is followed by one of :meth:`on_user_offline` for the same user
        before there is another, and who comes and goes before its turn is not mentioned. What it raises is reported.
        """
        return self._hook("on_user_online", hook)

    def on_user_offline(self, hook: F) -> F:
        """``on_user_offline(room, user)``: once for each ``on_user_online``, when the user has no connection left.

        That is when the last one has left or was removed, when its ``grace`` is over after the last one has ended, and
        when the room closes; then it stands before ``on_room_close``. What it raises is reported.
        """
        return self._hook("on_user_offline", hook)

    def on_session_expired(self, hook: F) -> F:
        """``on_session_expired(session_id, user, metadata)``: once for each session, when it can no longer be restored.

        After ``config.session_window``, ``limits.max_sessions``, a close for good (see ``docs/sessions.md``), or with
        serve; not for sessions whose ``on_connect`` had never begun. ``metadata`` is what was kept of it, a dict;
        ``user`` None for an anonymous one. There is no connection any more. What it raises is reported.
        """
        return self._hook("on_session_expired", hook)

    def authenticate(self, function: A) -> A:
        """``async def authenticate(request) -> Identity | None``, asked before the upgrade.

        None is answered 401, a :exc:`Refuse` that it raises with its status, anything else 500 without detail, and
        503 when it has not returned within ``handshake_timeout`` of the connection's accept. Without one
        everybody is anonymous.
        """
        self._registry.check_open("authenticate is registered")
        _check_callable("authenticate", function)
        if self._registry.authenticate is not None:
            raise UsageError("there is an authenticate function already")
        self._registry.authenticate = function
        return function

    def session(self, function: Session) -> Session:
        """``async def session(conn)``: runs once for each connection, beside its handlers.

        It reads what no handler takes with ``conn.read_json``. When it returns, the connection is closed with
        1000; an ActionError closes it with 4500 and the code, any other exception with 1011.
        """
        self._registry.check_open("session is registered")
        _check_callable("session", function)
        if self._registry.session is not None:
            raise UsageError("there is a session function already")
        self._registry.session = function
        return function

    def use(self, *middleware: Middleware) -> None:
        """Add middleware around each message's handler; the first added is the outermost.

        ``async def mw(ctx, call_next): return await call_next(ctx)``. It sees the handler's result and its
        exceptions, may replace both, and may answer by itself without calling ``call_next``. The result of a
        generator is None; what middleware returns instead is sent as one more item.
        """
        self._registry.check_open("middleware is added")
        _check_callable("use", *middleware)
        self._registry.middleware.extend(middleware)

    def use_connection(self, *middleware: ConnectionMiddleware) -> None:
        """Add middleware around each connection's life; the first added is the outermost.

        ``async def mw(conn, call_next): await call_next(conn)``. ``call_next`` returns when the connection takes no
        more messages. Returning without calling it closes the connection with 1008; raising, as in
        ``on_connect``.
        """
        self._registry.check_open("middleware is added")
        _check_callable("use_connection", *middleware)
        self._registry.connection_middleware.extend(middleware)

    def room(self, pattern: str, options: RoomOptions | None = None, **fields: Any) -> None:
        """Set the options of rooms whose name matches a shell glob; the first registered match wins, whole.

        Give either a :class:`RoomOptions` or its fields. Raises :exc:`UsageError` for what cannot be.
        """
        self._registry.check_open("room options are set")
        if options is not None and fields:
            raise UsageError("give either RoomOptions or fields, not both")
        try:
            self._registry.patterns.add(pattern, options or RoomOptions(**fields))
        except (TypeError, ValueError) as exc:
            raise UsageError(f"options of {pattern!r}: {exc}") from exc

    def page(
        self, path: str, body: bytes | str | os.PathLike[str], *, content_type: str = "text/html; charset=utf-8"
    ) -> None:
        """Serve a fixed page to GET and HEAD of ``path``, on the port of the WebSockets.

        ``body`` is bytes, or the path of a file that is read now. Raises :exc:`UsageError` for what is no path of a
        URL, and OSError if the file cannot be read.
        """
        self._registry.check_open("pages are registered")
        if not path.startswith("/") or "?" in path:
            raise UsageError(f"{path!r} is not a path")
        content = body if isinstance(body, bytes) else Path(body).read_bytes()
        self._registry.pages[path] = Page(content, content_type)

    def _hook(self, name: HookName, hook: F) -> F:
        self._registry.hooks.add(name, hook)
        return hook


def _check_callable(what: str, *functions: object) -> None:
    for function in functions:
        if not callable(function):
            raise UsageError(f"{what} takes functions, not {function!r}")
