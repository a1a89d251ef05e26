"""Parts of fakes that several test modules share."""

from __future__ import annotations


class NoSocket:
    """The part of a transport that has no plain socket to write to directly."""

    __slots__ = ()

    @property
    def direct(self) -> None:
        return None

    @property
    def peer_closed(self) -> bool:
        return False

    def keep_rest(self, data: bytes, taken: int) -> None:
        raise AssertionError("there is no socket")

    async def send_rest(self) -> None:
        raise AssertionError("there is no rest")

    def offer_control(self) -> bool:
        raise AssertionError("there is no socket")

    def offer_ping(self) -> bool:
        raise AssertionError("there is no socket")
