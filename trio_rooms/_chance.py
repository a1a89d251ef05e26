"""Where everything random of the library comes from, so that a simulation can put a seed in its place."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class _Source:
    """Of the operating system, but in a simulation."""

    token: Callable[[int], str] = staticmethod(secrets.token_urlsafe)
    generator: Callable[[], random.Random] = staticmethod(random.Random)


_source = _Source()


def token(nbytes: int) -> str:
    """A text that nobody can guess, of so many random bytes."""
    return _source.token(nbytes)


def generator() -> random.Random:
    """A generator for what is spread at random. Not for anything secret."""
    return _source.generator()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the block all of it follows from ``seed``. For simulations: what is made there can be guessed."""
    before = _source.token, _source.generator
    source = random.Random(seed)
    _source.token = lambda nbytes: source.randbytes(nbytes).hex()
    _source.generator = lambda: random.Random(source.randbytes(8))
    try:
        yield
    finally:
        _source.token, _source.generator = before
