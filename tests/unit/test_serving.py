"""Requests for ads in zones behind the real protocol and router, with a real catalog, budget, caps and keys.

The log and the lookup of people are lists that a test looks at.
"""

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from prefork_ads.ads import serving
from prefork_ads.ads.addresses import client_address
from prefork_ads.ads.base_url import base_url
from prefork_ads.ads.budget import Budget
from prefork_ads.ads.caps import Caps
from prefork_ads.ads.current import Current
from prefork_ads.ads.decision_log import DecisionLog
from prefork_ads.ads.endpoints import UNAVAILABLE, Endpoints, Found
from prefork_ads.ads.geography import Geography
from prefork_ads.ads.meter import Meter
from prefork_ads.ads.sender import Sender
from prefork_ads.ads.serving import Serving
from prefork_ads.ads.tokens import Key, Keyring
from prefork_ads.events import ad_lines
from prefork_ads.events.event import EventClock
from prefork_ads.events.uuid7 import Uuid7
from prefork_ads.http.message import Answers
from prefork_ads.http.router import Router
from prefork_ads.metrics import CELLS, Counter
from prefork_ads.process.worker import ANSWERED
from tests.unit.http_bed import PEER, Answer, Bed
from tests.unit.test_sender import BERLIN, write_database
from tests.unit.tracking_bed import compiled, rows

NOW_NS: Final = 1_700_000_000_123_456_789
UID: Final = "0190163d-8694-739b-aea5-966c26f8ad91"
BROWSER: Final = (
    "User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/126.0.0.0 Safari/537.36"
)
CRAWLER: Final = (
    "User-Agent: Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
)
KEY: Final = "let me see"
PERSON: Final = (UID, [7], None)


def changed(*relation_and_id: Any, **members: Any) -> Any:
    """The rows of the small catalog with some members of one row changed."""
    content = rows()
    relation, number = relation_and_id
    content[relation][number] |= members
    return content


@dataclass
class Server:
    """The ad endpoint of one worker."""

    rows: Any = field(default_factory=rows)
    log_takes: bool = True
    most_lines: int = 1000
    line_takes: bool = True
    has_keys: bool = True
    place_database: Path | None = None
    addresses: Any = "truncated"
    events: list[list[str]] = field(default_factory=list)
    asked: list[tuple[str, Callable[[Found], None]]] = field(default_factory=list)
    counters: list[int] = field(default_factory=lambda: [0] * CELLS)
    holder: str = "a-worker"
    failures: list[tuple[str, Exception]] = field(default_factory=list)

    def __post_init__(self) -> None:
        answers = Answers(lambda: NOW_NS / 1e9)
        clock = EventClock(Uuid7(), lambda: NOW_NS)
        find_address = client_address([f"{PEER[0]}/32"])
        sender = Sender(
            find_address, Geography(self.place_database, pytest.fail), addresses=self.addresses
        )
        self.budget = Budget(
            *(self.holder, None, clock, self._append, lambda: 0.0),
            impression_window_s=900.0,
            now=lambda: NOW_NS / 1e9,
        )
        self.current = Current()
        self.current.subscribe(self.budget.changed)
        if self.rows is not None:
            self.current.replace(compiled(self.rows))
        meter = Meter(self.counters, lambda _: None)
        serving = Serving(
            answers,
            clock,
            self._append,
            self._look_up,
            self.current,
            self.budget,
            Caps(lambda: 0.0),
            Keyring([Key(1, bytes(range(32)), True)] if self.has_keys else []),
            sender,
            base_url(None, []),
            self.counters,
            meter,
            # The bed is made last, around all of this.
            lambda callback: self.bed.call_soon(callback),  # noqa: PLW0108
            report=lambda what, error: self.failures.append((what, error)),
            explain_key=KEY,
        )
        endpoints = Endpoints(
            answers,
            clock,
            self._append,
            self._look_up,
            self.counters,
            find_address,
            meter,
            logged=sender.logged,
            zones=serving,
        )
        self.bed = Bed(handler=Router(endpoints.routes(), answers).handle)

    def _append(self, line: bytes) -> bool:
        takes = self.log_takes and len(self.events) < self.most_lines
        if takes:
            self.events.append(line.decode().split("\t"))
        return takes

    def _look_up(self, key: str, deliver: Callable[[Found], None]) -> bool:
        if self.line_takes:
            self.asked.append((key, deliver))
        return self.line_takes

    def ask(
        self,
        target: str,
        *headers: str,
        found: Found = PERSON,
        body: Mapping[str, Any] | bytes | None = None,
        method: str = "",
    ) -> Answer:
        """The answer to one request of a browser, whose person is found if it is asked for."""
        data = (
            body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        )
        method = method or ("GET" if body is None else "POST")
        length = () if body is None else (f"Content-Length: {len(data)}",)
        agent = () if any(one.startswith("User-Agent") for one in headers) else (BROWSER,)
        head = (
            f"{method} {target} HTTP/1.1",
            "Host: ads.example",
            *agent,
            *headers,
            *length,
            "",
            "",
        )
        client = self.bed.connect().send("\r\n".join(head).encode() + data)
        while self.asked:
            self.asked.pop(0)[1](found)
            self.bed.tick()
        [answer] = client.answers(method)
        assert self.bed.failures == []
        return answer

    def logged(self, endpoint: str = "decision") -> list[Any]:
        """The params of all lines of this endpoint."""
        return [
            json.loads(event[3].replace("\\\\", "\\"))
            for event in self.events
            if event[2] == endpoint
        ]

    @property
    def decision(self) -> dict[str, Any]:
        """What the only decision's line says."""
        [params] = self.logged()
        decision: dict[str, Any] = params["decision"]
        return decision

    def counted(self) -> dict[str, int]:
        return {one.name: self.counters[one] for one in Counter if self.counters[one]}


@pytest.fixture
def server() -> Server:
    return Server()


def message(answer: Answer) -> str:
    assert answer.headers["access-control-allow-origin"] == "*"
    error = json.loads(answer.body)["error"]
    assert error["status"] == answer.status
    return str(error["message"])


# One zone.


def test_an_ad_for_a_zone(server: Server) -> None:
    """The answer names the decision that is in the log, which says by what it was made."""
    answer = server.ask("/ad?zone=home-top&x=1", "Accept-Language: de-DE,en;q=0.5")
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "no-store" in answer.headers["cache-control"]
    shown = json.loads(answer.body)
    assert (shown["zone"], shown["campaign"], shown["creative"]) == (
        "home-top",
        "spring",
        "spring-box",
    )
    assert shown["urls"]["impression"].startswith("http://ads.example/i/")
    assert server.logged()[0]["request"] == {"zone": "home-top", "x": "1"}
    decision = server.decision
    assert 0 <= decision.pop("draw") < 1 << 53
    assert decision.pop("state") in [event[1] for event in server.events if event[2] == "state"]
    assert decision == {
        **{"zone": 12, "version": 1, "campaign": 5, "creative": 50, "tier": "standard"},
        **{"price": 2_500_000, "model": "cpm", "languages": ["de", "en"]},
        **{"device": "desktop", "os": "windows", "browser": "chrome"},
    }
    assert [event[1] for event in server.events if event[2] == "decision"] == [shown["decision"]]
    assert server.counted() == {"AD_FOUND": 1, "DECISIONS_FILLED": 1}
    assert server.asked == []


def test_the_state_comes_before_the_decision(server: Server) -> None:
    """In the log and by its id: what a decision refers to is there when it is."""
    server.ask("/ad?zone=home-top")
    state, decision = server.events
    assert (state[2], decision[2]) == ("state", "decision")
    assert state[1] < decision[1]
    assert server.decision["state"] == state[1]


def test_nothing_fits(server: Server) -> None:
    answer = server.ask("/ad?zone=home-top&size=1x1")
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "campaign" not in server.decision
    assert server.decision["sizes"] == ["1x1"]
    assert server.counted() == {"AD_UNKNOWN": 1, "DECISIONS_UNFILLED": 1}


def test_a_zone_that_is_paused_has_no_ads() -> None:
    """It is in the catalog, so this is no mistake of the page's."""
    server = Server(changed("zone", 12, status="paused"))
    assert server.ask("/ad?zone=home-top").status == 204
    assert server.counted() == {"AD_UNKNOWN": 1, "DECISIONS_UNFILLED": 1}


@pytest.mark.parametrize(
    "query", ["zone=nowhere", "zone=", "zone=Home-Top", "zone=%25", "zone=%00"]
)
def test_a_zone_that_there_is_not(server: Server, query: str) -> None:
    answer = server.ask("/ad?" + query)
    assert answer.status == 404
    assert "no zone" in message(answer)
    # Asked for, so logged; but nothing was decided.
    assert len(server.logged("ad")) == 1
    assert server.logged() == []
    assert server.counted() == {"AD_NO_ZONE": 1}


@pytest.mark.parametrize("query", ["n=21", "size=1", "uid=7", "format=gif", "zone=x"])
def test_a_request_that_cannot_be_meant(server: Server, query: str) -> None:
    answer = server.ask("/ad?zone=home-top&" + query)
    assert answer.status == 400
    assert message(answer)
    assert len(server.logged("ad")) == 1
    assert (server.logged(), server.asked) == ([], [])
    assert server.counted() == {"AD_MALFORMED": 1}


def test_an_id_is_still_a_plain_lookup(server: Server) -> None:
    answer = server.ask(f"/ad?id={UID}&zone=home-top", found=None)
    assert answer.status == 204
    assert len(server.logged("ad")) == 1
    assert server.logged() == []


def test_all_that_is_known_of_the_page_decides_and_is_logged(server: Server) -> None:
    referer = "Referer: https://News.example/sports/x?y=1"
    server.ask("/ad?zone=home-top&kw=b,A&k.section=x&k.section=y&k.b=1", referer)
    decision = server.decision
    assert decision["page"] == "news.example/sports/x"
    assert decision["keywords"] == ["a", "b"]
    assert decision["values"] == [["b", "1"], ["section", "x"], ["section", "y"]]


@pytest.mark.parametrize(
    ("targeting", "query", "headers", "filled"),
    [
        ({"device": {"include": ["desktop"]}}, "", (), True),
        ({"device": {"include": ["mobile"]}}, "", (), False),
        ({"language": {"include": ["fr"]}}, "", ("Accept-Language: fr",), True),
        ({"language": {"include": ["fr"]}}, "", ("Accept-Language: de",), False),
        ({"page": {"include": ["*.example/s/*"]}}, "", ("Referer: https://a.example/s/",), True),
        ({"page": {"include": ["*.example/s/*"]}}, "&page=a.example/t", (), False),
        ({"keywords": {"all": ["a", "b"]}}, "&kw=B,a", (), True),
        ({"keywords": {"none": ["a"]}}, "&kw=a", (), False),
        ({"values": {"s": {"any": ["x"]}}}, "&k.s=x", (), True),
        ({"values": {"s": {"any": ["x"]}}}, "&k.s=X", (), False),
    ],
)
def test_a_request_meets_the_targeting_or_not(
    targeting: Any, query: str, headers: tuple[str, ...], filled: bool
) -> None:
    server = Server(changed("campaign", 5, targeting=targeting))
    answer = server.ask("/ad?zone=home-top" + query, *headers)
    assert (answer.status == 200) is filled


def test_the_place_is_found_by_the_full_address(tmp_path: Path) -> None:
    """And what is logged is the network alone."""
    path = tmp_path / "city.mmdb"
    write_database(path, {"203.0.113.77/32": BERLIN})
    only_berlin = changed("campaign", 5, targeting={"geo": {"include": ["DE-BE-Berlin"]}})
    server = Server(only_berlin, place_database=path)
    assert server.ask("/ad?zone=home-top", "X-Forwarded-For: 203.0.113.78").status == 204
    server.events.clear()
    assert server.ask("/ad?zone=home-top", "X-Forwarded-For: 203.0.113.77").status == 200
    [event] = [event for event in server.events if event[2] == "decision"]
    assert event[6] == "203.0.113.0"
    assert server.decision["city"] == "DE-BE-Berlin"


@pytest.mark.parametrize(("addresses", "logged"), [("truncated", "192.0.2.0"), ("full", PEER[0])])
def test_what_is_logged_of_an_address(addresses: str, logged: str) -> None:
    server = Server(addresses=addresses)
    server.ask("/ad?zone=home-top")
    server.ask("/ad?zone=nowhere")
    server.ask("/log?a=1")
    server.ask(f"/ad?id={UID}", found=None)
    assert {event[6] for event in server.events if event[2] != "state"} == {logged}


# Several places.


def test_several_places_of_one_page(server: Server) -> None:
    """One line for each; an advertiser stands on a page once; only the first line has the request."""
    server = Server(changed("creative", 60, status="active"))
    answer = server.ask("/ad?zone=home-top&n=3")
    ads = json.loads(answer.body)["ads"]
    assert {ad.get("campaign") for ad in ads} == {"spring", "autumn", None}
    lines = server.logged()
    assert [line["request"] for line in lines] == [{"zone": "home-top", "n": "3"}, {}, {}]
    decisions = [line["decision"] for line in lines]
    assert [decision["places"] for decision in decisions] == [3, 3, 3]
    first, second, third = decisions
    assert "after" not in first
    assert second["after"] == [first["campaign"]]
    assert third["after"] == [first["campaign"], second["campaign"]]
    assert "campaign" not in third
    ids = [event[1] for event in server.events if event[2] == "decision"]
    assert ids == [ad["decision"] for ad in ads] == sorted(ids)
    assert server.counted() == {"AD_FOUND": 1, "DECISIONS_FILLED": 2, "DECISIONS_UNFILLED": 1}


def test_places_of_a_page_by_post(server: Server) -> None:
    body = {"places": [{"zone": "home-top"}, {"zone": "home-top", "sizes": ["1x1"]}], "uid": UID}
    answer = server.ask("/ad", body=body)
    full, empty = json.loads(answer.body)["ads"]
    assert full["campaign"] == "spring"
    assert set(empty) == {"decision", "zone"}
    assert server.logged()[0]["request"] == body
    assert [line["decision"]["uid"] for line in server.logged()] == [UID.replace("-", "")] * 2


def test_a_list_of_one_is_a_list(server: Server) -> None:
    for answer in (
        server.ask("/ad?zone=home-top&n=1"),
        server.ask("/ad", "Content-Type: text/plain", body={"places": [{"zone": "home-top"}]}),
    ):
        assert [ad["campaign"] for ad in json.loads(answer.body)["ads"]] == ["spring"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 5000 + b"]" * 5000, b"{}", b'"zone=a"'])
def test_a_body_that_asks_for_nothing(server: Server, body: bytes) -> None:
    answer = server.ask("/ad", body=body)
    assert answer.status == 400
    assert message(answer)
    assert server.logged() == []


def test_a_body_that_names_a_zone_that_there_is_not(server: Server) -> None:
    body = {"places": [{"zone": "home-top"}, {"zone": "nowhere"}]}
    answer = server.ask("/ad", body=body)
    assert (answer.status, "nowhere" in message(answer)) == (404, True)
    assert server.logged("ad") == [body]


def test_a_page_of_any_site_may_ask(server: Server) -> None:
    """What a browser asks before it lets a page POST JSON."""
    answer = server.ask(
        "/ad",
        "Origin: https://news.example",
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: content-type",
        method="OPTIONS",
    )
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "Content-Type" in answer.headers["access-control-allow-headers"]
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert server.events == []


# People.


def test_a_person_is_looked_up_by_one_spelling(server: Server) -> None:
    """And what is found of it decides: here the segment."""
    content = changed("campaign", 5, targeting={"segments": {"any": ["buyers"]}})
    content["segment"][7] = {"id": 7, "key": "buyers", "name": "Buyers", "status": "active"}
    server = Server(content)
    client = server.bed.connect().send(
        f"GET /ad?zone=home-top&uid={UID.upper()} HTTP/1.1\r\nHost: a\r\n{BROWSER}\r\n\r\n".encode()
    )
    [(key, deliver)] = server.asked
    assert key == UID
    # What is not decided is not logged.
    assert server.events == []
    deliver(PERSON)
    server.bed.tick()
    assert client.statuses() == [200]
    assert server.decision["uid"] == UID.replace("-", "")
    assert server.decision["segments"] == [7]
    server.asked.clear()
    assert server.ask(f"/ad?zone=home-top&uid={UID}", found=(UID, [], None)).status == 204
    assert server.ask("/ad?zone=home-top").status == 204


def test_a_cap_holds_before_anything_has_reached_postgresql() -> None:
    server = Server(changed("campaign", 5, cap_day=2))
    statuses = [server.ask(f"/ad?zone=home-top&uid={UID}").status for _ in range(4)]
    assert statuses == [200, 200, 204, 204]
    lines = [line["decision"] for line in server.logged()]
    assert [line.get("caps") for line in lines] == [True, True, None, None]
    assert [line.get("capped") for line in lines] == [None, None, [5], [5]]


@pytest.mark.parametrize("lookup", ["fails", "is not taken"])
def test_without_the_person_s_data_caps_are_not_risked(lookup: str) -> None:
    """What has no cap is served all the same."""
    server = Server(changed("campaign", 5, cap_day=2), line_takes=lookup == "fails")
    assert server.ask(f"/ad?zone=home-top&uid={UID}", found=UNAVAILABLE).status == 204
    assert server.decision["away"] is True
    assert "capped" not in server.decision
    assert server.counted()["AD_FALLBACKS"] == 1
    other = Server(line_takes=lookup == "fails")
    assert other.ask(f"/ad?zone=home-top&uid={UID}", found=UNAVAILABLE).status == 200


def test_a_decisions_line_is_counted_by_its_beginning(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the writer counts stands first in it, so that `ad_lines` need not read the rest."""
    assert server.ask("/ad?zone=home-top&kw=news").status == 200
    data = "\t".join(server.events[-1]).encode() + b"\n"
    with monkeypatch.context() as patch:
        patch.setattr(ad_lines, "_record", lambda *_: pytest.fail("it was read whole"))
        counted = ad_lines.added_up(data)
    said = server.decision
    assert counted is not None
    assert all(str(said[name]) in counted.decisions for name in ("zone", "campaign", "creative"))


def test_a_failure_behind_the_lookup_is_answered_and_told(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else would answer this request any more."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(DecisionLog, "keep", fail)
        assert server.ask(f"/ad?zone=home-top&uid={UID}", found=PERSON).status == 500
    [(what, error)] = server.failures
    assert "/ad" in what
    assert isinstance(error, ZeroDivisionError)
    assert server.ask(f"/ad?zone=home-top&uid={UID}", found=PERSON).status == 200


def together(server: Server, *targets: str) -> list[int]:
    """The statuses of requests that become ready in one turn of the loop."""
    heads = [f"GET {target} HTTP/1.1\r\nHost: a\r\n{BROWSER}\r\n\r\n" for target in targets]
    client = server.bed.connect().send("".join(heads).encode())
    for _, deliver in server.asked:
        deliver(PERSON)
    server.asked.clear()
    server.bed.tick()
    return client.statuses()


def test_a_cap_holds_among_requests_that_are_answered_together() -> None:
    """All are decided before any line is written, and each knows of those before it."""
    server = Server(changed("campaign", 5, cap_day=2))
    mine, other = f"/ad?zone=home-top&uid={UID}", f"/ad?zone=home-top&uid={UID[:-1]}2"
    assert together(server, mine, mine, other, mine, other, mine) == [200, 200, 200, 204, 200, 204]
    lines = [event[1] for event in server.events]
    assert lines == sorted(lines)


def test_a_lease_holds_among_requests_that_are_answered_together() -> None:
    server = Server(changed("campaign", 5, goal_kind="impressions", goal_total=1000))
    server.ask("/ad?zone=home-top")
    granted(server, 2)
    mine = f"/ad?zone=home-top&uid={UID}"
    assert together(server, mine, mine, mine, mine) == [200, 200, 204, 204]


def test_more_requests_than_go_together(server: Server) -> None:
    count = 3 * serving._TOGETHER + 1
    assert together(server, *["/ad?zone=home-top&x=1"] * count) == [200] * count
    assert len(server.logged()) == count


def test_more_people_than_are_answered_at_once(server: Server) -> None:
    """PostgreSQL may answer for thousands at once; others are served in between, and nobody is forgotten."""
    number = 2 * serving._AT_ONCE + 1
    head = "GET /ad?zone=home-top&uid={} HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n"
    clients = [server.bed.connect() for _ in range(number)]
    for n, client in enumerate(clients):
        client.send(head.format(uuid.UUID(int=n), BROWSER).encode())
    assert len(server.asked) == number
    for _, deliver in server.asked:
        deliver(PERSON)
    answered = []

    def look() -> None:
        answered.append(len(server.logged()))
        if answered[-1] < number:
            server.bed.call_soon(look)

    server.bed.call_soon(look)
    server.bed.tick()
    assert answered == [serving._AT_ONCE, 2 * serving._AT_ONCE, number]
    assert [client.statuses() for client in clients] == [[200]] * number


def test_one_that_fails_leaves_the_others_alone(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = DecisionLog.keep

    def fail_once(self: DecisionLog, request: Any, parameters: Any, *more: Any) -> Any:
        if "fails" in parameters:
            raise ZeroDivisionError("a bug")
        return keep(self, request, parameters, *more)

    monkeypatch.setattr(DecisionLog, "keep", fail_once)
    good = "/ad?zone=home-top"
    assert together(server, good, f"{good}&fails=1", good) == [200, 500, 200]
    assert len(server.failures) == 1


def test_without_a_uid_there_are_no_capped_campaigns() -> None:
    """A cap that cannot be looked at is not broken."""
    server = Server(changed("campaign", 5, cap_day=2))
    assert server.ask("/ad?zone=home-top").status == 204
    assert "capped" not in server.decision
    assert "away" not in server.decision


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("", ("Sec-GPC: 1",)),
        ("", ("DNT: 1",)),
        ("&gdpr=1", ()),
        ("&gdpr=1&gdpr_consent=", ()),
        ("&us_privacy=1YYN", ()),
    ],
)
def test_who_does_not_want_to_be_known_is_not(
    server: Server, query: str, headers: tuple[str, ...]
) -> None:
    """No lookup, and the uid stands nowhere."""
    assert (
        server.ask(f"/ad?zone=home-top&uid={UID}{query}", *headers, found=UNAVAILABLE).status == 200
    )
    body = {"places": [{"zone": "home-top"}], "uid": UID}
    body |= dict(pair.split("=") for pair in query.split("&") if pair)
    assert server.ask("/ad", *headers, body=body, found=UNAVAILABLE).status == 200
    assert server.ask(f"/ad?zone=home-top&n=77&uid={UID}{query}", *headers).status == 400
    assert server.ask(f"/log?uid={UID}{query}", *headers).status == 204
    assert "AD_FALLBACKS" not in server.counted()
    text = json.dumps(server.events)
    assert UID not in text
    assert UID.replace("-", "") not in text


def test_with_consent_the_uid_is_used(server: Server) -> None:
    server.ask(f"/ad?zone=home-top&uid={UID}&gdpr=1&gdpr_consent=CPc7TgA", "DNT: 0", "Sec-GPC: 0")
    assert server.decision["uid"] == UID.replace("-", "")


def test_a_catalog_that_changes_while_the_person_is_looked_up(server: Server) -> None:
    """What is asked for when the row is there counts."""
    head = f"HTTP/1.1\r\nHost: a\r\n{BROWSER}\r\n\r\n"
    clients = [server.bed.connect() for _ in range(2)]
    for client in clients:
        client.send(f"GET /ad?zone=home-top&uid={UID} {head}".encode())
    server.current.replace(compiled(changed("campaign", 5, key="summer")))
    server.asked.pop(0)[1](PERSON)
    server.bed.tick()
    assert json.loads(clients[0].answers()[0].body)["campaign"] == "summer"
    server.current.replace(compiled(changed("zone", 12, key="elsewhere")))
    server.asked.pop(0)[1](PERSON)
    server.bed.tick()
    assert clients[1].statuses() == [404]
    assert server.bed.failures == []


# Programs.


def test_a_program_gets_house_ads_alone_and_costs_nobody_anything(server: Server) -> None:
    assert server.ask(f"/ad?zone=home-top&uid={UID}", CRAWLER).status == 204
    decision = server.decision
    assert decision["filtered"] == "bot: Googlebot"
    assert "uid" not in decision
    server = Server(changed("campaign", 5, tier="house", price_micros=0))
    assert server.ask("/ad?zone=home-top", CRAWLER).status == 200
    assert server.decision["tier"] == "house"
    assert server.counted() == {"AD_FOUND": 1, "DECISIONS_FILTERED": 1}


def test_a_house_ad_is_counted_as_one() -> None:
    server = Server(changed("campaign", 5, tier="house", price_micros=0))
    assert server.ask("/ad?zone=home-top").status == 200
    assert server.counted() == {"AD_FOUND": 1, "DECISIONS_HOUSE": 1}
    assert "price" not in server.decision


# Budgets.


def granted(server: Server, number: int) -> None:
    """What PostgreSQL answers to a worker that asks which day it is, and then for a lease of it."""
    now_s = NOW_NS / 1e9
    for has in (0, number):
        asked = server.budget.ask()
        assert asked is not None
        row = (5, "2023-11-14", has, now_s - 3600, now_s + 3600, 0, 0, 0, 0, 1000, 1, now_s)
        server.budget.answered([row])


def test_a_campaign_with_a_goal_is_served_from_its_lease_alone() -> None:
    server = Server(changed("campaign", 5, goal_kind="impressions", goal_total=1000))
    assert server.ask("/ad?zone=home-top").status == 204
    granted(server, 2)
    assert [server.ask("/ad?zone=home-top").status for _ in range(4)] == [200, 200, 204, 204]
    leased = [line["decision"].get("leased") for line in server.logged()]
    assert leased == [None, "2023-11-14", "2023-11-14", None, None]


def with_lease(number: int, **members: Any) -> Server:
    """One is served already, so the state that the next decisions refer to is written."""
    goal = {"goal_kind": "impressions", "goal_total": 1000}
    server = Server(changed("campaign", 5, **goal, **members))
    server.ask("/ad?zone=home-top")
    granted(server, number + 1)
    server.ask("/ad?zone=home-top")
    assert server.budget.figures[1] == number
    return server


def test_what_a_full_log_refuses_uses_up_no_lease() -> None:
    """No line says that it was used, so nobody would ever give it back."""
    server = with_lease(20)
    server.log_takes = False
    mine = f"/ad?zone=home-top&uid={UID}"
    assert {server.ask("/ad?zone=home-top").status for _ in range(30)} == {503}
    assert together(server, mine, mine, mine) == [503] * 3
    assert server.budget.figures[1] == 20
    server.log_takes = True
    assert [server.ask("/ad?zone=home-top").status for _ in range(21)] == [200] * 20 + [204]


def test_of_a_page_whose_lines_are_taken_in_part_the_others_use_up_no_lease() -> None:
    """A line that is in the journal is a decision, whatever the answer says."""
    server = with_lease(40, roadblock=True)
    server.most_lines = len(server.events) + 2
    assert server.ask("/ad?zone=home-top&n=3").status == 503
    leased = [line["decision"].get("leased") for line in server.logged()]
    assert leased[-2:] == ["2023-11-14"] * 2
    assert server.budget.figures[1] == 38


# What cannot be answered.


def test_a_log_that_is_full(server: Server) -> None:
    server.log_takes = False
    for answer in (
        server.ask("/ad?zone=home-top"),
        server.ask("/ad?zone=nowhere"),
        server.ask(f"/ad?zone=home-top&uid={UID}"),
        server.ask("/ad", body={"places": [{"zone": "home-top"}]}),
    ):
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "log" in message(answer)
    assert server.counted() == {"AD_UNAVAILABLE": 4}


@pytest.mark.parametrize("missing", ["catalog", "keys"])
def test_before_there_is_a_catalog(missing: str) -> None:
    server = Server(None) if missing == "catalog" else Server(has_keys=False)
    answer = server.ask("/ad?zone=home-top")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert "no catalog" in message(answer)


# Formats, explanations, HEAD.


def test_formats(server: Server) -> None:
    """What they look like is in test_formats; here that they are asked for, and count."""
    html = server.ask("/ad?zone=home-top&format=html")
    assert html.headers["content-type"].startswith("text/html")
    image = server.ask("/ad?zone=home-top&format=image")
    assert (image.status, "/i/" in image.headers["location"]) == (302, True)
    assert server.counted() == {"AD_FOUND": 1, "AD_REDIRECTED": 1, "DECISIONS_FILLED": 2}


def test_who_asks_for_a_picture_decides_among_pictures() -> None:
    """An ad that could not be shown is not chosen: no decision says that a place was filled which was not."""
    html = {"format": "html", "html": "<p>Hi</p>", "image_url": None}
    with_both = rows()
    with_both["creative"][51] = {**with_both["creative"][50], **html, "id": 51, "weight": 10_000}
    both = Server(rows=with_both)
    for _ in range(20):
        assert both.ask("/ad?zone=home-top&format=image").status == 302
    html_alone = Server(rows=changed("creative", 50, **html))
    assert html_alone.ask("/ad?zone=home-top&format=image").status == 204
    assert html_alone.counted() == {"AD_UNKNOWN": 1, "DECISIONS_UNFILLED": 1}
    decision = json.loads(html_alone.events[-1][3].replace("\\\\", "\\"))["decision"]
    assert (decision["formats"], "campaign" in decision) == (["image"], False)


def test_every_answer_counts_for_the_worker_s_share_of_requests() -> None:
    """--max-requests is about all of them, also those that are no ads."""
    outcomes = {*serving._COUNTED.values(), *serving._FAILED.values()}
    assert outcomes <= set(ANSWERED)


def test_who_has_the_key_is_told_why(server: Server) -> None:
    """And nobody else is, not even that there is something to be told."""
    told = json.loads(server.ask("/ad?zone=home-top", f"X-Explain-Key: {KEY}").body)
    verdicts = {one["campaign"]: one for one in told["explanation"]["campaigns"]}
    assert set(verdicts) == {"spring", "autumn"}
    assert told["explanation"]["campaign"] == told["campaign"] == "spring"
    for headers in ((), ("X-Explain-Key: let me",), ("X-Explain-Key: \xe9",)):
        assert "explanation" not in json.loads(server.ask("/ad?zone=home-top", *headers).body)


def test_an_empty_place_is_explained_too(server: Server) -> None:
    answer = server.ask("/ad?zone=home-top&size=1x1", f"X-Explain-Key: {KEY}")
    assert answer.status == 200
    assert json.loads(answer.body)["explanation"]["campaign"] is None


def test_head_of_an_ad_is_its_answer_without_the_body(server: Server) -> None:
    head = server.ask("/ad?zone=home-top", method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert len(server.logged()) == 1
