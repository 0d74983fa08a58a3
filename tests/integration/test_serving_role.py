"""What workers and keeper ask of PostgreSQL for ads, a role with the documented rights may ask.

A right that is missing shows only where the owner of the tables is another role, which in tests it never is.
"""

from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import psycopg2.extensions
import pytest

from prefork_ads.db.queries import query
from tests.catalogs import fill
from tests.conftest import Database
from tests.integration.test_schema import granted

ASKED: Final[dict[str, dict[str, Any]]] = {
    "catalog_state": {},
    "catalog_news": {"after": -1, "mark": None, "most": 10},
    "token_keys": {},
    "traffic_curve": {"most": 10},
    "lease_take": {
        "holder": "a-worker",
        "turn": 1,
        "journal": None,
        "unshipped_s": 0.0,
        "window_s": 900.0,
        "campaigns": [1],
        "days": [None],
        "wants": [0],
        "ceilings": [None],
    },
    "lease_settle": {"journal": "here", "streams": []},
    "lease_clean": {},
    "person_prepare": {},
    "person_lookup": {"keys": "{0190163d-8694-739b-aea5-966c26f8ad91}"},
}


@pytest.fixture
def serving(database: Database) -> Iterator[psycopg2.extensions.connection]:
    """A session of the documented role."""
    fill(database, 3)
    database.execute(
        "UPDATE campaign SET goal_kind = 'impressions', goal_total = 10 WHERE key = 'c1'"
    )
    role = f"{database.name}_serving"
    database.execute(f"CREATE ROLE {role}")
    try:
        for grant in granted(role):
            database.execute(grant)
        with closing(database.connect()) as connection:
            connection.cursor().execute(f"SET ROLE {role}")
            yield connection
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("name", ASKED)
def test_it_may_ask(serving: psycopg2.extensions.connection, name: str) -> None:
    with serving.cursor() as cursor:
        if name == "person_lookup":
            cursor.execute(query("person_prepare"))
        cursor.execute(query(name), ASKED[name])


def test_it_may_listen(serving: psycopg2.extensions.connection) -> None:
    serving.cursor().execute("LISTEN prefork_ads_catalog")


@pytest.mark.parametrize("table", ["campaign", "catalog_change", "catalog_state", "lease"])
def test_it_may_not_change(serving: psycopg2.extensions.connection, table: str) -> None:
    """Catalogs are changed by people, budgets by functions."""
    with serving.cursor() as cursor, pytest.raises(psycopg2.errors.InsufficientPrivilege):
        cursor.execute(f"DELETE FROM {table}")
