"""Who a connection is; decided before the upgrade and fixed from then on."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, final

import attrs


def _read_only(claims: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(claims))


@final
@attrs.frozen(kw_only=True)
class Identity:
    """What ``authenticate`` returns. ``Identity()`` is anonymous, and what every client is without one.

    It belongs to one connection and cannot be changed; only objects inside ``claims`` are as mutable as you made
    them.
    """

    user: str | None = None
    """The user's name or id: what ``send_to_user`` addresses. One user may have many connections. None: anonymous."""

    claims: Mapping[str, Any] = attrs.field(factory=dict, converter=_read_only, hash=False, repr=False)
    """Whatever else is known of the user; a read-only copy of the mapping that was given."""

    expires_at: float | None = None
    """Unix time in seconds at which the credentials expire; None: they do not. In this version it is data for
    the program only: nothing ends a connection when the time has come."""
