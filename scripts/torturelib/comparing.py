"""The truth of the clients against the tables of PostgreSQL.

The truth is loaded by COPY, a line at a time, and joined with the log: a run of hours has more events
than fit into memory, but not more than PostgreSQL can sort. Each event is looked for by its number and
endpoint. Its text must have the checksum it was sent with: lines that were torn, mixed or escaped wrongly
are seen even where their number survived.

An event that was sent and not acknowledged may be stored or not, but never twice.

What visits told of is compared with what counts, too: each acknowledged impression, viewable and click counts
once however often it was told, nothing counts that was not told, the rollup equals the raw rows, and no
campaign got more than its goal.

Must not know: which faults there were.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2

from torturelib.truth import Truth

SAMPLES = 10
NULL = "\\N"
# When the lost were sent tells what lost them; more than these say nothing new.
TIMES = 100_000

_LOAD = """
CREATE TEMPORARY TABLE sent (
    n bigint, endpoint text, acknowledged boolean, sent_s float8, took_s float8,
    decision uuid, campaign text);
CREATE TEMPORARY TABLE stored (n bigint, endpoint text, copies bigint, intact boolean);
"""

# What has no number of ours in the right form stays away from the cast, and is counted as strange.
_STORE = """
INSERT INTO stored
SELECT (request ->> 'no')::bigint, endpoint, count(*),
       bool_and(left(md5(request ->> 'note'), 16) IS NOT DISTINCT FROM request ->> 'sum')
  FROM request_log, LATERAL (SELECT CASE WHEN endpoint IN ('log', 'ad') THEN params
                                         ELSE params -> 'request' END AS request) AS asked
 WHERE request ->> 'run' = %(run)s AND request ->> 'no' ~ '^[0-9]{1,18}$'
 GROUP BY 1, 2
"""

_FIGURES = """
SELECT count(*)                                                        AS sent,
       count(*) FILTER (WHERE acknowledged)                            AS acknowledged,
       (SELECT coalesce(sum(copies), 0) FROM stored)                   AS stored,
       count(*) FILTER (WHERE acknowledged AND stored.n IS NULL)       AS lost,
       coalesce(sum(copies - 1) FILTER (WHERE copies > 1), 0)          AS duplicates,
       count(*) FILTER (WHERE NOT intact)                              AS damaged,
       count(*) FILTER (WHERE NOT acknowledged AND stored.n IS NOT NULL) AS unacknowledged_stored,
       (SELECT count(*) FROM request_log WHERE endpoint <> 'state')
           - (SELECT coalesce(sum(copies), 0) FROM stored JOIN sent USING (n, endpoint)) AS strange,
       (SELECT count(*) FROM request_log_rejected)                     AS rejected,
       (SELECT count(*) FROM journal_segment WHERE closed IS NULL)     AS ledger_rows
  FROM sent LEFT JOIN stored USING (n, endpoint)
"""

_SAMPLES = """
SELECT n, endpoint, sent_s, took_s, coalesce(copies, 0)
  FROM sent LEFT JOIN stored USING (n, endpoint)
 WHERE (acknowledged AND stored.n IS NULL) OR copies > 1 OR NOT intact
 ORDER BY sent_s LIMIT %(samples)s
"""


# A beacon counts if one of its tellings was acknowledged; it may count if one was sent.
_COUNTED = """
WITH told AS (
    SELECT decision, endpoint AS kind, bool_or(acknowledged) AS acknowledged, count(*) AS times
      FROM sent WHERE endpoint IN ('impression', 'viewable', 'click') GROUP BY 1, 2
), rolled AS (
    SELECT sum(requests) AS requests, sum(impressions) AS impressions, sum(viewable) AS viewable,
           sum(clicks) AS clicks
      FROM rollup_hour
)
SELECT (SELECT count(*) FROM told)                                                    AS told,
       (SELECT coalesce(sum(times), 0) FROM told)                                     AS tellings,
       (SELECT count(*) FROM ad_event)                                                AS counted,
       (SELECT count(*) FROM told LEFT JOIN ad_event AS e USING (decision, kind)
         WHERE told.acknowledged AND e.decision IS NULL)                              AS uncounted,
       (SELECT count(*) FROM ad_event AS e LEFT JOIN told USING (decision, kind)
         WHERE told.decision IS NULL)                                                 AS made_up,
       (SELECT count(*) FROM request_log WHERE endpoint = 'decision')
           - (SELECT coalesce(requests, 0) FROM rolled)                               AS rollup_requests_off,
       (SELECT count(*) FROM ad_event)
           - (SELECT coalesce(impressions + viewable + clicks, 0) FROM rolled)        AS rollup_events_off,
       (SELECT count(*) FROM sent AS s JOIN request_log AS l ON l.id = s.decision
         WHERE s.endpoint = 'decision' AND l.endpoint = 'decision'
           AND (SELECT key FROM campaign WHERE id = (l.params #>> '{decision,campaign}')::integer)
               IS DISTINCT FROM s.campaign)                                           AS other_campaign,
       (SELECT coalesce(sum(greatest(0, had.billed - c.goal_total)), 0)
          FROM campaign AS c
          JOIN (SELECT campaign_id, count(*) AS billed FROM ad_event
                 WHERE kind = 'impression' AND filtered IS NULL GROUP BY 1) AS had ON had.campaign_id = c.id
         WHERE c.goal_total IS NOT NULL)                                              AS over_goal
"""

# One statement is one snapshot.
ROLLUP_IS_RAW = """
SELECT (SELECT count(*) FROM request_log WHERE endpoint = 'decision') = coalesce(sum(requests), 0)
       AND (SELECT count(*) FROM ad_event) = coalesce(sum(impressions + viewable + clicks), 0)
  FROM rollup_hour
"""

_LOST = """
SELECT sent_s
  FROM sent LEFT JOIN stored USING (n, endpoint)
 WHERE acknowledged AND stored.n IS NULL
 ORDER BY sent_s LIMIT %(times)s
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """An event that is missing, doubled or damaged."""

    number: int
    endpoint: str
    sent_s: float
    took_s: float
    copies: int


@dataclass(frozen=True, slots=True)
class Counted:
    """What became of what the visits told."""

    told: int
    """Different ones: a decision and a kind."""
    tellings: int
    counted: int
    uncounted: int
    """Acknowledged, and counted nowhere."""
    made_up: int
    """Counted, and told by nobody."""
    rollup_requests_off: int
    rollup_events_off: int
    other_campaign: int
    """Decisions that are logged with another campaign than was shown."""
    over_goal: int


@dataclass(frozen=True, slots=True)
class Comparison:
    sent: int
    acknowledged: int
    stored: int
    lost: int
    duplicates: int
    damaged: int
    unacknowledged_stored: int
    strange: int
    """Rows that are no event of this run."""
    rejected: int
    ledger_rows: int
    ads: Counted
    samples: tuple[Sample, ...] = ()
    lost_at_s: tuple[float, ...] = ()


def compare(dsn: str, truth: Truth) -> Comparison:
    connection = psycopg2.connect(dsn)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET work_mem = '256MB'")
            cursor.execute(_LOAD)
            cursor.copy_expert("COPY sent FROM STDIN", io.BufferedReader(_CopySource(truth)))
            cursor.execute(_STORE, {"run": truth.header.run})
            cursor.execute("ANALYZE sent, stored")
            cursor.execute(_FIGURES)
            figures, columns = cursor.fetchone(), cursor.description
            assert figures is not None
            assert columns is not None
            cursor.execute(_COUNTED)
            ad_figures, ad_columns = cursor.fetchone(), cursor.description
            assert ad_figures is not None
            assert ad_columns is not None
            ads = Counted(**{c.name: int(n) for c, n in zip(ad_columns, ad_figures, strict=True)})
            cursor.execute(_SAMPLES, {"samples": SAMPLES})
            samples = tuple(Sample(*row) for row in cursor.fetchall())
            cursor.execute(_LOST, {"times": TIMES})
            lost_at_s = tuple(sent_s for (sent_s,) in cursor.fetchall())
    finally:
        connection.close()
    names = [column.name for column in columns]
    counts = dict(zip(names, map(int, figures), strict=True))
    return Comparison(**counts, ads=ads, samples=samples, lost_at_s=lost_at_s)


def files_left(data_dir: Path) -> list[str]:
    """What should not be there after a clean stop: segments, damaged ones, rescued events."""
    journal = data_dir / "journal"
    found = [path for path in journal.rglob("*") if path.is_file() and path.stat().st_size >= 0]
    found += data_dir.glob("unsent-*")
    return sorted(str(path.relative_to(data_dir)) for path in found)


class _CopySource(io.RawIOBase):
    """What COPY reads: the truth, a line at a time."""

    def __init__(self, truth: Truth) -> None:
        self._lines = _rows(truth)
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while len(self._left) < len(buffer) and (line := next(self._lines, b"")):
            self._left += line
        piece, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)


def _rows(truth: Truth) -> Iterator[bytes]:
    for r in truth.requests():
        acknowledged = "t" if r.acknowledged else "f"
        row = (
            f"{r.number}\t{r.endpoint}\t{acknowledged}\t{r.sent_s}\t{r.took_s}"
            f"\t{r.decision or NULL}\t{r.campaign or NULL}\n"
        )
        yield row.encode("ascii")
