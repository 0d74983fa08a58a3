"""What `prefork-ads check` asks a database: who we are there, and what we may do.

Must not know: which answers are good enough; that depends on the settings.
"""

from typing import NamedTuple

from prefork_ads.db import session
from prefork_ads.db.queries import query


class Probe(NamedTuple):
    """A database as one role sees it."""

    server: str
    """The server's version as people write it: 15.8, 18.1."""
    missing_rights: tuple[str, ...]
    """Of those that serving needs, on what exists."""
    role: str
    standby: bool
    max_connections: int
    used_connections: int
    may_create: bool
    may_read_variants: bool | None
    """None: there is no such table."""


def probe(dsn: str, *, writes: bool = True) -> Probe:
    """Connect and ask; DatabaseUnavailable when there is nobody to ask.

    Of several hosts it is the one that a session would be given that writes, or does not.
    """
    with session.connection(dsn, autocommit=True, writes=writes) as conn, conn.cursor() as cursor:
        cursor.execute(query("check_rights"))
        missing = tuple(right for (right,) in cursor.fetchall())
        cursor.execute(query("check_database"))
        row = cursor.fetchone()
        assert row is not None
        version = conn.info.parameter_status("server_version") or "?"
        # Debian's says "15.8 (Debian 15.8-1)".
        return Probe(version.partition(" ")[0], missing, *row)
