"""Rounds of the loop that are too long: who is served, who is sent away, and that it ends by itself."""

from typing import Final, cast

from prefork_ads.http.message import Request
from prefork_ads.http.overload import FEW, SERVE_S, Overload
from tests.unit.http_bed import Bed, Client

REQUEST: Final = b"GET /log HTTP/1.1\r\nHost: a\r\n\r\n"
VITAL: Final = b"GET /vital HTTP/1.1\r\nHost: a\r\n\r\n"


class Crowd:
    """Clients of a worker on which each request takes `cost_s`."""

    def __init__(self, clients: int, cost_s: float) -> None:
        self.now = 0.0
        self.cost_s = cost_s
        self.shed = 0
        self.bed = Bed(handler=self._serve)
        self.clients = [self.bed.connect() for _ in range(clients)]
        self.bed.hub.outbox.watch = Overload(
            self.bed.hub, on_shed=self._count, clock=lambda: self.now
        )

    def round(self, request: bytes = REQUEST) -> None:
        """All who are still connected ask once."""
        for client in self.connected():
            client.connection.data_received(request)
        self.bed.tick()

    def connected(self) -> list[Client]:
        return [client for client in self.clients if not client.lost]

    def _serve(self, _: Request) -> bytes:
        self.now += self.cost_s
        return self.bed.answers.no_content

    def _count(self) -> None:
        self.shed += 1


def test_a_round_serves_for_its_time_and_sheds_the_rest() -> None:
    crowd = Crowd(clients=3000, cost_s=SERVE_S / 500)
    crowd.round()
    served = len(crowd.bed.requests)
    assert 500 <= served <= 500 + FEW
    assert crowd.shed == 3000 - served
    first, last = crowd.clients[0].answers()[0], crowd.clients[-1].answers()[0]
    assert (first.status, last.status) == (204, 503)
    assert last.headers["retry-after"] == "1"
    assert last.connection == "close"
    assert first.connection is None
    assert crowd.clients[-1].lost, "closed right behind the answer"


def test_the_next_round_begins_anew() -> None:
    crowd = Crowd(clients=3000, cost_s=SERVE_S / 500)
    crowd.round()
    crowd.now += 10
    left = len(crowd.connected())
    shed = crowd.shed
    crowd.round()
    assert crowd.shed - shed == max(0, left - 640)
    assert crowd.clients[0].statuses() == [204, 204]


def test_who_fits_into_the_time_is_served_however_many_there_are() -> None:
    crowd = Crowd(clients=5000, cost_s=SERVE_S / 6000)
    for _ in range(3):
        crowd.round()
    assert crowd.shed == 0


def test_a_few_clients_are_never_shed_however_slow_the_machine_is() -> None:
    crowd = Crowd(clients=FEW - 1, cost_s=1.0)
    for _ in range(3):
        crowd.round()
    assert crowd.shed == 0


def test_what_is_vital_is_answered_in_any_case() -> None:
    crowd = Crowd(clients=1000, cost_s=SERVE_S / 100)
    crowd.round(VITAL)
    assert crowd.shed == 0
    assert all(client.statuses() == [204] for client in crowd.clients)


def test_a_shed_client_of_http_1_0_is_told_once_that_it_is_the_end() -> None:
    crowd = Crowd(clients=1000, cost_s=SERVE_S / 100)
    crowd.round(b"GET /log HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    [answer] = crowd.clients[-1].answers()
    assert (answer.status, answer.connection) == (503, "close")


def test_a_path_whose_means_are_full_is_shed_and_the_others_are_not() -> None:
    crowd = Crowd(clients=1, cost_s=0.0)
    [client] = crowd.clients
    is_full = True
    overload = cast(Overload, crowd.bed.hub.outbox.watch)
    overload.guard({b"/log": lambda _: is_full})
    crowd.round()
    crowd.round(VITAL)
    is_full = False
    crowd.round()
    is_full = True
    overload.guard({})
    crowd.round()
    assert client.statuses() == [503, 204, 204, 204]
    assert not client.ended
    assert crowd.shed == 1


def test_nothing_behind_a_shed_request_is_read() -> None:
    crowd = Crowd(clients=1000, cost_s=SERVE_S / 100)
    for client in crowd.clients:
        client.connection.data_received(REQUEST + REQUEST)
    crowd.bed.tick()
    assert crowd.clients[-1].statuses() == [503]
    assert crowd.clients[0].statuses() == [204, 204]
