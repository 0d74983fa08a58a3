"""What a request for ads asks for: its places, and what it says of the person and the page.

    GET  /ad?zone=KEY&n=2&size=300x250,300x600&uid=…&page=…&kw=a,b&k.section=sports&format=json
    POST /ad   {"places": [{"zone": KEY, "sizes": ["300x250"], "n": 1}, …], "uid": …, "page": …,
                "keywords": ["a"], "values": {"section": "sports", "tag": ["x", "y"]}, "format": "json"}

Both become the same record. What cannot be meant is refused with a sentence for whoever writes the page,
instead of being passed over: a page that asks for 300×25O would be empty for ever. Parameters that nobody
here knows are logged and otherwise ignored.

Must not know: HTTP, the catalog, what is decided.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import orjson

from prefork_ads.events.parameters import Parameters

MAX_PLACES: Final = 20
MAX_SIZES: Final = 20
MAX_WORDS: Final = 50
MAX_WORD_BYTES: Final = 200
MAX_PAGE_BYTES: Final = 1000
# Pages that ads are asked for from, again and again.
MAX_REMEMBERED: Final = 4096
MAX_REMEMBERED_BYTES: Final = 512
FORMATS: Final = frozenset({"json", "html", "image", "js"})

# The form every client sends; cheaper than uuid.UUID, and stricter.
UUID: Final = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_SIZE: Final = re.compile(r"[1-9][0-9]{0,3}x[1-9][0-9]{0,3}")
# A page's address, or its host and path: what may stand in front, host and port, path.
_PAGE: Final = re.compile(
    r"\s*(?:(?:[A-Za-z][A-Za-z0-9+.-]*:)?//(?:[^/?#@]*@)?)?"
    r"((?:[A-Za-z0-9_.-]*[A-Za-z0-9_]|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)"
    r"(?:(/[^?#\s]*)|(?=[?#]|\s*\Z))"
)

NO_WORDS: Final[frozenset[str]] = frozenset()
NO_VALUES: Final[frozenset[tuple[str, str]]] = frozenset()


class Malformed(ValueError):
    """A request that cannot be meant; the message says why, to whoever wrote it."""


@dataclass(slots=True)
class Asked:
    """What is asked for. Not frozen: made once a request, and that would double its price."""

    # Zone, sizes (empty: any of the zone's), how many.
    places: list[tuple[str, tuple[str, ...], int]]
    uid: str
    page: str
    keywords: frozenset[str]
    values: frozenset[tuple[str, str]]
    format: str
    several: bool
    """It was a list that was asked for, were it of one."""


def asked_by_query(parameters: Parameters, referer: bytes | None, *, with_uid: bool) -> Asked:
    """What a query string asks for. Raises Malformed. `with_uid`: a user id may be used."""
    get = parameters.get
    zone = get("zone")
    if not isinstance(zone, str):
        raise Malformed("Ask for one zone: ?zone=KEY. For several, POST JSON with places.")
    # In the usual case each of these is missing, and is not worth a call.
    count, sizes, words, form, uid = get("n"), get("size"), get("kw"), get("format"), get("uid")
    values = NO_VALUES
    for name in parameters:
        if name[:2] == "k.":
            values = _named_values(parameters)
            break
    return Asked(
        [
            (
                zone,
                _sizes(_split(sizes)) if sizes else (),
                1 if count is None else _count(count),
            )
        ],
        _uid(uid) if uid and with_uid else "",
        _page(get("page"), referer),
        _words(_split(words)) if words else NO_WORDS,
        values,
        "json" if form is None else _format(form, several=count is not None),
        count is not None,
    )


def asked_by_json(parameters: Parameters, referer: bytes | None, *, with_uid: bool) -> Asked:
    """What the members of a JSON body ask for. Raises Malformed."""
    get = parameters.get
    listed = get("places")
    if not isinstance(listed, list) or not listed:
        raise Malformed('Ask for places: {"places": [{"zone": KEY}, …]}.')
    if len(listed) > MAX_PLACES:
        raise Malformed(f"At most {MAX_PLACES} places may be asked for at once.")
    places = [_place(place) for place in listed]
    if sum(count for _, _, count in places) > MAX_PLACES:
        raise Malformed(f"At most {MAX_PLACES} places may be asked for at once, all n together.")
    words, values = get("keywords"), get("values")
    return Asked(
        places,
        _uid(get("uid")) if with_uid else "",
        _page(get("page"), referer),
        _words(_strings("keywords", words)) if words else NO_WORDS,
        _values(_json_values(values)) if values else NO_VALUES,
        _format(get("format"), several=True),
        True,
    )


def _place(place: Any) -> tuple[str, tuple[str, ...], int]:
    zone = place.get("zone") if isinstance(place, dict) else None
    if not isinstance(zone, str):
        raise Malformed('Each of the places names its zone: {"zone": KEY}.')
    sizes = place.get("sizes")
    return zone, _sizes(sizes) if sizes else (), _count(place.get("n"))


def _count(value: Any) -> int:
    if value is None or value == "1":
        return 1
    if isinstance(value, str) and len(value) <= 2 and value.isascii() and value.isdecimal():
        value = int(value)
    elif isinstance(value, orjson.Fragment):
        # A number of a body in which some other number has more digits than a double.
        value = int(text) if len(text := orjson.dumps(value)) <= 2 and text.isdigit() else None
    # A bool is an int to Python, and not to JSON.
    if type(value) is not int or not 1 <= value <= MAX_PLACES:
        raise Malformed(f"n is how many ads are wanted: a number from 1 to {MAX_PLACES}.")
    return value


def _sizes(listed: Any) -> tuple[str, ...]:
    if not isinstance(listed, list) or len(listed) > MAX_SIZES:
        raise Malformed(f"Give at most {MAX_SIZES} sizes, such as 300x250,728x90.")
    for size in listed:
        if not isinstance(size, str) or _SIZE.fullmatch(size) is None:
            raise Malformed("A size is its width and height in pixels, such as 300x250.")
    return tuple(listed)


def _uid(value: Any) -> str:
    """One spelling for one user, as PostgreSQL answers; "" for none."""
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or UUID.fullmatch(value) is None:
        raise Malformed("A uid is one UUID.")
    value = value.lower()
    return value if len(value) == 36 else dashed(value)


def dashed(key: str) -> str:
    """32 hexadecimal digits, with dashes or without, as PostgreSQL writes a uuid."""
    digits = key.replace("-", "")
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _format(value: Any, *, several: bool) -> str:
    if value is None or value == "json":
        return "json"
    if not isinstance(value, str) or value not in FORMATS:
        raise Malformed(f"There is no such format; there are {', '.join(sorted(FORMATS))}.")
    if several:
        raise Malformed(f"A list of ads has the format json; {value} is one ad, without n.")
    return value


# -- keywords and values ---------------------------------------------------------------------------


def _split(value: Any) -> list[str]:
    """Of one list with commas, or several of them."""
    return (value if isinstance(value, str) else ",".join(value)).split(",")


def _words(listed: Iterable[str]) -> frozenset[str]:
    words = frozenset([word for raw in listed if (word := raw.strip().lower())])
    if len(words) > MAX_WORDS:
        raise Malformed(f"At most {MAX_WORDS} keywords may be given.")
    if any(_too_long(word) for word in words):
        raise Malformed(f"A keyword has at most {MAX_WORD_BYTES} bytes.")
    return words


def _named_values(parameters: Parameters) -> frozenset[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in parameters.items():
        if name[:2] == "k.":
            pairs += [(name[2:], one) for one in ([value] if isinstance(value, str) else value)]
    return _values(pairs)


def _json_values(values: Any) -> list[tuple[str, str]]:
    if not isinstance(values, dict):
        raise Malformed('values are named: {"section": "sports", "tag": ["x", "y"]}.')
    return [
        (name, one)
        for name, value in values.items()
        for one in _strings("values", [value] if isinstance(value, str) else value)
    ]


def _values(pairs: list[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    if len(pairs) > MAX_WORDS:
        raise Malformed(f"At most {MAX_WORDS} values may be given.")
    if any(not name or _too_long(name) or _too_long(value) for name, value in pairs):
        raise Malformed(f"A value has a name, and each at most {MAX_WORD_BYTES} bytes.")
    return frozenset(pairs)


def _strings(what: str, listed: Any) -> list[str]:
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise Malformed(f"{what} are strings, or lists of strings.")
    return listed


def _too_long(text: str) -> bool:
    # Most are so short that they need not be encoded to know it.
    return len(text) * 4 > MAX_WORD_BYTES and len(text.encode(errors="replace")) > MAX_WORD_BYTES


# -- the page --------------------------------------------------------------------------------------


def _page(value: Any, referer: bytes | None) -> str:
    if isinstance(value, str) and value:
        return page_of(value)
    if not referer:
        return ""
    return (
        _page_of_referer(referer)
        if len(referer) <= MAX_REMEMBERED_BYTES
        else page_of(referer.decode(errors="replace"))
    )


@lru_cache(maxsize=MAX_REMEMBERED)
def _page_of_referer(referer: bytes) -> str:
    return page_of(referer.decode(errors="replace"))


def page_of(url: str) -> str:
    """Host and path of a page's address, in the form that targeting compares; "" for what is none."""
    found = _PAGE.match(url)
    if found is None:
        return ""
    host, path = found.groups("")
    page = host.lower() + path
    if len(page) * 4 > MAX_PAGE_BYTES:
        page = page.encode(errors="replace")[:MAX_PAGE_BYTES].decode(errors="ignore")
    return page


def without(parameters: Mapping[str, Any], *names: str) -> Parameters:
    """All parameters but these."""
    return {name: value for name, value in parameters.items() if name not in names}
