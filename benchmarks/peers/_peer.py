"""What the benchmark knows of a server that it measures itself against."""

from __future__ import annotations

from typing import Literal

import attrs


@attrs.frozen(kw_only=True)
class Peer:
    """A server that is started as a command.

    Once it listens, on a free port of 127.0.0.1, it prints one line of JSON on standard output:
    ``{"port": 12345, "versions": {...}}``. It is one process and ends on SIGTERM. The scripts import from their own
    folder, so PYTHONSAFEPATH must not be set for them.
    """

    #: Unique; also what the reports call it.
    name: str

    #: The arguments; ``{python}`` stands for the Python that has the requirements, ``{dir}`` for this folder.
    command: tuple[str, ...]

    #: What it is, and what is special about it.
    note: str

    #: For pip, pinned. One environment can hold those of all peers.
    requirements: tuple[str, ...] = ()

    #: For npm, pinned; the process needs NODE_PATH to find them.
    npm: tuple[str, ...] = ()

    #: The packages whose versions it reports, besides Python's or Node's own.
    packages: tuple[str, ...]

    #: ``plain``: JSON at ``/ws``, as in ``_common``. ``socketio``: the frames that ``socketio_uvicorn`` documents.
    protocol: Literal["plain", "socketio"] = "plain"

    def arguments(self, *, python: str, folder: str) -> list[str]:
        """The command with its placeholders filled in."""
        return [part.format(python=python, dir=folder) for part in self.command]
