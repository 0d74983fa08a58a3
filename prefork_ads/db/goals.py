"""What was delivered of campaigns' goals and what workers hold, and the traffic that pacing follows.

Both are read in one snapshot, and nothing is written.

Must not know: how much of a goal is due.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from prefork_ads.db import session
from prefork_ads.db.queries import query


class Delivered(NamedTuple):
    """A campaign, in the order of the query's columns. Moments are seconds since 1970."""

    id: int
    key: str
    status: str
    """`archived`, `paused` or `draft` also where its advertiser is what keeps it from being served."""
    kind: str | None
    total: int | None
    daily: int | None
    pacing: str
    time_zone: str
    starts_s: float | None
    ends_s: float | None
    at_s: float
    """When it was looked at."""
    in_all: int
    """Impressions or clicks, as `kind` says, that are billed."""
    today: int
    """The same on the day that the campaign's time zone has."""
    held: int
    """Ads that workers may still serve: granted and not used."""


# Rows of `traffic_curve`.
Traffic = Sequence[tuple[Any, ...]]


def delivered(
    dsn: str, keys: Sequence[str] | None, most: int, at_s: float | None = None
) -> tuple[list[Delivered], Traffic]:
    """Of the campaigns with these keys, or of all that have a goal and are not archived.

    `most` sets of sites have a curve of their own; `at_s` is a moment other than now. Raises SchemaError
    and DatabaseUnavailable.
    """
    with session.connection(dsn, writes=False) as conn:
        conn.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with conn, conn.cursor() as cursor:
            named = None if keys is None else list(keys)
            cursor.execute(query("goal_progress"), {"keys": named, "at_s": at_s})
            found = [Delivered(*row) for row in cursor.fetchall()]
            cursor.execute(query("traffic_curve"), {"most": most})
            return found, cursor.fetchall()
