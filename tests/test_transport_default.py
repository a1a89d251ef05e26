"""Who serves where nobody names a transport: the library's own, or the one that ``pytest --transport`` names."""

from __future__ import annotations

import trio
from trio.testing import memory_stream_pair

from program import run_program
from trio_rooms import Connection, Manager, serve_rooms
from trio_rooms._wire.native import NativeTransport
from trio_rooms._wire.over_trio_websocket import TrioWebsocketTransport
from trio_rooms.testing import TestClient, open_client, serve_in_memory

CLASSES = {"native": NativeTransport, "trio-websocket": TrioWebsocketTransport}
