"""Campaigns for the contenders that choose ads: made once, archived and brought back as a measurement needs.

They are those that `scripts/decisions` measures with (mixed targeting, a third of them with a goal, a third
with caps), their flights moved to now. What came of the last measurement is forgotten before the next one,
and after each it is proved that the hourly sums are those of the raw rows.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from random import Random
from typing import Any, Final

import psycopg2.extensions
from decisionlib import mixed
from psycopg2.extras import Json, execute_values

SEED: Final = 2016
LEAST_MADE: Final = 10_000
# Made by `mixed`: zone-1, zone-2 …
ZONES: Final = 20
# What stands before the id of a request, one for each zone.
ASKS: Final = tuple(f"zone=zone-{number}&uid=" for number in range(1, ZONES + 1))

RELATIONS: Final = ("advertiser", "site", "zone", "segment", "campaign", "creative")
DERIVED: Final = (
    *("ad_event", "conversion", "rollup_base", "rollup_delta", "delivery_guard"),
    *(
        "delivery_day",
        "delivery_minute",
        "lease",
        "lease_holder",
        "budget",
        "traffic_hour",
        "user_frequency",
    ),
)

SERVE: Final = """
    UPDATE campaign SET status = CASE WHEN id <= %(wanted)s THEN 'active' ELSE 'archived' END
     WHERE (status = 'active') <> (id <= %(wanted)s)
"""
# Both sides in full: a sum without rows is as wrong as rows without a sum.
DIFFERING: Final = """
    SELECT count(*)
      FROM (SELECT (params #>> '{decision,zone}')::int AS zone,
                   coalesce((params #>> '{decision,campaign}')::int, 0) AS campaign,
                   count(*) AS decisions
              FROM request_log WHERE endpoint = 'decision' GROUP BY 1, 2) AS raw
      FULL JOIN (SELECT zone_id AS zone, campaign_id AS campaign, sum(requests) AS decisions
                   FROM rollup_hour GROUP BY 1, 2) AS summed USING (zone, campaign)
     WHERE raw.decisions IS DISTINCT FROM summed.decisions
"""
FILLED: Final = (
    "SELECT coalesce(sum(requests), 0)::bigint, coalesce(sum(fills), 0)::bigint FROM rollup_hour"
)
# With a hundred campaigns a zone may have none for a person at times.
LEAST_FILLED: Final = 0.3


class Catalogs:
    """The catalog of a database that the bench may fill."""

    def __init__(self, connection: psycopg2.extensions.connection) -> None:
        self._connection = connection

    def serve(self, campaigns: int) -> None:
        """So many campaigns, and nothing left of what was served before."""
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT coalesce(max(id), 0) FROM campaign")
            [(have,)] = cursor.fetchall()
            if have < campaigns:
                self._make(cursor, max(campaigns, LEAST_MADE))
            cursor.execute(SERVE, {"wanted": campaigns})
            cursor.execute(f"TRUNCATE {', '.join(DERIVED)}")

    def failures(self) -> list[str]:
        """What is wrong with what was served."""
        with self._connection.cursor() as cursor:
            cursor.execute(DIFFERING)
            [(differing,)] = cursor.fetchall()
            cursor.execute(FILLED)
            [(requests, filled)] = cursor.fetchall()
        failures = []
        if differing:
            failures.append(f"{differing} sums of a zone and a campaign are not those of its rows")
        if filled < LEAST_FILLED * requests:
            failures.append(f"only {filled:,} of {requests:,} places had an ad")
        return failures

    def _make(self, cursor: psycopg2.extensions.cursor, campaigns: int) -> None:
        # Of what was made for fewer all stays; nothing of a catalog is ever taken away.
        moved = datetime.now(UTC) - mixed.NOW
        rows = mixed.catalog_rows(Random(SEED), campaigns)
        for row in rows["campaign"].values():
            for name in ("starts_at", "ends_at"):
                row[name] = (datetime.fromisoformat(row[name]) + moved).isoformat()
        for relation in RELATIONS:
            _insert(cursor, relation, rows[relation].values())


def _insert(
    cursor: psycopg2.extensions.cursor, relation: str, rows: Iterable[dict[str, Any]]
) -> None:
    listed = list(rows)
    names = list(listed[0])
    execute_values(
        cursor,
        f"INSERT INTO {relation} ({', '.join(names)}) OVERRIDING SYSTEM VALUE VALUES %s"
        " ON CONFLICT DO NOTHING",
        [[_value(row[name]) for name in names] for row in listed],
        page_size=1000,
    )


def _value(value: Any) -> Any:
    return Json(value, dumps=json.dumps) if isinstance(value, dict) else value
