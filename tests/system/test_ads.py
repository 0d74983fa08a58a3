"""Ads for zones by the real program: who is asked for, who is served, what stands in the database of it."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import Database
from tests.conftest import Server as Postgres
from tests.support import wait_until
from tests.system.gate import Gate
from tests.system.harness import Server
from tests.system.wire import Line, ask, message, scrape
from tests.unit.http_bed import Answer
from tests.unit.test_sender import BERLIN, write_database
from tests.unit.tracking_bed import BROWSER

KEY: Final = "let me see"
CRAWLER: Final = (
    b"User-Agent: Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)"
)
IN_BERLIN: Final = b"X-Forwarded-For: 203.0.113.77"

# One zone for each thing that is tried, with a size of its own so that campaigns do not meet.
CATALOG: Final = """
    INSERT INTO advertiser (key, name) VALUES ('acme', 'Acme'), ('bolt', 'Bolt'), ('us', 'Ourselves');
    INSERT INTO site (key, name, domain) VALUES ('news', 'News', 'news.example');
    INSERT INTO zone (key, site_id, name, sizes)
    SELECT z.key, site.id, z.key, ARRAY[z.size]
      FROM site, (VALUES ('open', '300x250'), ('berlin', '300x100'), ('capped', '300x101'),
                         ('buyers', '300x102'), ('home', '300x103')) AS z (key, size);
    INSERT INTO segment (key, name) VALUES ('buyers', 'Buyers');
    INSERT INTO campaign (key, advertiser_id, name, tier, price_micros, cap_day, targeting)
    SELECT c.key, a.id, c.key, c.tier, c.price, c.cap, c.targeting::jsonb
      FROM (VALUES ('everybody', 'acme', 'standard', 2500000, NULL, '{}'),
                   ('other', 'bolt', 'standard', 2500000, NULL, '{}'),
                   ('in-berlin', 'acme', 'standard', 0, NULL, '{"geo": {"include": ["DE-BE-Berlin"]}}'),
                   ('twice-a-day', 'acme', 'standard', 0, 2, '{}'),
                   ('for-buyers', 'acme', 'standard', 0, NULL, '{"segments": {"any": ["buyers"]}}'),
                   ('paid', 'acme', 'standard', 0, NULL, '{}'),
                   ('ourselves', 'us', 'house', 0, NULL, '{}')
           ) AS c (key, advertiser, tier, price, cap, targeting)
      JOIN advertiser AS a ON a.key = c.advertiser;
    INSERT INTO creative (key, campaign_id, name, format, width, height, image_url, click_url)
    SELECT c.key, c.id, c.key, 'image', 300, p.height, '/demo/x.svg', 'https://shop.example/'
      FROM (VALUES ('everybody', 250), ('other', 250), ('in-berlin', 100), ('twice-a-day', 101),
                   ('for-buyers', 102), ('paid', 103), ('ourselves', 103)) AS p (key, height)
      JOIN campaign AS c ON c.key = p.key;
"""


@dataclass(frozen=True)
class Scene:
    """The program, the way to its database, and the database behind it."""

    server: Server
    gate: Gate
    database: Database
    places: Path

    def get(self, query: str, *headers: bytes) -> Answer:
        """As a browser asks, unless it is said who does."""
        return ask(self.server.port, browsers(query, *headers))

    def campaign(self, query: str, *headers: bytes) -> str:
        """The campaign that is shown; "" for none."""
        answer = self.get(query, *headers)
        assert answer.status in (200, 204), answer
        return str(json.loads(answer.body)["campaign"]) if answer.status == 200 else ""

    def row(self, decision: str) -> tuple[Any, ...]:
        """What is logged of a decision."""
        statement = "SELECT endpoint, params, host(address) FROM request_log WHERE id = %s"
        rows = wait_until(lambda: self.database.fetch(statement, decision), "the decision's row")
        return rows[0]


def browsers(query: str, *headers: bytes) -> bytes:
    agent = (
        ()
        if any(b"User-Agent" in one for one in headers)
        else (b"User-Agent: " + BROWSER.encode(),)
    )
    return message(f"/ad?{query}", *agent, *headers)


def a_person() -> str:
    return str(uuid.uuid4())


@pytest.fixture(scope="module")
def scene(
    postgres: Postgres, template_database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """One server for all of them: what they do does not meet."""
    places = tmp_path_factory.mktemp("places") / "city.mmdb"
    write_database(places, {"203.0.113.77/32": BERLIN})
    database = postgres.create_database(template_database.name)
    database.execute(CATALOG)
    options = (
        *("--trusted-proxies", "127.0.0.1", "--geoip", str(places), "--explain-key", KEY),
        # Who cannot be looked up in time is nobody: not because the machine is busy with something else.
        *("--read-timeout-s", "5"),
    )
    try:
        with Gate(database.dsn) as gate, Server(*options, dsn=gate.dsn) as server:
            yield Scene(server, gate, database, places)
    finally:
        postgres.drop_database(database)


def test_the_answer_is_the_decision_that_is_in_the_database(scene: Scene) -> None:
    """With the request beside it and the network of who asked; and the rollup has it in its sums."""
    query = "zone=open&x=%27;--&size=300x250"
    answer = scene.get(
        query, b"X-Forwarded-For: 198.51.100.23", b"Referer: https://news.example/a?b"
    )
    shown = json.loads(answer.body)
    endpoint, params, address = scene.row(shown["decision"])
    assert (endpoint, address) == ("decision", "198.51.100.0")
    assert params["request"] == {"zone": "open", "x": "';--", "size": "300x250"}
    decision = params["decision"]
    [(campaign, creative)] = scene.database.fetch(
        "SELECT campaign.key, creative.key FROM campaign JOIN creative ON campaign_id = campaign.id"
        " WHERE campaign.id = %s AND creative.id = %s",
        decision["campaign"],
        decision["creative"],
    )
    assert (campaign, creative) == (shown["campaign"], shown["creative"])
    assert decision["page"] == "news.example/a"
    [(same,)] = scene.database.fetch(
        "SELECT (SELECT sum(requests) FROM rollup_hour)"
        " = (SELECT count(*) FROM request_log WHERE endpoint = 'decision')"
    )
    assert same


def test_the_places_of_a_page(scene: Scene) -> None:
    """Two advertisers, one place that stays empty, a line for each."""
    body = {"places": [{"zone": "open", "n": 2}, {"zone": "open"}], "page": "news.example/"}
    agent = b"User-Agent: " + BROWSER.encode()
    answer = ask(
        scene.server.port,
        message(
            "/ad",
            agent,
            b"Origin: https://a.example",
            method=b"POST",
            body=json.dumps(body).encode(),
        ),
    )
    assert answer.headers["access-control-allow-origin"] == "*"
    ads = json.loads(answer.body)["ads"]
    assert {ad.get("campaign") for ad in ads} == {"everybody", "other", None}
    logged = [scene.row(ad["decision"])[1] for ad in ads]
    assert [one["request"] for one in logged] == [body, {}, {}]


def test_a_city_is_known_by_the_address(scene: Scene) -> None:
    """By the file that is there: one that takes its place is used a moment later."""
    assert scene.campaign("zone=berlin") == ""
    assert scene.campaign("zone=berlin", IN_BERLIN) == "in-berlin"
    write_database(scene.places, {"203.0.113.78/32": BERLIN})
    moved = b"X-Forwarded-For: 203.0.113.78"
    with Line(scene.server.port) as line:
        # One connection, so one worker: each looks for itself.
        wait_until(lambda: line.ask(browsers("zone=berlin", moved)).status == 200, "the new file")
        assert line.ask(browsers("zone=berlin", IN_BERLIN)).status == 204


def test_a_cap_is_exact_on_one_connection(scene: Scene) -> None:
    """However quickly it is asked; and once the lines are in the database, on every connection."""
    person = a_person()
    request = browsers(f"zone=capped&uid={person}")
    with Line(scene.server.port) as line:
        line.send(request * 10)
        statuses = [answer.status for answer in line.answers(10)]
    assert statuses == [200, 200] + [204] * 8
    counted = "SELECT count FROM user_frequency WHERE uid = %s"
    wait_until(lambda: scene.database.fetch(counted, person) == [(2,)], "the count")
    assert {scene.get(f"zone=capped&uid={person}").status for _ in range(10)} == {204}
    assert scene.campaign(f"zone=capped&uid={a_person()}") == "twice-a-day"
    # Whom nobody knows nobody can count.
    assert scene.campaign("zone=capped") == ""


def test_a_segment_is_looked_up_with_the_person(scene: Scene) -> None:
    person = a_person()
    scene.database.execute("INSERT INTO user_segment SELECT %s, id FROM segment", person)
    assert scene.campaign(f"zone=buyers&uid={person.upper()}") == "for-buyers"
    assert scene.campaign(f"zone=buyers&uid={a_person()}") == ""
    assert scene.campaign("zone=buyers") == ""


@pytest.mark.parametrize(
    ("more", "headers"),
    [("", (b"Sec-GPC: 1",)), ("", (b"DNT: 1",)), ("&gdpr=1", ()), ("&us_privacy=1YY-", ())],
)
def test_nothing_is_kept_of_who_does_not_want_it(
    scene: Scene, more: str, headers: tuple[bytes, ...]
) -> None:
    """Not in any column of the log, and no ad that needs to know the person."""
    person = a_person()
    scene.database.execute("INSERT INTO user_segment SELECT %s, id FROM segment", person)
    assert scene.campaign(f"zone=buyers&uid={person}{more}", *headers) == ""
    answer = scene.get(f"zone=open&uid={person}{more}", *headers)
    scene.row(json.loads(answer.body)["decision"])
    kept = "SELECT count(*) FROM request_log AS r WHERE r::text LIKE ANY (%s)"
    [(rows,)] = scene.database.fetch(kept, [f"%{person}%", f"%{person.replace('-', '')}%"])
    assert rows == 0


def test_a_program_is_shown_house_ads_and_marked(scene: Scene) -> None:
    assert scene.campaign("zone=home") == "paid"
    answer = scene.get("zone=home", CRAWLER)
    shown = json.loads(answer.body)
    assert shown["campaign"] == "ourselves"
    assert scene.row(shown["decision"])[1]["decision"]["filtered"] == "bot: bingbot"
    before = scrape(scene.server.port)("decisions_total", outcome="filtered")
    assert scene.get("zone=open", CRAWLER).status == 204
    assert scrape(scene.server.port)("decisions_total", outcome="filtered") == before + 1


def test_who_has_the_key_is_told_why(scene: Scene) -> None:
    answer = scene.get("zone=open", f"X-Explain-Key: {KEY}".encode())
    told = json.loads(answer.body)["explanation"]["campaigns"]
    chances = {one["campaign"]: one.get("probability") for one in told if one.get("probability")}
    assert chances == {"everybody": 0.5, "other": 0.5}
    assert len(told) == 7


def test_while_postgresql_is_away_no_cap_is_risked(scene: Scene) -> None:
    """All that need not know the person goes on, and arrives later."""
    person = a_person()
    assert scene.campaign(f"zone=capped&uid={person}") == "twice-a-day"
    scene.gate.shut()
    try:
        ready = message("/readyz")
        wait_until(lambda: ask(scene.server.port, ready).status == 503, "its absence")
        assert scene.campaign(f"zone=capped&uid={person}") == ""
        answer = scene.get(f"zone=open&uid={person}")
        assert answer.status == 200
    finally:
        scene.gate.open()
    logged = scene.row(json.loads(answer.body)["decision"])[1]["decision"]
    assert logged["away"] is True
    ready = message("/readyz")
    wait_until(lambda: ask(scene.server.port, ready).status == 200, "its return", 30)
    wait_until(lambda: scene.campaign(f"zone=capped&uid={person}") == "twice-a-day", "the lookup")
