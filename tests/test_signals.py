"""Signals are raised in this process, each one only when the one before has had its effect."""

from __future__ import annotations

import signal

import attrs
import pytest
import trio
import trio.testing

from trio_rooms._signals import run_until_signalled

# raise_signal only asks Python to run the handler, and the handler only asks trio to: not on a virtual clock, which
# would jump to the deadline in between.
DEADLINE = 10


@attrs.define(eq=False)
class FakeServer:
    """Serves until a drain was begun and allowed to end; writes down what happens to it."""

    log: list[str] = attrs.field(factory=list)
    shutdown_begun: trio.Event = attrs.field(factory=trio.Event)
    may_return: trio.Event = attrs.field(factory=trio.Event)

    async def serve(self) -> None:
        try:
            await self.shutdown_begun.wait()
            await self.may_return.wait()
            self.log.append("drained")
        except trio.Cancelled:
            self.log.append("cancelled")
            raise

    def begin_shutdown(self) -> None:
        self.log.append("begin_shutdown")
        self.shutdown_begun.set()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
async def test_first_signal_drains(signum: signal.Signals) -> None:
    """D4: the first SIGINT or SIGTERM begins the shutdown, and the end of serve is the end."""
    server = FakeServer()
    before = signal.getsignal(signum)
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_until_signalled, server.serve, server.begin_shutdown)
            await trio.testing.wait_all_tasks_blocked()
            assert server.log == []
            signal.raise_signal(signum)
            await server.shutdown_begun.wait()
            server.may_return.set()
    assert server.log == ["begin_shutdown", "drained"]
    assert signal.getsignal(signum) is before


async def test_no_signal() -> None:
    """Without a signal it ends when serve ends, and nothing is begun."""
    server = FakeServer()
    server.shutdown_begun.set()
    server.may_return.set()
    with trio.fail_after(DEADLINE):
        await run_until_signalled(server.serve, server.begin_shutdown)
    assert server.log == ["drained"]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
async def test_terms_change_nothing(first: signal.Signals) -> None:
    """D4: a further SIGTERM, and one SIGINT after SIGTERM, leave the drain alone."""
    server = FakeServer()
    further = [signal.SIGTERM, signal.SIGTERM] if first == signal.SIGINT else [signal.SIGTERM, signal.SIGINT]
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_until_signalled, server.serve, server.begin_shutdown)
            await trio.testing.wait_all_tasks_blocked()
            signal.raise_signal(first)
            await server.shutdown_begun.wait()
            for signum in further:
                signal.raise_signal(signum)
                await _signals_are_handled()
            assert server.log == ["begin_shutdown"]
            server.may_return.set()
    assert server.log == ["begin_shutdown", "drained"]


async def test_second_interrupt_cancels() -> None:
    """D4: a second SIGINT cancels serve at once; the cancellation goes no further."""
    server = FakeServer()
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_until_signalled, server.serve, server.begin_shutdown)
            await trio.testing.wait_all_tasks_blocked()
            signal.raise_signal(signal.SIGINT)
            await server.shutdown_begun.wait()
            signal.raise_signal(signal.SIGINT)
    assert server.log == ["begin_shutdown", "cancelled"]


async def test_third_interrupt_while_cleaning_up() -> None:
    """A signal during the cleanup of a cancelled serve is taken too; it does not come back as KeyboardInterrupt."""
    server = FakeServer()
    cleaning, may_end = trio.Event(), trio.Event()

    async def serve() -> None:
        try:
            await server.serve()
        finally:
            cleaning.set()
            with trio.move_on_after(DEADLINE, shield=True):
                await may_end.wait()

    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_until_signalled, serve, server.begin_shutdown)
            await trio.testing.wait_all_tasks_blocked()
            signal.raise_signal(signal.SIGINT)
            await server.shutdown_begun.wait()
            signal.raise_signal(signal.SIGINT)
            await cleaning.wait()
            signal.raise_signal(signal.SIGINT)
            await _signals_are_handled()
            may_end.set()
    assert server.log == ["begin_shutdown", "cancelled"]


async def test_error_of_serve() -> None:
    """What serve raises comes out, in a group, and ends the watching."""

    async def serve() -> None:
        await trio.lowlevel.checkpoint()
        raise OSError("port in use")

    before = signal.getsignal(signal.SIGTERM)
    with trio.fail_after(DEADLINE), pytest.RaisesGroup(pytest.RaisesExc(OSError, match="port in use")):
        await run_until_signalled(serve, lambda: None)
    assert signal.getsignal(signal.SIGTERM) is before


async def test_error_of_begin_shutdown() -> None:
    """A begin_shutdown that raises ends serve instead of leaving a server that no signal can stop."""
    server = FakeServer()

    def begin_shutdown() -> None:
        raise RuntimeError("no")

    with trio.fail_after(DEADLINE), pytest.RaisesGroup(pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="no"))):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_until_signalled, server.serve, begin_shutdown)
            await trio.testing.wait_all_tasks_blocked()
            signal.raise_signal(signal.SIGTERM)
    assert server.log == ["cancelled"]


async def _signals_are_handled() -> None:
    """Return when every signal raised so far has gone all its way: handler, trio's queue, the watching task."""
    queued = trio.Event()
    trio.lowlevel.current_trio_token().run_sync_soon(queued.set)
    await queued.wait()
    await trio.testing.wait_all_tasks_blocked()
