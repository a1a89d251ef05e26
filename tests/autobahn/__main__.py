"""Autobahn's cases against the native transport; ends with status 1 if the gate does not let a report pass.

``nox -s autobahn`` runs all; ``nox -s autobahn -- --quick plain`` what takes five seconds; ``--record`` writes down
what docs/conformance.md tells. The groups on
compression (12 and 13) are left out, since none is negotiated. The cases are driven by kosoku, which comes from PyPI.
"""

from __future__ import annotations

import argparse
import json
import platform
import ssl
import sys
import sysconfig
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import trio
import trustme
from echo import Variant, bytewise, serve_echo, sipping
from gate import cases_of, problems, result, summary

# Groups 1 to 7 and 10, without those on limits and performance, whose messages have up to 16 MiB.
_QUICK: Final = [f"{n}.*" for n in (1, 2, 3, 4, 5, 6, 7, 10)]
_QUICK_CASES: Final = 247
_ALL: Final = [*_QUICK, "9.*"]
_ALL_CASES: Final = 301

RESULTS: Final = Path(__file__).with_name("results.json")

# For kosoku, which has its own bound for each case.
_PATIENCE = 600.0


def plain() -> Variant:
    """A plain socket."""
    return Variant(lambda stream: stream)


def tls() -> Variant:
    """TLS with a certificate made for the occasion. kosoku speaks none, so a relay does it in its place."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return Variant(
        lambda stream: trio.SSLStream(stream, server, server_side=True),
        lambda stream: trio.SSLStream(stream, client, server_hostname="localhost"),
    )


VARIANTS: Final = {
    "plain": plain,
    "tls": tls,
    "bytewise": lambda: Variant(bytewise),
    "sipping": lambda: Variant(sipping),
}


async def run(name: str, *, quick: bool, report: Path) -> tuple[list[str], dict[str, object]]:
    """Run the cases against one variant, say how it went, and return what is wrong and what is to be written down."""
    began = trio.current_time()
    async with serve_echo(VARIANTS[name]()) as address:
        kosoku = Path(sysconfig.get_path("scripts")) / "kosoku"
        include = [option for case in (_QUICK if quick else _ALL) for option in ("-i", case)]
        command = [str(kosoku), "-m", "fuzzingclient", *include, "-p", "2", "-o", str(report), address]
        with trio.fail_after(_PATIENCE):
            # Its status tells less than its report, which is new: the folder was empty.
            await trio.run_process(command, check=False, capture_stdout=True)
    cases = cases_of(json.loads((report / "index.json").read_text()))
    print(f"{name}: {summary(cases)}; {trio.current_time() - began:.0f} s")
    return problems(cases, at_least=_QUICK_CASES if quick else _ALL_CASES), result(cases)


def record(results: dict[str, object]) -> None:
    """Write down what docs/conformance.md is checked against."""
    versions = {name: version(name) for name in ("kosoku", "trio-rooms", "trio", "wsproto")}
    told = {"versions": {"python": platform.python_version(), **versions}, "variants": results}
    RESULTS.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Parse the command line and run what it asks for."""
    parser = argparse.ArgumentParser(prog="python tests/autobahn", description=__doc__)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"of {', '.join(VARIANTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="without group 9")
    parser.add_argument("--record", action="store_true", help=f"write the results to {RESULTS.name}")
    options = parser.parse_args()
    if unknown := set(options.variants) - set(VARIANTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    failed = False
    results: dict[str, object] = {}
    for name in options.variants or VARIANTS:
        # 16 MiB byte by byte would take hours and show nothing that shorter messages do not.
        quick = options.quick or name == "bytewise"
        with TemporaryDirectory() as folder:
            found, results[name] = trio.run(partial(run, name, quick=quick, report=Path(folder)))
        for problem in found:
            failed = True
            print(f"  {problem}")
    if options.record:
        record(results)
    sys.exit(failed)


if __name__ == "__main__":
    main()
