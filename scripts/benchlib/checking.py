"""Whether a measurement counts: nothing failed, answers had the right size, and every request is in the log.

Pure. A contender that drops what it was asked to log, or answers 204 instead of looking up once the load
is on, would win; so it fails.

Totals alone would forgive as many lost rows as wrk left requests in flight at its end, for most of those
are logged too. So requests are numbered, and a gap in the numbers of the log counts as lost when it is older
than the slowest answer: what was asked then, was answered.
"""

from dataclasses import dataclass

from benchlib.wrk import WrkResult

# Rows differ by a few digits; an answer without its row would be less than half the size.
SIZE_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Sent:
    """All that was asked of a contender between its start and its stop."""

    answered: int
    probes: int
    # What wrk dropped in flight at the end of each of its runs: it may be logged, or not.
    in_flight: int
    # The slowest answer.
    latest_ms: float


@dataclass(frozen=True, slots=True)
class LogCount:
    """What a contender's log holds of one endpoint."""

    rows: int
    distinct_ids: int
    complete: int
    # Gaps in the numbers of the requests, and numbers that are there more than once.
    lost: int
    repeated: int


def load_failures(result: WrkResult) -> list[str]:
    failures = [f"{count} {kind} errors" for kind, count in result.errors.items() if count]
    if result.requests == 0:
        failures.append("no request was answered")
    return failures


def size_failures(result: WrkResult, bytes_per_answer: float) -> list[str]:
    if abs(result.bytes_per_answer / bytes_per_answer - 1) <= SIZE_TOLERANCE:
        return []
    return [
        f"answers under load had {result.bytes_per_answer:.0f} bytes, "
        f"and right ones have {bytes_per_answer:.0f}"
    ]


def log_failures(sent: Sent, count: LogCount) -> list[str]:
    least = sent.answered + sent.probes
    most = least + sent.in_flight
    failures = []
    if count.rows < least:
        failures.append(f"{least - count.rows:,} of {least:,} answered requests are not in the log")
    if count.lost:
        failures.append(f"{count.lost:,} requests that were answered are gaps in the log")
    if count.repeated:
        failures.append(f"{count.repeated:,} requests are in the log more than once")
    if count.rows > most:
        failures.append(f"the log has {count.rows:,} rows for at most {most:,} requests")
    if count.distinct_ids != count.rows:
        failures.append(f"{count.rows - count.distinct_ids:,} rows have the id of another")
    # The request that asked whether it is up carries no headers.
    if count.complete < least - 1:
        failures.append(f"{least - 1 - count.complete:,} rows lack what the request carried")
    return failures
