"""Compiling the C programs, and the environment that the peers are installed into."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from .peers import Peer

HERE = Path(__file__).parent

#: Where the peers are installed; named as .gitignore knows it.
PEERS_ENVIRONMENT = HERE / ".venv"

PYTHON = PEERS_ENVIRONMENT / "bin" / "python"
NODE_MODULES = PEERS_ENVIRONMENT / "node" / "node_modules"


def compiled(name: str) -> Path:
    """The program made of ``name.c``, compiled by ``cc`` unless that was done before.

    Raises CalledProcessError, and FileNotFoundError where there is no ``cc``.
    """
    source = HERE / f"{name}.c"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trio-rooms-benchmarks"
    program = cache / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        made = cache / f"{program.name}.{os.getpid()}"
        subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", str(made), str(source)], check=True)
        made.replace(program)
    return program


def install(peer: Peer) -> str | None:
    """Install what a peer needs, from its registry; why it could not be, or None."""
    commands: list[list[str]] = []
    if peer.requirements:
        if not PYTHON.exists():
            commands.append([sys.executable, "-m", "venv", str(PEERS_ENVIRONMENT)])
        commands.append([str(PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check", *peer.requirements])
    if peer.npm:
        prefix = str(NODE_MODULES.parent)
        commands.append(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", prefix, *peer.npm])
    for command in commands:
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
        except (OSError, subprocess.TimeoutExpired) as exc:
            return f"{command[0]}: {exc}"
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            return said[-1] if said else f"{command[0]} ended with {done.returncode}"
    return None
