"""Batches log rows into PostgreSQL with COPY: the writer of the asyncpg peers.

One task owns one connection. A batch goes out when it is full or old, as in prefork-ads. When the
database falls behind, requests wait instead of filling the memory. What is held at stop is written.
"""
# asyncpg is installed in the bench's own environment only, where nothing checks types.
# mypy: disable-error-code="import-not-found"

import asyncio
from collections.abc import Sequence

import asyncpg
from request_log import COLUMNS

BATCH_ROWS = 10_000
INTERVAL_S = 0.25
HIGH_WATER_ROWS = 200_000
RETRY_S = 0.5


class LogWriter:
    def __init__(self, dsn: str, table: str) -> None:
        self._dsn = dsn
        self._table = table
        self._rows: list[Sequence[object]] = []
        self._full = asyncio.Event()
        self._room = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        connection = await asyncpg.connect(self._dsn)
        self._room.set()
        self._task = asyncio.create_task(self._run(connection))

    async def stop(self) -> None:
        self._stopping = True
        self._full.set()
        if self._task is not None:
            await self._task

    def append(self, row: Sequence[object]) -> None:
        self._rows.append(row)
        if len(self._rows) >= BATCH_ROWS:
            self._full.set()
            if len(self._rows) >= HIGH_WATER_ROWS:
                self._room.clear()

    @property
    def has_room(self) -> bool:
        return self._room.is_set()

    async def room(self) -> None:
        await self._room.wait()

    async def _run(self, connection: asyncpg.Connection) -> None:
        while True:
            if not self._stopping and len(self._rows) < BATCH_ROWS:
                self._full.clear()
                try:
                    async with asyncio.timeout(INTERVAL_S):
                        await self._full.wait()
                except TimeoutError:
                    pass
            batch = self._rows[:BATCH_ROWS]
            if batch:
                connection = await self._copy(connection, batch)
                del self._rows[: len(batch)]
                self._room.set()
            elif self._stopping:
                await connection.close()
                return

    async def _copy(
        self, connection: asyncpg.Connection, batch: list[Sequence[object]]
    ) -> asyncpg.Connection:
        while True:
            try:
                if connection.is_closed():
                    connection = await asyncpg.connect(self._dsn)
                await connection.copy_records_to_table(self._table, records=batch, columns=COLUMNS)
            except (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError):
                await asyncio.sleep(RETRY_S)
            else:
                return connection
