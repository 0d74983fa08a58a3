"""Whose request it is: the client's address behind proxies.

`X-Forwarded-For` is believed only as far as it was written by proxies we were told to trust: from the
right, the first address that is not one of them is the client (the only reading that a client cannot
forge by sending the header itself).

Must not know: HTTP parsing, events.
"""

import ipaddress
from collections.abc import Callable, Sequence
from functools import lru_cache

# Proxies between a client and us that are looked at; nobody has more, and reading an address takes
# 1.5 µs (*measured*), so 64 KiB of them would hold everybody up.
_MAX_HOPS = 32


def client_address(trusted: Sequence[str]) -> Callable[[str, bytes | None], str]:
    """A function from (peer, X-Forwarded-For) to the client's address, "" when there is none.

    `trusted` are networks in CIDR notation.

    A UNIX socket has no peer address: whoever may connect to it is a proxy, so it counts as trusted.
    """

    is_trusted = _member_of(trusted)

    def find(peer: str, forwarded: bytes | None) -> str:
        if forwarded is None or not is_trusted(peer):
            return peer
        client = peer
        for part in reversed(forwarded.rsplit(b",", _MAX_HOPS)):
            hop = _address(part)
            if hop is None:
                break
            client = hop
            if not is_trusted(hop):
                break
        return client

    return find


def admission(
    networks: Sequence[str], trusted: Sequence[str]
) -> Callable[[str, bytes | None], bool]:
    """A function from (peer, X-Forwarded-For) to whether the client is in one of the networks.

    What comes through a proxy that we were not told to trust comes from anywhere, though its peer may
    be the local host: it is not admitted.
    """
    find = client_address(trusted)
    is_trusted = _member_of(trusted)
    is_admitted = _member_of(networks)

    def admits(peer: str, forwarded: bytes | None) -> bool:
        if forwarded is not None and not is_trusted(peer):
            return False
        return is_admitted(find(peer, forwarded))

    return admits


def _member_of(networks: Sequence[str]) -> Callable[[str], bool]:
    """Whether an address is in one of these; so is "", whoever came through a UNIX socket."""
    parsed = [ipaddress.ip_network(network) for network in networks]

    @lru_cache(maxsize=4096)
    def is_member(address: str) -> bool:
        return not address or any(ipaddress.ip_address(address) in network for network in parsed)

    return is_member


def _address(text: bytes) -> str | None:
    """An address as proxies write it: bare, or in brackets, or with a port."""
    stripped = text.strip().decode("latin-1")
    if stripped.startswith("["):
        stripped = stripped[1:].partition("]")[0]
    elif stripped.count(":") == 1:
        stripped = stripped.partition(":")[0]
    try:
        address = ipaddress.ip_address(stripped.partition("%")[0])
    except ValueError:
        return None
    # An IPv4 client as a proxy's socket for both families sees it, or `trusted` would not match.
    return str(getattr(address, "ipv4_mapped", None) or address)
