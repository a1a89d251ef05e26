"""The command ``trio-rooms``: show the demo, or serve a manager of one's own without writing a ``main``.

Exit status: 0 after a shutdown by signal, 1 when the server could not start (such as a port in use), 2 when the
command line is wrong, 130 when interrupted before there was a server. Logs and errors go to standard error.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import ipaddress
import logging
import os
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import urlsplit

import attrs

import trio_rooms
from trio_rooms import Manager, Server

LOGGER = logging.getLogger("trio_rooms.cli")

DEFAULT_HOST = "127.0.0.1"
STOP = "Press Ctrl-C to stop."


class CommandError(Exception):
    """Told to the user as one line; ``status`` is the exit status."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with ``argv`` (default: that of the process) and return its exit status.

    Raises SystemExit as argparse does, for ``--help``, ``--version`` and a malformed command line. What a user's
    module raises while it is imported, and a failure of a server that had started, come out with their traceback.
    """
    options = make_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        options.command(options)
    except CommandError as exc:
        print(f"trio-rooms: {exc}", file=sys.stderr)
        return exc.status
    except KeyboardInterrupt:
        return 130
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The command line; the chosen subcommand's function is in ``command``."""
    listening = argparse.ArgumentParser(add_help=False)
    listening.add_argument(
        "--host",
        metavar="HOST",
        action="append",
        help=f"name or address to listen on; may be repeated (default: {DEFAULT_HOST})",
    )
    listening.add_argument(
        "--port", type=port_number, default=8080, help="port to listen on; 0 takes a free one (default: %(default)s)"
    )
    listening.add_argument(
        "--certfile", metavar="FILE", help="certificate in PEM, with those that lead to its authority: speak TLS"
    )
    listening.add_argument("--keyfile", metavar="FILE", help="its private key, if that is not in the same file")
    listening.add_argument("--verbose", action="store_true", help="log debugging messages, too")
    listening.add_argument(
        "--no-tune-gc", action="store_false", dest="tune_gc", help="leave Python's cyclic garbage collector as it is"
    )

    parser = argparse.ArgumentParser(prog="trio-rooms", description="WebSocket rooms for trio.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {trio_rooms.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", parents=[listening], help="serve a chat to try out in the browser")
    demo.set_defaults(command=run_demo, unix_path=None)

    serve = commands.add_parser("serve", parents=[listening], help="serve a manager of yours")
    serve.add_argument("spec", metavar="MODULE:NAME", help="a Manager, or a function without arguments that makes one")
    serve.add_argument("--unix-path", metavar="FILE", help="listen on a Unix socket there instead of a host and a port")
    serve.add_argument("--path", type=url_path, default="/ws", help="where to accept upgrades (default: %(default)s)")
    serve.add_argument(
        "--allow-origin",
        metavar="ORIGIN",
        action="append",
        help='origin of pages that may connect, such as https://app.example.com or https://*.example.com, or "any"; '
        "may be repeated (default: the origin that the server itself is reached at)",
    )
    serve.add_argument(
        "--trusted-proxy",
        metavar="NETWORK",
        type=proxy,
        action="append",
        default=[],
        help="address or network of a proxy of yours, such as 10.0.0.0/8, whose X-Forwarded-For is believed, besides "
        'those of the manager\'s Config; or "unix", for whoever connects to the Unix socket; may be repeated',
    )
    serve.set_defaults(command=run_serve)
    return parser


def run_demo(options: argparse.Namespace) -> None:
    """Serve the chat until signalled."""
    from trio_rooms.demo import make_manager

    def announce(server: Server) -> None:
        url = urlsplit(server.url)
        page = f"{'https' if url.scheme == 'wss' else 'http'}://{url.netloc}/"
        print(f"The chat is at {page} - open it in two windows.", STOP, sep="\n", flush=True)

    run(make_manager(), options, path="/ws", allowed_origins="same", announce=announce)


def run_serve(options: argparse.Namespace) -> None:
    """Serve the manager that the command line names until signalled."""

    def announce(server: Server) -> None:
        print(f"Serving {options.spec} at {' '.join(server.urls)}", STOP, sep="\n", flush=True)

    origins = options.allow_origin
    if origins is None:
        origins = "same"
    elif "any" in origins:
        origins = None
    manager = load_manager(options.spec)
    if options.trusted_proxy:
        trusted = (*manager.config.trusted_proxies, *options.trusted_proxy)
        manager.config = attrs.evolve(manager.config, trusted_proxies=trusted)
    run(manager, options, path=options.path, allowed_origins=origins, announce=announce)


def run(
    manager: Manager,
    options: argparse.Namespace,
    *,
    path: str,
    allowed_origins: Sequence[str] | None,
    announce: Callable[[Server], None],
) -> None:
    """Serve until signalled; raises CommandError if it does not come to that for want of a port or the like."""
    listening = False
    failures: list[BaseException] = []
    hosts: list[str] = options.host or [DEFAULT_HOST]
    context = load_context(options.certfile, options.keyfile)

    def on_listening(server: Server) -> None:
        nonlocal listening
        listening = True
        announce(server)

    try:
        manager.run(
            host=hosts[0] if len(hosts) == 1 else hosts,
            port=options.port,
            path=path,
            unix_path=options.unix_path,
            ssl_context=context,
            allowed_origins=allowed_origins,
            on_listening=on_listening,
            tune_gc=options.tune_gc,
        )
    except* (OSError, ValueError) as group:
        if listening:
            raise
        LOGGER.debug("could not start", exc_info=group)
        failures.extend(leaves(group))
    for failure in failures:
        where = options.unix_path or f"{', '.join(hosts)}:{options.port}"
        if isinstance(failure, OSError):
            raise CommandError(f"cannot serve on {where}: {failure.strerror or failure}", status=1)
        raise CommandError(f"cannot serve on {where}: {failure}", status=2)


def load_context(certfile: str | None, keyfile: str | None) -> ssl.SSLContext | None:
    """The context of a server that has this certificate; None without one. Raises CommandError."""
    if certfile is None:
        if keyfile is not None:
            raise CommandError("--keyfile needs --certfile", status=2)
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certfile, keyfile)
    except OSError as exc:  # what is wrong with the certificate is one of them
        raise CommandError(f"cannot load the certificate: {exc.strerror or exc}", status=2) from exc
    return context


def load_manager(spec: str) -> Manager:
    """The manager that ``module:name`` names. Raises CommandError, and whatever the module itself raises.

    Modules are looked for in the current directory first. The name may be dotted; what it stands for is a Manager or
    is called without arguments and returns one.
    """
    module_name, _, name = spec.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *name.split(".")]):
        raise CommandError(f"expected MODULE:NAME, such as chat:manager, not {spec!r}", status=2)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        # One that the module itself lacks is a fault in it, and its traceback says where.
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
            raise
        raise CommandError(f"there is no module {exc.name!r}", status=2) from exc
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as exc:
            raise CommandError(f"there is no {name!r} in module {module_name!r}", status=2) from exc
    if not isinstance(found, Manager):
        found = call_factory(found)
    if not isinstance(found, Manager):
        raise CommandError(f"{spec!r} is neither a Manager nor a function that makes one", status=2)
    return found


def call_factory(found: object) -> object:
    """What ``found`` returns, if it can be called without arguments and is no coroutine function; else itself."""
    if not callable(found) or inspect.iscoroutinefunction(found):
        return found
    try:
        inspect.signature(found).bind()
    except (TypeError, ValueError):
        return found
    return found()


def leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The exceptions of a group and of the groups in it, in order."""
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from leaves(exc)
        else:
            yield exc


def port_number(text: str) -> int:
    """The number of a TCP port, or 0."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"not a port (0 to 65535): {text!r}")
    return int(text)


def proxy(text: str) -> str:
    """An address, a network, or "unix"."""
    try:
        return text if text == "unix" else str(ipaddress.ip_network(text))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"not a network such as 10.0.0.0/8: {exc}") from None


def url_path(text: str) -> str:
    """The path of a URL, without query and fragment."""
    if not text.startswith("/") or set("?#") & set(text):
        raise argparse.ArgumentTypeError(f"not a path such as /ws: {text!r}")
    return text
