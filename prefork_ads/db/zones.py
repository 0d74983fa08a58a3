"""A zone to show somebody how ads are asked for.

Must not know: what a zone is for.
"""

from prefork_ads.db import session
from prefork_ads.db.queries import query


def example(dsn: str) -> tuple[str | None, bool]:
    """The key of a zone that serves, if there is one, and whether the zones of /demo are there."""
    with session.connection(dsn) as conn, conn, conn.cursor() as cursor:
        cursor.execute(query("zone_example"))
        row: tuple[str | None, bool] | None = cursor.fetchone()
    return row if row is not None else (None, False)
