"""The rooms of a connection as the program sees them."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._room import Room


class JoinedRooms(Mapping[str, "Room"]):
    """A live view, by name. A loop over it goes over the rooms that there were when it began, so what it does to them,
    or to the connection, does not disturb it.
    """  # noqa: D205

    __slots__ = ("_rooms",)

    def __init__(self, rooms: dict[str, Room]) -> None:
        self._rooms = rooms

    def __getitem__(self, name: str) -> Room:
        return self._rooms[name]

    def __contains__(self, name: object) -> bool:
        return name in self._rooms

    def __len__(self) -> int:
        return len(self._rooms)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._rooms))

    def __repr__(self) -> str:
        return repr(self._rooms)

    def get(self, name: str, default: Any = None) -> Any:
        """The room of that name, or ``default``."""
        return self._rooms.get(name, default)

    def values(self) -> ValuesView[Room]:
        """The rooms that there are now."""
        return self._rooms.copy().values()

    def items(self) -> ItemsView[str, Room]:
        """The rooms that there are now, with their names."""
        return self._rooms.copy().items()
