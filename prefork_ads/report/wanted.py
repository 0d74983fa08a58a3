"""What a report is asked to show, read from a command's words and checked before anything is queried.

Must not know: SQL, the database, how figures are shown.
"""

import datetime
import difflib
import re
import zoneinfo
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prefork_ads.ads.places import place_problem
from prefork_ads.ads.records import TIERS
from prefork_ads.ads.targeting import DEVICES
from prefork_ads.errors import ConfigError
from prefork_ads.report.columns import DIMENSIONS, FILTERED, Grouping
from prefork_ads.report.measures import DEFAULT, MEASURES

# CUBE of n dimensions is 2**n groupings of all rows.
MOST_CUBED: Final = 6
MOST_SETS: Final = 64
MOST_VALUES: Final = 1000
MOST_ROWS: Final = 200_000

# Dimensions whose values are ours, or known to everybody; those of others are keys of the catalog.
_WORDS: Final = {"device": DEVICES, "tier": TIERS}
_MONTH: Final = re.compile(r"(\d{4})-(\d\d)")
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A report that can be made. Times are local to `zone` unless they say otherwise."""

    by: tuple[str, ...]
    grouping: Grouping = "sets"
    sets: tuple[tuple[str, ...], ...] = ()
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    measures: tuple[str, ...] = DEFAULT
    zone: str = "UTC"
    starts: datetime.datetime | None = None
    ends: datetime.datetime | None = None
    sort: str | None = None
    ascending: bool = False
    limit: int | None = None
    totals: bool = False
    """Totals were asked for, and are not just the last line of a table."""


def read(
    *,
    by: str,
    cube: bool = False,
    rollup: bool = False,
    sets: str | None = None,
    where: Sequence[str] = (),
    measures: str | None = None,
    zone: str = "UTC",
    starts: str | None = None,
    ends: str | None = None,
    today: datetime.date | None = None,
    sort: str | None = None,
    limit: int | None = None,
) -> Wanted:
    """The words of a command as a report. Raises ConfigError in plain words."""
    if sum((cube, rollup, sets is not None)) > 1:
        raise ConfigError("Of --cube, --rollup and --sets only one can be given.")
    dimensions = _names("--by", by, DIMENSIONS)
    if cube and len(dimensions) > MOST_CUBED:
        raise ConfigError(f"--cube: more than {MOST_CUBED} dimensions are too many combinations.")
    # Of no dimensions there is one grouping, however it is asked for.
    grouping: Grouping = (
        "sets" if not dimensions else "cube" if cube else "rollup" if rollup else "sets"
    )
    chosen = _sets(sets, dimensions) if sets is not None else _plain(dimensions)
    measured = tuple(MEASURES) if measures == "all" else _names("--measures", measures, MEASURES)
    sorted_by, _, direction = (sort or "").partition(":")
    if direction not in ("", "asc", "desc"):
        raise ConfigError(f"--sort: {direction!r} is neither asc nor desc.")
    if sorted_by:
        _known("--sort", sorted_by, MEASURES)
    if limit is not None and not 1 <= limit <= MOST_ROWS:
        raise ConfigError(f"--limit: {limit} is not a number from 1 to {MOST_ROWS:,}.")
    first, last = moments(starts, ends, today or today_in(zone))
    return Wanted(
        by=dimensions,
        grouping=grouping,
        sets=chosen,
        where=_filters(where),
        measures=measured or DEFAULT,
        zone=zone,
        starts=first,
        ends=last,
        sort=sorted_by or None,
        ascending=direction == "asc",
        limit=limit,
        totals=cube or rollup or sets is not None,
    )


def moments(
    starts: str | None, ends: str | None, today: datetime.date
) -> tuple[datetime.datetime | None, datetime.datetime | None]:
    """The moments that bound a period. A day or a month as its end is meant as a whole."""
    first = _span("--from", starts, today)[0] if starts else None
    last = _span("--to", ends, today)[1] if ends else None
    if first and last and first.tzinfo is None and last.tzinfo is None and first >= last:
        raise ConfigError(f"--from {starts} is not before the end of --to {ends}.")
    return first, last


def today_in(zone: str) -> datetime.date:
    """The date there. A zone that is not known here is refused later, by PostgreSQL."""
    try:
        # PostgreSQL knows them in any case of letters, files do not.
        known = {name.lower(): name for name in zoneinfo.available_timezones()}
        return datetime.datetime.now(zoneinfo.ZoneInfo(known.get(zone.lower(), zone))).date()
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return datetime.datetime.now(datetime.UTC).date()


def _span(
    where: str, text: str, today: datetime.date
) -> tuple[datetime.datetime, datetime.datetime]:
    """Where a day or month begins and the next one does; a moment begins and ends at once."""
    try:
        if text in ("today", "yesterday"):
            return _whole(today - datetime.timedelta(days=text == "yesterday"), 1)
        if month := _MONTH.fullmatch(text):
            first = datetime.date(int(month[1]), int(month[2]), 1)
            return _whole(
                first, ((first + datetime.timedelta(days=31)).replace(day=1) - first).days
            )
        if _DAY.fullmatch(text):
            return _whole(datetime.date.fromisoformat(text), 1)
        moment = datetime.datetime.fromisoformat(text)
        if not 1 < moment.year < datetime.MAXYEAR:
            # In another zone it may be of a year that Python has not.
            raise ValueError
        return moment, moment
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{where}: {text!r} is no time. Write a day (2026-11-22), a month (2026-11), a moment"
            " (2026-11-22T14:00), today or yesterday."
        ) from None


def _whole(first: datetime.date, days: int) -> tuple[datetime.datetime, datetime.datetime]:
    start = datetime.datetime.combine(first, datetime.time())
    return start, start + datetime.timedelta(days=days)


def _plain(by: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return (by, ()) if by else ((),)


def _sets(text: str, by: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """`campaign;campaign,day;` are three sets, the last of them empty: the total of all."""
    # The same dimensions in another order are the same set, which must not be added up twice.
    chosen = tuple(
        {
            frozenset(one): one
            for one in (_names("--sets", s, DIMENSIONS) for s in text.split(";"))
        }.values()
    )
    if len(chosen) > MOST_SETS:
        raise ConfigError(f"--sets: more than {MOST_SETS} sets.")
    for name in (name for one in chosen for name in one if name not in by):
        raise ConfigError(f"--sets: {name} is not among --by {','.join(by)}.")
    unused = [name for name in by if not any(name in one for one in chosen)]
    if unused:
        raise ConfigError(f"--by {unused[0]} is in none of the --sets.")
    return chosen


def _filters(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`country=DE,country=AT,device=mobile`: one of the values of each dimension."""
    found: dict[str, tuple[str, ...]] = {}
    for part in (part for text in texts for part in text.split(",") if part.strip()):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ConfigError(f"--where: {part!r} is not NAME=VALUE.")
        _known("--where", name, DIMENSIONS)
        if DIMENSIONS[name].is_time:
            raise ConfigError(f"--where {name}: time is chosen by --from and --to.")
        if name == "filtered" and value not in FILTERED:
            raise ConfigError(f"--where filtered: {value!r} is neither filtered nor counted.")
        if name == "country" and value and (problem := _country_problem(value)):
            raise ConfigError(f"--where country: {value!r} {problem}.")
        if name in _WORDS and value:
            _known(f"--where {name}", value, _WORDS[name])
        found[name] = (*found.get(name, ()), value)
    if any(len(values) > MOST_VALUES for values in found.values()):
        raise ConfigError(f"--where: more than {MOST_VALUES} values of one dimension.")
    return found


def _country_problem(value: str) -> str | None:
    return place_problem(value) if len(value) < 3 else "is not two capital letters, as DE"


def _names(where: str, text: str | None, known: Iterable[str]) -> tuple[str, ...]:
    names = tuple(name for name in map(str.strip, (text or "").split(",")) if name)
    for name in names:
        _known(where, name, known)
    if len(set(names)) < len(names):
        raise ConfigError(f"{where}: a name stands twice in {text!r}.")
    return names


def _known(where: str, name: str, known: Iterable[str]) -> None:
    names = list(known)
    if name in names:
        return
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(names)}."
    raise ConfigError(f"{where}: {name!r} is unknown. {hint}")
