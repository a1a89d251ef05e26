"""Middleware of your own: around each connection, around each message; who may connect, and who may use an action.

``python examples/custom_middleware.py --port 8080``. Clients say who they are in the request, before the upgrade:

    ada: /ws?token=adas-secret
    ada> {"action": "whoami", "id": 1}
    ada< {"id": 1, "data": {"user": "ada", "role": "admin", "colour": "blue"}}
    ada> {"action": "announce", "data": "lunch", "id": 2}
    ada< {"announcement": "lunch"}
    ada< {"id": 2, "data": 1}

    bob: /ws?token=bobs-secret
    bob> {"action": "announce", "data": "party", "id": 1}
    bob< {"id": 1, "error": {"code": "FORBIDDEN", "message": "only for the role admin", "temporary": false}}
    bob> {"action": "whoami", "id": 2}
    bob< {"id": 2, "data": {"user": "bob", "role": "guest", "colour": "blue"}}
    bob> {"action": "whoami", "id": 3}
    bob< {"id": 3, "data": {"user": "bob", "role": "guest", "colour": "blue"}}
    bob> {"action": "whoami", "id": 4}
    bob< {"id": 4, "error": {"code": "RATE_LIMITED", "message": "at most 3 messages in 3600 s", "temporary": true}}

    eve: /ws?token=eves-secret
    eve< closed 1008

Without a token, or with a wrong one, there is no upgrade: 401. It prints what each message took:

    | ada whoami ok
    | ada announce ok
    | bob announce FORBIDDEN
    | bob whoami ok
    | bob whoami ok
    | bob whoami RATE_LIMITED
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from trio_rooms import ActionError, Connection, Context, HandshakeRequest, Identity, Manager
from trio_rooms.middleware import recovery

CallNext = Callable[[Context], Awaitable[Any]]
Middleware = Callable[[Context, CallNext], Awaitable[Any]]

USERS = {
    "adas-secret": Identity(user="ada", claims={"role": "admin"}),
    "bobs-secret": Identity(user="bob", claims={"role": "guest"}),
    "eves-secret": Identity(user="eve", claims={"role": "guest"}),
}
BANNED = {"eve"}


async def authenticate(request: HandshakeRequest) -> Identity | None:
    """Before the upgrade. None is answered 401; the identity is fixed for the life of the connection."""
    return USERS.get(request.query.get("token", ""))


async def welcome(conn: Connection, call_next: Callable[[Connection], Awaitable[None]]) -> None:
    """Around a connection's life: the Go package's kind of middleware, with an "after".

    To return without going on closes it with 1008.
    """
    if conn.identity.user in BANNED:
        return
    conn.metadata["colour"] = "blue"
    await call_next(conn)  # returns when the connection takes no more messages


async def narrate(ctx: Context, call_next: CallNext) -> Any:
    """Around each message: sees the result and the errors of everything inside it."""
    outcome = "cancelled"
    try:
        result = await call_next(ctx)
        outcome = "ok"
        return result
    except ActionError as error:
        outcome = error.code
        raise
    finally:
        print(ctx.conn.identity.user, ctx.message.action, outcome, flush=True)


@attrs.define
class Bucket:
    """Tokens that fill up with time, at most ``size`` of them."""

    size: float
    per_second: float
    tokens: float = attrs.field(init=False)
    at: float = attrs.field(factory=trio.current_time, init=False)

    def __attrs_post_init__(self) -> None:
        self.tokens = self.size

    def take(self) -> bool:
        now = trio.current_time()
        self.tokens = min(self.size, self.tokens + (now - self.at) * self.per_second)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def rate_limit(count: int, seconds: float) -> Middleware:
    """Middleware with settings: a function that returns middleware. For guests, and each connection has its count."""

    async def limit(ctx: Context, call_next: CallNext) -> Any:
        if ctx.conn.identity.claims["role"] == "guest":
            bucket: Bucket = ctx.conn.metadata.setdefault("bucket", Bucket(count, count / seconds))
            if not bucket.take():
                raise ActionError("RATE_LIMITED", f"at most {count} messages in {seconds:g} s", temporary=True)
        return await call_next(ctx)

    return limit


def require(role: str, *actions: str) -> Middleware:
    """Let only a role use some actions."""

    async def check(ctx: Context, call_next: CallNext) -> Any:
        if ctx.message.action in actions and ctx.conn.identity.claims["role"] != role:
            raise ActionError("FORBIDDEN", f"only for the role {role}")
        return await call_next(ctx)

    return check


# The first is the outermost: narrate sees what the others refuse.
manager = Manager(middleware=[narrate, recovery(), rate_limit(3, 3600), require("admin", "announce")])
manager.authenticate(authenticate)
manager.use_connection(welcome)


@manager.on("whoami")
def whoami(conn: Connection) -> dict[str, Any]:
    return {"user": conn.identity.user, "role": conn.identity.claims["role"], "colour": conn.metadata["colour"]}


@manager.on("announce")
def announce(conn: Connection, text: str) -> int:
    return manager.broadcast_to_all({"announcement": text}).enqueued


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    manager.run(port=parser.parse_args().port, on_listening=lambda server: print(server.url, flush=True))
