"""Text to value and back: the kinds of values that options have, and nothing about options.

A kind knows how to read what an operator writes (`64K`, `250ms`, `50_000_000`, `10.0.0.0/8`), how
to write it back the way it would be typed, and what to call it in an error message. `parse` raises
ValueError; the caller knows which flag, variable or file it came from and says so.

Must not know: any other module of this package.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Decimal for counts of things, binary for bytes (as PostgreSQL's own settings: 64kB is 65536).
_COUNT_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_SIZE_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}
_DURATION_UNITS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}

_COUNT = re.compile(r"(\d+(?:_\d+)*)([kmg]?)", re.ASCII | re.IGNORECASE)
_SIZE = re.compile(r"(\d+(?:_\d+)*) ?(?:([kmg])(?:i?b)?|b)?", re.ASCII | re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+) ?(ms|s|m|min|h)?", re.ASCII)
_SHARE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(%?)", re.ASCII)
# Four digits: no machine has more cores, and no slip makes a list that fills the memory.
_WEB_ADDRESS = re.compile(
    r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?(?:/[a-z0-9._~/-]*)?",
    re.ASCII | re.IGNORECASE,
)
_CORES = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?", re.ASCII)

# Nothing that is counted here comes near this, and Python's limit on digits is no error to show.
_LONGEST_NUMBER = 24


@dataclass(frozen=True, slots=True)
class Kind:
    """How values of one sort are written, read and called."""

    metavar: str
    accepts: str
    """What the text must be, to end the sentence "… is not"."""
    parse: Callable[[str], Any]
    show: Callable[[Any], str] = str
    choices: tuple[str, ...] = ()
    completes: str = ""
    """`file` or `dir` for a path, so that shells complete it."""
    toml_types: tuple[type, ...] = (str,)
    """What TOML may hold besides a string that `parse` reads."""


def parse_count(text: str) -> int:
    """50_000_000, 50M, 10k: a number of things."""
    match = _COUNT.fullmatch(text.strip())
    if match is None or len(match[1]) > _LONGEST_NUMBER:
        raise ValueError(text)
    return int(match[1]) * _COUNT_UNITS[match[2].lower()]


def parse_size(text: str) -> int:
    """65536, 64K, 64kB, 4MiB: a number of bytes."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or len(match[1]) > _LONGEST_NUMBER:
        raise ValueError(text)
    return int(match[1]) * _SIZE_UNITS[(match[2] or "").lower()]


def show_size(value: int) -> str:
    """The largest unit that divides the value, so that showing and reading are inverse."""
    for suffix in ("G", "M", "K"):
        unit = _SIZE_UNITS[suffix.lower()]
        if value and value % unit == 0:
            return f"{value // unit}{suffix}iB"
    return str(value)


def parse_duration(text: str) -> float:
    """250ms, 2s, 1m, 1h, or plain seconds: 2, 0.25."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or len(match[1]) > _LONGEST_NUMBER:
        raise ValueError(text)
    if match[2] == "ms":
        return float(match[1]) / 1000  # 250 * 0.001 is not 0.25 for every number; a division is
    return float(match[1]) * _DURATION_UNITS[match[2] or ""]


def show_duration(value: float) -> str:
    """Seconds, or milliseconds below one; a value that neither shows exactly is shown in full."""
    if 0 < value < 1 and (milliseconds := value * 1000) == round(milliseconds):
        return f"{round(milliseconds)}ms"
    return f"{int(value) if value == int(value) else value!r}s"


def parse_path(text: str) -> Path:
    """A path made absolute at once, so that a later change of directory means nothing."""
    if not text or "\0" in text:
        raise ValueError(text)
    return Path(text).expanduser().absolute()


def parse_text(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError(text)
    return text.strip()


def parse_web_address(text: str) -> str:
    """Scheme, host, perhaps a port and a path; what links can begin with."""
    text = text.strip()
    if _WEB_ADDRESS.fullmatch(text) is None:
        raise ValueError(text)
    return text


def parse_networks(text: str) -> tuple[str, ...]:
    """Comma-separated addresses and CIDR networks; 10.0.0.1/8 is refused, it means two things."""
    return tuple(
        str(ipaddress.ip_network(part.strip())) for part in text.split(",") if part.strip()
    )


def parse_share(text: str) -> float:
    """0.2 or 20%: a part of the whole."""
    match = _SHARE.fullmatch(text.strip())
    if match is None or len(match[1]) > _LONGEST_NUMBER:
        raise ValueError(text)
    return float(match[1]) / 100 if match[2] else float(match[1])


def parse_cores(text: str) -> str | tuple[int, ...]:
    """`none`, `auto`, or numbers and ranges: 0,2,4-7."""
    if text in ("none", "auto"):
        return text
    cores: list[int] = []
    for part in text.split(","):
        match = _CORES.fullmatch(part.strip())
        if match is None:
            raise ValueError(text)
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(text)
        cores += range(first, last + 1)
    return tuple(cores)


def show_cores(value: str | tuple[int, ...]) -> str:
    return value if isinstance(value, str) else ",".join(map(str, value))


def one_of(*choices: str) -> Kind:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    return Kind("|".join(choices), " or ".join(choices), parse, choices=choices)


TEXT = Kind("TEXT", "a name", parse_text)
WEB_ADDRESS = Kind("URL", "an address of the web (https://ads.example.org)", parse_web_address)
COUNT = Kind("N", "a whole number (10000, 10_000 or 10k)", parse_count, toml_types=(str, int))
SIZE = Kind("SIZE", "a size (65536, 64K or 4MiB)", parse_size, show_size, toml_types=(str, int))
DURATION = Kind(
    "SECONDS",
    "a duration (2, 0.25, 250ms, 2s or 1m)",
    parse_duration,
    show_duration,
    toml_types=(str, int, float),
)
SHARE = Kind("SHARE", "a share (0.2 or 20%)", parse_share, toml_types=(str, int, float))
CORES = Kind(
    "none|auto|LIST",
    "none, auto or a list of cores (0,2,4-7)",
    parse_cores,
    show_cores,
    toml_types=(str, int),
)
PATH = Kind("PATH", "a path", parse_path, completes="file")
DIRECTORY = Kind("DIR", "a path", parse_path, completes="dir")
NETWORKS = Kind(
    "CIDR,…",
    "a comma-separated list of addresses and networks (10.0.0.0/8,192.0.2.7)",
    parse_networks,
    ",".join,
    toml_types=(str, list),
)
