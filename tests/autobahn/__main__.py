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

import attrs
import trio
import trustme
from echo import Variant, bytewise, plain, serve_echo, sipping
from gate import cases_of, problems, result, summary


@attrs.frozen
class Selection:
    """Some of the cases: the options by which kosoku is given them, and how many there are."""

    include: list[str]
    count: int
    exclude: list[str] = attrs.field(factory=list)

    @property
    def options(self) -> list[str]:
        return [
            *(word for case in self.include for word in ("-i", case)),
            *(w for c in self.exclude for w in ("-x", c)),
        ]


_MOST: Final = [f"{n}.*" for n in (1, 2, 3, 4, 5, 6, 7, 10)]
# Messages of 64 KiB: byte by byte they may take longer than kosoku waits, where the machine does other things, too.
_LONG: Final = ["1.1.6", "1.1.7", "1.1.8", "1.2.6", "1.2.7", "1.2.8", "10.1.1"]

ALL: Final = Selection([*_MOST, "9.*"], 301)
QUICK: Final = Selection(_MOST, 247)  # without limits and performance, whose messages have up to 16 MiB
SHORT: Final = Selection(_MOST, 240, exclude=_LONG)


def select(name: str, *, quick: bool) -> Selection:
    """The cases for a variant. Byte by byte those with 16 MiB would take hours, and show what shorter ones show."""
    if name == "bytewise":
        return SHORT if quick else QUICK
    return QUICK if quick else ALL


RESULTS: Final = Path(__file__).with_name("results.json")

# For kosoku, which has its own bound for each case.
_PATIENCE = 600.0


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
    "plain": lambda: Variant(plain),
    "tls": tls,
    "bytewise": lambda: Variant(bytewise),
    "sipping": lambda: Variant(sipping),
}


async def run(name: str, cases: Selection, *, report: Path) -> tuple[list[str], dict[str, object]]:
    """Run cases against one variant, say how it went, and return what is wrong and what is to be written down."""
    began = trio.current_time()
    async with serve_echo(VARIANTS[name]()) as address:
        kosoku = Path(sysconfig.get_path("scripts")) / "kosoku"
        command = [str(kosoku), "-m", "fuzzingclient", *cases.options, "-p", "2", "-o", str(report), address]
        with trio.fail_after(_PATIENCE):
            # Its status tells less than its report, which is new: the folder was empty.
            await trio.run_process(command, check=False, capture_stdout=True)
    found = cases_of(json.loads((report / "index.json").read_text()))
    print(f"{name}: {summary(found)}; {trio.current_time() - began:.0f} s")
    return problems(found, at_least=cases.count), result(found)


def record(results: dict[str, object]) -> None:
    """Write down what docs/conformance.md is checked against."""
    versions = {name: version(name) for name in ("kosoku", "trio-rooms", "trio", "wsproto")}
    told = {"versions": {"python": platform.python_version(), **versions}, "variants": results}
    RESULTS.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Parse the command line and run what it asks for."""
    parser = argparse.ArgumentParser(prog="python tests/autobahn", description=__doc__)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"of {', '.join(VARIANTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="without what takes long")
    parser.add_argument("--record", action="store_true", help=f"write the results to {RESULTS.name}")
    options = parser.parse_args()
    if unknown := set(options.variants) - set(VARIANTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    failed = False
    results: dict[str, object] = {}
    for name in options.variants or VARIANTS:
        with TemporaryDirectory() as folder:
            cases = select(name, quick=options.quick)
            found, results[name] = trio.run(partial(run, name, cases, report=Path(folder)))
        for problem in found:
            failed = True
            print(f"  {problem}")
    if options.record and not failed:
        record(results)
    sys.exit(failed)


if __name__ == "__main__":
    main()
