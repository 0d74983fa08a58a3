"""What the schema itself promises: unescaping, partitions, retention, and what a row may be."""

import datetime
import io
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import psycopg2.errors
import psycopg2.extensions
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Database
from tests.support import wait_until

DOCS = Path(__file__).parents[2] / "docs"

# Few characters, so that they meet: everything an escape can be made of or mistaken for.
ESCAPABLE = st.text(alphabet="\\tnr\t\n\rNé", max_size=12)
ANY_TEXT = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def escaped(text: str) -> str:
    """One field of COPY's text format, as the server itself would write it."""
    pairs = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
    return "".join(pairs.get(character, character) for character in text)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(texts=st.lists(ESCAPABLE | ANY_TEXT, min_size=1, max_size=30))
def test_unescaping_undoes_escaping(
    unescaper: psycopg2.extensions.cursor, texts: list[str]
) -> None:
    unescaper.execute(
        """SELECT journal_unescape(field)
             FROM unnest(%s::text[]) WITH ORDINALITY AS f (field, n) ORDER BY n""",
        ([escaped(text) for text in texts],),
    )
    assert [field for (field,) in unescaper.fetchall()] == texts


@pytest.fixture
def unescaper(database: Database) -> Iterator[psycopg2.extensions.cursor]:
    with closing(database.connect()) as conn, conn.cursor() as cursor:
        yield cursor


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (None, None),
        ("", ""),
        ("plain", "plain"),
        (r"\\", "\\"),
        (r"\\n", "\\n"),
        (r"\\\n", "\\\n"),
        (r"\\\\n", "\\\\n"),
        (r"\n\\", "\n\\"),
        (r"\t\\t\\\t", "\t\\t\\\t"),
        (r"\\\\\\", "\\\\\\"),
        (r"\rn\nr\\r", "\rn\nr\\r"),
    ],
)
def test_unescaping_by_example(database: Database, field: str | None, text: str | None) -> None:
    assert database.fetch("SELECT journal_unescape(%s)", field) == [(text,)]


def test_unescaping_agrees_with_copy(database: Database) -> None:
    """COPY wrote the rules, so it is asked."""
    text = "a\\b\\\\n\tc\nd\re\\t\\"
    with closing(database.connect()) as conn, conn.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE said (t text)")
        cursor.execute("INSERT INTO said VALUES (%s)", (text,))
        cursor.execute("CREATE TEMP TABLE line (t text)")
        with closing(io.StringIO()) as out:
            cursor.copy_expert("COPY said TO STDOUT", out)
            field = out.getvalue().removesuffix("\n")
        cursor.execute("SELECT journal_unescape(%s)", (field,))
        assert cursor.fetchone() == (text,)


def test_unescaping_is_inlined(database: Database) -> None:
    """A function call per field would be a tenth of the insert; the plan shows none."""
    plan = database.fetch(
        "EXPLAIN (VERBOSE, COSTS OFF) SELECT journal_unescape(t) FROM unnest('{a}'::text[]) AS t"
    )
    assert "journal_unescape" not in str(plan)


# Partitions


def days_of(database: Database) -> list[datetime.date]:
    return [day for (day,) in database.fetch("SELECT day FROM request_log_partition ORDER BY day")]


def test_ensure_makes_what_is_missing_and_says_how_many(database: Database) -> None:
    assert database.fetch("SELECT request_log_ensure('2026-02-27', '2026-03-02')") == [(4,)]
    assert database.fetch("SELECT request_log_ensure('2026-03-01', '2026-03-03')") == [(1,)]
    assert database.fetch("SELECT request_log_ensure('2026-03-01', '2026-03-03')") == [(0,)]
    assert days_of(database) == [
        *(datetime.date(2026, 2, day) for day in (27, 28)),
        *(datetime.date(2026, 3, day) for day in (1, 2, 3)),
    ]


def test_a_day_is_a_day_in_utc_whatever_the_session_says(database: Database) -> None:
    with closing(database.connect()) as conn, conn.cursor() as cursor:
        cursor.execute("SET timezone = 'Pacific/Auckland'; SET datestyle = 'German'")
        cursor.execute("SELECT request_log_ensure('2026-03-01', '2026-03-02')")
        cursor.execute(
            """INSERT INTO request_log (time, id, endpoint, params) VALUES
               ('2026-03-01T23:59:59.999999Z', gen_random_uuid(), 'log', '{}'),
               ('2026-03-02T00:00:00Z', gen_random_uuid(), 'log', '{}')"""
        )
        cursor.execute("SELECT tableoid::regclass::text FROM request_log ORDER BY time")
        assert cursor.fetchall() == [("request_log_20260301",), ("request_log_20260302",)]


def test_partitions_are_as_the_log_wants_them(database: Database) -> None:
    database.execute("SELECT request_log_ensure('2026-03-01', '2026-03-01')")
    assert database.fetch(
        """SELECT c.reloptions, t.reloptions, c.relhasindex, c.relpersistence
             FROM pg_class AS c JOIN pg_class AS t ON t.oid = c.reltoastrelid
            WHERE c.relname = 'request_log_20260301'"""
    ) == [(["autovacuum_enabled=off"], ["autovacuum_enabled=off"], True, "p")]
    assert database.fetch(
        """SELECT a.amname FROM pg_index AS i
             JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS a ON a.oid = c.relam
            WHERE i.indrelid = 'request_log_20260301'::regclass"""
    ) == [("brin",)], "an index of another kind would cost more than all else in the insert"


@pytest.mark.parametrize("days", ["'2026-03-02', '2026-03-01'", "'2026-01-01', '2027-06-01'"])
def test_a_mistaken_range_makes_nothing(database: Database, days: str) -> None:
    with pytest.raises(psycopg2.errors.InvalidParameterValue, match="1 to 367 days"):
        database.execute(f"SELECT request_log_ensure({days})")
    assert days_of(database) == []


def test_many_at_once_make_each_day_once(database: Database) -> None:
    made: list[int] = []
    together = threading.Barrier(12)

    def worker() -> None:
        with closing(database.connect()) as conn, conn.cursor() as cursor:
            together.wait(30)
            cursor.execute("SELECT request_log_ensure('2026-03-01', '2026-03-09')")
            made.extend(n for (n,) in cursor.fetchall())

    workers = [threading.Thread(target=worker) for _ in range(12)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join(60)
    assert sum(made) == 9
    assert len(made) == 12, "nobody got an error"
    assert len(days_of(database)) == 9


def test_ensure_does_not_wait_for_readers_and_writers(database: Database) -> None:
    """A report that runs for an hour must not keep tomorrow from being made."""
    database.execute("SELECT request_log_ensure('2026-03-01', '2026-03-01')")
    with closing(database.connect(autocommit=False)) as busy, busy.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM request_log")
        cursor.execute(
            """INSERT INTO request_log (time, id, endpoint, params)
               VALUES ('2026-03-01T12:00Z', gen_random_uuid(), 'log', '{}')"""
        )
        with closing(database.connect()) as conn, conn.cursor() as ensure:
            ensure.execute("SET lock_timeout = '2s'")
            ensure.execute("SELECT request_log_ensure('2026-03-02', '2026-03-02')")
            assert ensure.fetchone() == (1,)


def test_ensure_inside_a_transaction_that_wrote(database: Database) -> None:
    """Two that wrote and then both want a new day: one waits, none is a deadlock's victim."""
    database.execute("SELECT request_log_ensure('2026-03-01', '2026-03-01')")
    insert = """INSERT INTO request_log (time, id, endpoint, params)
                VALUES ('2026-03-01T12:00Z', gen_random_uuid(), 'log', '{}')"""
    ensure = "SELECT request_log_ensure('2026-03-02', '2026-03-02')"
    made: list[int] = []

    def second() -> None:
        with closing(database.connect(autocommit=False)) as conn, conn.cursor() as cursor:
            cursor.execute(insert)
            cursor.execute(ensure)
            made.extend(n for (n,) in cursor.fetchall())
            conn.commit()

    with closing(database.connect(autocommit=False)) as conn, conn.cursor() as cursor:
        cursor.execute(insert)
        cursor.execute(ensure)
        thread = threading.Thread(target=second)
        thread.start()
        wait_until(
            lambda: database.fetch(
                """SELECT 1 FROM pg_stat_activity
                    WHERE wait_event_type = 'Lock' AND datname = current_database()"""
            ),
            "the second to wait for the first",
        )
        conn.commit()
    thread.join(30)
    assert made == [0]
    assert database.fetch("SELECT count(*) FROM request_log") == [(2,)]


def test_retention_drops_whole_days(database: Database) -> None:
    database.execute("SELECT request_log_ensure('2026-03-01', '2026-03-05')")
    dropped = database.fetch("SELECT request_log_drop_before('2026-03-03')")
    assert dropped == [("request_log_20260301",), ("request_log_20260302",)]
    assert days_of(database) == [datetime.date(2026, 3, day) for day in (3, 4, 5)]


def test_retention_gives_way_to_a_reader(database: Database) -> None:
    """It fails in a moment instead of making every insert wait behind it."""
    database.execute("SELECT request_log_ensure('2026-03-01', '2026-03-05')")
    with closing(database.connect(autocommit=False)) as busy, busy.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM request_log")
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            database.execute("SELECT request_log_drop_before('2026-03-03')")
    assert len(days_of(database)) == 5


def test_persistence_follows_the_setting(database: Database) -> None:
    database.execute("SELECT request_log_ensure('2026-03-01', '2026-03-03')")
    converted = database.fetch("SELECT request_log_persistence('unlogged', '2026-03-02')")
    assert converted == [("request_log_20260302",), ("request_log_20260303",)]
    database.execute("SELECT request_log_ensure('2026-03-04', '2026-03-04')")
    assert database.fetch("SELECT log_table FROM request_log_partition ORDER BY day") == [
        ("logged",),
        ("unlogged",),
        ("unlogged",),
        ("unlogged",),
    ]
    with pytest.raises(psycopg2.errors.InvalidParameterValue):
        database.execute("SELECT request_log_persistence('temporary', '2026-03-02')")


# Rights


def test_a_serving_role_needs_only_what_the_documentation_grants(database: Database) -> None:
    """It looks up, logs, makes partitions and forgets days, and owns nothing."""
    role = f"{database.name}_serving"
    database.execute(f"CREATE ROLE {role}")
    try:
        with closing(database.connect()) as conn, conn.cursor() as cursor:
            cursor.execute(f"SET ROLE {role}")
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cursor.execute("SELECT request_log_ensure('2026-03-01', '2026-03-01')")
        for grant in granted(role):
            database.execute(grant)
        with closing(database.connect()) as conn, conn.cursor() as cursor:
            cursor.execute(f"SET ROLE {role}")
            cursor.execute("SELECT count(*) FROM ad_variant")
            cursor.execute("SELECT request_log_ensure('2026-03-01', '2026-03-02')")
            assert cursor.fetchone() == (2,)
            cursor.execute(
                """INSERT INTO request_log (time, id, endpoint, params)
                   VALUES ('2026-03-01T12:00Z', gen_random_uuid(), 'log', '{}')"""
            )
            cursor.execute("SELECT request_log_persistence('unlogged', '2026-03-02')")
            cursor.execute("SELECT request_log_drop_before('2026-03-02')")
            assert cursor.fetchall() == [("request_log_20260301",)]
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cursor.execute("DELETE FROM ad_variant")
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cursor.execute("DROP TABLE request_log")
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def granted(role: str) -> list[str]:
    """The GRANTs of docs/database.md, so that what is documented is what is tested."""
    page = (DOCS / "database.md").read_text(encoding="utf-8")
    statements = page.split("<!-- serving role -->")[1].split("```")[1].removeprefix("sql\n")
    return [
        statement.strip().replace("ads_serving", role)
        for statement in statements.split(";")
        if statement.strip().startswith("GRANT")
    ]


# Rows


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("advertiser_id", 0),
        ("campaign_id", -1),
        ("width", 0),
        ("height", -5),
        ("title", ""),
        ("title", "x" * 1001),
        ("image_url", "ftp://example.org/"),
        ("click_url", "javascript:alert(1)"),
        ("click_url", "https://example.org/" + "x" * 4000),
    ],
)
def test_a_variant_that_cannot_be_served_is_refused(
    database: Database, column: str, value: object
) -> None:
    row: dict[str, object] = {
        "advertiser_id": 1,
        "campaign_id": 1,
        "width": 300,
        "height": 250,
        "title": "a",
        "image_url": "https://example.org/a.webp",
        "click_url": "http://example.org/",
    }
    names = ", ".join(row)
    statement = (
        f"INSERT INTO ad_variant (id, {names}) VALUES (gen_random_uuid(){', %s' * len(row)})"
    )
    database.execute(statement, *row.values())
    with pytest.raises(psycopg2.errors.CheckViolation):
        database.execute(statement, *(row | {column: value}).values())


def test_the_fixed_columns_lie_without_a_gap(database: Database) -> None:
    """The order of columns is worth 300 MB at 50 million rows; a later column must not spoil it."""
    widths = {"uuid": 16, "int4": 4, "int2": 2}
    columns = database.fetch(
        """SELECT t.typname FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
            WHERE attrelid = 'ad_variant'::regclass AND attnum > 0 ORDER BY attnum"""
    )
    kinds = [kind for (kind,) in columns]
    fixed = [kind for kind in kinds if kind in widths]
    assert kinds[: len(fixed)] == fixed, "texts come last"
    offset = 0
    for kind in fixed:
        assert kind == "uuid" or offset % widths[kind] == 0, f"padding before a {kind}"
        offset += widths[kind]
