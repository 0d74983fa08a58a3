"""Which campaigns' page patterns a page meets, without looking at each of them.

    news.example                every page of this host
    news.example/sports/*       pages below a folder; `*` is any characters, also none and also `/`
    *.example/*/live            the host and its subdomains

A page without a path is the page `/`. Patterns are kept by host and then by what stands before their first
`*`, so a page meets one dictionary per length of such a beginning; what is left is compared piece by
piece from left to right, where the first place that a piece is found at is always right. Nothing is ever
tried twice, so no pattern and no page can make it slow, as a regular expression could be.

Must not know: campaigns, requests.
"""

import re
from collections.abc import Iterator

# No host in the domain name system is longer; what is may be no host, and has no name to be called by.
_LONGEST_HOST = 255
# Patterns are no longer than this (see `targeting.MAX_VALUE_BYTES`).
_LONGEST_BEGINNING = 200

_HOST = re.compile(
    r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*(?::\d{1,5})?"
)


def pattern_problem(pattern: str) -> str | None:
    """What is wrong with a pattern, to stand behind it in a sentence; None: nothing."""
    host, _, path = pattern.partition("/")
    if "://" in pattern:
        return "has a scheme; begin with the host, as news.example/sports/*"
    if "?" in path or "#" in path:
        return "goes beyond the path; pages are compared by host and path alone"
    if host != host.lower():
        return "has capital letters in its host; write it in lower case"
    if not _HOST.fullmatch(host):
        return "begins with no host; write news.example/sports/* or *.example"
    if any(character.isspace() or not character.isprintable() for character in path):
        return "has a space or another character that no address has"
    return None


class PatternIndex:
    """A set of patterns, asked for those that a page meets."""

    __slots__ = ("_hosts",)

    def __init__(self) -> None:
        # By host, then by what stands before the first `*`: the patterns. The inner dictionaries are
        # replaced, never changed: they may belong to a catalog that is in use.
        self._hosts: dict[str, dict[str, tuple[str, ...]]] = {}

    def copy(self) -> "PatternIndex":
        other = PatternIndex()
        other._hosts = self._hosts.copy()
        return other

    def add(self, pattern: str) -> None:
        host, path = _split(pattern)
        beginning = path.partition("*")[0]
        bucket = self._hosts.get(host, {})
        present = bucket.get(beginning, ())
        if pattern not in present:
            self._hosts[host] = {**bucket, beginning: (*present, pattern)}

    def remove(self, pattern: str) -> None:
        host, path = _split(pattern)
        beginning = path.partition("*")[0]
        bucket = dict(self._hosts[host])
        bucket[beginning] = tuple(other for other in bucket[beginning] if other != pattern)
        if not bucket[beginning]:
            del bucket[beginning]
        if bucket:
            self._hosts[host] = bucket
        else:
            del self._hosts[host]

    def matching(self, page: str) -> list[str]:
        """The patterns that the page meets."""
        host, slash, rest = page.partition("/")
        path = slash + rest or "/"
        found: list[str] = []
        for name in _names(host):
            bucket = self._hosts.get(name)
            if bucket is not None:
                for pattern in _beginning_alike(bucket, path):
                    if glob_matches(_split(pattern)[1], path):
                        found.append(pattern)
        return found


def meets(pattern: str, page: str) -> bool:
    """Whether a page meets a pattern."""
    index = PatternIndex()
    index.add(pattern)
    return bool(index.matching(page))


def glob_matches(glob: str, text: str) -> bool:
    """Whether the text is the glob, where `*` stands for any characters or none."""
    first, *others = glob.split("*")
    if not others:
        return first == text
    *middle, last = others
    at, end = len(first), len(text) - len(last)
    if at > end or not text.startswith(first) or not text.endswith(last):
        return False
    for piece in middle:
        at = text.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


def _split(pattern: str) -> tuple[str, str]:
    """Host and path; a host alone means all its paths."""
    host, slash, path = pattern.partition("/")
    return host, slash + path or "*"


def _names(host: str) -> Iterator[str]:
    """As what patterns may call this host."""
    if not host or len(host) > _LONGEST_HOST:
        return
    yield host
    while host:
        yield f"*.{host}"
        host = host.partition(".")[2]


def _beginning_alike(bucket: dict[str, tuple[str, ...]], path: str) -> Iterator[str]:
    """The patterns whose beginning is the path's; by whichever of the two is shorter to go through."""
    longest = min(len(path), _LONGEST_BEGINNING)
    if len(bucket) <= longest:
        for beginning, patterns in bucket.items():
            if path.startswith(beginning):
                yield from patterns
    else:
        for length in range(longest + 1):
            yield from bucket.get(path[:length], ())
