"""Event lines in a real PostgreSQL: what COPY reads and what the insert reads is what was sent."""

import io
import itertools
import json
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any, Final

import psycopg2.extensions
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork_ads.db.queries import query
from prefork_ads.events.event import EventClock, line
from prefork_ads.events.parameters import Parameters, add_form, add_json, parse_query, to_json
from prefork_ads.events.uuid7 import Uuid7
from tests.conftest import Database

# No two batches may be of one segment, or the ledger would take the second for the first.
segments: Final = itertools.count()

COLUMNS: Final = "time, id, endpoint, params::text, user_agent, referer, host(address), language"

header = st.none() | st.binary(max_size=50).map(
    lambda raw: bytes(byte for byte in raw if byte == 9 or (byte >= 32 and byte != 127))
)
numbers = st.decimals(allow_nan=False, allow_infinity=False) | st.integers()
json_values = st.recursive(
    st.none() | st.booleans() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def _form(body: bytes) -> Parameters:
    result: Parameters = {}
    add_form(result, body)
    return result


def _json(body: bytes) -> Parameters:
    result: Parameters = {}
    add_json(result, body)
    return result


parameters = st.one_of(
    st.binary(max_size=80).map(parse_query),
    st.binary(max_size=80).map(_form),
    json_values.map(lambda value: _json(json.dumps(value).encode())),
    numbers.map(lambda number: _json(str(number).encode())),
)


def decoded(value: bytes | None) -> str | None:
    return None if value is None else value.strip(b" \t").decode(errors="replace")


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg2.extensions.connection]:
    with closing(database.connect()) as conn:
        with conn.cursor() as cursor:
            cursor.execute("SELECT request_log_ensure(current_date, current_date + 1)")
            cursor.execute("CREATE TEMP TABLE copied (LIKE request_log)")
        yield conn


def stored(
    connection: psycopg2.extensions.connection, lines: list[bytes]
) -> list[list[tuple[Any, ...]]]:
    """The rows as COPY makes them and as the writer's statement does."""
    text = b"\n".join(lines)
    segment = f"test-{next(segments)}"
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE request_log, copied")
        cursor.copy_expert("COPY copied FROM STDIN", io.BytesIO(text + b"\n"))
        cursor.execute(query("journal_segment_open"), {"segment": segment, "shipped": 0})
        cursor.execute(
            query("log_insert"),
            {"lines": text.decode(), "segment": segment, "before": 0, "after": len(text) + 1},
        )
        rows = []
        for table in ("copied", "request_log"):
            cursor.execute(f"SELECT {COLUMNS} FROM {table} ORDER BY id")
            rows.append(cursor.fetchall())
    return rows


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    events=st.lists(
        st.tuples(
            parameters, header, header, st.sampled_from(["", "192.0.2.1", "2001:db8::1"]), header
        ),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_stored_is_what_was_sent(
    connection: psycopg2.extensions.connection,
    events: list[tuple[Parameters, bytes | None, bytes | None, str, bytes | None]],
) -> None:
    clock = EventClock(Uuid7())
    texts = [to_json(sent) for sent, *_ in events]
    lines = [
        line(clock.stamp(), b"log", text, agent, referer, address, language)
        for text, (_, agent, referer, address, language) in zip(texts, events, strict=True)
    ]
    copied, inserted = stored(connection, lines)
    assert copied == inserted
    assert len(copied) == len(events)
    for row, text, (_, agent, referer, address, language) in zip(
        copied, texts, events, strict=True
    ):
        _, _, endpoint, params, *rest = row
        assert endpoint == "log"
        assert json.loads(params, parse_float=Decimal) == json.loads(text, parse_float=Decimal)
        assert rest == [decoded(agent), decoded(referer), address or None, decoded(language)]


@pytest.mark.parametrize(
    "body",
    [
        b"1e400",
        b"-1e1000",
        b"1e-1000",
        b"1e999999999",
        b"9" * 1000,
        b"9" * 20000,
        b"0." + b"1" * 998,
        b"123456789012345678901234567890.5",
        b'"\\u0000\\ud800\\\\u0000\\t\\n\\r\\\\N"',
        b'{"\\u0000":1}',
        b"[" * 240 + b"]" * 240,
        json.dumps("x" * 8192).encode(),
        '"😀\u2028\u0085"'.encode(),
    ],
)
def test_bodies_that_are_hard_to_store(
    connection: psycopg2.extensions.connection, body: bytes
) -> None:
    text = to_json(_json(body))
    row = line(EventClock(Uuid7()).stamp(), b"log", text, None, None, "", None)
    copied, inserted = stored(connection, [row])
    assert copied == inserted
    assert json.loads(copied[0][3], parse_float=Decimal, parse_int=Decimal) == json.loads(
        text, parse_float=Decimal, parse_int=Decimal
    )
