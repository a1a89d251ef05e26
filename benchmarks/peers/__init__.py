"""The servers of others that the benchmark runs beside this library; each is a script in this folder.

They are written as a good engineer among their users would write them, with each library's own broadcast where it
has one, and take part with their defaults but for what would disturb a measurement: no compression, no pings, a
large backlog. Python's garbage collector is left as Python sets it. All Python peers decode and encode by msgspec,
so that what differs is the server.

``plain`` protocol, text frames only::

    > {"action":"subscribe","data":{"room_id":"R"},"id":1}           < {"id":1,"data":{"room":"R"}}
    > {"action":"publish","data":{"room_id":"R","payload":"..."}}    < {"payload":"..."}  to every member of R
    > {"action":"echo","data":"...","id":7}                          < {"id":7,"data":"..."}

A publisher that is a member gets its own publications, and a connection that ends leaves its rooms.
"""

from __future__ import annotations

from ._peer import Peer

__all__ = ["PEERS", "Peer"]

_MSGSPEC = "msgspec==0.22.0"
_TRIO = "trio==0.35.0"
_UVLOOP = "uvloop==0.23.0"
_WEBSOCKETS = "websockets==17.4"
_UVICORN = ("uvicorn==0.54.0", "httptools==0.9.0", _UVLOOP, _WEBSOCKETS)
_PICOWS = ("picows==2.3.1", "aiofastnet==1.2.0")


def _script(name: str, *arguments: str) -> tuple[str, ...]:
    return ("{python}", f"{{dir}}/{name}.py", *arguments)


PEERS: tuple[Peer, ...] = (
    Peer(
        name="trio-websocket, loop",
        command=_script("trio_websocket_loop"),
        requirements=(_MSGSPEC, _TRIO, "trio-websocket==0.12.2", "wsproto==1.3.2"),
        packages=("trio", "trio-websocket", "wsproto"),
        note="The naive trio server: await send_message over the members.",
    ),
    Peer(
        name="trio-websocket, channel + writer",
        command=_script("trio_websocket_queue"),
        requirements=(_MSGSPEC, _TRIO, "trio-websocket==0.12.2", "wsproto==1.3.2"),
        packages=("trio", "trio-websocket", "wsproto"),
        note="What a trio user writes to keep members apart: a bounded channel and a writer task per connection.",
    ),
    Peer(
        name="websockets, asyncio",
        command=_script("websockets_asyncio", "asyncio"),
        requirements=(_MSGSPEC, _WEBSOCKETS),
        packages=("websockets",),
        note="Its broadcast(), which writes to every transport without waiting.",
    ),
    Peer(
        name="websockets, uvloop",
        command=_script("websockets_asyncio", "uvloop"),
        requirements=(_MSGSPEC, _WEBSOCKETS, _UVLOOP),
        packages=("websockets", "uvloop"),
        note="The same on uvloop.",
    ),
    Peer(
        name="websockets, trio",
        command=_script("websockets_trio", "broadcast"),
        requirements=(_MSGSPEC, _WEBSOCKETS, _TRIO),
        packages=("websockets", "trio"),
        note="Its broadcast() for trio, which starts a task per member and waits for all.",
    ),
    Peer(
        name="websockets, trio, loop",
        command=_script("websockets_trio", "loop"),
        requirements=(_MSGSPEC, _WEBSOCKETS, _TRIO),
        packages=("websockets", "trio"),
        note="await send over the members instead of its broadcast().",
    ),
    Peer(
        name="picows",
        command=_script("picows_core"),
        requirements=(_MSGSPEC, *_PICOWS, _UVLOOP),
        packages=("picows", "aiofastnet", "uvloop"),
        note="Cython, on uvloop; callbacks instead of tasks, messages of one frame only.",
    ),
    Peer(
        name="picows, websockets API",
        command=_script("picows_websockets"),
        requirements=(_MSGSPEC, *_PICOWS, _UVLOOP),
        packages=("picows", "aiofastnet", "uvloop"),
        note="picows under the API of websockets, with its broadcast(); on uvloop.",
    ),
    Peer(
        name="socketify",
        command=_script("socketify_topics", "run"),
        requirements=(_MSGSPEC, "socketify==0.0.31"),
        packages=("socketify",),
        note="uWebSockets (C++) with handlers in Python; its topics. Its loop polls, its backlog is 512.",
    ),
    Peer(
        name="socketify, native loop",
        command=_script("socketify_topics", "native"),
        requirements=(_MSGSPEC, "socketify==0.0.31"),
        packages=("socketify",),
        note="The same without its asyncio loop, which handlers that do not await can do without: it sleeps when idle.",
    ),
    Peer(
        name="aiohttp, uvloop",
        command=_script("aiohttp_server"),
        requirements=(_MSGSPEC, "aiohttp==3.14.5", _UVLOOP),
        packages=("aiohttp", "uvloop"),
        note="A loop of send_frame with bytes encoded once.",
    ),
    Peer(
        name="Starlette, uvicorn",
        command=_script("starlette_uvicorn"),
        requirements=(_MSGSPEC, "starlette==1.10.0", *_UVICORN),
        packages=("starlette", "uvicorn", "uvloop", "httptools", "websockets"),
        note="A loop of send_text; uvloop, httptools, uvicorn's default WebSocket implementation (websockets).",
    ),
    Peer(
        name="python-socketio, uvicorn",
        command=_script("socketio_uvicorn"),
        requirements=(_MSGSPEC, "python-socketio==5.18.1", "python-engineio==4.15.1", *_UVICORN),
        packages=("python-socketio", "python-engineio", "uvicorn", "uvloop", "httptools", "websockets"),
        protocol="socketio",
        note="Its own protocol, rooms and acknowledgements, over WebSocket only; see socketio_uvicorn.py.",
    ),
    Peer(
        name="Node ws",
        command=("node", "{dir}/ws_server.cjs"),
        npm=("ws@8.23.0",),
        packages=("ws",),
        note="A loop of send with bytes encoded once; without its optional native add-ons.",
    ),
)
