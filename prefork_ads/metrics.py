"""What is counted, and its Prometheus text.

Each worker counts into its own seat of the scoreboard; any worker can be asked and sums all seats,
so a scrape gives the whole server whichever worker answers it.

Names follow the Prometheus conventions (base units, `_total` for counters). Text format:
https://prometheus.io/docs/instrumenting/exposition_formats/.

Must not know: shared memory, locks, databases.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class Cells(Protocol):
    """Where one process counts: a list, or words of shared memory."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


class Counter(IntEnum):
    """Position of each counter in a seat. Counters only go up."""

    AD_FOUND = 0
    AD_UNKNOWN = 1
    AD_MALFORMED = 2
    AD_UNAVAILABLE = 3
    LOG_ACCEPTED = 4
    LOG_MALFORMED = 5
    LOG_UNAVAILABLE = 6
    REQUESTS_REFUSED = 7
    REQUESTS_FAILED = 8
    CONNECTIONS = 9
    LOOKUP_BATCHES = 10
    LOOKUP_KEYS = 11
    LOOKUP_FAILURES = 12
    LOOKUP_MICROSECONDS = 13
    LOG_BATCHES = 14
    LOG_ROWS = 15
    LOG_ROWS_REJECTED = 16
    LOG_FAILURES = 17
    LOG_MICROSECONDS = 18
    WORKERS_STARTED = 19


class Gauge(IntEnum):
    """Position of each gauge in a seat. Zeroed when its process is gone."""

    CONNECTIONS_OPEN = 0
    LOOKUPS_WAITING = 1
    LOG_ROWS_WAITING = 2
    LOG_BYTES_WAITING = 3
    READERS_CONNECTED = 4
    WRITER_CONNECTED = 5


@dataclass(frozen=True, slots=True)
class _Series:
    source: Counter | Gauge
    labels: str = ""
    divide_by: int = 1


@dataclass(frozen=True, slots=True)
class _Family:
    name: str
    help: str
    series: tuple[_Series, ...]


def _answers(endpoint: str, status: int, counter: Counter) -> _Series:
    return _Series(counter, f'endpoint="{endpoint}",status="{status}"')


_FAMILIES = (
    _Family(
        "prefork_ads_requests_total",
        "Requests answered by an endpoint.",
        (
            _answers("ad", 200, Counter.AD_FOUND),
            _answers("ad", 204, Counter.AD_UNKNOWN),
            _answers("ad", 400, Counter.AD_MALFORMED),
            _answers("ad", 503, Counter.AD_UNAVAILABLE),
            _answers("log", 204, Counter.LOG_ACCEPTED),
            _answers("log", 400, Counter.LOG_MALFORMED),
            _answers("log", 503, Counter.LOG_UNAVAILABLE),
        ),
    ),
    _Family(
        "prefork_ads_requests_refused_total",
        "Messages refused by the protocol: malformed, too large, too slow, too many.",
        (_Series(Counter.REQUESTS_REFUSED),),
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
        "prefork_ads_workers_started_total",
        "Worker processes that became ready, first starts and replacements.",
        (_Series(Counter.WORKERS_STARTED),),
    ),
    _Family(
        "prefork_ads_lookup_batches_total",
        "Queries that looked up a batch of keys.",
        (_Series(Counter.LOOKUP_BATCHES),),
    ),
    _Family(
        "prefork_ads_lookup_keys_total",
        "Keys looked up; divided by the batches, the mean size of a batch.",
        (_Series(Counter.LOOKUP_KEYS),),
    ),
    _Family(
        "prefork_ads_lookup_failures_total",
        "Queries for a batch of keys that failed.",
        (_Series(Counter.LOOKUP_FAILURES),),
    ),
    _Family(
        "prefork_ads_lookup_seconds_total",
        "Time spent in queries for batches of keys.",
        (_Series(Counter.LOOKUP_MICROSECONDS, divide_by=1_000_000),),
    ),
    _Family(
        "prefork_ads_log_batches_total",
        "Statements that wrote a batch of events.",
        (_Series(Counter.LOG_BATCHES),),
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
        "prefork_ads_log_seconds_total",
        "Time spent in statements that write events.",
        (_Series(Counter.LOG_MICROSECONDS, divide_by=1_000_000),),
    ),
    _Family(
        "prefork_ads_connections_open",
        "Client connections open now.",
        (_Series(Gauge.CONNECTIONS_OPEN),),
    ),
    _Family(
        "prefork_ads_lookups_waiting",
        "Requests waiting for a row from PostgreSQL now.",
        (_Series(Gauge.LOOKUPS_WAITING),),
    ),
    _Family(
        "prefork_ads_log_rows_waiting",
        "Events in memory, not yet in PostgreSQL.",
        (_Series(Gauge.LOG_ROWS_WAITING),),
    ),
    _Family(
        "prefork_ads_log_bytes_waiting",
        "Bytes of events in memory, not yet in PostgreSQL.",
        (_Series(Gauge.LOG_BYTES_WAITING),),
    ),
    _Family(
        "prefork_ads_database_connections",
        "Connections to PostgreSQL that are open now.",
        (
            _Series(Gauge.READERS_CONNECTED, 'role="reader"'),
            _Series(Gauge.WRITER_CONNECTED, 'role="writer"'),
        ),
    ),
)


def exposition(
    counters: Sequence[int], gauges: Sequence[int], extra: Sequence[tuple[str, str, int]] = ()
) -> bytes:
    """The text of /metrics. `extra` is further gauges as (name, help, value)."""
    lines: list[str] = []
    for family in _FAMILIES:
        kind = "counter" if isinstance(family.series[0].source, Counter) else "gauge"
        lines += (f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {kind}")
        for series in family.series:
            values = counters if isinstance(series.source, Counter) else gauges
            value = values[series.source]
            shown = value if series.divide_by == 1 else value / series.divide_by
            labels = f"{{{series.labels}}}" if series.labels else ""
            lines.append(f"{family.name}{labels} {shown}")
    for name, text, value in extra:
        lines += (f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {value}")
    return ("\n".join(lines) + "\n").encode()
