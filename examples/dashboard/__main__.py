"""A live dashboard of workflow executions: ``python examples/dashboard --port 8080``, and open what it prints."""

from __future__ import annotations

import argparse

from dashboard import make_manager

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--speed", type=float, default=1.0, help="how many times faster nodes do their simulated work")
    options = parser.parse_args()
    make_manager(speed=options.speed).run(
        port=options.port,
        on_listening=lambda server: print(f"http://127.0.0.1:{server.port}/", flush=True),
    )
