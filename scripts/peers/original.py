"""Peer: the design of the prototype of 2016, written anew.

One process, one uvloop, a protocol on httptools. One aiopg connection with one cursor writes the log,
10,000 rows at a time, as one string of INSERT statements into an unlogged JSON table without autovacuum.
One aiopg connection with one cursor and a queue looks ads up, one query per request.

Mended where the prototype stops working: a client that has gone away does not end the reader, a
lost connection is opened again, a quote in a request does not end the statement, and the rows that do not
fill a batch are written at stop.
"""

import asyncio
import signal
from typing import cast
from urllib.parse import parse_qsl
from uuid import UUID

import aiopg
import click
import httptools
import orjson
import psycopg2
import uvloop
from request_log import now, uuid7_bytes

TABLE = "bench_original_log"
BATCH_ROWS = 10_000
RETRY_S = 0.5

CREATE = f"""
CREATE UNLOGGED TABLE IF NOT EXISTS {TABLE} (data json NOT NULL) WITH (autovacuum_enabled = off)
"""
LOOKUP = """
SELECT id, advertiser_id, campaign_id, width, height, title, image_url, click_url
FROM ad_variant WHERE id = %s
"""
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
FOUND = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


class Cursor:
    """One aiopg connection with its one cursor, opened again when it was lost."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: aiopg.Connection | None = None
        self._cursor: aiopg.Cursor | None = None

    async def execute(self, sql: str, parameters: tuple[object, ...] | None = None) -> aiopg.Cursor:
        while True:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = await aiopg.connect(
                        self._dsn, enable_json=False, enable_hstore=False, enable_uuid=False
                    )
                    self._cursor = await self._connection.cursor()
                assert self._cursor is not None
                await self._cursor.execute(sql, parameters)
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                if self._connection is not None:
                    self._connection.close()
                self._connection = None
                await asyncio.sleep(RETRY_S)
            else:
                return self._cursor

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


class Log:
    """Collects rows; each full batch becomes one string, and the strings go out one after the other."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._inserts: list[str] = []
        self._batches: asyncio.Queue[str] = asyncio.Queue()
        self._task = asyncio.create_task(self._run())

    def append(self, record: dict[str, object]) -> None:
        data = orjson.dumps(record).decode().replace("'", "''")
        self._inserts.append(f"INSERT INTO {TABLE} (data) VALUES ('{data}');")
        if len(self._inserts) == BATCH_ROWS:
            self._send()

    def _send(self) -> None:
        self._batches.put_nowait("".join(self._inserts))
        self._inserts.clear()

    async def _run(self) -> None:
        while True:
            await self._cursor.execute(await self._batches.get())
            self._batches.task_done()

    async def stop(self) -> None:
        if self._inserts:
            self._send()
        await self._batches.join()
        self._task.cancel()


class Lookups:
    """One query per request, one after the other."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._queue: asyncio.Queue[tuple[asyncio.Transport, str]] = asyncio.Queue()
        self._task = asyncio.create_task(self._run())

    def ask(self, transport: asyncio.Transport, key: str) -> None:
        self._queue.put_nowait((transport, key))

    async def _run(self) -> None:
        while True:
            transport, key = await self._queue.get()
            cursor = await self._cursor.execute(LOOKUP, (key,))
            row = await cursor.fetchone()
            if not transport.is_closing():
                transport.write(NO_CONTENT if row is None else self._found(cursor, row))
            self._queue.task_done()

    @staticmethod
    def _found(cursor: aiopg.Cursor, row: tuple[object, ...]) -> bytes:
        names = [column.name for column in cursor.description or ()]
        body = orjson.dumps(dict(zip(names, row, strict=True)))
        return FOUND % (len(body), body)

    async def stop(self) -> None:
        await self._queue.join()
        self._task.cancel()


class Original(asyncio.Protocol):
    def __init__(self, log: Log, lookups: Lookups) -> None:
        self._log = log
        self._lookups = lookups
        self._headers: dict[bytes, bytes] = {}
        self._url = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio's and not the type.
        self._transport = cast(asyncio.Transport, transport)
        self._address = transport.get_extra_info("peername")[0]
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_begin(self) -> None:
        self._headers = {}
        self._url = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_message_complete(self) -> None:
        url = httptools.parse_url(self._url)
        params = dict(parse_qsl((url.query or b"").decode("latin-1"), keep_blank_values=True))
        if url.path == b"/log":
            self._record("log", params)
            self._transport.write(NO_CONTENT)
        elif url.path == b"/ad":
            self._answer_ad(params)
        else:
            self._transport.write(NOT_FOUND)

    def _answer_ad(self, params: dict[str, str]) -> None:
        try:
            key = str(UUID(params["id"]))
        except (KeyError, ValueError):
            self._transport.write(BAD_REQUEST)
            return
        self._record("ad", params)
        self._lookups.ask(self._transport, key)

    def _record(self, endpoint: str, params: dict[str, str]) -> None:
        self._log.append(
            {
                "time": now(),
                "id": UUID(bytes=uuid7_bytes()),
                "endpoint": endpoint,
                "params": params,
                "user_agent": self._header(b"user-agent"),
                "referer": self._header(b"referer"),
                "address": self._address,
                "language": self._header(b"accept-language"),
            }
        )

    def _header(self, name: bytes) -> str | None:
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")


async def serve(host: str, port: int, dsn: str) -> None:
    loop = asyncio.get_running_loop()
    log_cursor, lookup_cursor = Cursor(dsn), Cursor(dsn)
    await log_cursor.execute(CREATE)
    log, lookups = Log(log_cursor), Lookups(lookup_cursor)
    server = await loop.create_server(lambda: Original(log, lookups), host, port, backlog=4096)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.close()
    await lookups.stop()
    await log.stop()
    lookup_cursor.close()
    log_cursor.close()


@click.command()
@click.option("--host", default="127.0.0.1")
@click.option("--port", type=int, required=True)
@click.option("--dsn", required=True)
@click.option(
    "--workers", type=click.IntRange(1, 1), default=1, help="It is one process by design."
)
def main(host: str, port: int, dsn: str, workers: int) -> None:
    """The design of the 2016 prototype."""
    uvloop.run(serve(host, port, dsn))


if __name__ == "__main__":
    main()
