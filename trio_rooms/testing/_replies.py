"""Finding the replies to one request among the messages that a `TestClient` has read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_rooms.testing._outcomes import ProtocolViolation, ReplyError

if TYPE_CHECKING:
    from collections import deque

    from trio_rooms.testing._formats import Format


class Replies:
    """Takes the replies to one request out of ``messages``, and leaves the others where they are.

    What stood in ``messages`` when this was made is not looked at: it was read before the request
    was sent, so it is no answer to it even if it bears the same id.
    """

    __slots__ = ("_form", "_found", "_id", "_messages", "_seen")

    def __init__(self, messages: deque[str | bytes], request_id: int | str, form: Format) -> None:
        self._form = form
        self._messages = messages
        self._id = request_id
        self._seen = len(messages)
        self._found: dict[str, Any] | None = None

    def ready(self) -> bool:
        """Look at the new messages; return whether there is a reply for `take`."""
        while self._found is None and self._seen < len(self._messages):
            self._found = _as_reply(self._messages[self._seen], self._id, self._form)
            if self._found is None:
                self._seen += 1
            else:
                del self._messages[self._seen]
        return self._found is not None

    def take(self) -> dict[str, Any]:
        """Return the reply that `ready` found; raise ReplyError if it is an error."""
        assert self._found is not None
        reply, self._found = self._found, None
        if "error" in reply:
            raise _as_error(reply)
        return reply


def _as_reply(message: str | bytes, request_id: int | str, form: Format) -> dict[str, Any] | None:
    """Return the decoded message if it is a reply to ``request_id``, not the server's own request."""
    if not isinstance(message, form.kind):
        return None
    try:
        reply = form.decode(message)
    except ValueError:
        return None
    if not isinstance(reply, dict) or "action" in reply or reply.get("id") != request_id:
        return None
    return reply


def _as_error(reply: dict[str, Any]) -> ReplyError | ProtocolViolation:
    error = reply["error"]
    if not isinstance(error, dict) or not isinstance(error.get("code"), str):
        return ProtocolViolation(f"an error without a code: {reply!r}")
    return ReplyError(error["code"], error.get("message", ""), temporary=bool(error.get("temporary")))
