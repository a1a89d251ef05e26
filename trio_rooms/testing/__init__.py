"""Testing servers and handlers without sockets, on memory streams and virtual time.

``async with open_client(manager) as client:`` is a connected client; under the ``autojump_clock`` of
pytest-trio timeouts pass at once. Put such tests inside ``trio.fail_after``: nothing here has a timeout of its own,
and a deadlock under an autojump clock spins for ever.
"""

from ._broker import LaggingBroker as LaggingBroker
from ._client import TestClient as TestClient
from ._faults import FaultyStream as FaultyStream
from ._outcomes import Closed as Closed
from ._outcomes import HandshakeRefused as HandshakeRefused
from ._outcomes import ProtocolViolation as ProtocolViolation
from ._outcomes import ReplyError as ReplyError
from ._raw import Opcode as Opcode
from ._raw import ServerFrame as ServerFrame
from ._raw import client_frame as client_frame
from ._raw import close_payload as close_payload
from ._raw import handshake_bytes as handshake_bytes
from ._raw import parse_server_frames as parse_server_frames
from ._serve import MemoryServer as MemoryServer
from ._serve import open_client as open_client
from ._serve import serve_in_memory as serve_in_memory
