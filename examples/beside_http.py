"""Beside another service in one nursery, shut down in order: the Go package's ``BeforeShutdown`` hook.

``python examples/beside_http.py --port 8080`` serves rooms, and HTTP on a port of its own, which it prints:

    | http://127.0.0.1:…

A request over the WebSocket waits for somebody to say yes over HTTP:

    > {"action": "ask", "data": "may I?", "id": "a"}
    < {"number": "1", "pending": "may I?"}

    curl -X POST http://127.0.0.1:.../approve/1

    < {"id": "a", "data": "approved"}

``GET /health`` answers ``{"status": "serving", "connections": 1}``. After SIGTERM or Ctrl-C the status is "draining",
and HTTP goes on until the rooms are over: the requests that are being handled still need it. So:

    | draining
    | rooms are over
    | http is over
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
from functools import partial

import h11
import trio

from trio_rooms import Connection, Manager, Server

manager = Manager()
numbers = itertools.count(1)
pending: dict[str, trio.Event] = {}


@manager.on("ask")
async def ask(conn: Connection, what: str) -> str:
    """In flight until it is approved, its connection ends, or the shutdown's deadline has come."""
    number = str(next(numbers))
    approved = pending[number] = trio.Event()
    try:
        await conn.send({"number": number, "pending": what})
        await approved.wait()
    finally:
        del pending[number]
    return "approved"


def answer(server: Server, method: str, path: str) -> tuple[int, object]:
    """What the other service does: status and body."""
    if (method, path) == ("GET", "/health"):
        status = "draining" if server.draining else "serving"
        return 200, {"status": status, "connections": server.statistics().connections}
    number = path.removeprefix("/approve/")
    if method == "POST" and number in pending:
        pending[number].set()
        return 200, {"approved": number}
    return 404, None


async def serve_http(server: Server, stream: trio.SocketStream) -> None:
    """One request a connection, within ten seconds. Stands for the HTTP server of your choice."""
    http = h11.Connection(h11.SERVER)
    with trio.move_on_after(10):
        async with stream:
            try:
                while not isinstance(event := http.next_event(), h11.Request):
                    if event is not h11.NEED_DATA:
                        return
                    http.receive_data(await stream.receive_some())
                status, body = answer(server, event.method.decode(), event.target.decode())
                head = h11.Response(status_code=status, headers=[("Connection", "close")])
                for part in (head, h11.Data(data=json.dumps(body).encode()), h11.EndOfMessage()):
                    await stream.send_all(http.send(part) or b"")
            except (h11.ProtocolError, trio.BrokenResourceError):
                return


async def main(port: int) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(manager.serve, port=port))
        listen = partial(trio.serve_tcp, partial(serve_http, server), 0, host="127.0.0.1")
        async with trio.open_nursery() as http:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                (listener,) = await http.start(listen)
                print(server.url, f"http://127.0.0.1:{listener.socket.getsockname()[1]}", sep="\n", flush=True)
                await anext(signals)  # from here on the next one ends the program at once
            print("draining", flush=True)
            await before_shutdown()
            http.cancel_scope.cancel()
        print("http is over", flush=True)


async def before_shutdown() -> None:
    """What a hook before the shutdown of the rest has to do."""
    await manager.shutdown()  # begins it, and waits until nothing of the rooms is left
    print("rooms are over", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    trio.run(main, parser.parse_args().port)
