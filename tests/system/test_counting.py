"""Every acknowledged request is one row, and all counts of it agree: the clients', the table's, /metrics'."""

import random
import signal
import threading
from collections import Counter
from typing import Final

from tests.conftest import Database
from tests.support import wait_until
from tests.system.clients import PATIENT_DRAIN
from tests.system.harness import Server
from tests.system.wire import Line, message, scrape
from tests.unit.http_bed import Answer

CONNECTIONS: Final = 6
# At least: they go on until the reload is done.
REQUESTS_EACH: Final = 1000
KNOWN: Final = "0190163d-8694-739b-aea5-966c26f8ad91"
UNKNOWN: Final = "0190163d-8694-739b-aea5-966c26f8ad99"
FORM: Final = b"Content-Type: application/x-www-form-urlencoded"
JSON: Final = b"Content-Type: application/json"

# (endpoint, status, request), and whether it is logged.
Kind = tuple[str, int, bytes]
KINDS: Final[list[tuple[Kind, bool]]] = [
    (("ad", 200, message(f"/ad?id={KNOWN}")), True),
    (("ad", 204, message(f"/ad?id={UNKNOWN}")), True),
    (("ad", 400, message("/ad?id=none")), True),
    (("log", 204, message("/log?a=1")), True),
    (("log", 204, message("/log?a=1", FORM, method=b"POST", body=b"b=2")), True),
    (("log", 204, message("/log", JSON, method=b"POST", body=b'{"c":[3]}')), True),
    (("log", 400, message("/log", JSON, method=b"POST", body=b"{")), False),
    (("track", 403, message("/i/none")), False),
    (("track", 403, message("/v/none", FORM, method=b"POST", body=b"a=1")), False),
    (("track", 400, message("/conv?order=1")), False),
    (("", 405, message("/c/none", FORM, method=b"POST", body=b"a=1")), False),
    (("", 404, message("/nothing")), False),
    (("", 200, message("/healthz")), False),
]


class Client(threading.Thread):
    """Sends requests of all kinds, one at a time or a few at once, and counts what was answered."""

    def __init__(self, port: int, seed: int, reloaded: threading.Event) -> None:
        super().__init__()
        self.port = port
        self.reloaded = reloaded
        self.random = random.Random(seed)
        self.counted: Counter[tuple[str, int]] = Counter()
        self.logged = 0
        # Connections that the server has closed behind an answer.
        self.sent_away = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self.error = error
            raise

    def _run(self) -> None:
        sent = 0
        while sent < REQUESTS_EACH or not self.reloaded.is_set():
            with Line(self.port) as line:
                last = False
                while not last and (sent < REQUESTS_EACH or not self.reloaded.is_set()):
                    batch = self.random.choices(KINDS, k=self.random.choice((1, 1, 4)))
                    line.send(b"".join(request for (_, _, request), _ in batch))
                    for answer, (kind, is_logged) in zip(
                        line.answers(len(batch)), batch, strict=True
                    ):
                        self._count(answer, kind, is_logged)
                        last = answer.connection == "close"
                    sent += len(batch)
                # Here and not when it comes back: nobody need come back once the reload is done.
                self.sent_away += last

    def _count(self, answer: Answer, kind: Kind, is_logged: bool) -> None:
        endpoint, status, _ = kind
        assert answer.status == status
        if endpoint:
            self.counted[endpoint, status] += 1
        self.logged += is_logged


def test_rows_are_as_many_as_acknowledged_requests(database: Database) -> None:
    database.execute(
        "INSERT INTO ad_variant VALUES (%s, 1, 1, 1, 1, 't', 'http://i.example', 'http://c.example')",
        KNOWN,
    )
    # A machine that is busy with something else must not turn an answer into a 503.
    with Server(*PATIENT_DRAIN, "--read-timeout-s", "20", dsn=database.dsn, workers=2) as server:
        reloaded = threading.Event()
        clients = [Client(server.port, seed, reloaded) for seed in range(CONNECTIONS)]
        for client in clients:
            client.start()
        wait_until(lambda: sum(client.logged for client in clients) > 200, "requests before it")
        server.signal(signal.SIGHUP)
        try:
            server.wait_for_line("reload: done generation=2", timeout_s=60)
        finally:
            reloaded.set()
        for client in clients:
            client.join()
        assert [client.error for client in clients] == [None] * CONNECTIONS
        counted: Counter[tuple[str, int]] = sum((client.counted for client in clients), Counter())
        logged = sum(client.logged for client in clients)

        wait_until(lambda: scrape(server.port)("log_rows_total") >= logged, "all rows written", 20)
        metrics = scrape(server.port)
        for (endpoint, status), count in counted.items():
            assert metrics("requests_total", endpoint=endpoint, status=str(status)) == count
        assert metrics("requests_total") == counted.total()
        assert metrics("log_rows_total") == logged
        assert metrics("workers_started_total") == 4
        # Each of them was on a worker that was replaced.
        assert all(client.sent_away >= 1 for client in clients)
        wait_until(
            lambda: scrape(server.port)("log_rows_waiting") == 0, "the gauge, now and then set"
        )
        server.stop()

    [(rows, ids)] = database.fetch("SELECT count(*), count(DISTINCT id) FROM request_log")
    assert (rows, ids) == (logged, logged)
    by_endpoint = dict(database.fetch("SELECT endpoint, count(*) FROM request_log GROUP BY 1"))
    assert by_endpoint == {
        "ad": sum(count for (endpoint, _), count in counted.items() if endpoint == "ad"),
        "log": counted["log", 204],
    }
    assert database.fetch("SELECT * FROM request_log_rejected") == []
