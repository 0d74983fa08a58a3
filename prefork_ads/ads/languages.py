"""Which languages a sender prefers, from Accept-Language (RFC 9110, 12.5.4).

    de-DE,de;q=0.9,en;q=0.8   →   ("de", "en")

Primary tags, each once, the most wanted first; equal ones as they were written. What is refused (q=0) and
what is no language (`*`, nonsense) is left out, so any bytes give an answer. Only the first 256 bytes are
read, which is ten times what browsers send. Few different headers are about: what was met before is
remembered.

Must not know: requests.
"""

import re
from functools import lru_cache
from typing import Final

MAX_BYTES: Final = 256
MAX_LANGUAGES: Final = 5
MAX_REMEMBERED: Final = 4096

_RANGE: Final = re.compile(
    rb"\s*([A-Za-z]{2,8})(?:-[A-Za-z0-9-]*)?\s*(?:;\s*[qQ]\s*=\s*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*)?"
)


def languages_of(header: bytes | None) -> tuple[str, ...]:
    """The languages a header asks for; none where there is none."""
    if not header:
        return ()
    return _remembered(header if len(header) <= MAX_BYTES else header[:MAX_BYTES])


@lru_cache(maxsize=MAX_REMEMBERED)
def _remembered(header: bytes) -> tuple[str, ...]:
    ranges = (_RANGE.fullmatch(part) for part in header.split(b","))
    wanted = [(float(found[2] or 1), found[1].decode().lower()) for found in ranges if found]
    # A stable sort: equal ones stay as they were written.
    wanted.sort(key=lambda one: -one[0])
    return tuple(dict.fromkeys(tag for q, tag in wanted if q > 0))[:MAX_LANGUAGES]
