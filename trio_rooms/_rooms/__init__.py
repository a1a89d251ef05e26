"""Rooms without I/O: who is where, and the synchronous fan-out. A member is something with an outbox."""
