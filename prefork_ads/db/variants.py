"""The variants: make many, import a file of them, draw random ids.

Generating runs in the server, in chunks of one transaction each, in which the progress row moves
too: stopped at any moment, the next run goes on where the table really is. Ctrl-C waits for the
chunk in hand, because psycopg2 waits in C, and then rolls it back or finds it
committed; either is fine.

Facts that shaped it (measured, one million rows, PostgreSQL 18, two cores that others used too, so
that the same run varies by a third; each line below compares runs made one after the other):
- chunks of 20,000 rows 125,000–170,000 rows/s, of 100,000 rows 140,000–195,000, of 500,000 rows
  130,000–180,000. So 100,000, which is also how long Ctrl-C waits: about half a second;
- random uuids 77,000 rows/s and an index of 38.6 MB; ids that grow 190,000 and 28.5 MB;
- two connections at once 290,000 rows/s, but their ranges interleave, pages split in the middle
  and the index is 42 MB. The index is what lookups must keep in memory, so there is one
  connection;
- without primary key and CHECKs 333,000 rows/s, with the key alone 179,000: the index is half of
  the work, the CHECKs are none of it that shows. Nor is waiting for the commit.

Must not know: the command line, processes, the serving path.
"""

import random
from collections.abc import Callable
from typing import Final

import psycopg2.extensions

from prefork_ads.db import session
from prefork_ads.db.queries import query
from prefork_ads.db.variant_import import ImportReport, LineError, import_file
from prefork_ads.errors import ConfigError

__all__ = ["ImportReport", "LineError", "estimate", "generate", "import_file", "sample"]

Connection = psycopg2.extensions.connection

CHUNK_ROWS: Final = 100_000
# 60 ordered bits would do for more; this is where a typing mistake ends and not an integer.
MOST_ROWS: Final = 100_000_000_000
# Reading a table up to this size takes as long as looking places up.
SMALL_TABLE_PAGES: Final = 1000
# They are gathered in memory, about a hundred bytes each.
MOST_SAMPLED: Final = 5_000_000
PLACES_PER_QUERY: Final = 20_000


def generate(
    dsn: str,
    total: int,
    *,
    chunk: int = CHUNK_ROWS,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Generate rows until there are `total` generated ones; return how many this call made."""
    if not 0 <= total <= MOST_ROWS:
        raise ConfigError(f"{total} is not a number of rows between 0 and {MOST_ROWS:,}.")
    made = 0
    with session.connection(dsn) as conn:
        with conn, conn.cursor() as cursor:
            cursor.execute(query("variant_generation_start"))
        while True:
            before, done = _generate_chunk(conn, total, chunk)
            made += done - before
            if progress is not None:
                progress(done, total)
            if done >= total:
                break
        if made:
            # Sets the visibility map and every row's hint bits now, or the first lookups of
            # each page would write it; and gives the planner and `estimate` their figures.
            conn.autocommit = True
            with conn.cursor() as cursor:
                cursor.execute("VACUUM (ANALYZE) ad_variant")
    return made


def _generate_chunk(conn: Connection, total: int, chunk: int) -> tuple[int, int]:
    """One transaction: the count before and after it."""
    with conn, conn.cursor() as cursor:
        cursor.execute(query("variant_generation_lock"))
        row = cursor.fetchone()
        before: int = row[0] if row is not None else 0
        done = min(before + chunk, total)
        if done <= before:
            return before, before
        cursor.execute(query("variant_generate"), {"first": before + 1, "last": done})
        cursor.execute(query("variant_generation_advance"), {"done": done})
    return before, done


def estimate(dsn: str) -> int:
    """About how many rows there are: by the planner's figures, at once."""
    with session.connection(dsn, autocommit=True) as conn:
        pages, rows_per_page = _size(conn)
    return round(pages * max(rows_per_page, 0))


def sample(dsn: str, n: int) -> list[str]:
    """`n` different ids of existing rows, drawn evenly, in random order; all, if there are fewer."""
    if not 0 <= n <= MOST_SAMPLED:
        raise ConfigError(f"{n} is not a number of ids between 0 and {MOST_SAMPLED:,}.")
    with session.connection(dsn) as conn:
        pages, rows_per_page = _size(conn)
        # Drawing places gets slow when most rows are wanted and the last few keep being missed.
        few = n * 4 < pages * rows_per_page
        if few and pages > SMALL_TABLE_PAGES:
            return _sample_places(conn, n, pages, rows_per_page)
        with conn, conn.cursor() as cursor:
            cursor.execute(query("variant_sample_all"), {"wanted": n})
            return [variant_id for (variant_id,) in cursor.fetchall()]


def _size(conn: Connection) -> tuple[int, float]:
    with conn, conn.cursor() as cursor:
        cursor.execute(query("variant_size"))
        row = cursor.fetchone()
    return row if row is not None else (0, 0.0)


def _sample_places(conn: Connection, n: int, pages: int, rows_per_page: float) -> list[str]:
    """Draw (page, offset) pairs; those that hold a row are an even sample of the rows.

    A place is asked for once, so no id comes twice. Offsets are drawn up to twice the average of a
    page, so about every second place is a hit; pages fuller than that do not occur with rows
    of these sizes, or lose an insignificant part of their chance.
    """
    offsets = max(1, round(rows_per_page * 2))
    # Which places to ask for and what to leave out is a matter of chance, not of secrets.
    draw = random.Random()  # noqa: S311
    asked: set[tuple[int, int]] = set()
    found: list[str] = []
    with conn, conn.cursor() as cursor:
        while len(found) < n and len(asked) < pages * offsets // 2:
            wanted = min(PLACES_PER_QUERY, 2 * (n - len(found)) + 16)
            places = {(draw.randrange(pages), draw.randint(1, offsets)) for _ in range(wanted)}
            places -= asked
            asked |= places
            cursor.execute(
                query("variant_sample_places"), {"places": [f"({p},{o})" for p, o in places]}
            )
            found += [variant_id for (variant_id,) in cursor.fetchall()]
    draw.shuffle(found)  # the server returns them in the table's order; so is which to leave out
    return found[:n]
