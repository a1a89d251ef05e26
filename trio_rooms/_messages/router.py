"""From an action to its handler, and from a handler's signature to how it is called.

Everything that can be wrong with a handler is found when it is registered: its parameters, its
annotations, and whether its type can be decoded.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final, Literal

import attrs
import msgspec

from .._errors import AlreadyServing, UsageError
from .decoding import Decoders
from .envelope import Message

#: What the handler of binary messages is called in errors and in the log.
BINARY: Final = "(binary)"

#: What JSON decodes to by itself.
_DECODED = (dict, list, str, int, float, type(None))


@attrs.frozen(eq=False)
class Handler:
    """A registered function with all that is needed to call it."""

    action: str
    function: Callable[..., Any]
    streams: bool
    concurrent: bool
    inline: bool
    """Whether it is a plain ``def``: done when it returns, unless what it returns is to be awaited."""
    takes: Literal["nothing", "message", "raw", "typed", "bytes"]
    decoders: Decoders | None
    beside: bool = attrs.field(init=False)
    """Whether it runs in a task of its own."""

    @beside.default
    def _runs_beside(self) -> bool:
        return self.streams or self.concurrent

    def arguments(self, message: Message, *, max_depth: int) -> tuple[Any, ...]:
        """What follows the connection in the call. Raises :exc:`BadMessage`."""
        if self.decoders is not None:
            return (message._build(self.decoders, message.raw, max_depth),)
        if self.takes == "nothing":
            return ()
        if self.takes == "message":
            return (message,)
        if self.takes == "bytes":
            return (message.data,)
        return (msgspec.Raw(message._json(max_depth)),)


class Router:
    """The handlers of a manager by action."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self.binary: Handler | None = None
        """The handler of binary messages."""
        self.frozen = False

    def add(self, action: str, function: Callable[..., Any], *, concurrent: bool = False) -> Handler:
        """Register a handler. Raises :exc:`UsageError` for anything that could never work."""
        self._check_open()
        if not action or action.startswith("$"):
            raise UsageError(f"{action!r} is not an action for a handler: names with a leading $ are the library's")
        if action in self._handlers:
            raise UsageError(f"there is a handler for {action!r} already")
        handler = inspect_handler(action, function, concurrent=concurrent)
        self._handlers[action] = handler
        return handler

    def set_binary(self, function: Callable[..., Any]) -> None:
        """Register the handler of binary messages. Raises as :meth:`add` does."""
        self._check_open()
        if self.binary is not None:
            raise UsageError("there is a handler for binary messages already")
        self.binary = inspect_binary_handler(function)

    def _check_open(self) -> None:
        if self.frozen:
            raise AlreadyServing("handlers are registered before the manager is served")

    def find(self, action: str) -> Handler | None:
        """The handler for an action, if there is one."""
        return self._handlers.get(action)


def inspect_handler(action: str, function: Callable[..., Any], *, concurrent: bool) -> Handler:
    """Work out how a handler is called from its signature."""
    parameters = _positional(action, function)
    takes: Literal["nothing", "message", "raw", "typed"] = "nothing"
    decoders = None
    if len(parameters) == 2:
        annotation = parameters[1].annotation
        if annotation in (inspect.Parameter.empty, Message):
            takes = "message"
        elif annotation is msgspec.Raw:
            takes = "raw"
        else:
            takes = "typed"
            decoders = _decoders(action, annotation)
    kind = _kind(function)
    inline = kind == "def" and not concurrent
    return Handler(action, function, kind == "generator", concurrent, inline, takes, decoders)


def inspect_binary_handler(function: Callable[..., Any]) -> Handler:
    """As :func:`inspect_handler`, for binary messages, which are bytes and have no id."""
    parameters = _positional(BINARY, function)
    annotation = parameters[-1].annotation
    if len(parameters) != 2 or annotation not in (inspect.Parameter.empty, bytes, Message):
        raise UsageError(f"the handler for {BINARY!r} must take (conn, data: bytes)")
    kind = _kind(function)
    if kind == "generator":
        raise UsageError(f"the handler for {BINARY!r} cannot stream: there is no id to reply to")
    return Handler(BINARY, function, False, False, kind == "def", "message" if annotation is Message else "bytes", None)


def _positional(action: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        signature = inspect.signature(function, eval_str=True)
    except Exception as exc:  # annotations given as text may hold anything
        raise UsageError(f"the signature of the handler for {action!r} cannot be read: {exc}") from exc
    parameters = signature.parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    if any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters) or not 1 <= len(required) <= 2:
        raise UsageError(f"the handler for {action!r} must take (conn) or (conn, data), not {signature}")
    if len(required) < min(len(positional), 2):
        # It would always have its default, whatever the client sends.
        raise UsageError(f"the second parameter of the handler for {action!r} must have no default: {signature}")
    return required


def _decoders(action: str, annotation: Any) -> Decoders:
    try:
        decoders = Decoders(annotation)
        _ = decoders.msgpack  # made now
        info = msgspec.inspect.type_info(annotation)
        # A class that msgspec knows nothing of matches only if JSON decodes to an instance of it.
        hopeless = isinstance(info, msgspec.inspect.CustomType) and not any(issubclass(t, info.cls) for t in _DECODED)
    except Exception as exc:  # TypeError, or whatever evaluating the annotations of its fields raises
        raise UsageError(f"the handler for {action!r} takes {annotation!r}, which cannot be decoded: {exc}") from exc
    if hopeless:
        raise UsageError(f"the handler for {action!r} takes {annotation!r}, which msgspec cannot build")
    return decoders


def _kind(function: Callable[..., Any]) -> Literal["def", "async def", "generator"]:
    target = function
    while isinstance(target, functools.partial):
        target = target.func
    if not inspect.isroutine(target) and callable(target):
        target = type(target).__call__
    if inspect.iscoroutinefunction(target):
        return "async def"
    # A wrapper gives the generator on.
    return "generator" if inspect.isasyncgenfunction(inspect.unwrap(target)) else "def"
