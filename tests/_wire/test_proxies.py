"""Whose address a request has, with and without proxies that are trusted."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_rooms import Config, HandshakeRequest, Headers
from trio_rooms._wire.proxies import Proxies, parse_address

TRUSTED = ("10.0.0.0/8", "192.0.2.1", "2001:db8:1::/48")
PEER = "10.0.0.1"


def seen(
    *forwarded: str, peer: str | None = PEER, unix: bool = False, trusted: tuple[str, ...] = TRUSTED
) -> tuple[str | None, int | None]:
    """Address and port of the client, for lines of ``X-Forwarded-For``."""
    request = HandshakeRequest(
        method="GET",
        target="/",
        headers=Headers([(b"X-Forwarded-For", line.encode("latin-1")) for line in forwarded]),
        remote=peer,
        remote_port=None if peer is None else 4711,
    )
    found = Proxies(Config(trusted_proxies=trusted).trusted_proxies).see_through(request, unix=unix)
    assert found.headers is request.headers
    return found.remote, found.remote_port


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ("203.0.113.7", ("203.0.113.7", None)),
        ("6.6.6.6, 203.0.113.7", ("203.0.113.7", None)),
        ("6.6.6.6, 203.0.113.7, 10.9.9.9", ("203.0.113.7", None)),
        ("6.6.6.6,203.0.113.7,192.0.2.1,10.9.9.9", ("203.0.113.7", None)),
        ("10.0.0.3, 10.0.0.2", ("10.0.0.3", None)),
        ("203.0.113.7:1234", ("203.0.113.7", 1234)),
        ("2001:db8:2::7", ("2001:db8:2::7", None)),
        ("[2001:db8:2::7]", ("2001:db8:2::7", None)),
        ("[2001:db8:2::7]:443", ("2001:db8:2::7", 443)),
        ("6.6.6.6, 2001:db8:1::5", ("6.6.6.6", None)),
        ("::ffff:203.0.113.7", ("203.0.113.7", None)),
        ("6.6.6.6, ::ffff:10.0.0.5", ("6.6.6.6", None)),
        ("2001:DB8:2:0:0::7", ("2001:db8:2::7", None)),
        ("\t 203.0.113.7 \t", ("203.0.113.7", None)),
    ],
)
def test_the_first_untrusted_from_the_right(forwarded: str, expected: tuple[str, int | None]) -> None:
    """A2: the client is the right-most address that is no proxy of ours, whatever stands to its left."""
    assert seen(forwarded) == expected


def test_several_lines_are_one_list() -> None:
    """A2: a header that was sent several times is read as one list in its order."""
    assert seen("6.6.6.6", "203.0.113.7", "10.0.0.2") == ("203.0.113.7", None)


@pytest.mark.parametrize(
    "garbage",
    [
        "unknown",
        "_hidden",
        "",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.256",
        "01.2.3.4",
        "1.2.3.4:",
        "1.2.3.4:65536",
        "1.2.3.4:\xb2",
        "1.2.3.4:-1",
        "[::1",
        "::1]",
        "[1.2.3.4]x",
        "[::1]:x",
        "::1%eth0",
        "fe80::1%<script>",
        "for=1.2.3.4",
        '"1.2.3.4"',
        "1.2.3.4 5.6.7.8",
        "\xff\xfe",
        "0x7f.1",
        "1" * 8000,
        ":" * 8000,
        "localhost",
    ],
)
def test_garbage_ends_the_walk(garbage: str) -> None:
    """A2: behind what is no address the last good hop counts, and never what stands to the left of it."""
    assert seen(f"6.6.6.6, {garbage}") == (PEER, 4711)
    assert seen(f"6.6.6.6, {garbage}, 10.9.9.9") == ("10.9.9.9", None)
    assert seen(garbage) == (PEER, 4711)


def test_of_a_long_list_the_last_hundred_count() -> None:
    """A2: of more than 100 entries those on the left are not looked at, all proxies of ours or not."""
    assert seen(", ".join(["6.6.6.6", *["10.0.0.2"] * 99])) == ("6.6.6.6", None)
    assert seen(", ".join(["6.6.6.6", "10.0.0.3", *["10.0.0.2"] * 99])) == ("10.0.0.3", None)
    assert seen(", ".join(["6.6.6.6"] * 5000 + ["203.0.113.7"])) == ("203.0.113.7", None)


@pytest.mark.parametrize("peer", ["203.0.113.9", "11.0.0.1", "2001:db8:2::1", "::1", "garbage"])
def test_a_peer_that_is_no_proxy(peer: str) -> None:
    """A2: what a peer says that is not trusted is not believed."""
    assert seen("6.6.6.6", peer=peer) == (peer, 4711)


@pytest.mark.parametrize("peer", ["10.0.0.1", "::ffff:10.0.0.1", "192.0.2.1", "2001:db8:1::1", "2001:db8:1::1%eth0"])
def test_peers_that_are_proxies(peer: str) -> None:
    """A2: a proxy is known by its address in any of its forms."""
    assert seen("6.6.6.6", peer=peer) == ("6.6.6.6", None)
    assert seen(peer=peer) == (peer, 4711)


def test_unix() -> None:
    """A2: who connects to a Unix socket is trusted where "unix" says so; who has no address otherwise is not."""
    assert seen("6.6.6.6", peer=None, unix=True, trusted=("unix",)) == ("6.6.6.6", None)
    assert seen("6.6.6.6", peer=None, unix=True, trusted=("10.0.0.0/8",)) == (None, None)
    assert seen("6.6.6.6", peer=None, unix=False, trusted=("unix",)) == (None, None)
    assert seen("unknown", peer=None, unix=True, trusted=("unix",)) == (None, None)
    assert seen("6.6.6.6", peer="10.0.0.1", trusted=("unix",)) == ("10.0.0.1", 4711)


def test_other_headers_are_not_read() -> None:
    """A2: ``Forwarded``, ``X-Real-IP`` and the like are left alone."""
    headers = [(b"Forwarded", b"for=6.6.6.6"), (b"X-Real-IP", b"6.6.6.6"), (b"CF-Connecting-IP", b"6.6.6.6")]
    request = HandshakeRequest(method="GET", target="/", headers=Headers(headers), remote=PEER)
    assert Proxies(Config(trusted_proxies=TRUSTED).trusted_proxies).see_through(request).remote == PEER


@given(st.text(st.characters(codec="latin-1", exclude_characters="\n\r\0"), max_size=200))
def test_whatever_stands_to_the_left(text: str) -> None:
    """A2: nothing that a client sends changes the address that our proxy has seen."""
    assert seen(f"{text}, 203.0.113.7") == ("203.0.113.7", None)
    address, _ = seen(text)
    assert address is not None
    assert parse_address(address) is not None


@pytest.mark.parametrize(
    "wrong",
    [("10.0.0.1/8",), ("proxy.example.com",), ("*",), ("",), "10.0.0.0/8", ("Unix",), (None,), ("10.0.0.0/33",)],
)
def test_wrong_settings(wrong: object) -> None:
    """A proxy that is no address, network or "unix" is refused when the Config is made."""
    with pytest.raises(ValueError):
        Config(trusted_proxies=wrong)  # type: ignore[arg-type]


def test_settings() -> None:
    """Addresses and networks may be texts or objects; what is kept are networks."""
    network = ipaddress.ip_network("10.0.0.0/8")
    config = Config(trusted_proxies=[network, ipaddress.ip_address("::1"), "192.0.2.7", "unix"])
    expected = (network, ipaddress.ip_network("::1/128"), ipaddress.ip_network("192.0.2.7/32"), "unix")
    assert config.trusted_proxies == expected
    assert Config().trusted_proxies == ()
