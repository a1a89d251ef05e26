"""What the Go package called things of a connection, for those who look for these names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._room import Room


class GoNames:
    """The part of :class:`Connection` that says in other words what it has anyway."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def rooms(self) -> Mapping[str, Room]: ...

        @property
        def metadata(self) -> dict[str, Any]: ...

    def get_subscriptions(self) -> list[str]:
        """The names of its rooms; the Go package's name for :attr:`rooms`."""
        return list(self.rooms)

    def is_subscribed(self, room: str) -> bool:
        """Whether it is in a room; the Go package's name for ``room in conn.rooms``."""
        return room in self.rooms

    def set_metadata(self, key: str, value: Any) -> None:
        """Set a value in :attr:`metadata`."""
        self.metadata[key] = value

    def get_metadata(self, key: str, default: Any = None) -> Any:
        """A value of :attr:`metadata`, or ``default``."""
        return self.metadata.get(key, default)
