"""Brokers carry publications: within one process, or between the processes that share one."""

from .base import Broker as Broker
from .base import Confirmation as Confirmation
from .base import Deliver as Deliver
from .base import HistoryItem as HistoryItem
from .base import Keep as Keep
from .base import Position as Position
from .base import Slice as Slice
from .base import Submission as Submission
from .memory import MemoryBroker as MemoryBroker
