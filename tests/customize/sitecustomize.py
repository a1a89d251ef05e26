"""Imported by Python at its start where a test run put this folder on the path; see tests/transport_default.py."""

from __future__ import annotations

import os

import transport_default

transport_default.set_default(os.environ[transport_default.VARIABLE])
