"""What is counted, and its Prometheus text.

Each worker counts into its own seat of the scoreboard; any worker can be asked and sums all seats,
so a scrape gives the whole server whichever worker answers it. The next child of a seat goes on
counting where the last one stopped, so sums never go down while the master lives.

A seat's cells are the counters, in the order of `Counter`, and behind them the histograms; `CELLS` is
how many there are. A histogram's cells are its buckets, each with what fell into it alone (adding to one
cell costs the same whatever the value; the text wants sums of all smaller ones, which whoever prints
it can add up), and the sum of all values in the unit of its bounds.

*Measured*: an observation takes 0.35 µs, so histograms are for batches and loop ticks; a request on its
own only ever adds to counters. The text of 16 workers takes 2 ms, once for each scrape.

Names follow the Prometheus conventions (base units, `_total` for counters). Text format:
https://prometheus.io/docs/instrumenting/exposition_formats/.

Must not know: shared memory, locks, databases.
"""

import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, auto, unique
from itertools import accumulate
from typing import Final, Protocol


class Cells(Protocol):
    """Where one process counts: a list, or words of shared memory."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


@unique
class Counter(IntEnum):
    """Position of each counter in a seat. Counters only go up."""

    AD_FOUND = 0
    AD_UNKNOWN = auto()
    AD_MALFORMED = auto()
    AD_UNAVAILABLE = auto()
    LOG_ACCEPTED = auto()
    LOG_MALFORMED = auto()
    LOG_UNAVAILABLE = auto()
    REQUESTS_REFUSED = auto()
    REQUESTS_SHED = auto()
    REQUESTS_FAILED = auto()
    CONNECTIONS = auto()
    LOOKUP_FAILURES = auto()
    AD_FALLBACKS = auto()
    LOG_ROWS = auto()
    LOG_ROWS_REJECTED = auto()
    LOG_FAILURES = auto()
    WORKERS_STARTED = auto()
    LOG_LINES_DROPPED = auto()
    # Counted by the master: why a slot needed another child.
    RESPAWNS_EXIT = auto()
    RESPAWNS_SIGNAL = auto()
    RESPAWNS_HUNG = auto()
    RESPAWNS_BOOT_TIMEOUT = auto()
    RESPAWNS_RETIRED = auto()
    RESPAWNS_RECYCLED = auto()
    JOURNAL_ADOPTED = auto()
    JOURNAL_TORN = auto()
    JOURNAL_DAMAGED = auto()
    ERRANDS_FAILED = auto()
    CATALOGS_LOADED = auto()
    CATALOGS_FAILED = auto()
    IMPRESSIONS_TAKEN = auto()
    VIEWABLES_TAKEN = auto()
    CLICKS_TAKEN = auto()
    CONVERSIONS_TAKEN = auto()
    TRACKING_ALTERED = auto()
    TRACKING_EXPIRED = auto()
    TRACKING_MALFORMED = auto()
    TRACKING_UNKNOWN = auto()
    TRACKING_UNAVAILABLE = auto()
    CLICKS_LATE = auto()
    DECISIONS_FILLED = auto()
    DECISIONS_HOUSE = auto()
    DECISIONS_UNFILLED = auto()
    DECISIONS_FILTERED = auto()
    AD_NO_ZONE = auto()
    AD_REDIRECTED = auto()
    # Beacons, clicks and conversions, by the status they were answered with.
    TRACK_200 = auto()
    TRACK_204 = auto()
    TRACK_302 = auto()
    TRACK_400 = auto()
    TRACK_403 = auto()
    TRACK_404 = auto()
    TRACK_410 = auto()
    TRACK_503 = auto()


# By the status; a status that is not here is none that tracking answers with.
TRACK_ANSWERS: Final = {
    200: Counter.TRACK_200,
    204: Counter.TRACK_204,
    302: Counter.TRACK_302,
    400: Counter.TRACK_400,
    403: Counter.TRACK_403,
    404: Counter.TRACK_404,
    410: Counter.TRACK_410,
    503: Counter.TRACK_503,
}


@unique
class Gauge(IntEnum):
    """Position of each gauge in a seat. Zeroed when its process is gone."""

    CONNECTIONS_OPEN = 0
    LOOKUPS_WAITING = auto()
    LOG_ROWS_WAITING = auto()
    LOG_BYTES_WAITING = auto()
    READERS_CONNECTED = auto()
    WRITER_CONNECTED = auto()
    LOOP_LAG_MICROSECONDS = auto()
    MEMORY_BYTES = auto()
    JOURNAL_BYTES = auto()
    JOURNAL_OLDEST_MILLISECONDS = auto()
    STEWARD_CONNECTED = auto()
    CATALOG_VERSION = auto()
    CATALOG_CHECKED_MILLISECONDS = auto()
    CAMPAIGNS = auto()
    CAMPAIGNS_REFUSED = auto()
    LEASES_HELD = auto()
    LEASED_UNUSED = auto()
    CAMPAIGNS_WAITING = auto()


class Histogram:
    """How often which size: `first` is the position of its first bucket in a seat."""

    __slots__ = ("_sum", "bounds", "end", "first")

    def __init__(self, first: int, bounds: tuple[int, ...]) -> None:
        """`bounds` are the largest values of all buckets but the last, which has none."""
        self.first = first
        self.bounds = bounds
        self._sum = first + len(bounds) + 1
        self.end = self._sum + 1

    def observe(self, cells: Cells, value: int, times: int = 1) -> None:
        """Count a value, in the unit of the bounds."""
        cells[self.first + bisect_left(self.bounds, value)] += times
        cells[self._sum] += value * times

    def buckets(self, cells: Sequence[int]) -> Sequence[int]:
        """What fell into each bucket alone; the last one has no bound."""
        return cells[self.first : self._sum]

    def count(self, cells: Sequence[int]) -> int:
        return sum(self.buckets(cells))

    def sum(self, cells: Sequence[int]) -> int:
        return cells[self._sum]


# In microseconds: 100 µs to 10 s.
_TIMES = (
    *(100, 250, 500),
    *(1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000),
    *(1_000_000, 2_500_000, 5_000_000, 10_000_000),
)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)

AD_MICROSECONDS = Histogram(len(Counter), _TIMES)
LOG_MICROSECONDS = Histogram(AD_MICROSECONDS.end, _TIMES)
LOOKUP_MICROSECONDS = Histogram(LOG_MICROSECONDS.end, _TIMES)
LOOKUP_KEYS = Histogram(LOOKUP_MICROSECONDS.end, _SIZES)
INSERT_MICROSECONDS = Histogram(LOOKUP_KEYS.end, _TIMES)
INSERT_ROWS = Histogram(INSERT_MICROSECONDS.end, _SIZES)
LOOP_LAG_MICROSECONDS = Histogram(INSERT_ROWS.end, _TIMES)
TRACK_MICROSECONDS = Histogram(LOOP_LAG_MICROSECONDS.end, _TIMES)
CELLS = TRACK_MICROSECONDS.end

# For who reads a seat from outside and may be of another version than who counts in it.
HISTOGRAMS = {
    "ad_microseconds": AD_MICROSECONDS,
    "log_microseconds": LOG_MICROSECONDS,
    "lookup_microseconds": LOOKUP_MICROSECONDS,
    "lookup_keys": LOOKUP_KEYS,
    "insert_microseconds": INSERT_MICROSECONDS,
    "insert_rows": INSERT_ROWS,
    "loop_lag_microseconds": LOOP_LAG_MICROSECONDS,
    "track_microseconds": TRACK_MICROSECONDS,
}


def layout() -> dict[str, object]:
    """Where everything stands in a seat, as JSON has it."""
    return {
        "counters": {counter.name.lower(): int(counter) for counter in Counter},
        "gauges": {gauge.name.lower(): int(gauge) for gauge in Gauge},
        "histograms": {name: [one.first, *one.bounds] for name, one in HISTOGRAMS.items()},
    }


_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class _Series:
    source: Counter | Gauge | Histogram
    labels: str = ""
    divide_by: int = 1


@dataclass(frozen=True, slots=True)
class _Family:
    name: str
    help: str
    series: tuple[_Series, ...]
    # What becomes of the gauges of several children: one figure, or one for each slot.
    combine: Callable[[Iterable[int]], int] = sum
    by_slot: bool = False

    @property
    def kind(self) -> str:
        source = self.series[0].source
        if isinstance(source, Histogram):
            return "histogram"
        return "counter" if isinstance(source, Counter) else "gauge"


def _answers(endpoint: str, status: int, counter: Counter) -> _Series:
    return _Series(counter, f'endpoint="{endpoint}",status="{status}"')


def _any(values: Iterable[int]) -> int:
    return int(any(values))


def _largest(values: Iterable[int]) -> int:
    return max(values, default=0)


_FAMILIES = (
    _Family(
        "prefork_ads_requests_total",
        "Requests answered by an endpoint; track: beacons, clicks and conversions.",
        (
            _answers("ad", 200, Counter.AD_FOUND),
            _answers("ad", 204, Counter.AD_UNKNOWN),
            _answers("ad", 302, Counter.AD_REDIRECTED),
            _answers("ad", 400, Counter.AD_MALFORMED),
            _answers("ad", 404, Counter.AD_NO_ZONE),
            _answers("ad", 503, Counter.AD_UNAVAILABLE),
            _answers("log", 204, Counter.LOG_ACCEPTED),
            _answers("log", 400, Counter.LOG_MALFORMED),
            _answers("log", 503, Counter.LOG_UNAVAILABLE),
            *(_answers("track", status, counter) for status, counter in TRACK_ANSWERS.items()),
        ),
    ),
    _Family(
        "prefork_ads_request_duration_seconds",
        "Time from reading a request to writing its answer.",
        (
            _Series(AD_MICROSECONDS, 'endpoint="ad"', _MILLION),
            _Series(LOG_MICROSECONDS, 'endpoint="log"', _MILLION),
            _Series(TRACK_MICROSECONDS, 'endpoint="track"', _MILLION),
        ),
    ),
    _Family(
        "prefork_ads_requests_refused_total",
        "Messages refused by the protocol: malformed, too large, too slow, too many.",
        (_Series(Counter.REQUESTS_REFUSED),),
    ),
    _Family(
        "prefork_ads_requests_shed_total",
        "Requests answered with 503 unread because this worker's loop was behind.",
        (_Series(Counter.REQUESTS_SHED),),
    ),
    _Family(
        "prefork_ads_requests_failed_total",
        "Requests answered with 500 because a handler failed. Always a bug.",
        (_Series(Counter.REQUESTS_FAILED),),
    ),
    _Family(
        "prefork_ads_connections_total",
        "Client connections accepted.",
        (_Series(Counter.CONNECTIONS),),
    ),
    _Family(
        "prefork_ads_connections_open",
        "Client connections open now.",
        (_Series(Gauge.CONNECTIONS_OPEN),),
    ),
    _Family(
        "prefork_ads_lookup_duration_seconds",
        "Time of a query that looks up a batch of keys.",
        (_Series(LOOKUP_MICROSECONDS, divide_by=_MILLION),),
    ),
    _Family(
        "prefork_ads_lookup_batch_keys",
        "Keys in a query that looks up a batch of them.",
        (_Series(LOOKUP_KEYS),),
    ),
    _Family(
        "prefork_ads_ad_fallbacks_total",
        "Requests for an ad that PostgreSQL did not answer; --ad-fallback says what they got instead.",
        (_Series(Counter.AD_FALLBACKS),),
    ),
    _Family(
        "prefork_ads_lookup_failures_total",
        "Queries for a batch of keys that failed.",
        (_Series(Counter.LOOKUP_FAILURES),),
    ),
    _Family(
        "prefork_ads_lookups_waiting",
        "Requests waiting for a row from PostgreSQL now.",
        (_Series(Gauge.LOOKUPS_WAITING),),
    ),
    _Family(
        "prefork_ads_log_insert_duration_seconds",
        "Time of a statement that writes a batch of events.",
        (_Series(INSERT_MICROSECONDS, divide_by=_MILLION),),
    ),
    _Family(
        "prefork_ads_log_batch_rows",
        "Events in a statement that writes a batch of them.",
        (_Series(INSERT_ROWS),),
    ),
    _Family(
        "prefork_ads_log_rows_total",
        "Events written to PostgreSQL.",
        (_Series(Counter.LOG_ROWS),),
    ),
    _Family(
        "prefork_ads_log_rows_rejected_total",
        "Events that PostgreSQL refused, kept in request_log_rejected. Always a bug.",
        (_Series(Counter.LOG_ROWS_REJECTED),),
    ),
    _Family(
        "prefork_ads_log_failures_total",
        "Attempts to write a batch of events that failed and were repeated.",
        (_Series(Counter.LOG_FAILURES),),
    ),
    _Family(
        "prefork_ads_log_rows_waiting",
        "Events of living workers, not yet in PostgreSQL.",
        (_Series(Gauge.LOG_ROWS_WAITING),),
    ),
    _Family(
        "prefork_ads_log_bytes_waiting",
        "Bytes of events of living workers, not yet in PostgreSQL.",
        (_Series(Gauge.LOG_BYTES_WAITING),),
    ),
    _Family(
        "prefork_ads_journal_bytes",
        "Bytes of events in the journal, not yet in PostgreSQL; those that dead workers left included.",
        (_Series(Gauge.JOURNAL_BYTES),),
    ),
    _Family(
        "prefork_ads_journal_oldest_seconds",
        "Age of the oldest event that is not yet in PostgreSQL.",
        (_Series(Gauge.JOURNAL_OLDEST_MILLISECONDS, divide_by=1000),),
        combine=_largest,
    ),
    _Family(
        "prefork_ads_journal_adopted_total",
        "Journal files of dead workers that were shipped.",
        (_Series(Counter.JOURNAL_ADOPTED),),
    ),
    _Family(
        "prefork_ads_journal_torn_total",
        "Lines cut off in the middle at a worker's death; their requests were not answered.",
        (_Series(Counter.JOURNAL_TORN),),
    ),
    _Family(
        "prefork_ads_journal_damaged_total",
        "Journal files set aside because something in them cannot be shipped.",
        (_Series(Counter.JOURNAL_DAMAGED),),
    ),
    _Family(
        "prefork_ads_database_connections",
        "Connections to PostgreSQL that are open now.",
        (
            _Series(Gauge.READERS_CONNECTED, 'role="reader"'),
            _Series(Gauge.WRITER_CONNECTED, 'role="writer"'),
            _Series(Gauge.STEWARD_CONNECTED, 'role="steward"'),
        ),
    ),
    _Family(
        "prefork_ads_database_up",
        "1 while any worker has a connection to PostgreSQL for this role.",
        (
            _Series(Gauge.READERS_CONNECTED, 'role="reader"'),
            _Series(Gauge.WRITER_CONNECTED, 'role="writer"'),
            _Series(Gauge.STEWARD_CONNECTED, 'role="steward"'),
        ),
        combine=_any,
    ),
    _Family(
        "prefork_ads_workers_started_total",
        "Worker processes that became ready, first starts and replacements.",
        (_Series(Counter.WORKERS_STARTED),),
    ),
    _Family(
        "prefork_ads_respawns_total",
        "Successors that children needed, by why.",
        (
            _Series(Counter.RESPAWNS_EXIT, 'cause="exit"'),
            _Series(Counter.RESPAWNS_SIGNAL, 'cause="signal"'),
            _Series(Counter.RESPAWNS_HUNG, 'cause="hung"'),
            _Series(Counter.RESPAWNS_BOOT_TIMEOUT, 'cause="boot_timeout"'),
            _Series(Counter.RESPAWNS_RETIRED, 'cause="retired"'),
            _Series(Counter.RESPAWNS_RECYCLED, 'cause="recycled"'),
        ),
    ),
    _Family(
        "prefork_ads_event_loop_delay_seconds",
        "How late a worker's clock was that is due four times a second: the loop was busy that long.",
        (_Series(LOOP_LAG_MICROSECONDS, divide_by=_MILLION),),
    ),
    _Family(
        "prefork_ads_worker_event_loop_delay_seconds",
        "The longest delay of a worker's loop in the last ten seconds or so.",
        (_Series(Gauge.LOOP_LAG_MICROSECONDS, divide_by=_MILLION),),
        combine=_largest,
        by_slot=True,
    ),
    _Family(
        "prefork_ads_worker_memory_bytes",
        "Resident memory of a worker, shared pages included.",
        (_Series(Gauge.MEMORY_BYTES),),
        by_slot=True,
    ),
    _Family(
        "prefork_ads_log_lines_dropped_total",
        "Lines of the server's own log that nobody took in time.",
        (_Series(Counter.LOG_LINES_DROPPED),),
    ),
    _Family(
        "prefork_ads_errands_failed_total",
        "Statements for catalog, keys and budgets that failed and were repeated.",
        (_Series(Counter.ERRANDS_FAILED),),
    ),
    _Family(
        "prefork_ads_catalogs_loaded_total",
        "Versions of the catalog that workers began to serve.",
        (_Series(Counter.CATALOGS_LOADED),),
    ),
    _Family(
        "prefork_ads_catalogs_failed_total",
        "Versions of the catalog that could not be served; the one before them is. Always a bug.",
        (_Series(Counter.CATALOGS_FAILED),),
    ),
    _Family(
        "prefork_ads_catalog_version",
        "The version of the catalog that a worker serves.",
        (_Series(Gauge.CATALOG_VERSION),),
        combine=_largest,
        by_slot=True,
    ),
    _Family(
        "prefork_ads_catalog_check_age_seconds",
        "How long ago PostgreSQL last told a worker that it serves the newest catalog, or of a newer one.",
        (_Series(Gauge.CATALOG_CHECKED_MILLISECONDS, divide_by=1000),),
        combine=_largest,
        by_slot=True,
    ),
    _Family(
        "prefork_ads_campaigns",
        "Campaigns in the catalog that may be served.",
        (_Series(Gauge.CAMPAIGNS),),
        combine=_largest,
    ),
    _Family(
        "prefork_ads_campaigns_refused",
        "Campaigns that are not served because their targeting is not understood.",
        (_Series(Gauge.CAMPAIGNS_REFUSED),),
        combine=_largest,
    ),
    _Family(
        "prefork_ads_leases_held",
        "Campaigns with a goal that a worker may serve now.",
        (_Series(Gauge.LEASES_HELD),),
        by_slot=True,
    ),
    _Family(
        "prefork_ads_leased_unused",
        "Ads of campaigns with a goal that a worker was granted and has not served.",
        (_Series(Gauge.LEASED_UNUSED),),
        by_slot=True,
    ),
    _Family(
        "prefork_ads_campaigns_waiting",
        "Campaigns with a goal that a worker may not serve now: it waits until something can be granted.",
        (_Series(Gauge.CAMPAIGNS_WAITING),),
        by_slot=True,
    ),
    _Family(
        "prefork_ads_tracked_total",
        "Impressions, viewable impressions, clicks and conversions that were logged, replayed ones included.",
        (
            _Series(Counter.IMPRESSIONS_TAKEN, 'event="impression"'),
            _Series(Counter.VIEWABLES_TAKEN, 'event="viewable"'),
            _Series(Counter.CLICKS_TAKEN, 'event="click"'),
            _Series(Counter.CONVERSIONS_TAKEN, 'event="conversion"'),
        ),
    ),
    _Family(
        "prefork_ads_tracking_refused_total",
        "Beacons, clicks and conversions that were not logged, by why; a late click is led on all the same.",
        (
            _Series(Counter.TRACKING_ALTERED, 'reason="altered"'),
            _Series(Counter.TRACKING_EXPIRED, 'reason="expired"'),
            _Series(Counter.TRACKING_MALFORMED, 'reason="malformed"'),
            _Series(Counter.TRACKING_UNKNOWN, 'reason="unknown"'),
            _Series(Counter.TRACKING_UNAVAILABLE, 'reason="unavailable"'),
            _Series(Counter.CLICKS_LATE, 'reason="late_click"'),
        ),
    ),
    _Family(
        "prefork_ads_decisions_total",
        "Places decided on, by what came of it: an ad, a house ad, nothing; or asked for by a program.",
        (
            _Series(Counter.DECISIONS_FILLED, 'outcome="filled"'),
            _Series(Counter.DECISIONS_HOUSE, 'outcome="house"'),
            _Series(Counter.DECISIONS_UNFILLED, 'outcome="unfilled"'),
            _Series(Counter.DECISIONS_FILTERED, 'outcome="filtered"'),
        ),
    ),
)

# A slot, -1 for the keeper's, and the gauges of a child that sits in it. During a reload a slot has two.
GaugesOfSlot = tuple[int, Sequence[int]]


@dataclass(frozen=True, slots=True)
class About:
    """What is known of the server without counting."""

    version: str
    started_unix_s: float
    slots: int = 0
    open_to: int = 0
    crash_looping: int = 0
    workers: int = 0
    # 0: without a journal.
    journal_limit_bytes: int = 0


def exposition(counters: Sequence[int], gauges: Sequence[GaugesOfSlot], about: About) -> bytes:
    """The text of /metrics; `counters` are all cells of all seats, added up."""
    lines: list[str] = []
    for family in _FAMILIES:
        lines += _heading(family.name, family.help, family.kind)
        for series in family.series:
            lines += _samples(family, series, counters, gauges)
    lines += _about(about)
    return ("\n".join(lines) + "\n").encode()


def _samples(
    family: _Family, series: _Series, counters: Sequence[int], gauges: Sequence[GaugesOfSlot]
) -> Iterator[str]:
    source, unit = series.source, series.divide_by
    if isinstance(source, Histogram):
        yield from _histogram(family.name, source, series.labels, unit, counters)
    elif isinstance(source, Counter):
        yield _sample(family.name, series.labels, _in_unit(counters[source], unit))
    elif not family.by_slot:
        value = family.combine(of_child[source] for _, of_child in gauges)
        yield _sample(family.name, series.labels, _in_unit(value, unit))
    else:
        slots: dict[int, list[int]] = {}
        for slot, of_child in gauges:
            if slot >= 0:
                slots.setdefault(slot, []).append(of_child[source])
        for slot, values in sorted(slots.items()):
            shown = _in_unit(family.combine(values), unit)
            yield _sample(family.name, f'slot="{slot}"', shown)


def _histogram(
    name: str, source: Histogram, labels: str, unit: int, counters: Sequence[int]
) -> Iterator[str]:
    buckets = list(accumulate(source.buckets(counters)))
    bounds = [*(f"{bound / unit:g}" for bound in source.bounds), "+Inf"]
    before = f"{labels}," if labels else ""
    for bound, count in zip(bounds, buckets, strict=True):
        yield _sample(f"{name}_bucket", f'{before}le="{bound}"', count)
    yield _sample(f"{name}_sum", labels, _in_unit(source.sum(counters), unit))
    yield _sample(f"{name}_count", labels, buckets[-1])


def _about(about: About) -> list[str]:
    build = f'version="{about.version}",python="{platform.python_version()}"'
    return [
        line
        for name, text, labels, value in (
            ("prefork_ads_slots", "Workers that there should be.", "", about.slots),
            ("prefork_ads_slots_open", "Workers that get new connections.", "", about.open_to),
            (
                "prefork_ads_slots_crash_looping",
                "Slots whose workers keep dying early.",
                "",
                about.crash_looping,
            ),
            ("prefork_ads_workers", "Worker processes alive now.", "", about.workers),
            (
                "prefork_ads_journal_limit_bytes",
                "Bytes past which requests are answered with 503; 0 without a journal.",
                "",
                about.journal_limit_bytes,
            ),
            (
                "prefork_ads_start_time_seconds",
                "When the master started, in seconds since 1970.",
                "",
                round(about.started_unix_s, 3),
            ),
            ("prefork_ads_build_info", "What runs; the value is always 1.", build, 1),
        )
        for line in (*_heading(name, text, "gauge"), _sample(name, labels, value))
    ]


def _in_unit(value: int, unit: int) -> float:
    # Whole numbers keep all their digits, which a float would not.
    return value if unit == 1 else value / unit


def _heading(name: str, text: str, kind: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _sample(name: str, labels: str, value: float) -> str:
    return f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"
