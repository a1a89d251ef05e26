"""Sessions: what of a connection outlives it, so that a client that comes back can have it again.

Theory of operation. A session is made when its connection begins, and is there, complete, while that lives: nothing has
to be saved when it ends, and a client that comes back sooner than its loss was noticed finds what it had. It belongs to
one connection, the *owner*. A connection that brings its token becomes the owner in one step. Those before it, which
were ended in that step, hold the session on until their hooks are over; so who comes next can wait for them.

A token is known by its hash only, and a new one is given out at each restore. The one that was used for it stays good
until the new one is used: the client may never have received that.

A session whose owner is over is *kept* for the length of the window, which is the same for all, so the one that was
kept first is the first to expire; and it is the one that goes where there are too many. Nothing in here can wait, and
nothing of the user's is called: sessions that have ended are handed to who calls their hooks, in ``_expiry``.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from typing import TYPE_CHECKING, Any

import attrs
import trio

from ._chance import token

if TYPE_CHECKING:
    from ._connection import Connection
    from ._counters import Counters


# By so many of the last ids of its connections a session is found: a program may know it by one that has gone.
_KNOWN_BY = 8


@attrs.define(eq=False)
class Session:
    """One session, from its first connection to its end."""

    id: str
    user: str | None
    """Who alone may have it again."""
    owner: Connection | None
    """None once that is over."""
    holders: dict[str, Connection]
    """The owner and those before it whose hooks are not over, by id."""
    digests: tuple[bytes, ...]
    """Hashes of the tokens that are good: of the one that was used last, if any was, and of the newest."""
    known_by: tuple[str, ...]
    """Ids of its connections: of the last few, the newest last."""
    source: Connection | None
    """Whose metadata counts: the owner, once those before it are over."""
    marked: dict[str, None] = attrs.field(factory=dict)
    """Keys of the metadata that is kept."""
    metadata: dict[str, Any] = attrs.field(factory=dict)
    """What was kept when the last source was over."""
    rooms: dict[str, None] = attrs.field(factory=dict)
    """The rooms that are still to be joined again, in order; all of them while nobody owns it."""
    began: bool = False
    """Whether ``on_connect`` of any of its connections had begun: whether the program knows of it."""
    expires_at: float = 0.0
    """When it is no longer kept; infinity as long as hooks of its last connections are not over."""
    over: bool = False
    """Whether its owner has ended for good: nobody can have it any more."""
    parked: trio.lowlevel.ParkingLot | None = None
    """Where an owner waits for those before it."""

    def is_among(self, idents: frozenset[str]) -> bool:
        """Whether it is one of those that have these ids."""
        return self.id in idents or not idents.isdisjoint(self.known_by)

    def note_rooms(self, conn: Connection) -> None:
        """Its owner is about to leave its rooms. Those of a block of ``conn.joined`` ended with that block."""
        if conn is self.owner:
            self.rooms = {**dict.fromkeys(conn._memberships.lasting()), **self.rooms}

    def give_up(self, conn: Connection, room: str) -> bool:
        """Its owner does not want to be in a room again, to which it has not come back yet; whether there is such."""
        return conn is self.owner and self.rooms.pop(room, False) is None

    def hand_over(self, conn: Connection) -> None:
        """Those before the owner are over, or have had their time: it gets what they have kept."""
        self.note_metadata()
        conn._metadata = self.metadata.copy()
        self.source = conn

    def note_metadata(self) -> None:
        """Remember what is marked of the metadata, and nothing else of it."""
        source, self.source = self.source, None
        if source is not None:
            self.metadata = {key: source.metadata[key] for key in self.marked if key in source.metadata}


class Sessions:
    """Every session of one node."""

    def __init__(self, *, window: float, most: int, counters: Counters) -> None:
        self._window = window
        self._most = most
        self._counters = counters
        self._of_digest: dict[bytes, Session] = {}
        self._all: dict[str, Session] = {}
        self._of_connection: dict[str, Session] = {}
        self._kept: dict[str, Session] = {}
        self.due: deque[Session] = deque()
        """Those that have ended and whose hooks are to be called by who ended them."""

    @property
    def kept(self) -> int:
        """How many are kept for clients that are away."""
        return len(self._kept)

    @property
    def all(self) -> list[Session]:
        """Those of connections, too."""
        return list(self._all.values())

    @property
    def next_expiry(self) -> float | None:
        """When the first of those that are kept expires; None where none is."""
        return next((session.expires_at for session in self._kept.values()), None)

    def find(self, ident: str) -> Session | None:
        """The session of an id: its own, or that of one of its last connections."""
        return self._all.get(ident) or self._of_connection.get(ident)

    def with_owners(self, idents: frozenset[str]) -> frozenset[str]:
        """These ids, and those of the connections that have their sessions now, perhaps since a moment."""
        found = [session for ident in idents if (session := self.find(ident)) is not None]
        return idents.union([session.owner.id for session in found if session.owner is not None])

    def begin(self, conn: Connection) -> str:
        """Make a session for a connection; its token."""
        fresh = token(32)
        session = Session(token(16), conn.identity.user, conn, {conn.id: conn}, (_digest(fresh),), (conn.id,), conn)
        self._all[session.id] = self._of_digest[session.digests[0]] = self._of_connection[conn.id] = session
        conn._session = session
        return fresh

    def restore(self, conn: Connection, presented: str) -> str | None:
        """Give a connection the session of a token, and end the connection that had it; the new token.

        None, counted, if the token is not or no longer good, or the user is another: then nothing has changed.
        """
        digest = _digest(presented)
        session = self._of_digest.get(digest)
        if session is None or not self._may_have(conn, session):
            self._counters.sessions_refused += 1
            return None
        for before in tuple(session.holders.values()):
            before._replace()
        self._kept.pop(session.id, None)
        session.owner = session.holders[conn.id] = conn
        for old in session.digests:
            if old != digest:
                del self._of_digest[old]
        fresh = token(32)
        session.digests = (digest, _digest(fresh))
        self._of_digest[session.digests[1]] = session
        self._note(session, conn.id)
        conn._session = session
        conn.restored = True
        self._counters.sessions_restored += 1
        return fresh

    def _note(self, session: Session, ident: str) -> None:
        known = (*session.known_by, ident)
        for old in known[:-_KNOWN_BY]:
            del self._of_connection[old]
        session.known_by = known[-_KNOWN_BY:]
        self._of_connection[ident] = session

    def _may_have(self, conn: Connection, session: Session) -> bool:
        if session.over:
            return False
        away = session.owner is None
        return session.user == conn.identity.user and not (away and session.expires_at <= trio.current_time())

    def left(self, conn: Connection) -> None:
        """A connection is over, its hooks are, too: if it is the last that holds its session, keep that, or end it.

        Idempotent.
        """
        session = conn._session
        if session is None or session.holders.pop(conn.id, None) is None:
            return
        if session.parked is not None:
            session.parked.unpark_all()
        if session.source is conn:
            session.note_metadata()
        if session.owner is conn:
            session.owner, session.expires_at = None, math.inf
            session.over = not session.began or _says_not_to_return(conn)
        if session.owner is not None or session.holders:
            return
        if session.over:
            self._end(session)
            return
        session.expires_at = trio.current_time() + self._window
        self._kept[session.id] = session
        if len(self._kept) > self._most:
            self._counters.limit("max_sessions")
            self._end(next(iter(self._kept.values())))

    def take_expired(self, now: float, most: int) -> list[Session]:
        """End those whose time is over by ``now``, ``most`` of them at the most; their hooks are the caller's."""
        ended: list[Session] = []
        for session in self._kept.values():
            if session.expires_at > now or len(ended) == most:
                break
            ended.append(session)
        for session in ended:
            self._forget(session)
        return ended

    def _end(self, session: Session) -> None:
        self._forget(session)
        if session.began:
            self.due.append(session)

    def _forget(self, session: Session) -> None:
        del self._all[session.id]
        self._kept.pop(session.id, None)
        for digest in session.digests:
            del self._of_digest[digest]
        for ident in session.known_by:
            del self._of_connection[ident]
        if session.began:
            self._counters.sessions_expired += 1


def _digest(token: str) -> bytes:
    # Looked up by its hash, a token that is nearly right takes as long as any other wrong one.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _says_not_to_return(conn: Connection) -> bool:
    """Whether a connection was closed for good: by the client that is done, or by a server that does not want it."""
    close = conn.closed
    assert close is not None
    if close.by == "server" and (close.code == 1008 or 4500 <= close.code < 5000):
        return True
    return close.code == 1000
