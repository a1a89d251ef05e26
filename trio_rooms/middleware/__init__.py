"""Middleware that comes with the library. Give it to ``Manager(middleware=[...])`` or ``manager.use``."""

from .logger import logger as logger
from .recovery import recovery as recovery
