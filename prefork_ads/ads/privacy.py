"""What may be kept of a person: whether a user id may be used at all, and how much of an address is logged.

A user id is neither used nor stored when the request says so in any of these ways:

- `Sec-GPC: 1`, Global Privacy Control; `DNT: 1`, the older Do Not Track;
- `gdpr=1` (the law of the European Union applies) without a consent string in `gdpr_consent`. The string is
  not taken apart: whoever puts it there says that there is consent, and what a page's macros left in place
  ("${GDPR_CONSENT_7}") is no string;
- `us_privacy` whose third character is Y: the person has opted out of sale.

Must not know: requests, ids, what else is logged.
"""

import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import orjson

MAX_REMEMBERED: Final = 4096

_APPLIES_NOT: Final = frozenset({"", "0"})
# How macros begin that nobody has filled in.
_UNFILLED: Final = ("$", "{", "[", "%")


def refuses_id(sec_gpc: bytes | None, dnt: bytes | None, parameters: Mapping[str, Any]) -> bool:
    """Whether no user id may be used, by the two header fields and what else the request says."""
    if sec_gpc is not None and sec_gpc.strip() == b"1":
        return True
    if dnt is not None and dnt.strip() == b"1":
        return True
    if "gdpr" in parameters and _text(parameters["gdpr"]) not in _APPLIES_NOT:
        consent = _text(parameters.get("gdpr_consent", ""))
        if not consent or consent.startswith(_UNFILLED):
            return True
    return "us_privacy" in parameters and _text(parameters["us_privacy"])[2:3] in ("Y", "y")


def _text(value: Any) -> str:
    """A parameter that should come once (of a repeated one the last), or a number of a JSON body."""
    if isinstance(value, list):
        value = value[-1] if value else ""
    if isinstance(value, bool):
        value = int(value)
    elif isinstance(value, orjson.Fragment):
        return orjson.dumps(value).decode()
    return "" if value is None else str(value).strip()


def whole(address: str) -> str:
    """With `--addresses full`: all of it."""
    return address


def network_of(address: str) -> str:
    """The network of a valid address, or of "": its first three numbers, of IPv6 its first 48 bits."""
    if ":" in address:
        return _network_of_v6(address)
    # Not remembered: this costs less than finding it.
    return address[: address.rfind(".") + 1] + "0" if address else address


@lru_cache(maxsize=MAX_REMEMBERED)
def _network_of_v6(address: str) -> str:
    parsed = ipaddress.IPv6Address(address)
    if parsed.ipv4_mapped is not None:
        return network_of(str(parsed.ipv4_mapped))
    return str(ipaddress.IPv6Address(int(parsed) >> 80 << 80))
