"""From an accepted stream to a WebSocket upgrade, or to a refusal and a closed stream.

The order, with the reason under which a refusal is counted. Whatever comes first decides.

1. The head is read within ``handshake_timeout``, which the handshake of TLS is a part of: 400
   ``bad_request``, 414 ``target``, 431 ``headers``, 408 ``timeout``. Without a response: ``hangup``
   (the peer went away), ``tls`` (a TLS hello on a plain port), ``tls_failed`` (no TLS on a port of
   TLS, or none that both can speak).
2. ``admit`` is asked: 503 ``address_full``. Then ``refusing``: its status, ``unavailable``. This goes
   for every request, pages too.
3. A request that does not ask for a WebSocket: a page, 405 ``method`` on a page's path,
   426 ``upgrade_required`` where upgrades are accepted, else 404 ``not_found``.
4. An upgrade: 404 ``not_found`` on a wrong path; the opening handshake is checked: 400
   ``bad_request``, 400 ``subprotocols``, 426 ``version``; 403 ``origin``.
5. ``authenticate``, within what is left of ``handshake_timeout``: 503 ``authenticate_timeout``,
   500 ``authenticate_error``, 401 ``unauthorized`` for None, ``refused`` for Refuse.

The 101 itself is left to the transport. No text of an exception ever goes into a response.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, final

import attrs
import trio

from ._boundary import own_cancellations_only
from ._config import Config
from ._errors import Refuse
from ._identity import Identity
from ._wire.ending import GONE, close_now, see_off
from ._wire.head import HandshakeError, Hangup, Reason, read_head, take_head
from ._wire.request import HandshakeRequest
from ._wire.responses import error_response, response
from ._wire.tls import secure
from ._wire.upgrade import (
    AllowedOrigins,
    check_origins,
    check_upgrade,
    choose_subprotocol,
    is_upgrade,
    origin_allowed,
)

Authenticate = Callable[[HandshakeRequest], Awaitable[Identity | None]]

#: Given a request that was read, gives the one to go on with. Raises HandshakeError.
Admit = Callable[[HandshakeRequest], HandshakeRequest]

# What everybody is where nobody is asked; frozen, so one serves all.
_ANYBODY = Identity()

# A refused peer gets this many seconds to take its response, and as many to hang up after it.
_ANSWER_TIMEOUT = 1.0


@attrs.frozen
class Page:
    """A fixed answer to GET and HEAD of one path, such as a health check."""

    body: bytes
    content_type: str


def _validate_origins(_instance: object, _attribute: attrs.Attribute[Any], value: AllowedOrigins) -> None:
    check_origins(value)


@attrs.frozen(kw_only=True)
class HandshakePolicy:
    """What decides over a handshake; one for all connections of a server."""

    config: Config
    """``handshake_timeout``, ``close_timeout`` and ``limits`` are used."""

    path: str | None
    """Where upgrades are accepted; the query is not looked at. None: anywhere."""

    allowed_origins: AllowedOrigins = attrs.field(validator=_validate_origins)
    """See :func:`~trio_rooms._wire.upgrade.origin_allowed`. ValueError if a pattern is malformed."""

    pages: Mapping[str, Page]
    """Pages by path; a page on the path of the upgrades is what a plain request gets there."""

    authenticate: Authenticate | None
    """Decides who the client is; None: everybody is ``Identity()``."""

    subprotocols: Sequence[str]
    """The supported ones; of them the client's order chooses."""

    refusing: Callable[[], tuple[int, str] | None]
    """Asked when a head is complete: status and code to refuse it with, or None. ``Retry-After: 1`` is added."""

    rejected: Callable[[Reason], None]
    """Called once for each handshake that ends without upgrade and without page, unless it is cancelled."""

    failed: Callable[[Exception], None]
    """Called with an exception of ``authenticate``; the client gets 500 and no detail."""


@final
@attrs.frozen
class Upgrade:
    """An accepted handshake; the transport now owes the client a 101."""

    request: HandshakeRequest
    key: str
    """``Sec-WebSocket-Key``."""
    subprotocol: str | None
    """The chosen one; None: none is named in the 101."""
    identity: Identity
    trailing: bytes
    """Bytes that came behind the head: the first of what the WebSocket has to read."""


async def shake_hands(
    stream: trio.abc.Stream,
    policy: HandshakePolicy,
    *,
    remote: tuple[str, int] | None = None,
    head_complete: Callable[[], None],
    admit: Admit | None = None,
    first: bytes | None = None,
) -> Upgrade | None:
    """Read a request and decide over it.

    Returns the upgrade, and the stream is the caller's with nothing written to it yet; or None, and the request
    has been answered if anybody was there to hear it, and the stream is closed. An upgrade or refusal is decided
    ``handshake_timeout`` after the call at the latest; a response may take 2 s on top of that.

    ``head_complete`` is called, at most once, when the request head has been read, and then ``admit``. ``first`` is
    what has been read before, see :func:`~trio_rooms._wire.head.read_head`.

    A cancel closes the stream and propagates, and so does an exception out of the policy's other functions.
    """
    upgrade: Upgrade | None = None
    try:
        outcome = await _negotiate(stream, policy, remote, head_complete, admit, first)
        if isinstance(outcome, Upgrade):
            upgrade = outcome
        elif outcome is not None:
            await _answer(stream, outcome, min(policy.config.close_timeout, _ANSWER_TIMEOUT))
    finally:
        if upgrade is None:
            await close_now(stream)  # noqa: ASYNC102 - it shields itself
    return upgrade


def shake_hands_at_once(
    data: bytes, policy: HandshakePolicy, *, remote: tuple[str, int] | None, admit: Admit | None = None
) -> Upgrade | None:
    """The upgrade, if ``data`` begins with a whole request that is granted without asking ``authenticate``.

    Most requests come in one piece with the connection, and then nothing of the handshake has to wait. None is no
    refusal: then it is for :func:`shake_hands` to find out what to do, with ``data`` as the ``first`` bytes. ``admit``
    may have been asked then, and is asked again.
    """
    if policy.authenticate is not None:
        return None
    try:
        head = take_head(data, policy.config.limits, remote=remote)
        if head is None:
            return None
        request, trailing = head
        if admit is not None:
            request = admit(request)
        _check_refusing(policy)
        if not is_upgrade(request):
            return None
        key = _check_upgrade(request, policy)
    except (HandshakeError, Hangup):
        return None
    return Upgrade(request, key, choose_subprotocol(request.subprotocols, policy.subprotocols), _ANYBODY, trailing)


@final
@attrs.frozen
class Judgement:
    """An upgrade that is granted, of a request that somebody else has read; fields as those of :class:`Upgrade`."""

    request: HandshakeRequest
    identity: Identity
    subprotocol: str | None


async def judge(request: HandshakeRequest, policy: HandshakePolicy, admit: Admit) -> Judgement | HandshakeError:
    """Decide over an upgrade that somebody else has read and checked.

    Everything but the head itself is as in :func:`shake_hands`.
    """
    deadline = trio.current_time() + policy.config.handshake_timeout
    try:
        request = admit(request)
        _check_refusing(policy)
        if not origin_allowed(request, policy.allowed_origins):
            raise _origin_not_allowed()
        identity = await _authenticate(request, policy, deadline)
    except HandshakeError as error:
        policy.rejected(error.reason)
        return error
    return Judgement(request, identity, choose_subprotocol(request.subprotocols, policy.subprotocols))


def full() -> HandshakeError:
    """The refusal where every place is taken."""
    return _unavailable(503, "FULL", reason="full")


def address_full() -> HandshakeError:
    """The refusal where one address has as many connections as one may have."""
    return _unavailable(503, "TOO_MANY_CONNECTIONS", reason="address_full")


async def turn_away(stream: trio.abc.Stream, error: HandshakeError) -> None:
    """Answer without reading the request, and close the stream."""
    answer = error_response(error.status, error.code, error.message, headers=error.headers)
    try:
        await _answer(stream, answer, _ANSWER_TIMEOUT)
    finally:
        await close_now(stream)  # noqa: ASYNC102 - it shields itself


async def _negotiate(
    stream: trio.abc.Stream,
    policy: HandshakePolicy,
    remote: tuple[str, int] | None,
    head_complete: Callable[[], None],
    admit: Admit | None,
    first: bytes | None,
) -> Upgrade | bytes | None:
    """Return the upgrade, the response to send instead, or None if nobody waits for one."""
    deadline = trio.current_time() + policy.config.handshake_timeout
    head_only = False
    try:
        await secure(stream, deadline=deadline)
        request, trailing = await read_head(stream, policy.config.limits, deadline=deadline, remote=remote, first=first)
        head_complete()
        head_only = request.method == "HEAD"
        if admit is not None:
            request = admit(request)
        _check_refusing(policy)
        if not is_upgrade(request):
            page = _find_page(request, policy)
            return response(200, body=page.body, content_type=page.content_type, head_only=head_only)
        key = _check_upgrade(request, policy)
        identity = await _authenticate(request, policy, deadline)
    except Hangup as hangup:
        policy.rejected(hangup.counted_as)
        return None
    except HandshakeError as error:
        policy.rejected(error.reason)
        return error_response(error.status, error.code, error.message, headers=error.headers, head_only=head_only)
    subprotocol = choose_subprotocol(request.subprotocols, policy.subprotocols)
    return Upgrade(request, key, subprotocol, identity, trailing)


def _check_refusing(policy: HandshakePolicy) -> None:
    refusal = policy.refusing()
    if refusal is not None:
        raise _unavailable(*refusal)


def _unavailable(status: int, code: str, *, reason: Reason = "unavailable") -> HandshakeError:
    return HandshakeError(
        status, code, "not available, try again later", reason=reason, headers=(("Retry-After", "1"),)
    )


def _find_page(request: HandshakeRequest, policy: HandshakePolicy) -> Page:
    page = policy.pages.get(request.path)
    if page is not None:
        if request.method in ("GET", "HEAD"):
            return page
        raise HandshakeError(
            405, "METHOD_NOT_ALLOWED", "use GET or HEAD", reason="method", headers=(("Allow", "GET, HEAD"),)
        )
    if not _is_ours(request, policy):
        raise _not_found()
    raise HandshakeError(
        426,
        "UPGRADE_REQUIRED",
        "this is a WebSocket endpoint",
        reason="upgrade_required",
        headers=(("Upgrade", "websocket"), ("Connection", "Upgrade, close"), ("Sec-WebSocket-Version", "13")),
    )


def _check_upgrade(request: HandshakeRequest, policy: HandshakePolicy) -> str:
    if not _is_ours(request, policy):
        raise _not_found()
    key = check_upgrade(request, policy.config.limits)
    if not origin_allowed(request, policy.allowed_origins):
        raise _origin_not_allowed()
    return key


def _origin_not_allowed() -> HandshakeError:
    return HandshakeError(403, "ORIGIN_NOT_ALLOWED", "this origin is not allowed", reason="origin")


def _is_ours(request: HandshakeRequest, policy: HandshakePolicy) -> bool:
    return policy.path is None or request.path == policy.path


def _not_found() -> HandshakeError:
    return HandshakeError(404, "NOT_FOUND", "nothing is here", reason="not_found")


async def _authenticate(request: HandshakeRequest, policy: HandshakePolicy, deadline: float) -> Identity:
    if policy.authenticate is None:
        return _ANYBODY
    identity: Identity | None = None
    try:
        # The scope stands inside the try: when the deadline strikes a nursery of the user's whose cleanup fails
        # as well, the scope takes the Cancelled out of the group and leaves an ExceptionGroup to report.
        with trio.move_on_at(deadline) as scope, own_cancellations_only():
            identity = await policy.authenticate(request)
            if identity is not None and not isinstance(identity, Identity):
                raise TypeError(f"authenticate must return an Identity or None, not {type(identity).__name__}")
    except Refuse as refusal:
        raise HandshakeError(refusal.status, refusal.code, "refused", reason="refused") from refusal
    except Exception as exc:
        policy.failed(exc)
        raise HandshakeError(500, "INTERNAL", "internal error", reason="authenticate_error") from exc
    if scope.cancelled_caught:
        raise HandshakeError(503, "TIMEOUT", "authentication took too long", reason="authenticate_timeout")
    if identity is None:
        raise HandshakeError(401, "UNAUTHORIZED", "not authenticated", reason="unauthorized")
    return identity


async def _answer(stream: trio.abc.Stream, data: bytes, grace: float) -> None:
    """Send a response, see the peer off and close the stream, in at most twice ``grace`` seconds.

    Closing a socket with unread bytes in it sends a reset, which may overtake the response and destroy it. So the
    peer is read, within bounds, until it has seen the end of our side and hangs up.
    """
    with contextlib.suppress(*GONE):
        with trio.move_on_after(grace) as scope:
            await stream.send_all(data)
        if scope.cancelled_caught:
            return
        with trio.move_on_after(grace):
            await see_off(stream)
            await stream.aclose()
