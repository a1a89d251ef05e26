"""All that must hold of a run, whatever has happened in it; told from its record alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from ._check_accounts import (
    check_bounds,
    check_end,
    check_fifo,
    check_keys,
    check_posts,
    check_reports,
    check_statistics,
)
from ._check_asks import check_answers
from ._check_delivery import check_membership, check_oracle, check_views
from ._check_ends import check_closes, check_liveness
from ._check_followers import check_followers
from ._check_hooks import check_connections, check_memberships, check_rooms
from ._check_library import check_library
from ._check_plain import check_plain
from ._check_presence import check_online, check_presence
from ._check_requests import check_replies
from ._check_sessions import check_expiry, check_returns
from ._check_streams import check_streams
from ._check_writing import check_politeness, check_until_written, check_written
from ._history import History
from ._record import Record
from ._settings import Settings

#: Each gives a line for whatever is wrong.
CHECKS: Final[tuple[Callable[[History], Iterator[str]], ...]] = (
    check_end,
    check_views,
    check_plain,
    check_streams,
    check_membership,
    check_oracle,
    check_replies,
    check_connections,
    check_memberships,
    check_rooms,
    check_reports,
    check_fifo,
    check_keys,
    check_posts,
    check_statistics,
    check_written,
    check_politeness,
    check_until_written,
    check_answers,
    check_followers,
    check_library,
    check_presence,
    check_online,
    check_expiry,
    check_returns,
    check_bounds,
    check_closes,
    check_liveness,
)


def check(record: Record, settings: Settings) -> Iterator[str]:
    """What is wrong with a run, each line with the name of its check in front."""
    history = History(record, settings)
    for one in CHECKS:
        for problem in one(history):
            yield f"{one.__name__.removeprefix('check_')}: {problem}"
