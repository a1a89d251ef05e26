"""Certificates made for the occasion, by an authority that nobody else trusts."""

from __future__ import annotations

import ssl
from functools import cache
from pathlib import Path

import attrs
import trio
import trustme

NAMES = ("localhost", "127.0.0.1", "::1")


@attrs.frozen
class Certificates:
    """The contexts of a server and of a client who trusts it."""

    server: ssl.SSLContext
    client: ssl.SSLContext

    def wrap(self, stream: trio.abc.Stream) -> trio.SSLStream[trio.abc.Stream]:
        """The client's end of TLS over a stream. As with HTTPS, its end needs no last word."""
        return trio.SSLStream(stream, self.client, server_hostname="localhost", https_compatible=True)


@cache
def authority() -> trustme.CA:
    """The authority."""
    return trustme.CA()


@cache
def certificates() -> Certificates:
    """One pair of contexts for all tests."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert(*NAMES).configure_cert(server)
    client = ssl.create_default_context()
    authority().configure_trust(client)
    return Certificates(server, client)


def write_files(folder: Path) -> tuple[Path, Path]:
    """Certificate and key of a server, in files."""
    issued = authority().issue_cert(*NAMES)
    certificate, key = folder / "server.pem", folder / "server.key"
    for part in issued.cert_chain_pems:
        part.write_to_path(certificate, append=True)
    issued.private_key_pem.write_to_path(key)
    return certificate, key
