"""The keys of tracking tokens, for people: look at them, take a new one, retire an old one.

A new key signs nothing for its first minute, by when every worker knows it (`token_keys` in the schema); so
the tokens of the old one are still made for that long, and taken until it is retired.

Must not know: what a token looks like.
"""

from dataclasses import dataclass
from datetime import datetime

from prefork_ads.db import session
from prefork_ads.db.queries import query
from prefork_ads.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TokenKey:
    """One key, without its secret."""

    id: int
    signs: bool
    created_at: datetime
    retired_at: datetime | None
    """May be to come."""
    retired: bool


def list_keys(dsn: str) -> list[TokenKey]:
    """Oldest first. There is always one that signs."""
    with session.connection(dsn) as connection, connection, connection.cursor() as cursor:
        cursor.execute(query("token_key_list"))
        return [TokenKey(*row) for row in cursor.fetchall()]


def rotate(dsn: str, keep_s: float) -> int:
    """Make a new key and return its id; the tokens of the others are taken for `keep_s` more."""
    with session.connection(dsn) as connection, connection, connection.cursor() as cursor:
        cursor.execute(query("token_key_rotate"), {"keep_s": keep_s})
        row = cursor.fetchone()
    assert row is not None
    number: int = row[0]
    return number


def retire(dsn: str, number: int, after_s: float) -> None:
    """Have the tokens of a key refused, now or later. Raises ConfigError where there is none to retire."""
    with session.connection(dsn) as connection, connection, connection.cursor() as cursor:
        cursor.execute(query("token_key_retire"), {"id": number, "after_s": after_s})
        if not cursor.rowcount:
            raise ConfigError(
                f"There is no key {number}, or it was retired. `prefork-ads keys list` shows them."
            )
