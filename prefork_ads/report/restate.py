"""Judging anew, by the list of programs as it is today, which decisions and events were made by people.

The list grows; a program that nobody knew last week was counted as a person last week. A restatement
takes the user agents of a day's request log, judges each as the server would today, and corrects what
follows: the decisions' own lines (which are what their sums are made of), events, conversions, what
campaigns have had, and the rollup. What was filtered for another reason stays filtered.

- One day of the log at a time, each in one transaction: the rollup equals its events before and after. A run
  that was stopped is repeated; where nothing differs nothing is written.
- It is worked out in temporary tables, without a lock. Then changes are applied in the order in which
  whoever ingests takes its locks (events, guards, conversions, deliveries, rollup), so the two never wait for
  each other in a circle; and sums are added to, not set, so what arrives meanwhile is not lost. An event
  that arrives between the two is judged by the next run.
- Conversions are compared with what they are attributed to, whether that has changed now or before: one may
  have been attributed while an earlier run was about to filter its click.
- An event that is to be billed after all passes the same guard as one that comes in: no goal is exceeded.

Rows of the log that were corrected move within their partition: the keeper vacuums it again.

Must not know: the command line, how a server judges (`ads.clients` tells).
"""

import datetime
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import psycopg2.extensions

from prefork_ads.ads.clients import client_of
from prefork_ads.db import session
from prefork_ads.db.queries import query

Connection = psycopg2.extensions.connection
Cursor = psycopg2.extensions.cursor
Progress = Callable[[int, int | None, str], None]
Judge = Callable[[str], str]

DAY: Final = datetime.timedelta(days=1)
AGENTS_AT_ONCE: Final = 10_000

APPLY: Final = (
    "restate_apply_decisions",
    "restate_apply_events",
)
THEN: Final = (
    "restate_apply_conversions",
    "restate_event_sums",
    "restate_apply_deliveries",
    "restate_apply_rollup",
)
# Where neither decisions nor events change.
OTHERWISE: Final = ("restate_apply_conversions", "restate_apply_rollup")

_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


@dataclass(frozen=True, slots=True)
class Day:
    """What a day's restatement changed, or would."""

    day: datetime.date
    decisions_out: int
    decisions_in: int
    events_out: int
    events_in: int
    over_goal: int = 0

    @property
    def changed(self) -> int:
        return self.decisions_out + self.decisions_in + self.events_out + self.events_in

    def __str__(self) -> str:
        over = (
            f" ({self.over_goal:,} of them over their goals, not billed)" if self.over_goal else ""
        )
        return (
            f"{self.day}: not counted any more: {self.decisions_out:,} decisions, {self.events_out:,}"
            f" events; counted again: {self.decisions_in:,} decisions, {self.events_in:,} events{over}"
        )


def by_the_list(user_agent: str) -> str:
    """The name of the program that a server would take this for today; "" if for a person's."""
    return client_of(user_agent.encode(errors="replace")).bot


def restate(
    dsn: str,
    first: datetime.datetime,
    last: datetime.datetime | None,
    *,
    dry_run: bool = False,
    judge: Judge = by_the_list,
    progress: Progress | None = None,
) -> list[Day]:
    """Judge the days of the log (UTC) from `first` up to `last` anew, as far as they are kept."""
    done = []
    with session.connection(dsn) as conn:
        days = list(_days(conn, first, last))
        for n, day in enumerate(days, 1):
            done.append(_restate_day(conn, day, judge, dry_run=dry_run))
            if progress is not None:
                progress(n, len(days), str(day))
    return done


def _days(
    conn: Connection, first: datetime.datetime, last: datetime.datetime | None
) -> Iterator[datetime.date]:
    with conn, conn.cursor() as cursor:
        cursor.execute(query("request_log_days"))
        kept = [day for (day,) in cursor.fetchall()]
    # A period that ends at midnight does not have the day that begins there.
    end = (_utc(last) - datetime.timedelta(microseconds=1)).date() if last is not None else None
    return (day for day in kept if _utc(first).date() <= day and (end is None or day <= end))


def _utc(moment: datetime.datetime) -> datetime.datetime:
    """Days are those of UTC, also where a moment was told with an offset."""
    return moment if moment.tzinfo is None else moment.astimezone(datetime.UTC)


def _restate_day(conn: Connection, day: datetime.date, judge: Judge, *, dry_run: bool) -> Day:
    start = datetime.datetime.combine(day, datetime.time(), datetime.UTC)
    bounds = {"from": start, "to": start + DAY}
    over_goal = 0
    try:
        with conn.cursor() as cursor:
            cursor.execute(
                query("restate_turn"),
                {"namespace": session.ADVISORY_NAMESPACE, "lock": session.LOCK_RESTATE},
            )
            cursor.execute(query("restate_stage"))
            _judge_agents(conn, cursor, bounds, judge)
            for name in ("restate_decisions", "restate_events"):
                cursor.execute(query(name), bounds)
            cursor.execute(query("restate_counts"))
            counts = cursor.fetchone()
            assert counts is not None
            if not dry_run:
                if any(counts):
                    over_goal = _apply(cursor, bounds)
                else:
                    _run(cursor, OTHERWISE, bounds)
        if dry_run:
            conn.rollback()
        else:
            conn.commit()
    except BaseException:
        conn.rollback()
        raise
    decisions_out, decisions_in, events_out, events_in = counts
    return Day(day, decisions_out, decisions_in, events_out, events_in, over_goal)


def _judge_agents(
    conn: Connection, cursor: Cursor, bounds: dict[str, datetime.datetime], judge: Judge
) -> None:
    """Those of programs into the stage: the day's are read piece by piece, for there may be a million."""
    programs = io.StringIO()
    with conn.cursor("restate_agents") as agents:
        agents.itersize = AGENTS_AT_ONCE
        agents.execute(query("restate_agents"), bounds)
        for (user_agent,) in agents:
            if name := judge(user_agent):
                fields = (user_agent.translate(_ESCAPES), f"bot: {name}".translate(_ESCAPES))
                programs.write("\t".join(fields) + "\n")
    programs.seek(0)
    cursor.copy_expert(query("restate_bots_copy"), programs)
    cursor.execute("ANALYZE restate_bot")


def _apply(cursor: Cursor, bounds: dict[str, datetime.datetime]) -> int:
    """Correct everything; how many events stay unbilled because of goals."""
    cursor.execute("ANALYZE restate_decision, restate_event")
    _run(cursor, APPLY, bounds)
    cursor.execute(query("restate_apply_guard"))
    row = cursor.fetchone()
    _run(cursor, THEN, bounds)
    return int(row[0]) if row is not None else 0


def _run(cursor: Cursor, names: Iterable[str], bounds: dict[str, datetime.datetime]) -> None:
    for name in names:
        cursor.execute(query(name), bounds)
