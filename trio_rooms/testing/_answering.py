"""Answering what the server asks: by hand, or by functions that a `TestClient` calls while it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_rooms.testing._outcomes import ReplyError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from wsproto.events import Event

    from trio_rooms.testing._formats import Format
    from trio_rooms.testing._protocol import ClientProtocol


class Answering:
    """The part of a `TestClient` that answers requests of the server (``conn.request``)."""

    _protocol: ClientProtocol

    if TYPE_CHECKING:

        async def send_json(self, obj: object) -> None:
            """As the client does it."""

    @property
    def answers(self) -> dict[str, Callable[[Any], Any]]:
        """Functions that answer the server's requests, by action; put yours in.

        One is called with the request's data when that is read, which happens only while a method receives. What it
        returns is the answer's data; a `ReplyError` that it raises is the answer. A request that is answered so is no
        message for the receiving methods; one of another action is.
        """
        return self._protocol.answers

    async def answer(self, request: Mapping[str, Any], data: object = None, *, error: ReplyError | None = None) -> None:
        """Answer a request of the server, as `receive_json` has returned it, with data or with an error."""
        await self.send_json(_answer(request["id"], data, error))


def automatic(message: str | bytes, answers: Mapping[str, Callable[[Any], Any]], form: Format) -> Event | None:
    """The answer to a message that is a request of the server and whose action has a function; else None."""
    if not answers or not isinstance(message, form.kind):
        return None
    try:
        request = form.decode(message)
    except ValueError:
        return None
    if not isinstance(request, dict) or "id" not in request or request.get("action") not in answers:
        return None
    try:
        return form.event(_answer(request["id"], answers[request["action"]](request.get("data")), None))
    except ReplyError as error:
        return form.event(_answer(request["id"], None, error))


def _answer(ident: object, data: object, error: ReplyError | None) -> dict[str, object]:
    if error is None:
        return {"id": ident, "data": data}
    return {"id": ident, "error": {"code": error.code, "message": error.message, "temporary": error.temporary}}
