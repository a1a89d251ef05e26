"""``python -m trio_rooms``: the same as the command ``trio-rooms``."""

import sys

from .cli import main

sys.exit(main())
