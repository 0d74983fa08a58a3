"""Whose request it is: what a client writes into X-Forwarded-For counts for nothing."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_ads.ads.addresses import admission, client_address

PROXIES = ("10.0.0.0/8", "192.168.1.7", "fd00::/8")
find = client_address(PROXIES)


@pytest.mark.parametrize("forwarded", [None, b"", b"1.1.1.1", b"10.0.0.1", b"1.1.1.1, 10.0.0.1"])
def test_a_peer_that_is_no_proxy_is_the_client(forwarded: bytes | None) -> None:
    assert find("203.0.113.9", forwarded) == "203.0.113.9"
    assert client_address(())("10.0.0.1", forwarded) == "10.0.0.1"


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (None, "10.0.0.1"),
        (b"", "10.0.0.1"),
        (b"1.1.1.1", "1.1.1.1"),
        (b"  1.1.1.1\t", "1.1.1.1"),
        # From the right: what is left of the first address that is no proxy, the client wrote.
        (b"6.6.6.6, 1.1.1.1", "1.1.1.1"),
        (b"10.0.0.9, 1.1.1.1", "1.1.1.1"),
        (b"6.6.6.6,1.1.1.1,10.0.0.2,192.168.1.7", "1.1.1.1"),
        (b"6.6.6.6, 1.1.1.1, fd00::1", "1.1.1.1"),
        (b"192.168.1.8, 192.168.1.7", "192.168.1.8"),
        # All of them proxies: the request began at the first.
        (b"10.0.0.3, 10.0.0.2", "10.0.0.3"),
        # What is no address ends the search; the proxy that wrote it is the last one known.
        (b"unknown", "10.0.0.1"),
        (b"1.1.1.1, unknown, 10.0.0.2", "10.0.0.2"),
        (b"1.1.1.1,", "10.0.0.1"),
        (b"1.1.1.1,,10.0.0.2", "10.0.0.2"),
        (b"_hidden", "10.0.0.1"),
        (b"1.1.1", "10.0.0.1"),
        (b"1.1.1.256", "10.0.0.1"),
        (b"01.1.1.1", "10.0.0.1"),
        (b"\xd9\xa1.1.1.1", "10.0.0.1"),
        (b"1.1.1.1/8", "10.0.0.1"),
        (b"'; DROP TABLE request_log; --", "10.0.0.1"),
        # As proxies write them.
        (b"1.1.1.1:50000", "1.1.1.1"),
        (b"2001:DB8:0::1", "2001:db8::1"),
        (b"[2001:db8::1]", "2001:db8::1"),
        (b"[2001:db8::1]:50000", "2001:db8::1"),
        (b"fe80::1%eth0", "fe80::1"),
        (b"::ffff:1.1.1.1", "1.1.1.1"),
        (b"1.1.1.1, ::ffff:10.0.0.2", "1.1.1.1"),
        (b"[", "10.0.0.1"),
        (b":", "10.0.0.1"),
    ],
)
def test_behind_proxies(forwarded: bytes | None, client: str) -> None:
    assert find("10.0.0.1", forwarded) == client


def test_an_ipv6_proxy() -> None:
    assert find("fd00::2", b"2001:db8::1") == "2001:db8::1"
    assert find("fe80::2", b"2001:db8::1") == "fe80::2"


def test_who_connects_to_a_unix_socket_is_a_proxy() -> None:
    everywhere = client_address(())
    assert everywhere("", b"6.6.6.6, 1.1.1.1") == "1.1.1.1"
    assert everywhere("", None) == ""
    assert everywhere("", b"unknown") == ""
    assert find("", b"1.1.1.1, 10.0.0.2") == "1.1.1.1"


def test_a_header_full_of_proxies_is_not_read_to_its_end() -> None:
    assert find("10.0.0.1", b",".join([b"1.1.1.1"] + [b"10.0.0.2"] * 10_000)) == "10.0.0.2"
    assert find("10.0.0.1", b"," * 60_000) == "10.0.0.1"


@given(st.binary(), st.sampled_from(["", "10.0.0.1", "203.0.113.9", "fd00::1"]))
def test_any_bytes(forwarded: bytes, peer: str) -> None:
    client = find(peer, forwarded)
    if client:
        ipaddress.ip_address(client)
        assert "%" not in client


@given(
    st.lists(st.ip_addresses(), max_size=5),
    st.ip_addresses(),
    st.lists(st.sampled_from(["10.1.2.3", "fd00::5", "[fd00::6]:80", "10.0.0.7:1"]), max_size=5),
)
def test_what_the_client_wrote_changes_nothing(
    forged: list[object], client: ipaddress.IPv4Address | ipaddress.IPv6Address, hops: list[str]
) -> None:
    networks = [ipaddress.ip_network(network) for network in PROXIES]
    honest = getattr(client, "ipv4_mapped", None) or client
    if any(honest in network for network in networks):
        return
    header = ", ".join([*map(str, forged), str(client), *hops])
    assert find("10.0.0.1", header.encode()) == str(honest)


@pytest.mark.parametrize(
    ("peer", "forwarded", "admitted"),
    [
        ("127.0.0.1", None, True),
        ("::1", None, True),
        ("10.1.2.3", None, True),
        ("192.0.2.7", None, False),
        # Through the proxy that we trust: the address it names.
        ("172.16.0.9", b"10.1.2.3", True),
        ("172.16.0.9", b"192.0.2.7", False),
        ("172.16.0.9", b"10.1.2.3, 192.0.2.7", False),
        ("172.16.0.9", b"nonsense", False),
        ("172.16.0.9", None, False),
        # Through one that we were not told of, though it runs here: from anywhere.
        ("127.0.0.1", b"10.1.2.3", False),
        ("127.0.0.1", b"127.0.0.1", False),
        # A UNIX socket: whoever may connect is local, or a proxy.
        ("", None, True),
        ("", b"10.1.2.3", True),
        ("", b"192.0.2.7", False),
    ],
)
def test_who_is_admitted(peer: str, forwarded: bytes | None, admitted: bool) -> None:
    admits = admission(["127.0.0.0/8", "::1/128", "10.0.0.0/8"], ["172.16.0.0/12"])
    assert admits(peer, forwarded) is admitted


def test_nobody_is_admitted_by_an_empty_list() -> None:
    assert not admission([], [])("127.0.0.1", None)
