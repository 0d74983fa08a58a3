"""Load from one process: requests at the moments of a schedule, whatever the server does about them.

Closed-loop tools (wrk) wait for an answer before they ask again, so a slow server slows them down and
never sees an overload. Here each request has its moment and its deadline. At its moment it takes a
connection on which nothing is under way, or opens a new one; at its deadline the client gives up
and closes, as people do.

What it costs decides what can be shown: each request is one send() and one recv() on a socket, driven
by epoll without an event loop around it. *Measured*: 45,000 to 60,000 requests a second and core with kept
connections. A process that falls behind its schedule does not stretch it: the requests whose moment has
passed by more than LATE_S are not sent, and counted as that, so that a report can say what was really
offered.

Must not know: which server it is, what the figures mean.
"""

import errno
import select
import socket
import time
from array import array
from collections import deque
from dataclasses import dataclass, field

from overloadlib.alarm import Alarm

# Figures are kept for periods of this length.
PERIOD_S = 0.1
# One round sends no more than this before it looks for answers.
BURST = 128
LATE_S = 0.25
READ_BYTES = 65536
# How long it waits at most when there is nothing to do.
REST_S = 0.01
# A client that gave up; in place of the moment its request was due.
_NONE = -1.0


@dataclass(slots=True)
class Period:
    """What became of the requests that were due in one period."""

    due: int = 0
    sent: int = 0
    good: int = 0
    shed: int = 0
    late: int = 0
    failed: int = 0
    # Seconds from the moment a request was due to the end of its answer, for all that were answered.
    latencies: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, other: "Period") -> None:
        self.due += other.due
        self.sent += other.sent
        self.good += other.good
        self.shed += other.shed
        self.late += other.late
        self.failed += other.failed
        self.latencies.extend(other.latencies)


class _Client:
    """One connection: at most one request is under way."""

    __slots__ = ("due", "file", "read", "sending", "socket")

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.file = sock.fileno()
        self.due = _NONE
        # Not written yet: the connection is not there yet, or its buffer is full.
        self.sending = b""
        self.read = b""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process is to do. Without a rate it asks again as soon as it is answered."""

    address: tuple[str, int]
    requests: tuple[bytes, ...]
    rate: float | None
    duration_s: float
    deadline_s: float
    max_connections: int
    keep_alive: bool = True


class Load:
    """Carries a plan out; the figures by the period in which the requests were due."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._epoll = select.epoll()
        self._alarm = Alarm()
        self._epoll.register(self._alarm.file, select.EPOLLIN)
        self._clients: dict[int, _Client] = {}
        self._idle: list[_Client] = []
        self._deadlines: deque[tuple[float, _Client]] = deque()
        self._start = 0.0
        self.periods = [Period() for _ in range(round(plan.duration_s / PERIOD_S) + 1)]

    def run(self, start: float) -> list[Period]:
        """`start` is a moment of time.monotonic(), the same for all processes of a run."""
        self._start = start
        time.sleep(max(0.0, start - time.monotonic()))
        end = start + self._plan.duration_s
        done = 0
        while (now := time.monotonic()) < end + self._plan.deadline_s:
            self._give_up(now)
            if now < end:
                done += self._ask(now, done)
            elif len(self._idle) == len(self._clients):
                # Nobody waits for an answer any more.
                break
            pause_s = self._pause(done) if now < end else REST_S
            for file, events in self._epoll.poll(pause_s, 512):
                client = self._clients.get(file)
                if client is not None:
                    self._serve(client, events)
                elif file == self._alarm.file:
                    self._alarm.heard()
        for client in list(self._clients.values()):
            self._drop(client)
        self._epoll.close()
        self._alarm.close()
        return self.periods

    def _ask(self, now: float, done: int) -> int:
        """Send what is due; how much that was."""
        rate = self._plan.rate
        if rate is None:
            free = len(self._idle) + self._plan.max_connections - len(self._clients)
            for _ in range(min(BURST, free)):
                self._send(now)
            return 0
        due = int((now - self._start) * rate) + 1 - done
        missed = max(0, due - int(LATE_S * rate))
        for number in range(missed):
            self._period(self._start + (done + number) / rate).due += 1
        sent = min(BURST, due - missed)
        for number in range(missed, missed + sent):
            self._send(self._start + (done + number) / rate)
        return missed + sent

    def _pause(self, done: int) -> float:
        """How long to wait for answers at most. The alarm goes off when the next request is due."""
        if self._plan.rate is not None:
            due_in_s = self._start + done / self._plan.rate - time.monotonic()
            if due_in_s <= 0:
                return 0.0
            self._alarm.set(due_in_s)
        return REST_S

    # -- one request -------------------------------------------------------------------------------

    def _period(self, due: float) -> Period:
        return self.periods[int((due - self._start) / PERIOD_S)]

    def _send(self, due: float) -> None:
        period = self._period(due)
        period.due += 1
        client = self._idle.pop() if self._idle else self._open()
        if client is None:
            return
        period.sent += 1
        client.due = due
        self._deadlines.append((due + self._plan.deadline_s, client))
        request = self._plan.requests[period.due % len(self._plan.requests)]
        try:
            sent = client.socket.send(request)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                self._fail(client)
                return
            sent = 0
        if sent < len(request):
            client.sending = request[sent:]
            self._epoll.modify(client.file, select.EPOLLIN | select.EPOLLOUT)

    def _open(self) -> _Client | None:
        if len(self._clients) >= self._plan.max_connections:
            return None
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(self._plan.address)
        except BlockingIOError:
            pass
        except OSError:
            sock.close()
            return None
        client = _Client(sock)
        self._clients[client.file] = client
        self._epoll.register(client.file, select.EPOLLIN)
        return client

    def _serve(self, client: _Client, events: int) -> None:
        if client.sending and events & select.EPOLLOUT:
            try:
                client.sending = client.sending[client.socket.send(client.sending) :]
            except BlockingIOError:
                pass
            except OSError:
                self._fail(client)
                return
            if not client.sending:
                self._epoll.modify(client.file, select.EPOLLIN)
        if events & ~select.EPOLLOUT:
            self._read(client)

    def _read(self, client: _Client) -> None:
        try:
            data = client.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._fail(client)
            return
        if not data or client.due == _NONE:
            self._fail(client)
            return
        if client.read:
            data = client.read + data
        head_end = data.find(b"\r\n\r\n")
        status = data[9:12]
        if head_end < 0 or (
            status != b"204" and len(data) < head_end + 4 + _length(data, head_end)
        ):
            client.read = data
            return
        client.read = b""
        period, due, client.due = self._period(client.due), client.due, _NONE
        period.latencies.append(time.monotonic() - due)
        if status[:1] == b"2":
            period.good += 1
        elif status == b"503":
            period.shed += 1
        else:
            period.failed += 1
        if not self._plan.keep_alive or data.find(b"Connection: close", 0, head_end) >= 0:
            self._drop(client)
        else:
            self._idle.append(client)

    def _give_up(self, now: float) -> None:
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] < now:
            deadline, client = deadlines.popleft()
            # The connection may be at a later request by now.
            if client.due != _NONE and client.due + self._plan.deadline_s <= deadline:
                self._period(client.due).late += 1
                client.due = _NONE
                self._drop(client)

    def _fail(self, client: _Client) -> None:
        if client.due != _NONE:
            self._period(client.due).failed += 1
            client.due = _NONE
        else:
            try:
                self._idle.remove(client)
            except ValueError:
                pass
        self._drop(client)

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.file, None) is not None:
            client.socket.close()


def _length(data: bytes, head_end: int) -> int:
    at = data.find(b"Content-Length: ", 0, head_end)
    return int(data[at + 16 : data.index(b"\r\n", at)]) if at >= 0 else 0
