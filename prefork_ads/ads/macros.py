"""Names in braces that stand for what is only known when an ad is shown or clicked: `{decision}`, `{page}`.

A value is a value wherever it goes: in a URL it is percent-encoded, all of it, so that it can end neither
its parameter nor its path; in HTML it is escaped, so that it can end neither a text nor a quoted attribute
nor a string in a script. Of a URL only path and query are looked at: no value decides where a click leads.
What else stands in braces is left as it is, for advertisers have macros of their own, and styles and scripts
have braces.

| macro | is |
|---|---|
| `{decision}` | the decision's id, 32 hex digits |
| `{campaign}` `{creative}` `{zone}` `{site}` `{advertiser}` | keys of the catalog |
| `{page}` | host and path of the page; on a click of the page that the browser names |
| `{timestamp}` | seconds since 1970 |
| `{random}` | ten digits, others each time |
| `{token}` | the signed token, for `click=` of `/conv` |
| `{click_url}` | in HTML: where a click is to go |
| `{base}` | in HTML: what our own links begin with |

*Measured* (Python 3.11): 0.3 µs for 5,000 characters without braces, 6 µs for a URL with four macros.

Must not know: catalogs, requests.
"""

import re
import secrets
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import quote

URL_MACROS: Final = frozenset(
    {
        *("decision", "campaign", "creative", "zone", "site", "advertiser", "page"),
        *("timestamp", "random", "token"),
    }
)
HTML_MACROS: Final = URL_MACROS | {"click_url", "base"}

# Texts that are taken apart once: those of the creatives that are shown most.
_REMEMBERED: Final = 1024
_MACRO: Final = re.compile(r"\{([a-z_]+)\}")
_AUTHORITY: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#]*", re.IGNORECASE)
# Beyond what html.escape does: a backslash would end no string in a script that its author ended, a
# backtick, "=" and "{" mean something to some who read HTML, and control characters to nobody.
_ESCAPES: Final = {
    **{code: f"&#{code};" for code in map(ord, "\"'`\\={}")},
    **{ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"},
    **dict.fromkeys((*range(32), 127, 0x2028, 0x2029), " "),
}

_PLAIN: Final = re.compile(r"[A-Za-z0-9 :/?#.,;_~%+-]*")
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~-]*")

# A URL that stands in a header: what RFC 3986 lets stand as it is, and "%", for it is encoded already.
_AS_IT_IS: Final = "%:/?#[]@!$&'()*+,;=-._~{}|^"
_WRITTEN: Final = re.compile(r"[A-Za-z0-9%:/?#\[\]@!$&'()*+,;=._~{}|^-]*")


def in_url(template: str, values: Mapping[str, str]) -> str:
    """A URL with its macros filled in, in ASCII, fit for a header."""
    authority = _AUTHORITY.match(template)
    end = authority.end() if authority is not None else 0
    rest = _filled(template[end:], values, _encoded)
    return _host(template[:end]) + (
        rest if _WRITTEN.fullmatch(rest) else quote(rest, safe=_AS_IT_IS, errors="replace")
    )


def in_html(template: str, values: Mapping[str, str]) -> str:
    """HTML with its macros filled in."""
    return _filled(template, values, escaped)


def escaped(value: str) -> str:
    """A value for a place in HTML: a text, a quoted attribute, a quoted string of a script."""
    # Keys, ids and our own links have nothing to escape; finding that out is a tenth of the price.
    return value if _PLAIN.fullmatch(value) else value.translate(_ESCAPES)


def has(template: str, name: str) -> bool:
    """Whether this macro is in it."""
    return f"{{{name}}}" in template


def random_digits() -> str:
    return f"{secrets.randbelow(10**10):010d}"


def _encoded(value: str) -> str:
    if _UNRESERVED.fullmatch(value):
        return value
    return quote(value, safe="", errors="replace")


def _filled(template: str, values: Mapping[str, str], encode: Callable[[str], str]) -> str:
    if "{" not in template:
        return template
    parts = _parts(template)
    if len(parts) == 1:
        return template
    # Texts and names take turns.
    filled = list(parts)
    for place in range(1, len(parts), 2):
        name = parts[place]
        value = values.get(name)
        filled[place] = f"{{{name}}}" if value is None else encode(value)
    return "".join(filled)


@lru_cache(maxsize=_REMEMBERED)
def _parts(template: str) -> list[str]:
    return _MACRO.split(template)


def _host(authority: str) -> str:
    """Scheme and host in ASCII: a name in other letters as the web writes it."""
    if authority.isascii():
        return authority
    scheme, _, rest = authority.partition("://")
    try:
        return f"{scheme}://{rest.encode('idna').decode()}"
    except UnicodeError:
        return f"{scheme}://{quote(rest, safe=_AS_IT_IS)}"
