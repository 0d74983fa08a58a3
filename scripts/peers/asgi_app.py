"""Peer: raw ASGI with asyncpg, on uvicorn or on granian: Python without a framework in the way.

Lookups through a pool, log rows through one COPY connection in batches, as in fastapi_app.py.
Both servers import this module anew in their workers, so table and DSN reach them by the environment.
"""
# asyncpg and granian are installed in the bench's own environment only, where nothing checks types.
# mypy: disable-error-code="import-not-found, no-any-return"

import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import asyncpg
import click
import orjson
import uvicorn
from asyncpg.pgproto import pgproto
from granian import Granian
from log_writer import LogWriter
from lookup_pool import open_pool
from request_log import LOOKUP, client_address, create_table, now, params_json, uuid7_bytes

DSN_VARIABLE = "BENCH_PEER_DSN"
TABLE_VARIABLE = "BENCH_PEER_TABLE"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON_HEADERS = [(b"content-type", b"application/json")]


class State:
    """What one worker holds, from start to stop."""

    pool: asyncpg.Pool
    log: LogWriter


state = State()


async def lifespan(receive: Receive, send: Send) -> None:
    await receive()
    dsn = os.environ[DSN_VARIABLE]
    state.pool = await open_pool(dsn)
    state.log = LogWriter(dsn, os.environ[TABLE_VARIABLE])
    await state.log.start()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await state.log.stop()
    await state.pool.close()
    await send({"type": "lifespan.shutdown.complete"})


async def log_request(scope: Scope, endpoint: str) -> None:
    user_agent = referer = language = None
    for name, value in scope["headers"]:
        if name == b"user-agent":
            user_agent = value.decode("latin-1")
        elif name == b"referer":
            referer = value.decode("latin-1")
        elif name == b"accept-language":
            language = value.decode("latin-1")
    state.log.append(
        (
            now(),
            pgproto.UUID(uuid7_bytes()),
            endpoint,
            params_json(scope["query_string"]).decode(),
            user_agent,
            referer,
            client_address(scope["client"][0]),
            language,
        )
    )
    if not state.log.has_room:
        await state.log.room()


async def answer(
    send: Send, status: int, body: bytes = b"", headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    fields = headers or []
    if status != 204:
        fields = [*fields, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def ad(scope: Scope, send: Send) -> None:
    try:
        key = pgproto.UUID(dict(parse_qsl(scope["query_string"].decode("latin-1")))["id"])
    except (KeyError, ValueError):
        return await answer(send, 400)
    await log_request(scope, "ad")
    row = await state.pool.fetchrow(LOOKUP, key)
    if row is None:
        return await answer(send, 204)
    return await answer(send, 200, orjson.dumps(dict(row), default=str), JSON_HEADERS)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    if scope["path"] == "/log":
        await log_request(scope, "log")
        return await answer(send, 204)
    if scope["path"] == "/ad":
        return await ad(scope, send)
    return await answer(send, 404)


def serve_uvicorn(host: str, port: int, workers: int) -> None:
    uvicorn.run(
        "asgi_app:app",
        host=host,
        port=port,
        workers=workers,
        loop="uvloop",
        http="httptools",
        backlog=4096,
        access_log=False,
        log_level="warning",
        server_header=False,
        app_dir=str(Path(__file__).parent),
    )


def serve_granian(host: str, port: int, workers: int) -> None:
    Granian(
        "asgi_app:app",
        address=host,
        port=port,
        interface="asgi",
        workers=workers,
        loop="uvloop",
        backlog=4096,
        log_enabled=False,
        websockets=False,
        working_dir=Path(__file__).parent,
    ).serve()


@click.command()
@click.option("--server", type=click.Choice(["uvicorn", "granian"]), default="uvicorn")
@click.option("--host", default="127.0.0.1")
@click.option("--port", type=int, required=True)
@click.option("--dsn", required=True)
@click.option("--workers", type=int, default=1)
def main(server: str, host: str, port: int, dsn: str, workers: int) -> None:
    """Raw ASGI with asyncpg."""
    table = f"bench_asgi_{server}_log"
    create_table(dsn, table)
    os.environ[DSN_VARIABLE] = dsn
    os.environ[TABLE_VARIABLE] = table
    serve = serve_uvicorn if server == "uvicorn" else serve_granian
    serve(host, port, workers)


if __name__ == "__main__":
    main()
