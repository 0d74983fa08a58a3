"""Dates and times of a campaign as people write them, in the campaign's own time zone.

    starts: 2026-12-01            from the first moment of that day
    starts: 2026-12-01 09:00      from nine o'clock
    ends: 2026-12-31              through that day, to its last moment
    ends: 2026-12-31 18:00        up to, and not at, six o'clock

A time that the clocks skip in spring does not exist and is refused. One that comes twice in autumn is
two moments, so it needs its offset: `2026-10-25 02:30+01:00`. A day whose midnight is skipped begins with its
first moment.

Must not know: files, campaigns.
"""

import re
from calendar import monthrange
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from prefork_ads.management.complaints import meant

FIRST_YEAR: Final = 2000
LAST_YEAR: Final = 2200

# The schema's own rule: a name of the world's list, no abbreviation.
_ZONE: Final = re.compile(r"UTC|GMT|[A-Z][A-Za-z_]*/[A-Za-z0-9_+/-]+")
_DATE: Final = re.compile(r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})")
_TIME: Final = re.compile(
    r"[T ] *([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,6}))?)? *(Z|[+-][0-9]{2}(?::?[0-9]{2}){0,2})?"
)


class BadMoment(Exception):
    """Why a text is no moment, to stand behind it in a sentence."""


def read_zone(name: str) -> ZoneInfo:
    """The zone of this name."""
    try:
        return _zone(name)
    except (KeyError, ValueError, OSError):
        near = meant(name, available_timezones())
        raise BadMoment(
            f"is no time zone{near or '; write a name such as Europe/Berlin'}"
        ) from None


@cache
def _zone(name: str) -> ZoneInfo:
    if not _ZONE.fullmatch(name):
        raise ValueError(name)
    return ZoneInfo(name)


def read_start(text: str, zone: tzinfo) -> datetime:
    """When something starts, in UTC."""
    day, moment = _read(text, zone)
    return _in_years(_first_moment(day, zone) if moment is None else moment)


def read_end(text: str, zone: tzinfo) -> datetime:
    """When something ends, in UTC. A day alone is meant to its end."""
    day, moment = _read(text, zone)
    return _in_years(_first_moment(day + timedelta(days=1), zone) if moment is None else moment)


def show_start(moment: datetime, zone: tzinfo) -> str:
    """What `read_start` reads the same moment from, as short as it goes."""
    local = moment.astimezone(zone)
    if _first_moment(local.date(), zone) == moment:
        return local.date().isoformat()
    return _show(moment, zone)


def show_end(moment: datetime, zone: tzinfo) -> str:
    local = moment.astimezone(zone)
    if _first_moment(local.date(), zone) == moment:
        day = local.date() - timedelta(days=1)
        if _first_moment(day + timedelta(days=1), zone) == moment:
            return day.isoformat()
    return _show(moment, zone)


def _read(text: str, zone: tzinfo) -> tuple[date, datetime | None]:
    found = _DATE.match(text)
    if found is None:
        raise BadMoment("is no date; write 2026-12-01 or 2026-12-01 09:00")
    day = _day(int(found[1]), int(found[2]), int(found[3]))
    rest = text[found.end() :]
    if not rest:
        return day, None
    clock = _TIME.fullmatch(rest)
    if clock is None:
        raise BadMoment("has no time behind its date; write 2026-12-01 09:00")
    hour, minute, second = int(clock[1]), int(clock[2]), int(clock[3] or 0)
    if hour > 23 or minute > 59 or second > 59:
        raise BadMoment("has a time that no clock shows; a day is from 00:00 to 23:59:59")
    local = datetime.combine(day, time(hour, minute, second, int((clock[4] or "").ljust(6, "0"))))
    if clock[5] is not None:
        return day, _with_offset(local, clock[5])
    return day, _unambiguous(local, zone)


def _day(year: int, month: int, day: int) -> date:
    # A local year may be one beside that in UTC, which is what counts in the end.
    if not FIRST_YEAR - 1 <= year <= LAST_YEAR + 1:
        raise BadMoment(f"is not in the years {FIRST_YEAR} to {LAST_YEAR}")
    if not 1 <= month <= 12:
        raise BadMoment(f"is no date: there is no month {month}")
    days = monthrange(year, month)[1]
    if not 1 <= day <= days:
        name = date(year, month, 1).strftime("%B")
        raise BadMoment(f"is no date: {name} {year} has {days} days")
    return date(year, month, day)


def _in_years(moment: datetime) -> datetime:
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise BadMoment(f"is not in the years {FIRST_YEAR} to {LAST_YEAR}")
    return moment


def _with_offset(local: datetime, offset: str) -> datetime:
    try:
        return datetime.fromisoformat(f"{local.isoformat()}{offset}").astimezone(UTC)
    except ValueError:
        raise BadMoment(f"has an offset that no zone has: {offset}") from None


def _unambiguous(local: datetime, zone: tzinfo) -> datetime:
    """The one moment at which clocks there show this."""
    first = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    second = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    shows = [m.astimezone(zone).replace(tzinfo=None, fold=0) == local for m in (first, second)]
    if not any(shows):
        raise BadMoment(f"does not exist in {zone}: clocks skip it")
    if first != second and all(shows):
        written = [m.astimezone(zone).isoformat(" ") for m in (first, second)]
        raise BadMoment(f"comes twice in {zone}; write {written[0]} or {written[1]}")
    return first


def _first_moment(day: date, zone: tzinfo) -> datetime:
    """The first moment at which clocks there show this day."""
    midnight = datetime.combine(day, time())
    # Of two midnights fold=0 is the first. One in a gap is read with the offset from before it, which lands
    # behind the gap.
    moment = midnight.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None, fold=0) == midnight:
        return moment
    # Clocks skip midnight, as on a spring day in Beirut: walk back to the skip, where the day begins.
    while (earlier := moment - timedelta(minutes=1)).astimezone(zone).date() >= day:
        moment = earlier
    return moment


def _show(moment: datetime, zone: tzinfo) -> str:
    local = moment.astimezone(zone)
    parts = "seconds" if local.second else "minutes"
    bare = local.replace(tzinfo=None, fold=0)
    text = bare.isoformat(" ", "microseconds" if local.microsecond else parts)
    try:
        if _unambiguous(bare, zone) == moment:
            return text
    except BadMoment:
        pass
    return text + local.isoformat()[len(local.replace(tzinfo=None).isoformat()) :]
