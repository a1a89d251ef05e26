"""The logger of a connection: the manager's, with fields of the connection in each record."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from typing import Any


class ConnectionLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds fields to each record, beside those of the call and of the adapters below.

    An ordinary LoggerAdapter puts its own fields in the place of all others, so of two on top of each other
    only the lower one's would be seen.
    """

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any], fields: Mapping[str, object]) -> None:
        self._below: list[logging.LoggerAdapter[Any]] = []
        while isinstance(logger, logging.LoggerAdapter):
            self._below.append(logger)
            logger = logger.logger
        super().__init__(logger, fields)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """The message and arguments for the logger at the bottom."""
        fields = {**(self.extra or {}), **(kwargs.pop("extra", None) or {})}
        for adapter in self._below:
            msg, kwargs = adapter.process(msg, kwargs)
            fields = {**(kwargs.pop("extra", None) or {}), **fields}
        kwargs["extra"] = fields
        return msg, kwargs
