"""The endpoints behind the real protocol and router; log and lookup are lists that a test looks at."""

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from prefork_ads.ads.addresses import admission, client_address
from prefork_ads.ads.endpoints import UNAVAILABLE, Endpoints, Found, informative, looks_up
from prefork_ads.ads.meter import Meter
from prefork_ads.events.event import EventClock
from prefork_ads.events.uuid7 import Uuid7
from prefork_ads.http.message import Answers
from prefork_ads.http.router import Router
from prefork_ads.metrics import CELLS, Counter
from tests.unit.http_bed import PEER, Answer, Bed, Client

KEY: Final = "0190163d-8694-739b-aea5-966c26f8ad91"
ROW: Final = (KEY, 7, 70, 300, 250, 'Say "hi"\\', "https://a.example/i.png", "https://a.example/c")
NOW_NS: Final = 1_700_000_000_123_456_789


@dataclass
class Server:
    """The endpoints of one worker."""

    log_takes: bool = True
    line_takes: bool = True
    empty_on_trouble: bool = False
    is_ready: str = ""
    metrics_from: tuple[str, ...] = ("0.0.0.0/0",)
    events: list[list[str]] = field(default_factory=list)
    # Keys asked for and not answered yet.
    asked: list[tuple[str, Callable[[Found], None]]] = field(default_factory=list)
    counters: list[int] = field(default_factory=lambda: [0] * CELLS)

    def __post_init__(self) -> None:
        answers = Answers(lambda: NOW_NS / 1e9)
        endpoints = Endpoints(
            answers,
            EventClock(Uuid7(), lambda: NOW_NS),
            self._append,
            self._look_up,
            self.counters,
            client_address([f"{PEER[0]}/32"]),
            Meter(self.counters, lambda _: None),
            empty_on_trouble=self.empty_on_trouble,
        )
        routes = {
            **endpoints.routes(),
            **informative(
                answers,
                {"name": "x"},
                lambda: self.is_ready,
                lambda: b"up 1\n",
                admission(self.metrics_from, [f"{PEER[0]}/32"]),
            ),
        }
        self.bed = Bed(handler=Router(routes, answers).handle)

    def _append(self, line: bytes) -> bool:
        if self.log_takes:
            self.events.append(line.decode().split("\t"))
        return self.log_takes

    def _look_up(self, key: str, deliver: Callable[[Found], None]) -> bool:
        if self.line_takes:
            self.asked.append((key, deliver))
        return self.line_takes

    def find(self, *founds: Found) -> None:
        """Answer what was asked, in order."""
        for found in founds:
            self.asked.pop(0)[1](found)
        self.bed.tick()

    def send(
        self, target: str, *headers: str, method: str = "GET", body: bytes | None = None
    ) -> Client:
        length = () if body is None else (f"Content-Length: {len(body)}",)
        head = (f"{method} {target} HTTP/1.1", "Host: a.example", *headers, *length, "", "")
        return self.bed.connect().send("\r\n".join(head).encode() + (body or b""))

    def ask(self, target: str, *headers: str, found: Found = None, **more: Any) -> Answer:
        """The answer to one request, looked up if it asks for that."""
        client = self.send(target, *headers, **more)
        if self.asked:
            self.find(found)
        [answer] = client.answers(more.get("method", "GET"))
        assert self.bed.failures == []
        return answer

    def counted(self) -> dict[str, int]:
        return {
            counter.name: self.counters[counter] for counter in Counter if self.counters[counter]
        }

    def params(self) -> Any:
        """What the only event says."""
        [event] = self.events
        return json.loads(event[3].replace("\\\\", "\\"))


@pytest.fixture
def server() -> Server:
    return Server()


def message(answer: Answer) -> str:
    error = json.loads(answer.body)["error"]
    assert error["status"] == answer.status
    return str(error["message"])


# /ad


def test_a_known_ad(server: Server) -> None:
    answer = server.ask(f"/ad?id={KEY}", found=ROW)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert json.loads(answer.body) == {
        "id": KEY,
        "advertiser_id": 7,
        "campaign_id": 70,
        "width": 300,
        "height": 250,
        "title": 'Say "hi"\\',
        "image_url": "https://a.example/i.png",
        "click_url": "https://a.example/c",
    }
    assert server.counted() == {"AD_FOUND": 1}
    assert server.params() == {"id": KEY}


def test_an_unknown_ad(server: Server) -> None:
    assert server.ask(f"/ad?id={KEY}", found=None).status == 204
    assert server.counted() == {"AD_UNKNOWN": 1}
    assert server.params() == {"id": KEY}


@pytest.mark.parametrize(
    "spelled",
    [KEY, KEY.upper(), KEY.replace("-", ""), KEY.replace("-", "").upper(), KEY.replace("-", "", 1)],
)
def test_one_key_however_it_is_spelled(server: Server, spelled: str) -> None:
    server.send(f"/ad?id={spelled}")
    assert [key for key, _ in server.asked] == [KEY]
    # Logged as it was sent.
    assert server.params() == {"id": spelled}


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?",
        "?id",
        "?id=",
        "?ID=" + KEY,
        "?id=" + KEY[:-1],
        "?id=" + KEY + "0",
        "?id=" + KEY + "%0A",
        "?id=+" + KEY,
        "?id={" + KEY + "}",
        "?id=urn:uuid:" + KEY,
        "?id=" + "-".join(KEY.replace("-", "")),
        "?id=" + KEY.replace("0", "%D9%A0"),
        "?id=" + KEY.replace("0", "g"),
        "?id=%27%3B+DROP+TABLE+ad_variant%3B--",
        f"?id={KEY}&id={KEY}",
        f"?id={KEY}&id=",
    ],
)
def test_a_malformed_id_is_logged_and_not_looked_up(server: Server, query: str) -> None:
    answer = server.ask("/ad" + query)
    assert answer.status == 400
    assert "UUID" in message(answer)
    assert server.asked == []
    assert len(server.events) == 1
    assert server.counted() == {"AD_MALFORMED": 1}


def test_an_ad_that_the_log_cannot_take(server: Server) -> None:
    server.log_takes = False
    answer = server.ask(f"/ad?id={KEY}")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert "log" in message(answer)
    # What is not logged is not answered, so it is not looked up.
    assert (server.asked, server.events) == ([], [])
    assert server.counted() == {"AD_UNAVAILABLE": 1}


def test_an_ad_that_the_lookup_cannot_take(server: Server) -> None:
    server.line_takes = False
    answer = server.ask(f"/ad?id={KEY}")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    # The request was made, whatever became of its answer.
    assert server.params() == {"id": KEY}
    assert server.counted() == {"AD_UNAVAILABLE": 1, "AD_FALLBACKS": 1}


def test_an_ad_that_the_database_does_not_answer(server: Server) -> None:
    answer = server.ask(f"/ad?id={KEY}", found=UNAVAILABLE)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert len(server.events) == 1
    assert server.counted() == {"AD_UNAVAILABLE": 1, "AD_FALLBACKS": 1}


def test_no_ad_instead_of_trouble_for_who_wants_that() -> None:
    server = Server(empty_on_trouble=True)
    assert server.ask(f"/ad?id={KEY}", found=UNAVAILABLE).status == 204
    server.line_takes = False
    assert server.ask(f"/ad?id={KEY}").status == 204
    assert server.counted() == {"AD_UNKNOWN": 2, "AD_FALLBACKS": 2}
    # An event that is not logged is another matter: 204 would say that it is.
    server.log_takes = False
    assert server.ask(f"/ad?id={KEY}").status == 503


def test_head_of_an_ad_is_its_answer_without_the_body(server: Server) -> None:
    full = server.ask(f"/ad?id={KEY}", found=ROW)
    head = server.ask(f"/ad?id={KEY}", found=ROW, method="HEAD")
    assert (head.status, head.headers, head.body) == (full.status, full.headers, b"")
    assert len(server.events) == 2
    assert server.counted() == {"AD_FOUND": 2}


def test_an_answer_for_a_client_that_went_away_hurts_nobody(server: Server) -> None:
    gone, there = server.send(f"/ad?id={KEY}"), server.send(f"/ad?id={KEY}")
    gone.lose()
    server.find(ROW, ROW)
    assert gone.wire == b""
    assert there.statuses() == [200]
    assert server.counted() == {"AD_FOUND": 2}


def test_ads_answered_out_of_order_are_sent_in_order(server: Server) -> None:
    other = str(uuid.uuid4())
    one = f"GET /ad?id={KEY} HTTP/1.1\r\nHost: a\r\n\r\n"
    client = server.bed.connect().send(
        (one + "GET /log?n=1 HTTP/1.1\r\nHost: a\r\n\r\n" + one.replace(KEY, other)).encode()
    )
    server.asked.reverse()
    server.find((other, *ROW[1:]))
    assert client.wire == b""
    server.find(ROW)
    first, second, third = client.answers()
    assert [first.status, second.status, third.status] == [200, 204, 200]
    assert [json.loads(answer.body)["id"] for answer in (first, third)] == [KEY, other]
    assert [event[2] for event in server.events] == ["ad", "log", "ad"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_ads_are_only_got(server: Server, method: str) -> None:
    answer = server.ask(f"/ad?id={KEY}", method=method, body=b"")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert (server.events, server.counted()) == ([], {})


# /log


def logged(server: Server, target: str, *headers: str, **more: Any) -> Any:
    assert server.ask(target, *headers, **more).status == 204
    assert server.counted() == {"LOG_ACCEPTED": 1}
    return server.params()


def test_the_line_of_an_event(server: Server) -> None:
    assert (
        server.ask(
            "/log?a=1",
            "User-Agent: Mozilla/5.0",
            "Referer: https://page.example/",
            "Accept-Language: de-DE,de;q=0.9",
        ).status
        == 204
    )
    [[time, id_, *rest]] = server.events
    assert time == "2023-11-14 22:13:20.123+00"
    assert uuid.UUID(id_).version == 7
    assert uuid.UUID(id_).int >> 80 == NOW_NS // 1_000_000
    assert rest == [
        "log",
        '{"a":"1"}',
        "Mozilla/5.0",
        "https://page.example/",
        PEER[0],
        "de-DE,de;q=0.9",
    ]


def test_headers_that_are_missing_are_null(server: Server) -> None:
    server.ask("/log")
    assert server.events[0][2:] == ["log", "{}", "\\N", "\\N", PEER[0], "\\N"]


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [("203.0.113.9", "203.0.113.9"), ("10.0.0.1, 203.0.113.9", "203.0.113.9"), ("x", PEER[0])],
)
def test_the_address_behind_a_trusted_proxy(server: Server, forwarded: str, address: str) -> None:
    server.ask("/log", f"X-Forwarded-For: {forwarded}")
    assert server.events[0][6] == address


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("", {}),
        ("?", {}),
        ("?a", {"a": ""}),
        ("?=", {"": ""}),
        ("?a=1&b=2", {"a": "1", "b": "2"}),
        ("?a=1&a=2&a=", {"a": ["1", "2", ""]}),
        ("?a=%22%5C%09%0A%00%FF", {"a": '"\\\t\n\ufffd\ufffd'}),
    ],
)
def test_logged_queries(server: Server, query: str, params: dict[str, Any]) -> None:
    assert logged(server, "/log" + query) == params


@pytest.mark.parametrize(
    ("content_type", "body", "params"),
    [
        ("application/x-www-form-urlencoded", b"b=2&q=%2B+1", {"q": ["1", "+ 1"], "b": "2"}),
        ("Application/X-WWW-Form-URLEncoded; charset=utf-8", b"b=2", {"q": "1", "b": "2"}),
        ("application/json", b'{"b":[2,null],"q":{}}', {"q": ["1", {}], "b": [2, None]}),
        ("application/json;charset=utf-8", b'{"b":[2]}', {"q": "1", "b": [2]}),
        ("application/csp-report+json", b'"text"', {"q": "1", "body": "text"}),
        ("application/json", b"[1,2]", {"q": "1", "body": [1, 2]}),
        ("text/plain", b"a\0\xffb", {"q": "1", "body": "a\ufffd\ufffdb"}),
        ("text/plain;charset=UTF-8", b"{}", {"q": "1", "body": "{}"}),
    ],
)
def test_logged_bodies(
    server: Server, content_type: str, body: bytes, params: dict[str, Any]
) -> None:
    assert (
        logged(server, "/log?q=1", f"Content-Type: {content_type}", method="POST", body=body)
        == params
    )


def test_a_body_without_content_type_is_text(server: Server) -> None:
    assert logged(server, "/log", method="POST", body=b"a=1") == {"body": "a=1"}


@pytest.mark.parametrize("content_type", ["application/json", "image/png", "text/plain"])
def test_an_empty_body_is_none(server: Server, content_type: str) -> None:
    params = logged(server, "/log?a=1", f"Content-Type: {content_type}", method="POST", body=b"")
    assert params == {"a": "1"}


@pytest.mark.parametrize(
    ("content_type", "body", "why"),
    [
        ("image/png", b"x", "Content-Type"),
        ("multipart/form-data; boundary=x", b"--x--", "Content-Type"),
        ("application/json", b"{", "JSON"),
        ("application/json", b" ", "JSON"),
        ("application/json", b"\xff\xfe", "JSON"),
        ("application/json", b"[" * 5000 + b"]" * 5000, "nested too deep"),
        ("application/json", b"[1e1000," * 5000 + b"1" + b"]" * 5000, "nested too deep"),
    ],
)
def test_a_body_that_is_not_what_it_says(
    server: Server, content_type: str, body: bytes, why: str
) -> None:
    answer = server.ask("/log?a=1", f"Content-Type: {content_type}", method="POST", body=body)
    assert answer.status == 400
    assert why in message(answer)
    assert server.events == []
    assert server.counted() == {"LOG_MALFORMED": 1}


def test_a_log_that_is_full(server: Server) -> None:
    server.log_takes = False
    answer = server.ask("/log?a=1")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert server.counted() == {"LOG_UNAVAILABLE": 1}
    server.log_takes = True
    assert server.ask("/log?a=1").status == 204
    assert server.counted() == {"LOG_UNAVAILABLE": 1, "LOG_ACCEPTED": 1}


def test_head_is_logged(server: Server) -> None:
    assert logged(server, "/log?a=1", method="HEAD") == {"a": "1"}


# The others


def test_what_is_said_about_the_server_is_not_logged(server: Server) -> None:
    assert json.loads(server.ask("/").body) == {"name": "x"}
    assert json.loads(server.ask("/healthz").body) == {"status": "ok"}
    assert json.loads(server.ask("/readyz").body) == {"status": "ready"}
    metrics = server.ask("/metrics")
    assert metrics.body == b"up 1\n"
    assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_metrics_are_not_for_everybody() -> None:
    server = Server(metrics_from=("10.0.0.0/8",))
    assert server.ask("/metrics").status == 403
    forwarded = server.ask("/metrics", "X-Forwarded-For: 10.1.2.3")
    assert (forwarded.status, forwarded.body) == (200, b"up 1\n")
    assert server.ask("/metrics", "X-Forwarded-For: 192.0.2.7").status == 403
    assert server.ask("/healthz").status == 200
    assert (server.events, server.counted()) == ([], {})


def test_a_server_that_is_not_ready_says_why(server: Server) -> None:
    server.is_ready = "No database."
    answer = server.ask("/readyz")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert message(answer) == "No database."
    assert server.ask("/healthz").status == 200


@pytest.mark.parametrize(
    ("method", "target", "waits"),
    [
        ("GET", f"/ad?id={KEY}", True),
        ("HEAD", f"/ad?id={KEY}", True),
        ("GET", "/ad?zone=front-page", False),
        ("GET", "/ad?uid=7&zone=front-page", False),
        ("POST", "/ad", False),
        ("OPTIONS", "/ad", False),
    ],
)
def test_which_requests_are_in_the_way_of_a_crowded_line(
    server: Server, method: str, target: str, waits: bool
) -> None:
    """Zones are decided in memory, and nobody is shed for a line that he would not wait in."""
    server.send(target, method=method)
    [request] = server.bed.requests
    assert looks_up(request) is waits
