"""What a connection tells of its session, and what it keeps for the next one."""

from __future__ import annotations

from ._sessions import Session


class Restorable:
    """The part of :class:`Connection` that is about its session."""

    __slots__ = ()

    _session: Session | None

    @property
    def session_id(self) -> str | None:
        """The id of its session: the same for each connection that restores it, and never used for another.

        None where there is no session: ``config.session_window`` is not set, or the client speaks plain.
        """
        return None if self._session is None else self._session.id

    def keep(self, *keys: str) -> None:
        """Mark keys of ``metadata`` whose values a connection is to have that restores this session.

        It gets the values that there are when ``on_disconnect`` has run, the same objects, and the marks. Does nothing
        where there is no session.
        """
        if self._session is not None:
            self._session.marked.update(dict.fromkeys(keys))
