"""Peer: uvloop and httptools with a Python callback for each header, and one constant answer.

No database, no parameters, nothing logged: what is left when a Python server does nothing but speak HTTP.
prefork-ads's `/log` is stated as a fraction of this.
"""

import asyncio
import os
import signal
import socket
from typing import cast

import click
import httptools
import uvloop

ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


class Ceiling(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio's and not the type.
        self._write = cast(asyncio.Transport, transport).write
        self._parser = httptools.HttpRequestParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._url = b""

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._headers = {}

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_message_complete(self) -> None:
        self._write(ANSWER)


async def serve(host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    server = await loop.create_server(Ceiling, sock=listener, backlog=4096)
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.close()


@click.command()
@click.option("--host", default="127.0.0.1")
@click.option("--port", type=int, required=True)
@click.option("--dsn", help="Accepted as from every peer; there is no database here.")
@click.option("--workers", type=int, default=1)
def main(host: str, port: int, dsn: str | None, workers: int) -> None:
    """uvloop and httptools with a constant answer."""
    children: list[int] = []
    for _ in range(workers - 1):
        child = os.fork()
        if child == 0:
            children.clear()
            break
        children.append(child)
    uvloop.run(serve(host, port))
    for child in children:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
