"""Deterministic simulation: random programs of many clients, broken connections, and a check of all that happened.

``simulate(seed)`` is one run, in which everything follows from the seed. ``python -m trio_rooms.testing.simulate``
runs many, and shows of the first that fails the smallest run that does. See docs/simulation.md.
"""

from ._application import Program as Program
from ._determinism import deterministic as deterministic
from ._plan import Plan as Plan
from ._plan import Step as Step
from ._plan import draw_plan as draw_plan
from ._record import Record as Record
from ._run import Outcome as Outcome
from ._run import run_plan as run_plan
from ._run import simulate as simulate
from ._settings import Settings as Settings
from ._shrink import shrink as shrink
