"""Rooms over WebSocket for trio.

What is published to a room reaches its members in one order. What cannot be delivered is a choice you made,
counted and visible. When ``serve`` returns, nothing is left.
"""

from ._config import Config as Config
from ._config import Limits as Limits
from ._connection import Connection as Connection
from ._context import current_connection as current_connection
from ._context import current_room as current_room
from ._counters import Statistics as Statistics
from ._errors import ActionError as ActionError
from ._errors import AlreadyServing as AlreadyServing
from ._errors import AskFailed as AskFailed
from ._errors import AskRefused as AskRefused
from ._errors import BadAnswer as BadAnswer
from ._errors import BadMessage as BadMessage
from ._errors import BadRoom as BadRoom
from ._errors import BrokerBusy as BrokerBusy
from ._errors import Busy as Busy
from ._errors import CloseCode as CloseCode
from ._errors import ConnectionGone as ConnectionGone
from ._errors import DeadlineExceeded as DeadlineExceeded
from ._errors import Denied as Denied
from ._errors import DuplicateId as DuplicateId
from ._errors import EncodingError as EncodingError
from ._errors import EntryTooLarge as EntryTooLarge
from ._errors import HookTimeout as HookTimeout
from ._errors import InternalError as InternalError
from ._errors import JoinError as JoinError
from ._errors import MessageTooLarge as MessageTooLarge
from ._errors import NeedsV1 as NeedsV1
from ._errors import NotServing as NotServing
from ._errors import OutboxFull as OutboxFull
from ._errors import Refuse as Refuse
from ._errors import RequestCancelled as RequestCancelled
from ._errors import RoomClosed as RoomClosed
from ._errors import RoomFailed as RoomFailed
from ._errors import RoomFull as RoomFull
from ._errors import RoomNotFound as RoomNotFound
from ._errors import RoomsError as RoomsError
from ._errors import SubscriptionLost as SubscriptionLost
from ._errors import TooManyAsks as TooManyAsks
from ._errors import TooManyRooms as TooManyRooms
from ._errors import UnknownAction as UnknownAction
from ._errors import UnrecoverablePosition as UnrecoverablePosition
from ._errors import UsageError as UsageError
from ._identity import Identity as Identity
from ._joining import Joined as Joined
from ._manager import Manager as Manager
from ._manager import serve_rooms as serve_rooms
from ._messages.envelope import Message as Message
from ._onion import Context as Context
from ._presence_options import PresenceOptions as PresenceOptions
from ._room import Room as Room
from ._room_options import RoomOptions as RoomOptions
from ._rooms.history import HistoryItem as HistoryItem
from ._rooms.history import Position as Position
from ._rooms.history import Slice as Slice
from ._rooms.publication import Publication as Publication
from ._rooms.publication import Report as Report
from ._server import Server as Server
from ._subscription import RoomEvent as RoomEvent
from ._subscription import Subscription as Subscription
from ._wire.headers import Headers as Headers
from ._wire.outbox_statistics import OutboxStatistics as OutboxStatistics
from ._wire.request import HandshakeRequest as HandshakeRequest
from ._wire.transport import Close as Close

__version__ = "0.1.0"
