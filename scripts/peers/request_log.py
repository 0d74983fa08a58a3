"""What the Python peers log of a request, and the table they log it to.

The table has the columns of prefork-ads's `request_log` and, as there, no index and no autovacuum, so
that nobody wins or loses by the shape of the table. It is logged (WAL), as `request_log` is by default.

Facts: asyncpg takes uuids cheapest as its own UUID class made of 16 bytes; parsing an address costs more
than the rest of a row, and clients come back, hence the cache.
"""

import os
import time
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import parse_qsl

import orjson
import psycopg2

COLUMNS = ("time", "id", "endpoint", "params", "user_agent", "referer", "address", "language")

TABLE = """
CREATE TABLE IF NOT EXISTS {name} (
    time timestamptz NOT NULL, id uuid NOT NULL, endpoint text NOT NULL, params jsonb NOT NULL,
    user_agent text, referer text, address inet, language text
) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off)
"""

LOOKUP = """
SELECT id, advertiser_id, campaign_id, width, height, title, image_url, click_url
FROM ad_variant WHERE id = $1
"""


def create_table(dsn: str, name: str) -> None:
    """Makes the peer's table, once, before its workers start."""
    connection = psycopg2.connect(dsn)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(TABLE.format(name=name))
    finally:
        connection.close()


def now() -> datetime:
    return datetime.now(UTC)


def uuid7_bytes() -> bytes:
    """RFC 9562 version 7: milliseconds, then random bits."""
    tail = bytearray(os.urandom(10))
    tail[0] = 0x70 | tail[0] & 0x0F
    tail[2] = 0x80 | tail[2] & 0x3F
    return (time.time_ns() // 1_000_000).to_bytes(6, "big") + tail


def params_json(query: bytes) -> bytes:
    """The query's parameters as a JSON object; PostgreSQL holds no NUL, so that one is replaced."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    if b"%00" in query:
        pairs = [
            (key.replace("\0", "\ufffd"), value.replace("\0", "\ufffd")) for key, value in pairs
        ]
    return orjson.dumps(dict(pairs))


@lru_cache(maxsize=10_000)
def client_address(text: str) -> IPv4Address | IPv6Address:
    return ip_address(text)
