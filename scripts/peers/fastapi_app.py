"""Peer: FastAPI on uvicorn with asyncpg, as a careful team would write it.

Lookups go through a pool, log rows through one COPY connection in batches, answers are made by orjson and
returned as Response, which spares FastAPI's own encoding. Documentation routes are off.
uvicorn's children import this module anew, so the DSN reaches them through the environment.
"""
# FastAPI and asyncpg are installed in the bench's own environment only, where nothing checks types.
# mypy: disable-error-code="import-not-found, untyped-decorator, no-any-return"

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import asyncpg
import click
import orjson
import uvicorn
from asyncpg.pgproto import pgproto
from fastapi import FastAPI, Request, Response
from log_writer import LogWriter
from lookup_pool import open_pool
from request_log import LOOKUP, client_address, create_table, now, params_json, uuid7_bytes

TABLE = "bench_fastapi_log"
DSN_VARIABLE = "BENCH_PEER_DSN"


class State:
    """What one worker holds, from start to stop."""

    pool: asyncpg.Pool
    log: LogWriter


state = State()


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    dsn = os.environ[DSN_VARIABLE]
    state.pool = await open_pool(dsn)
    state.log = LogWriter(dsn, TABLE)
    await state.log.start()
    yield
    await state.log.stop()
    await state.pool.close()


app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)


async def log_request(request: Request, endpoint: str) -> None:
    headers = request.headers
    state.log.append(
        (
            now(),
            pgproto.UUID(uuid7_bytes()),
            endpoint,
            params_json(request.scope["query_string"]).decode(),
            headers.get("user-agent"),
            headers.get("referer"),
            client_address(request.client.host) if request.client else None,
            headers.get("accept-language"),
        )
    )
    if not state.log.has_room:
        await state.log.room()


@app.get("/log", status_code=204)
async def log(request: Request) -> Response:
    await log_request(request, "log")
    return Response(status_code=204)


@app.get("/ad")
async def ad(request: Request, id: UUID) -> Response:
    await log_request(request, "ad")
    row = await state.pool.fetchrow(LOOKUP, id)
    if row is None:
        return Response(status_code=204)
    return Response(orjson.dumps(dict(row), default=str), media_type="application/json")


@click.command()
@click.option("--host", default="127.0.0.1")
@click.option("--port", type=int, required=True)
@click.option("--dsn", required=True)
@click.option("--workers", type=int, default=1)
def main(host: str, port: int, dsn: str, workers: int) -> None:
    """FastAPI on uvicorn with asyncpg."""
    create_table(dsn, TABLE)
    os.environ[DSN_VARIABLE] = dsn
    uvicorn.run(
        "fastapi_app:app",
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


if __name__ == "__main__":
    main()
