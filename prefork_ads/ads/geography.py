"""Where an address is: country, region and city, by a database in MaxMind's format (`--geoip`).

The file is mapped, not read, so all workers share one copy of it. It is opened in the worker and looked at
again once a second (`look`): one that was replaced is opened in its place, and one that cannot be read is
told of once and tried again, while the one before it goes on to serve. Replace it by renaming, as every
updater does: whoever writes into a file that is mapped kills those who read it.

*Measured* (Python 3.11, C extension, a record with names in eight languages): 20 µs to find an address that
was not met before, nearly all of it the names in languages that nobody asks for; 0.1 µs for one that is
remembered. What is remembered is bounded, and forgotten with the database it came from.

Must not know: requests, what places are used for.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import maxminddb

MAX_REMEMBERED: Final = 16_384


@dataclass(frozen=True, slots=True)
class Where:
    """A place as targeting names it; "" for what is not known."""

    country: str = ""
    region: str = ""
    city: str = ""
    record: Mapping[str, str] = field(default_factory=dict)
    """What is known of it, for the log."""


NOWHERE: Final = Where()


class Geography:
    """The place database of one worker; without a path nobody's place is known."""

    def __init__(self, path: Path | None, report: Callable[[str], None]) -> None:
        """`report` takes what operators must know."""
        self._path = path
        self._report = report
        self._database: maxminddb.Reader | None = None
        # What the open file is told apart from its successor by.
        self._identity: tuple[int, int, int] | None = None
        self._told = ""
        self.find: Callable[[str], Where] = _nowhere
        """The place of a valid address, or of ""."""
        self.look()

    def look(self) -> None:
        """Open the file if it is there and not the one that is open; called about once a second."""
        if self._path is None:
            return
        try:
            status = os.stat(self._path)  # noqa: PTH116 - every second, so without another object
            identity = (status.st_ino, status.st_mtime_ns, status.st_size)
            if identity == self._identity:
                return
            database = maxminddb.open_database(self._path)
        except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
            self._tell(f"--geoip {self._path} cannot be read: {_reason(error)}")
            return
        # The one before goes when nobody reads it any more, and with it what was remembered of it.
        self._database, self._identity, self._told = database, identity, ""
        self.find = lru_cache(maxsize=MAX_REMEMBERED)(_finder(database))

    def _tell(self, what: str) -> None:
        if what != self._told:
            self._told = what
            kept = "the one before is used" if self._database else "nobody's place is known"
            self._report(f"{what}; {kept}")


def _nowhere(_: str) -> Where:
    return NOWHERE


def _finder(database: maxminddb.Reader) -> Callable[[str], Where]:
    get = database.get

    def find(address: str) -> Where:
        try:
            record = get(address)
        except (ValueError, maxminddb.InvalidDatabaseError):
            # No address, one of IPv6 in a database of IPv4, or a damaged record.
            return NOWHERE
        return where_of(record)

    return find


def where_of(record: Any) -> Where:
    """The place that a record names, as far as it does."""
    country = _text(record, "country", "iso_code").upper()
    if len(country) != 2 or not country.isascii():
        # Tokens have two bytes for it.
        return NOWHERE
    subdivisions = record.get("subdivisions")
    code = (
        _text(subdivisions[0], "iso_code")
        if isinstance(subdivisions, list | tuple) and subdivisions
        else ""
    )
    region = f"{country}-{code.upper()}" if code else ""
    name = _text(record, "city", "names", "en")
    city = f"{region or country}-{name}" if name else ""
    known = {"country": country, "region": region, "city": city}
    return Where(**known, record={name: value for name, value in known.items() if value})


def _text(record: Any, *path: str) -> str:
    for name in path:
        record = record.get(name) if isinstance(record, dict) else None
    return record if isinstance(record, str) else ""


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
