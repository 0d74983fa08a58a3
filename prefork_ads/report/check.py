"""The proof that reports are right: the rollup is added up again from what it is the sum of.

All of it is read in one snapshot, so it may run while events are coming in; there is no moment at which the
two may differ. It goes day by day, for the sake of whoever waits. Of hours whose single events were
forgotten (retention) there is nothing to prove, which is said.

Must not know: the command line.
"""

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg2.extensions

from prefork_ads.db import session
from prefork_ads.db.queries import query
from prefork_ads.errors import ConfigError, ReportDiffers
from prefork_ads.report.figures import set_zone

Progress = Callable[[int, int | None, str], None]

DAY: Final = datetime.timedelta(days=1)
MOST_SHOWN: Final = 1000
KEY: Final = ("zone_id", "campaign_id", "creative_id", "country", "device", "filtered")


@dataclass(frozen=True, slots=True)
class Difference:
    """One row of the rollup that is not the sum of its events."""

    hour: datetime.datetime
    key: tuple[Any, ...]
    rollup: dict[str, int]
    raw: dict[str, int]

    def __str__(self) -> str:
        where = " ".join(f"{name}={value}" for name, value in zip(KEY, self.key, strict=True))
        names = [*self.raw, *(name for name in self.rollup if name not in self.raw)]
        said = [
            f"{name} {self.rollup.get(name, 0):,} instead of {self.raw.get(name, 0):,}"
            for name in names
            if self.rollup.get(name, 0) != self.raw.get(name, 0)
        ]
        # A row of nothing but zeros should not be there, or should.
        hour = self.hour.astimezone(datetime.UTC).isoformat(timespec="minutes")
        return f"{hour} {where}: {', '.join(said) or 'a row of zeros'}"


@dataclass(slots=True)
class Proof:
    """What was compared, and what differs. `differences` holds the first of them."""

    starts: datetime.datetime
    ends: datetime.datetime
    rows: int = 0
    forgotten: int = 0
    differing: int = 0
    differences: list[Difference] = field(default_factory=list)

    @property
    def summary(self) -> str:
        first = self.starts.astimezone(datetime.UTC).isoformat(timespec="minutes")
        last = self.ends.astimezone(datetime.UTC).isoformat(timespec="minutes")
        return (
            f"{first} up to {last}: {self.rows:,} rows of the rollup equal what they are sums of."
        )

    @property
    def notes(self) -> Iterator[str]:
        if self.forgotten:
            yield (
                f"{self.forgotten:,} older hours were not compared: their single events are not kept"
                " any more."
            )

    def raise_if_it_differs(self) -> None:
        """End with the exit status for data that is wrong when anything differs."""
        if self.differing:
            more = f" The first {len(self.differences):,} are shown." if self._cut else ""
            raise ReportDiffers(
                f"{self.differing:,} rows of the rollup are not the sums of their events.{more}"
            )

    @property
    def _cut(self) -> bool:
        return self.differing > len(self.differences)


def check(
    dsn: str,
    starts: datetime.datetime | None = None,
    ends: datetime.datetime | None = None,
    zone: str = "UTC",
    progress: Progress | None = None,
) -> Proof:
    """Compare these hours; a bound inside an hour means the whole hour."""
    with session.connection(dsn, writes=False) as conn:
        conn.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with conn, conn.cursor() as cursor:
            # Before there is a snapshot: so what it says is kept is kept until the end.
            cursor.execute("LOCK TABLE ONLY request_log, ONLY ad_event IN ACCESS SHARE MODE")
            set_zone(cursor, zone)
            proof = _period(cursor, starts, ends)
            days = list(_days(proof.starts, proof.ends))
            for n, (first, last) in enumerate(days, 1):
                _compare(cursor, first, last, proof)
                if progress is not None:
                    shown = first.astimezone(datetime.UTC).date()
                    progress(n, len(days), f"{shown}, {proof.differing:,} differences")
    return proof


def _period(
    cursor: psycopg2.extensions.cursor,
    starts: datetime.datetime | None,
    ends: datetime.datetime | None,
) -> Proof:
    bounds = {
        "from": None if starts is None else starts.isoformat(),
        "to": None if ends is None else ends.isoformat(),
    }
    cursor.execute(query("report_check_period"), bounds)
    row = cursor.fetchone()
    assert row is not None
    first, last, forgotten = row
    if first > last:
        raise ConfigError("--from is not before --to.")
    return Proof(first, last, forgotten=forgotten)


def _days(
    starts: datetime.datetime, ends: datetime.datetime
) -> Iterator[tuple[datetime.datetime, datetime.datetime]]:
    """Days of UTC, the first and the last perhaps in part: those are what partitions hold."""
    first = starts.astimezone(datetime.UTC)
    while first < ends:
        midnight = datetime.datetime.combine(first.date(), datetime.time(), datetime.UTC)
        last = min(midnight + DAY, ends.astimezone(datetime.UTC))
        yield first, last
        first = last


def _compare(
    cursor: psycopg2.extensions.cursor,
    first: datetime.datetime,
    last: datetime.datetime,
    proof: Proof,
) -> None:
    cursor.execute(query("report_check_rows"), {"from": first, "to": last})
    row = cursor.fetchone()
    assert row is not None
    proof.rows += row[0]
    cursor.execute(query("report_check"), {"from": first, "to": last, "at_most": 2 * MOST_SHOWN})
    assert cursor.description is not None
    names = [column.name for column in cursor.description]
    found: dict[tuple[Any, ...], dict[str, dict[str, int]]] = {}
    for values in cursor.fetchall():
        one = dict(zip(names, values, strict=True))
        source, hour = one.pop("source"), one.pop("hour")
        key = (hour, *(one.pop(name) for name in KEY))
        found.setdefault(key, {})[source] = one
    proof.differing += len(found)
    for (hour, *rest), sides in sorted(found.items(), key=lambda item: item[0]):
        if len(proof.differences) < MOST_SHOWN:
            difference = Difference(
                hour, tuple(rest), sides.get("rollup", {}), sides.get("raw", {})
            )
            proof.differences.append(difference)
