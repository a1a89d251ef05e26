"""Measuring this library beside others: ``python -m benchmarks --help``.

A *scenario* is a list of steps for the load client (``load.c``), a *subject* a server it is run against: this
library's (``server.py``), a C server that does the least that can be done (``floor.c``), and those of ``peers``.
Every round runs every scenario against every subject, one after the other, so that what changes on the machine
changes for all; only ratios taken within a round are compared. What comes out is one file of JSON in ``results``,
from which the tables and plots of docs/performance.md are made.
"""
