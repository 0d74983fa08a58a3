"""A way to PostgreSQL that can be shut, or fall silent.

Shut: connections end at once, new ones are refused. Silent: connections stay and new ones are taken, and
nothing that is sent arrives, as behind a network that swallows packets or beside a server that hangs.
"""

import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import psycopg2.extensions


class Gate:
    """Listens on a port of loopback, from another thread, and passes bytes on while it is open."""

    def __init__(self, dsn: str) -> None:
        parameters = psycopg2.extensions.parse_dsn(dsn)
        self._host, self._pg_port = parameters.get("host", ""), int(parameters.get("port", 5432))
        self._lock = threading.Lock()
        self._passing: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._silent = threading.Event()
        # Bound and never listening: keeps the port while the gate is shut.
        self._place = self._bound(0)
        self.port: int = self._place.getsockname()[1]
        through = {**parameters, "host": "127.0.0.1", "port": self.port}
        self.dsn: str = psycopg2.extensions.make_dsn(**through)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shut()
        for thread in self._threads:
            thread.join()
        self._place.close()

    def open(self) -> None:
        listener = self._listener = self._bound(self.port)
        listener.listen(128)
        self._run(self._accept, listener)

    def shut(self) -> None:
        with self._lock:
            listener, self._listener = self._listener, None
            ending = list(self._passing)
            self._passing.clear()
        if listener is not None:
            # Wakes the thread that accepts; close alone would not.
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for end in ending:
            _shut(end)

    def fall_silent(self) -> None:
        self._silent.set()

    def speak_again(self) -> None:
        """To connections that are made from now on; what was swallowed stays so."""
        self._silent.clear()

    def _bound(self, port: int) -> socket.socket:
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
        return bound

    def _run(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments)
        thread.start()
        self._threads.append(thread)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = self._to_postgres()
            with self._lock:
                # Shut while this one was on its way.
                admitted = self._listener is listener
                if admitted:
                    self._passing |= {client, server}
            if not admitted:
                client.close()
                server.close()
                continue
            self._run(self._pass_both_ways, client, server)

    def _to_postgres(self) -> socket.socket:
        if self._host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{self._host}/.s.PGSQL.{self._pg_port}")
            return server
        return socket.create_connection((self._host, self._pg_port))

    def _pass_both_ways(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            back = threading.Thread(target=self._pass_on, args=(server, client))
            back.start()
            self._pass_on(client, server)
            back.join()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        deaf = False
        try:
            while data := source.recv(65536):
                # Half a conversation would be worse than none.
                deaf = deaf or self._silent.is_set()
                if not deaf:
                    sink.sendall(data)
        except OSError:
            pass
        _shut(source)
        _shut(sink)


def _shut(end: socket.socket) -> None:
    """For both directions and whoever waits in recv; close alone would not wake it."""
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
