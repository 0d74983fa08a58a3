"""What PostgreSQL tells a worker of the catalog: with what it has, exactly the newest; or everything."""

import json
from contextlib import closing
from typing import Any, Final

import pytest
from psycopg2.extras import RealDictCursor

from prefork_ads.db.queries import query
from tests.catalogs import fill
from tests.conftest import Database

NOTHING: Final = (-1, None)
PLENTY: Final = 1000

Entries = dict[tuple[str, int], dict[str, Any] | None]


def state(database: Database) -> tuple[int, str | None]:
    [(version, mark)] = database.fetch(query("catalog_state"))
    return version, mark


def news(
    database: Database, have: tuple[int, str | None], most: int = PLENTY
) -> tuple[tuple[int, str | None], bool, Entries]:
    """The state that is told, whether it is told anew, and the entries."""
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(query("catalog_news"), {"after": have[0], "mark": have[1], "most": most})
        rows = cursor.fetchall()
    [told] = {row[:3] for row in rows}
    pieces = [json.loads(row[3]) for row in rows if row[3] is not None]
    entries = [(relation, number, row) for piece in pieces for relation, number, row in piece]
    found: Entries = {(relation, number): row for relation, number, row in entries}
    assert len(found) == len(entries), "each thing once"
    return (told[0], told[1]), told[2], found


def advertiser(database: Database, key: str) -> int:
    [(number,)] = database.fetch(
        "INSERT INTO advertiser (key, name) VALUES (%s, 'n') RETURNING id", key
    )
    assert isinstance(number, int)
    return number


def everything(database: Database) -> Entries:
    found: Entries = {}
    with closing(database.connect()) as connection:
        c = connection.cursor(cursor_factory=RealDictCursor)
        for relation in ("advertiser", "site", "zone", "segment", "campaign", "creative"):
            c.execute(f"SELECT id, to_jsonb(r) AS row FROM {relation} AS r")
            found |= {(relation, one["id"]): one["row"] for one in c.fetchall()}
    return found


def test_an_empty_catalog_is_one_too(database: Database) -> None:
    """Version 0: a server without campaigns has something to be up to date with."""
    assert state(database) == (0, None)
    assert news(database, NOTHING) == ((0, None), True, {})
    assert news(database, (0, None)) == ((0, None), False, {})


def test_who_has_nothing_is_told_everything(database: Database) -> None:
    fill(database, 300)
    told, anew, entries = news(database, NOTHING)
    assert anew
    assert told == state(database)
    assert entries == everything(database)


def test_who_has_a_version_is_told_what_changed_since(database: Database) -> None:
    """Each thing once, as it is now, and what was deleted as such."""
    first, second = advertiser(database, "first"), advertiser(database, "second")
    have = state(database)
    database.execute("UPDATE advertiser SET name = 'once' WHERE id = %s", first)
    database.execute("UPDATE advertiser SET name = 'twice' WHERE id = %s", first)
    database.execute("DELETE FROM advertiser WHERE id = %s", second)
    told, anew, entries = news(database, have)
    assert not anew
    assert told == state(database)
    assert set(entries) == {("advertiser", first), ("advertiser", second)}
    assert entries["advertiser", second] is None
    changed = entries["advertiser", first]
    assert changed is not None
    assert changed["name"] == "twice"
    assert news(database, told) == (told, False, {})


@pytest.mark.parametrize(("most", "anew"), [(3, False), (2, True)])
def test_who_lacks_much_is_told_everything(database: Database, most: int, anew: bool) -> None:
    advertiser(database, "before")
    have = state(database)
    for key in ("a", "b", "c"):
        advertiser(database, key)
    _, told_anew, entries = news(database, have, most)
    assert told_anew is anew
    assert len(entries) == (4 if anew else 3)


@pytest.mark.parametrize("have", [(1, "1700000000.000000"), (1, None), (2, None), (7, "1.000000")])
def test_a_version_of_another_history_counts_for_nothing(
    database: Database, have: tuple[int, str | None]
) -> None:
    """After a fail-over that lost it, a restored backup, another database: its number may be given again."""
    number = advertiser(database, "here")
    told, anew, entries = news(database, have)
    assert (told[0], anew, set(entries)) == (1, True, {("advertiser", number)})


def test_the_mark_does_not_depend_on_a_setting_of_the_session(database: Database) -> None:
    advertiser(database, "here")
    have = state(database)
    database.execute(f"ALTER DATABASE {database.name} SET timezone = 'Asia/Tokyo'")
    database.execute(f"ALTER DATABASE {database.name} SET datestyle = 'German'")
    assert news(database, have) == (have, False, {})
