"""Registering handlers: what a signature means, what is refused at once, and what a payload becomes."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, TypedDict

import attrs
import msgspec
import pytest

from trio_rooms import AlreadyServing, BadMessage, Connection, Limits, Message, Room, UsageError
from trio_rooms._messages.envelope import JSON
from trio_rooms._messages.router import Handler, Router


@attrs.frozen
class AttrsPoint:
    x: int
    y: int = 0


class StructPoint(msgspec.Struct):
    x: int
    y: int = 0


@dataclass
class DataPoint:
    x: int
    y: int = 0


class DictPoint(TypedDict):
    x: int


class Colour(Enum):
    RED = "red"


def register(function: Callable[..., Any], **options: Any) -> Handler:
    return Router().add("act", function, **options)


def taking(annotation: Any) -> Handler:
    """A handler whose data has this annotation."""

    async def handler(conn: object, data: object) -> None:
        pass

    handler.__annotations__["data"] = annotation
    return register(handler)


def message(data: str | None = None) -> Message:
    return JSON.parse("{}" if data is None else f'{{"data":{data}}}', Limits(), clock=lambda: 0.0)


def decoded(annotation: Any, data: str | None) -> Any:
    (argument,) = taking(annotation).arguments(message(data), max_depth=32)
    return argument


@pytest.mark.parametrize(
    ("annotation", "data", "expected"),
    [
        (AttrsPoint, '{"x":1}', AttrsPoint(1)),
        (StructPoint, '{"x":1,"y":2}', StructPoint(1, 2)),
        (DataPoint, '{"x":1}', DataPoint(1)),
        (DictPoint, '{"x":1}', {"x": 1}),
        (list[int], "[1,2]", [1, 2]),
        (Literal["a", "b"], '"b"', "b"),
        (Annotated[int, msgspec.Meta(gt=0)], "5", 5),
        (Annotated[str, msgspec.Meta(max_length=2)], '"ab"', "ab"),
        (Colour, '"red"', Colour.RED),
        (int, "-3", -3),
        (str, '"s"', "s"),
        (bool, "true", True),
        (AttrsPoint | None, "null", None),
        (AttrsPoint | None, None, None),
        (None, None, None),
        (int | None, None, None),
        (Any, None, None),
        (Any, '{"x":[1]}', {"x": [1]}),
        (object, "[1]", [1]),
        (dict, '{"x":1}', {"x": 1}),
        (dict[str, AttrsPoint], '{"p":{"x":1}}', {"p": AttrsPoint(1)}),
    ],
)
def test_what_payloads_become(annotation: Any, data: str | None, expected: object) -> None:
    """A payload becomes what the annotation says; absent data is null."""
    assert decoded(annotation, data) == expected


@pytest.mark.parametrize(
    ("annotation", "data", "told"),
    [
        (AttrsPoint, "{}", "missing required field `x`"),
        (AttrsPoint, '{"x":"1"}', "Expected `int`, got `str` - at `$.x`"),
        (StructPoint, '{"x":1,"y":null}', "at `$.y`"),
        (DataPoint, "[1]", "Expected `object`, got `array`"),
        (DictPoint, '{"y":1}', "missing required field `x`"),
        (list[int], "[1,2.5]", "at `$[1]`"),
        (Literal["a", "b"], '"c"', "Invalid enum value 'c'"),
        (Annotated[int, msgspec.Meta(gt=0)], "0", "Expected `int` >= 1"),
        (Annotated[str, msgspec.Meta(max_length=2)], '"abc"', "length <= 2"),
        (Colour, '"blue"', "Invalid enum value"),
        (int, "true", "Expected `int`, got `bool`"),
        (int, '"1"', "Expected `int`, got `str`"),
        (str, "1", "Expected `str`, got `int`"),
        (str, None, "Expected `str`, got `null`"),
        (AttrsPoint, None, "Expected `object`, got `null`"),
        (None, "1", "Expected `null`, got `int`"),
    ],
)
def test_payloads_of_the_wrong_type(annotation: Any, data: str | None, told: str) -> None:
    """Anything else is BAD_MESSAGE with the path; absent data is null, which most types are not."""
    with pytest.raises(BadMessage) as caught:
        decoded(annotation, data)
    assert told in caught.value.message


@pytest.mark.parametrize("annotation", [Any, list[Any], dict[str, object], msgspec.Raw])
def test_untyped_data_is_bounded_in_depth(annotation: Any) -> None:
    """L1: nesting beyond `max_depth` is BAD_MESSAGE wherever the annotation would take it, raw JSON included."""
    deep = '{"a":' * 2 + "[[1]]" + "}" * 2 if annotation != list[Any] else "[[[[1]]]]"
    handler = taking(annotation)
    assert handler.arguments(message(deep), max_depth=4)
    with pytest.raises(BadMessage, match="deeper than 3"):
        handler.arguments(message(deep), max_depth=3)


@pytest.mark.parametrize("brackets", ["[" * 900 + "]" * 900, "[" * 40 + "1.e" + "]" * 40])
def test_raw_data_too_deep_to_look_at(brackets: str) -> None:
    """I2: raw JSON of 900 levels, or with a mistake in its depth, is BAD_MESSAGE."""
    handler = taking(msgspec.Raw)
    with pytest.raises(BadMessage):
        handler.arguments(attrs.evolve(message("1"), raw=brackets.encode()), max_depth=32)


def test_raw_and_message() -> None:
    """`msgspec.Raw` is the JSON as it came; Message, or no annotation, is the message itself."""
    received = message('{"a": 1 }')
    (raw,) = taking(msgspec.Raw).arguments(received, max_depth=32)
    assert isinstance(raw, msgspec.Raw)
    assert bytes(raw) == b'{"a": 1 }'
    assert taking(Message).arguments(received, max_depth=32) == (received,)
    assert register(lambda conn, x: None).arguments(received, max_depth=32) == (received,)
    assert register(lambda conn: None).arguments(received, max_depth=32) == ()


def test_absent_raw_data_is_valid_json() -> None:
    """Raw data that is absent is null, so that a handler may send on what it got."""
    (raw,) = taking(msgspec.Raw).arguments(message(), max_depth=32)
    assert bytes(raw) == b"null"


class Handlers:
    """Handlers as methods and as callable objects."""

    async def method(self, conn: object, data: int) -> None: ...

    @classmethod
    async def of_class(cls, conn: object, data: int) -> None: ...

    @staticmethod
    async def static(conn: object, data: int) -> None: ...

    async def generator(self, conn: object, data: int) -> AsyncIterator[int]:
        yield 1


class CallableHandler:
    def __init__(self) -> None:
        self.func = print  # as a partial has it, but this is no partial

    async def __call__(self, conn: object, data: int) -> None: ...


class CallableGenerator:
    async def __call__(self, conn: object, data: int) -> AsyncIterator[int]:
        yield 1


async def with_extra(extra: str, conn: object, data: int, *, option: int) -> None: ...


async def generator_with_extra(extra: str, conn: object, data: int) -> AsyncIterator[int]:
    yield data


def sync(conn: object, data: int) -> None: ...


async def with_defaults(conn: object, data: int, more: int = 1, *args: int, option: int = 2, **rest: int) -> None: ...


@functools.wraps(sync)
def wrapper(*args: Any, **kwargs: Any) -> None: ...


async def generator(conn: object, data: int) -> AsyncIterator[int]:
    yield data


@functools.wraps(generator)
def giving_on(*args: Any) -> Any:
    return generator(*args)


@functools.wraps(generator)
async def collecting(*args: Any) -> list[int]:
    return [item async for item in generator(*args)]


@pytest.mark.parametrize(
    ("function", "streams"),
    [
        (sync, False),
        pytest.param(wrapper, False, id="wrapper"),
        (with_defaults, False),
        (Handlers().method, False),
        (Handlers.of_class, False),
        (Handlers.static, False),
        (Handlers().generator, True),
        (CallableHandler(), False),
        (CallableGenerator(), True),
        (functools.partial(with_extra, "x", option=1), False),
        (functools.partial(functools.partial(generator_with_extra, "x")), True),
        (functools.partial(CallableGenerator()), True),
        pytest.param(giving_on, True, id="giving_on"),
        pytest.param(collecting, False, id="collecting"),
    ],
)
def test_kinds_of_functions(function: Callable[..., Any], streams: bool) -> None:
    """Functions, methods, partials and callable objects are called as their signature says; generators stream."""
    handler = register(function)
    assert handler.streams is streams
    assert handler.arguments(message("5"), max_depth=1) == (5,)
    with pytest.raises(BadMessage):
        handler.arguments(message('"5"'), max_depth=1)


async def coroutine(conn: object, data: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "concurrent", "inline"),
    [
        (sync, False, True),
        pytest.param(wrapper, False, True, id="wrapper"),
        (sync, True, False),
        (coroutine, False, False),
        (generator, False, False),
    ],
)
def test_inline(function: Callable[..., Any], concurrent: bool, inline: bool) -> None:
    """A `def` that is not concurrent runs inline, whatever it returns."""
    assert Router().add("x", function, concurrent=concurrent).inline is inline


async def no_parameters() -> None: ...


async def three(conn: object, data: int, more: int) -> None: ...


async def keyword_only(conn: object, *, data: int) -> None: ...


async def only_star(*args: object) -> None: ...


async def unknown_name(conn: object, data: NoSuchName) -> None: ...  # type: ignore[name-defined]  # noqa: F821


async def unknown_attribute(conn: object, data: json.NoSuchName) -> None: ...  # type: ignore[name-defined]


async def no_python(conn: object, data: object) -> None: ...


no_python.__annotations__["data"] = "1 +"


async def with_default(conn: object, data: int = 5) -> None: ...


async def takes_connection(conn: object, data: Connection) -> None: ...


async def takes_room(conn: object, data: Room) -> None: ...


async def bad_constraint(conn: object, data: Annotated[int, msgspec.Meta(max_length=3)]) -> None: ...


async def ambiguous(conn: object, data: AttrsPoint | StructPoint) -> None: ...


@attrs.define
class Unresolvable:
    x: NoSuchName  # type: ignore[name-defined]  # noqa: F821


async def unresolvable(conn: object, data: Unresolvable) -> None: ...


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (no_parameters, "must take"),
        (three, "must take"),
        (keyword_only, "must take"),
        (only_star, "must take"),
        (with_default, "must have no default"),
        (unknown_name, "NoSuchName"),
        (unknown_attribute, "NoSuchName"),
        (no_python, "cannot be read"),
        (5, "cannot be read"),
        ("act", "cannot be read"),
        (takes_connection, "cannot build"),
        (takes_room, "cannot build"),
        (bad_constraint, "cannot be decoded"),
        (ambiguous, "cannot be decoded"),
        (unresolvable, "NoSuchName"),
        (dict.fromkeys, "must take|cannot be read|no default"),
    ],
)
def test_what_can_never_work_fails_at_once(function: Any, why: str) -> None:
    """A signature or an annotation that can never work is a UsageError when the handler is registered."""
    router = Router()
    with pytest.raises(UsageError, match=why):
        router.add("act", function)
    assert router.find("act") is None


@pytest.mark.parametrize("action", ["", "$join", "$", "$mine"])
def test_names_of_the_library(action: str) -> None:
    """Names with a leading $ are the library's, and a handler needs a name."""
    with pytest.raises(UsageError, match="not an action"):
        Router().add(action, sync)


def test_one_handler_an_action() -> None:
    """A second handler of the same action is refused; the first stays."""
    router = Router()
    first = router.add("act", sync)
    with pytest.raises(UsageError, match="already"):
        router.add("act", wrapper)
    assert router.find("act") is first
    assert router.find("other") is None


def test_frozen() -> None:
    """While the manager is served nothing is added."""
    router = Router()
    router.frozen = True
    with pytest.raises(AlreadyServing):
        router.add("act", sync)


def test_concurrent_is_kept() -> None:
    """`concurrent` is what was asked for, and off by default."""
    assert register(sync, concurrent=True).concurrent
    assert not register(sync).concurrent
