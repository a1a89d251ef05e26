"""Which transport serves where a test names none: the library's default, or that of ``pytest --transport=NAME``.

The library has no such switch. Its default stands in the signatures below, and only there.
"""

from __future__ import annotations

import os
from inspect import unwrap
from pathlib import Path

from trio_rooms import Manager, serve_rooms
from trio_rooms.testing import serve_in_memory

#: Read by tests/customize/sitecustomize.py in the programs that tests start, and by nothing else.
VARIABLE = "TRIO_ROOMS_TESTS_TRANSPORT"


def set_default(name: str) -> None:
    """Make ``name`` the default in this process."""
    for function in (Manager.serve, serve_rooms, serve_in_memory):
        defaults = unwrap(function).__kwdefaults__
        assert "transport" in defaults, function
        defaults["transport"] = name


def set_default_of_programs(name: str) -> None:
    """Make ``name`` the default in every Python that this process starts from now on."""
    paths = [str(Path(__file__).parent / "customize"), str(Path(__file__).parent)]
    if inherited := os.environ.get("PYTHONPATH"):
        paths.append(inherited)
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ[VARIABLE] = name
