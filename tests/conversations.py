"""Conversations as pages and docstrings print them: read from the text, and held with a program.

Indented by four spaces, one client a name, which may be empty:

    ada: /ws?token=secret       where it connects; without such a line, the program's own path
    ada> {"action": "hello"}    what it sends; it connects with its first line
    ada< {"hello": "T0Zf…"}     what it receives next; a string that ends with … is any that is as long or longer
    ada< closed 1008            it is closed
    | hello                     what the program prints

JSON may go on in lines that are indented further.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal
from urllib.parse import urljoin

import attrs
import pytest
from trio_websocket import ConnectionClosed, WebSocketConnection

from markdown import assert_as_printed
from program import open_websocket

_STEP = re.compile(r"^    (\w*)([:<>]) (.+(?:\n {6,}\S.*)*)$", re.MULTILINE)
_PRINTED = re.compile(r"^    \| (.*)$", re.MULTILINE)
_KINDS: dict[str, Literal["target", "receive", "send"]] = {":": "target", "<": "receive", ">": "send"}


@attrs.frozen
class Step:
    """One line of a conversation."""

    who: str
    kind: Literal["target", "send", "receive", "closed"]
    text: str


def steps(text: str) -> list[Step]:
    """The conversation in a text."""
    return list(_steps(text))


def _steps(text: str) -> Iterator[Step]:
    for who, sign, what in _STEP.findall(text):
        closed = re.fullmatch(r"closed (\d+)", what)
        yield Step(who, "closed", closed[1]) if closed else Step(who, _KINDS[sign], " ".join(what.split()))


def printed(text: str) -> list[str]:
    """The lines that the program prints, according to a text."""
    return _PRINTED.findall(text)


def overlooked(text: str) -> list[str]:
    """The lines that are indented like a conversation and are no part of it."""
    return re.findall(r"^ {4}\S.*$", _PRINTED.sub("", _STEP.sub("", text)), re.MULTILINE)


@attrs.define(eq=False)
class Conversation:
    """Clients of one program, by name."""

    url: str
    _stack: AsyncExitStack
    _targets: dict[str, str] = attrs.field(factory=dict)
    clients: dict[str, WebSocketConnection] = attrs.field(factory=dict)
    """Those that are connected."""

    async def client(self, who: str = "") -> WebSocketConnection:
        """The client of that name, connected with the first call."""
        if who not in self.clients:
            url = urljoin(self.url, self._targets.get(who, ""))
            self.clients[who] = await self._stack.enter_async_context(open_websocket(url))
        return self.clients[who]

    async def hold(self, conversation: Iterable[Step]) -> None:
        """Say what is to be said, and hear what is to be heard."""
        for step in conversation:
            if step.kind == "target":
                self._targets[step.who] = step.text
            elif step.kind == "send":
                await (await self.client(step.who)).send_message(step.text)
            elif step.kind == "receive":
                assert_as_printed(await self.hear(step.who), json.loads(step.text))
            else:
                await expect_close(await self.client(step.who), int(step.text))
                del self.clients[step.who]

    async def say(self, message: object, who: str = "") -> None:
        """Send a message that is not in the text."""
        await (await self.client(who)).send_message(json.dumps(message))

    async def hear(self, who: str = "") -> Any:
        """The next message."""
        return json.loads(await (await self.client(who)).get_message())

    async def assert_complete(self) -> None:
        """Nothing unprinted has come: it would stand before the answer to this."""
        for who in self.clients:
            await self.say({"action": "$leave", "data": {"room": "nowhere"}, "id": "end"}, who)
            assert (await self.hear(who))["id"] == "end"


@asynccontextmanager
async def converse(url: str) -> AsyncIterator[Conversation]:
    """A conversation with the program at ``url``; its clients are closed at the end."""
    async with AsyncExitStack() as stack:
        yield Conversation(url, stack)


async def expect_close(ws: WebSocketConnection, code: int, *, skip_messages: bool = False) -> None:
    """The server closes the connection, with that code and without another message, unless they are skipped."""
    with pytest.raises(ConnectionClosed) as closed:
        await (_skip_messages(ws) if skip_messages else ws.get_message())
    assert closed.value.reason is not None
    assert closed.value.reason.code == code


async def _skip_messages(ws: WebSocketConnection) -> None:
    while True:
        await ws.get_message()
