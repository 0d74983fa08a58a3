"""The network between server and PostgreSQL, as a program: `python -m torturelib.proxy SOCKET PORT`.

It fails on command; a command is a line on standard input, and what was done is said on standard
output. It ends when its input does.

    open     pass everything on (connections that have lost something are cut)
    stall    pass nothing on, in neither direction, also not for new connections: packets are lost
    mute     statements get through, what PostgreSQL answers does not: the outcome is unknown
    late     connections are cut from the server with the next thing they send, and PostgreSQL gets to
             see that only at `open`; new ones work: a statement overtaken by its own repetition
    later    the same with the thing after the next: the rows of a COPY that has begun
    refuse   cut all connections, take no new ones
    cut      cut all connections, take new ones at once

Must not know: PostgreSQL's protocol.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable

CHUNK = 1 << 16
# After so much silence a statement is complete.
QUIET_S = 0.1


class Link:
    """One connection through the proxy."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._ends = (client, server)
        self.broken = False
        self.late = False
        self.passes = 0

    def cut_client(self) -> None:
        self._ends[0].transport.abort()

    def cut(self) -> None:
        for end in self._ends:
            end.transport.abort()


class Proxy:
    def __init__(self, socket_path: str, port: int) -> None:
        self._socket_path = socket_path
        self._port = port
        self._links: set[Link] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._muted = False
        self._released = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = int(self._server.sockets[0].getsockname()[1])
        return self._port

    async def open(self) -> None:
        self._muted = False
        for link in [link for link in self._links if link.broken]:
            link.cut()
        self._flowing.set()
        self._released.set()
        self._released = asyncio.Event()
        if self._server is None:
            await self.listen()

    async def stall(self) -> None:
        self._flowing.clear()

    async def mute(self) -> None:
        self._muted = True

    async def late(self, passes: int = 0) -> None:
        for link in self._links:
            link.late, link.passes = True, passes

    async def later(self) -> None:
        await self.late(1)

    async def cut(self) -> None:
        for link in list(self._links):
            link.cut()

    async def refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_in, server_out = await asyncio.open_unix_connection(self._socket_path)
        except OSError:
            writer.transport.abort()
            return
        link = Link(writer, server_out)
        self._links.add(link)
        up = asyncio.ensure_future(self._pass(link, reader, server_out, answers=False))
        down = asyncio.ensure_future(self._pass(link, server_in, writer, answers=True))
        await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        down.cancel()
        self._links.discard(link)
        # Closing sends what is still to be sent: a farewell, or a statement that comes late.
        writer.close()
        server_out.close()

    async def _pass(
        self,
        link: Link,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        *,
        answers: bool,
    ) -> None:
        try:
            while True:
                data = await source.read(CHUNK)
                # The end is lost like everything else: a statement that was held up reaches PostgreSQL
                # after its worker has given up and, perhaps, sent the batch again.
                await self._flowing.wait()
                if not data:
                    return
                if link.passes and not answers:
                    link.passes -= 1
                elif link.late and not answers:
                    await self._hold_back(link, data, source, sink)
                    return
                if answers and self._muted:
                    link.broken = True
                if not (answers and link.broken):
                    sink.write(data)
                    await sink.drain()
        except OSError:
            return

    async def _hold_back(
        self, link: Link, data: bytes, source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        """Take a whole statement, let its sender believe it lost, and deliver it when all is over."""
        released = self._released
        try:
            while True:
                async with asyncio.timeout(QUIET_S):
                    more = await source.read(CHUNK)
                if not more:
                    break
                data += more
        except TimeoutError:
            link.cut_client()
        await released.wait()
        sink.write(data)
        await sink.drain()


async def main() -> None:
    proxy = Proxy(sys.argv[1], int(sys.argv[2]))
    say = sys.stdout.write
    say(f"{await proxy.listen()}\n")
    sys.stdout.flush()
    commands: dict[str, Callable[[], Awaitable[None]]] = {
        "open": proxy.open,
        "stall": proxy.stall,
        "mute": proxy.mute,
        "late": proxy.late,
        "later": proxy.later,
        "refuse": proxy.refuse,
        "cut": proxy.cut,
    }
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        name = line.decode().strip()
        await commands[name]()
        say(f"{name}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
