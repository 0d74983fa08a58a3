"""Clients that ask all the time and know for themselves what they were answered.

A client counts a request as failed when it was sent on a connection that existed and no complete
answer with the expected status came back. A connection that was refused, or that never came about, is
counted apart: at a stop there has to be a first such one.
"""

import http.client
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

ANSWER_LIMIT_S = 20.0
# For servers that are asked by clients that keep their connections: how long one that drains waits for the
# last request on each. A client that is not run for the usual two seconds would find its connection closed.
PATIENT_DRAIN = ("--drain-window-s", "15")
PATH = "/log?source=lifecycle"


class Clients:
    """A number of threads that send requests until told to stop."""

    def __init__(self, port: int, *, keep_alive: bool) -> None:
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []
        self._port = port
        self._keep_alive = keep_alive
        self._stop = threading.Event()
        self._lock = threading.Condition()

    @property
    def answered(self) -> int:
        with self._lock:
            return self.outcomes["answered"]

    def wait_for_more(self, requests: int, timeout_s: float = 30.0) -> None:
        """Until so many more requests have been answered from now on."""
        with self._lock:
            goal = self.outcomes["answered"] + requests
            reached = self._lock.wait_for(lambda: self.outcomes["answered"] >= goal, timeout_s)
            assert reached, f"{requests} more answers did not come: {self.outcomes}"

    @contextmanager
    def running(self, count: int) -> Iterator["Clients"]:
        threads = [threading.Thread(target=self._work) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_LIMIT_S)
            try:
                connection.connect()
            except OSError:
                self._count("not connected")
                return
            try:
                self._use(connection)
            except (OSError, http.client.HTTPException) as error:
                self._count("failed", f"request: {error!r}")
            finally:
                connection.close()

    def _use(self, connection: http.client.HTTPConnection) -> None:
        headers = {} if self._keep_alive else {"Connection": "close"}
        requests = 0
        while not self._stop.is_set():
            try:
                connection.request("GET", PATH, headers=headers)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise http.client.HTTPException(f"after {requests} answers: {error!r}") from error
            response.read()
            requests += 1
            if response.status == 204:
                self._count("answered")
            else:
                self._count("failed", f"status {response.status}")
            if response.will_close:
                return

    def _count(self, outcome: str, failure: str = "") -> None:
        with self._lock:
            self.outcomes[outcome] += 1
            if outcome == "failed":
                self.failures.append(failure)
            self._lock.notify_all()
