"""What is kept of a user: looked at, changed, forgotten.

To forget is to take the id out of everything that is in the database: what ads are chosen by (segments,
frequencies) goes, and what has been counted stays counted and is nobody's. The request log is rewritten
day by day, since it has no index on users and a transaction over all of it would hold up its retention;
what a day is done with stays done, so a run that was stopped is simply repeated.

What this cannot reach, and therefore says: lines in the journals of servers that have not arrived yet, and
links in ads that were delivered before, which carry the id in their signed tokens until they expire.

Must not know: the command line, requests.
"""

import base64
import datetime
import difflib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import psycopg2.extensions

from prefork_ads.db import session
from prefork_ads.db.queries import query
from prefork_ads.errors import ConfigError

Connection = psycopg2.extensions.connection
Progress = Callable[[int, int | None, str], None]

DAY: Final = datetime.timedelta(days=1)


@dataclass(slots=True)
class Forgotten:
    """How many rows of each kind named the user."""

    segments: int = 0
    frequencies: int = 0
    events: int = 0
    conversions: int = 0
    requests: int = 0
    rejected: int = 0

    @property
    def anything(self) -> bool:
        return any(getattr(self, one.name) for one in fields(self))


def read_uid(text: str) -> uuid.UUID:
    """A user's id as people write it, with hyphens or without. Raises ConfigError."""
    digits = text.strip().replace("-", "")
    if len(digits) == 32 and all(digit in "0123456789abcdefABCDEF" for digit in digits):
        return uuid.UUID(digits)
    raise ConfigError(f"{text!r} is no user's id: that is a UUID, 32 hexadecimal digits.")


def forget(dsn: str, uid: uuid.UUID, progress: Progress | None = None) -> Forgotten:
    """Take a user's id out of the database; tells how often it was there."""
    done = Forgotten()
    with session.connection(dsn, autocommit=True) as conn:
        # First what ads are chosen by: from then on nothing that is chosen depends on the user.
        row = _one(conn, "user_forget_state", {"uid": str(uid)})
        done.segments, done.frequencies = row
        done.events, done.conversions = _one(conn, "user_forget_events", {"uid": str(uid)})
        words = _words(uid)
        done.rejected = _count(conn, "user_forget_rejected", words)
        days = _days(conn)
        for n, day in enumerate(days, 1):
            start = datetime.datetime.combine(day, datetime.time(), datetime.UTC)
            bounds = {"from": start, "to": start + DAY}
            done.requests += _count(conn, "user_forget_log", {**words, **bounds})
            if progress is not None:
                progress(n, len(days), f"{day}, {done.requests:,} lines")
    return done


def segments_of(dsn: str, uid: uuid.UUID) -> list[str]:
    """The keys of the segments a user is in."""
    with session.connection(dsn, autocommit=True) as conn, conn.cursor() as cursor:
        cursor.execute(query("user_segments"), {"uid": str(uid)})
        return [key for (key,) in cursor.fetchall()]


def add_to_segment(dsn: str, uid: uuid.UUID, key: str) -> bool:
    """Put a user into a segment; False: already in it."""
    return _change(dsn, "user_segment_add", uid, key)


def remove_from_segment(dsn: str, uid: uuid.UUID, key: str) -> bool:
    """Take a user out of a segment; False: was not in it."""
    return _change(dsn, "user_segment_remove", uid, key)


def segment_ids(conn: Connection) -> dict[str, int]:
    """All segments by their keys."""
    with conn.cursor() as cursor:
        cursor.execute(query("user_segment_keys"))
        return dict(cursor.fetchall())


def no_such_segment(key: str, known: Mapping[str, int]) -> str:
    """What is wrong with a key, in words."""
    close = difflib.get_close_matches(key, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"there is no segment {key!r} in the catalog{hint}"


def _change(dsn: str, name: str, uid: uuid.UUID, key: str) -> bool:
    with session.connection(dsn, autocommit=True) as conn:
        known = segment_ids(conn)
        if key not in known:
            reason = no_such_segment(key, known)
            raise ConfigError(f"{reason[0].upper()}{reason[1:]}.")
        with conn.cursor() as cursor:
            cursor.execute(query(name), {"uid": str(uid), "segment": known[key]})
            return cursor.fetchone() is not None


def _words(uid: uuid.UUID) -> dict[str, object]:
    """By what the id is found in text, and what is to stand there instead.

    Tokens (in parameters, and in the addresses of pages that clicks led to) hold its bytes in base64, which
    spells them in three ways, by where they begin; less the characters that belong to neighbours, too.
    """
    spellings = [
        base64.urlsafe_b64encode(uid.bytes[skip : skip + (16 - skip) // 3 * 3]).decode()
        for skip in (0, 1, 2)
    ]
    return {
        "pattern": "|".join(["-?".join(str(uid).split("-")), *spellings]),
        "hints": [f"%{one.lower().replace('-', '')}%" for one in (uid.hex, *spellings)],
        "instead": "1" if uid.hex.isdigit() else "forgotten",
    }


def _days(conn: Connection) -> list[datetime.date]:
    with conn.cursor() as cursor:
        cursor.execute(query("request_log_days"))
        return [day for (day,) in cursor.fetchall()]


def _one(conn: Connection, name: str, parameters: Mapping[str, object]) -> tuple[Any, ...]:
    with conn.cursor() as cursor:
        cursor.execute(query(name), parameters)
        row = cursor.fetchone()
    assert row is not None
    return row


def _count(conn: Connection, name: str, parameters: Mapping[str, object]) -> int:
    with conn.cursor() as cursor:
        cursor.execute(query(name), parameters)
        return cursor.rowcount
