"""A proxy in front of PostgreSQL that can be told to fail in the ways networks do."""

import asyncio
import os
import re
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg2.extensions

# CopyInResponse for text, at the end of what was sent: PostgreSQL waits for the data now.
_INVITATION = re.compile(rb"G\0\0\0.\0\0.(?:\0\0)+\Z", re.DOTALL)


class Proxy:
    """Listens on loopback and passes bytes on; one fault at a time, on command.

    `swallow_answers()` lets statements through and keeps what PostgreSQL answers: to the client, the
    outcome is unknown. The invitation to send a COPY's data still gets through. `cut()` closes the
    client's side only, so that PostgreSQL goes on with what it does. `part_rudely()` says farewell and
    closes with the client's bytes unread. With a directory, it listens on a Unix socket there.
    """

    def __init__(self, dsn: str, directory: Path | None = None) -> None:
        self._directory = directory
        self._parameters = psycopg2.extensions.parse_dsn(dsn)
        self._swallowing = False
        self.statement_seen = asyncio.Event()
        self._clients: set[asyncio.StreamWriter] = set()
        self._servers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0

    async def __aenter__(self) -> Self:
        if self._directory is not None:
            path = self._directory / ".s.PGSQL.5432"
            self._server = await asyncio.start_unix_server(self._serve, path)
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._server.close()
        for writer in self._clients | self._servers:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def dsn(self) -> str:
        if self._directory is not None:
            through = {**self._parameters, "host": str(self._directory), "port": 5432}
        else:
            port = self._server.sockets[0].getsockname()[1]
            through = {**self._parameters, "host": "127.0.0.1", "port": port}
        dsn: str = psycopg2.extensions.make_dsn(**through)
        return dsn

    def swallow_answers(self) -> None:
        self._swallowing = True
        self.statement_seen.clear()

    def cut(self) -> None:
        """Close every client's connection; new ones work."""
        self._swallowing = False
        for client in list(self._clients):
            client.transport.abort()

    def stop_reading(self) -> None:
        """What clients send from now on stays unread."""
        for client in self._clients:
            client.transport.pause_reading()  # type: ignore[attr-defined] # a stream's is a full one

    async def part_rudely(self) -> None:
        """As a server that is stopped while a statement comes in: farewell and end in one moment."""
        fields = b"SFATAL\0C57P01\0Mterminating connection\0\0"
        farewell = b"E" + struct.pack("!i", len(fields) + 4) + fields
        for client in list(self._clients):
            # The loop closes its descriptor when it likes, we close the last one when we like.
            last = os.dup(client.get_extra_info("socket").fileno())
            client.transport.abort()
            await client.wait_closed()
            os.write(last, farewell)
            os.close(last)

    async def _serve(
        self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter
    ) -> None:
        host, port = self._parameters.get("host", ""), int(self._parameters.get("port", 5432))
        if host.startswith("/"):
            server_in, server_out = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            server_in, server_out = await asyncio.open_connection(host, port)
        self._clients.add(client_out)
        self._servers.add(server_out)
        loop = asyncio.get_running_loop()
        up = loop.create_task(self._pass_up(client_in, server_out))
        down = loop.create_task(self._pass_down(server_in, client_out))
        self._tasks |= {up, down}

    async def _pass_up(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """To PostgreSQL. When the client is gone, PostgreSQL is not told: it finishes its statement."""
        spoke = False
        try:
            while data := await source.read(65536):
                # Who only knocks does not count.
                self.connections += not spoke
                spoke = True
                sink.write(data)
                await sink.drain()
                if self._swallowing:
                    self.statement_seen.set()
        except ConnectionError:
            return

    async def _pass_down(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        swallowed = False
        while data := await source.read(65536):
            invited = not swallowed and _INVITATION.search(data) is not None
            swallowed = swallowed or (self._swallowing and not invited)
            if not swallowed and not sink.is_closing():
                sink.write(data)
        sink.close()
