"""A chat that forgets nothing: ``python examples/chat --port 8080``, and open what it prints in two windows."""

from __future__ import annotations

import argparse

from chat import make_manager

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    make_manager().run(
        port=parser.parse_args().port,
        on_listening=lambda server: print(f"http://127.0.0.1:{server.port}/", flush=True),
    )
