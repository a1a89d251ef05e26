"""Brokers carry publications: within one process, or between the processes that share one."""

from .base import Broker as Broker
from .base import Confirmation as Confirmation
from .base import Deliver as Deliver
from .base import Keep as Keep
from .base import Submission as Submission
from .memory import MemoryBroker as MemoryBroker
from .memory import MemoryBrokerStatistics as MemoryBrokerStatistics
