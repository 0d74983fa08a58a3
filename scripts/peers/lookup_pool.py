"""The asyncpg pool that the asyncpg peers look ads up with.

Facts: asyncpg prepares and caches the statement by itself. On release a pool normally sends a RESET query
to the server; a lookup leaves nothing behind to reset, so that round trip is left out. Eight connections
a worker were fastest on two cores; with more, PostgreSQL's processes only compete.
"""
# asyncpg is installed in the bench's own environment only, where nothing checks types.
# mypy: disable-error-code="import-not-found"

import asyncpg

CONNECTIONS = 8


async def _keep_session(_connection: asyncpg.Connection) -> None:
    """Instead of asyncpg's RESET on release."""


async def open_pool(dsn: str) -> asyncpg.Pool:
    return await asyncpg.create_pool(
        dsn, min_size=CONNECTIONS, max_size=CONNECTIONS, reset=_keep_session
    )
