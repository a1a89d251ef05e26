"""Deterministic simulation."""
from ._run import Outcome as Outcome
from ._run import simulate as simulate
