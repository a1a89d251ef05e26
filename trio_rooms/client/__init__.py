"""A client that comes back: rooms, requests and presence over a connection that may end at any byte.

``async with open_rooms("ws://localhost:8080/ws") as client:`` keeps one connection for the length of the block,
and makes another whenever it is lost. See ``docs/client.md``.
"""

from ._client import RoomsClient as RoomsClient
from ._config import ClientConfig as ClientConfig
from ._errors import ClientEnded as ClientEnded
from ._errors import ClientError as ClientError
from ._errors import NotConfirmed as NotConfirmed
from ._errors import RequestFailed as RequestFailed
from ._errors import RoomEnded as RoomEnded
from ._errors import StreamOverflow as StreamOverflow
from ._open import open_rooms as open_rooms
from ._presence import Presence as Presence
from ._requests import Items as Items
from ._room import ClientRoom as ClientRoom
from ._statistics import ClientStatistics as ClientStatistics
from ._values import Direct as Direct
from ._values import Event as Event
from ._values import Gap as Gap
