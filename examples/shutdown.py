"""Graceful shutdown: begun by hand or by a signal, handlers in flight finish, and a deadline for those that do not.

``python examples/shutdown.py --port 8080 --shutdown-timeout 10``:

    > {"action": "save", "data": 0.5, "id": 1}
    > {"action": "stop", "id": 2}
    < {"id": 2, "data": "stopping"}
    < {"id": 1, "data": "saved"}
    < closed 1012

1. No new connections: the listener is closed, and who has come in time is answered 503.
2. Each connection at its moment (``drain_rate``): no message of it is handled any more, handlers in flight finish,
   their replies are written, and it is closed with 1012, "come back". Clients of the v1 format were told ``$drain``.
3. At ``shutdown_timeout`` what is left is cancelled, such as this, and closed with the same code:

    > {"action": "hang"}

4. ``serve`` returns when nothing is left: no task, no socket, no room.

Then it prints how connections were closed:

    | {'server:1012': 1}

A signal (SIGTERM, Ctrl-C) under ``manager.run`` does the same as "stop"; a second Ctrl-C does not wait. In a program
of yours it is ``manager.begin_shutdown()`` from anywhere, ``await manager.shutdown()`` to wait for it, or the end of a
``serve_rooms`` block.
"""

from __future__ import annotations

import argparse

import trio

from trio_rooms import Config, Connection, Manager, Server


def make_manager(*, shutdown_timeout: float) -> Manager:
    manager = Manager(config=Config(shutdown_timeout=shutdown_timeout))

    @manager.on("save", concurrent=True)
    async def save(conn: Connection, seconds: float) -> str:
        await trio.sleep(seconds)
        return "saved"

    @manager.on("hang", concurrent=True)
    async def hang(conn: Connection) -> None:
        try:
            await trio.sleep_forever()
        finally:
            print("cut off", flush=True)  # clean up here; whatever waits in here needs a shield with a deadline

    @manager.on("stop")
    async def stop(conn: Connection) -> str:
        # Only begins it. In a handler ``await manager.shutdown()`` would do no more: the end waits for this handler.
        manager.begin_shutdown()
        return "stopping"

    return manager


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--shutdown-timeout", type=float, default=10)
    options = parser.parse_args()
    servers: list[Server] = []

    def announce(server: Server) -> None:
        servers.append(server)
        print(server.url, flush=True)

    make_manager(shutdown_timeout=options.shutdown_timeout).run(port=options.port, on_listening=announce)
    for server in servers:
        server.assert_quiescent()  # for tests, as a rule; here it shows that the fourth step is meant
        print(dict(server.statistics().closes), flush=True)
