"""What keepers do for budgets: give back what the dead have held, forget what is over.

Each host's keeper settles the leases of workers that wrote into its journal's directory, leader or not: it
alone can see that nothing of theirs is left there. A host that is gone for good is settled by any other
after an hour. What is forgotten, and the traffic's curve, are the leader's affair. `lease_settle`
(006_budgets.sql) says why none of this can make a goal be exceeded.

Must not know: processes, timers.
"""

from pathlib import Path
from typing import NamedTuple

import psycopg2.extensions

from prefork_ads.db.queries import query
from prefork_ads.events.segments import list_segments, stream_of

Connection = psycopg2.extensions.connection


class Settled(NamedTuple):
    """A worker that is gone, and what it had not used."""

    holder: str
    unused: int


def settle(connection: Connection, directory: Path, place: str | None) -> list[Settled]:
    """Give back what dead workers of this directory have held. Raises psycopg2.Error and OSError.

    `place` is what workers call the directory; None: they have none, and wait for their hour.
    """
    streams = {stream_of(file.name) for file in list_segments(directory)} if place else set()
    with connection.cursor() as cursor:
        cursor.execute(query("lease_settle"), {"journal": place, "streams": sorted(streams)})
        return [Settled(*row) for row in cursor.fetchall()]


def clean(connection: Connection) -> None:
    """Once a minute: forget what is over, and bring the traffic's curve up to date."""
    with connection.cursor() as cursor:
        cursor.execute(query("lease_clean"), None)
