"""`prefork-ads explain`: requests against the catalog, and decisions made again from the log."""

import json
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import CliRunner, Result
from psycopg2.extras import Json

from prefork_ads.ads.catalog import Catalog
from prefork_ads.ads.decision import decide
from prefork_ads.ads.facts import Facts, Place
from prefork_ads.ads.standing import Standing
from prefork_ads.cli import cli
from prefork_ads.db import decisions
from prefork_ads.events.uuid7 import Uuid7
from tests.conftest import Database
from tests.unit.catalog_bed import compiled

SHOP = """
INSERT INTO advertiser (key, name, cap_day) VALUES ('acme', 'Acme', NULL), ('bolt', 'Bolt', 2);
INSERT INTO site (key, name, domain) VALUES ('news', 'News', 'news.example');
INSERT INTO zone (key, site_id, name, sizes) VALUES
    ('home', 1, 'Home', '{300x250}'), ('side', 1, 'Side', '{300x250}');
INSERT INTO segment (key, name) VALUES ('young', 'Young');
INSERT INTO campaign (key, advertiser_id, name, tier, weight, targeting) VALUES
    ('wine', 1, 'Wine', 'standard', 100, '{"geo": {"include": ["DE"]}}'),
    ('beer', 1, 'Beer', 'standard', 300, '{"segments": {"any": ["young"]}}'),
    ('tea', 2, 'Tea', 'standard', 50, '{}');
INSERT INTO campaign (key, advertiser_id, name, goal_kind, goal_total) VALUES
    ('goal', 1, 'Goal', 'impressions', 1000);
INSERT INTO creative (key, campaign_id, name, format, width, height, image_url, click_url)
    SELECT 'c-' || id || n, id, 'x', 'image', 300, 250, '/x.svg', 'https://shop.example/'
      FROM campaign, generate_series(1, 2) AS n;
INSERT INTO user_segment VALUES ('0190f0a2-5a1c-7c5e-8f11-4a1b2c3d4e5f', 1);
"""
UID = "0190f0a2-5a1c-7c5e-8f11-4a1b2c3d4e5f"
# Of today, for which the log has a partition.
NOW_MS = int(datetime.now(UTC).timestamp() * 1000) - 5000


@pytest.fixture
def shop(database: Database) -> Database:
    database.execute(SHOP)
    return database


def explain(database: Database, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["explain", "--dsn", database.dsn, *arguments])


def told(database: Database, *arguments: str) -> dict[str, dict[str, Any]]:
    """By campaign, what JSON says of it."""
    result = explain(database, *arguments, "--json")
    assert result.exit_code == 0, result.output
    [place] = json.loads(result.stdout)
    return {one["campaign"]: one for one in place["campaigns"]}


def test_a_request_is_held_against_the_catalog(shop: Database) -> None:
    """Each campaign with its chance, or the first rule that dropped it and why."""
    found = told(shop, "--zone", "home", "--country", "DE")
    assert found["wine"]["probability"] == pytest.approx(100 / 200)
    assert found["goal"]["probability"] == pytest.approx(100 / 200)
    assert found["beer"]["reason"] == "it asks for segment young"
    # Without a user a cap cannot be looked at, so it is not risked.
    assert found["tea"]["rule"] == "caps"
    elsewhere = told(shop, "--zone", "home", "--country", "FR")
    assert elsewhere["wine"]["reason"] == "it is for DE; the request has FR"


def test_a_user_is_looked_up(shop: Database) -> None:
    """Segments and what was seen before come from the tables, as they do for a worker."""
    found = told(shop, "--zone", "home", "--country", "DE", "--uid", UID)
    assert found["beer"]["probability"] == pytest.approx(300 / 550)
    assert found["tea"]["probability"] == pytest.approx(50 / 550)


def test_a_goal_that_is_reached_closes_a_campaign(shop: Database) -> None:
    shop.execute(
        "INSERT INTO delivery_day (campaign_id, day, impressions) VALUES (4, '2026-01-01', 1000)"
    )
    assert told(shop, "--zone", "home")["goal"]["rule"] == "budget"


def test_people_are_told_in_lines(shop: Database) -> None:
    result = explain(
        shop, "--zone", "home", "--country", "DE", "--page", "https://News.example/x?y"
    )
    assert "wine  standard      50.00%  weight 100, need 4" in result.stdout
    assert "2 in the draw; dropped by" in result.stdout
    assert "Assumed:" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Say --zone and what the request is like, or --decision"),
        (
            ("--zone", "nowhere"),
            "--zone: the catalog has no zone 'nowhere'. There are: home, side.",
        ),
        (("--zone", "home", "--country", "XX"), "--country: 'XX' is no country"),
        (("--zone", "home", "--device", "phone"), "--device: 'phone' is no device"),
        (("--zone", "home", "--at", "soon"), "--at: 'soon' is no time"),
        (("--decision", "7"), "--decision: '7' is no id"),
        (("--decision", f"{NOW_MS:012x}70008000000000000000"), "The log has no decision"),
    ],
)
def test_what_cannot_be_explained_is_said(
    shop: Database, arguments: tuple[str, ...], words: str
) -> None:
    result = explain(shop, *arguments)
    assert words in str(result.exception)


# -- decisions made again ----------------------------------------------------------------------------


class Log:
    """Decides and writes lines as a worker does."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ids = Uuid7()
        # Some lines are a minute older, which may be yesterday.
        first, last = (
            datetime.fromtimestamp(at_ms / 1000, UTC).date() for at_ms in (NOW_MS - 60_000, NOW_MS)
        )
        database.execute("SELECT request_log_ensure(%s, %s)", first, last)
        with closing(database.connect()) as conn:
            version, rows = decisions.catalog(conn)
        self.catalog: Catalog = compiled(rows, version)

    def write(self, endpoint: str, params: dict[str, Any], at_ms: int = NOW_MS) -> str:
        line_id = self._ids.next(at_ms).decode()
        self._database.execute(
            "INSERT INTO request_log (time, id, endpoint, params)"
            " VALUES (to_timestamp(%s), %s::uuid, %s, %s)",
            *(at_ms / 1000, line_id, endpoint, Json(params)),
        )
        return line_id

    def decide(self, standing: Standing, draws: list[int], **known: Any) -> list[str]:
        """A page with as many places as there are draws; the ids of its lines."""
        zones = [self.catalog.zones[key] for key in ("home", "side", "home")][: len(draws)]
        facts = Facts(
            at_s=NOW_MS / 1000,
            country=known.get("country", ""),
            segments=frozenset(known.get("segments", ())),
        )
        capped = 0 if "uid" in known else self.catalog.capped_mask
        choices = decide(
            *(self.catalog, standing, facts, [Place(zone) for zone in zones], draws),
            capped=capped,
        )
        ids = []
        for zone, draw, choice in zip(zones, draws, choices, strict=True):
            line = {"zone": zone.id, "draw": draw, "version": self.catalog.version, **known}
            if len(draws) > 1:
                line["places"] = len(draws)
            if choice is not None:
                line |= {"campaign": choice.campaign.id, "creative": choice.creative.id}
            ids.append(self.write("decision", {"request": {}, "decision": line}))
        return ids


def again(database: Database, decision: str) -> dict[str, Any]:
    result = explain(database, "--decision", decision, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    made: dict[str, Any] = json.loads(result.stdout)[0]
    return made


@pytest.mark.parametrize("draw", [0, 1 << 52, (1 << 53) - 1])
def test_a_decision_comes_out_the_same_again(shop: Database, draw: int) -> None:
    """Though the catalog has changed since, in what it is about and in its order."""
    log = Log(shop)
    [decision] = log.decide(
        Standing(log.catalog), [draw], country="DE", segments=[1], uid=UID.replace("-", "")
    )
    shop.execute("UPDATE campaign SET status = 'archived' WHERE id = 1")
    shop.execute("UPDATE campaign SET weight = 7, tier = 'house' WHERE id = 2")
    made = again(shop, decision)
    assert made["same"]
    assert made["version"] == log.catalog.version


def test_places_of_one_page_are_made_again_together(shop: Database) -> None:
    """What stands in a place depends on the places before it."""
    log = Log(shop)
    standing = Standing(log.catalog)
    draws = [(1 << 53) - 1, 5, 1 << 51]
    lines = [
        *log.decide(standing, draws, country="DE"),
        # Another page of the same moment.
        *log.decide(standing, draws[::-1], country="FR"),
    ]
    assert [again(shop, line)["same"] for line in lines] == [True] * 6


def test_what_budgets_and_pacing_said_is_taken_from_the_log(shop: Database) -> None:
    """From the last full state, over the differences, up to the one that the decision names."""
    log = Log(shop)
    full = log.write("state", {"state": {"full": True, "closed": [4]}}, NOW_MS - 60_000)
    opened = log.write("state", {"state": {"after": full, "opened": [4], "needs": {"4": 9}}})
    log.write("state", {"state": {"after": opened, "closed": [4]}})
    standing = Standing(log.catalog)
    bit = log.catalog.campaigns[4].bit
    standing.reopen(bit)
    standing.set_need(bit, 9)
    [decision] = log.decide(standing, [12345], state=opened)
    made = again(shop, decision)
    [goal] = [one for one in made["campaigns"] if one["campaign"] == "goal"]
    assert (goal["need"], made["campaign"]) == (9, "goal")


def test_a_state_that_is_missing_is_said(shop: Database) -> None:
    log = Log(shop)
    lost = log.write("state", {"state": {"after": f"{NOW_MS:012x}70008000000000000000"}})
    [decision] = log.decide(Standing(log.catalog), [1], state=lost)
    result = explain(shop, "--decision", decision)
    assert "The log has no state" in str(result.exception)


def test_another_ad_is_an_error(shop: Database) -> None:
    """Were it ever so, nobody should have to notice it by reading."""
    log = Log(shop)
    [decision] = log.decide(Standing(log.catalog), [1], country="FR")
    # None fits, and the line says that one did.
    shop.execute(
        "UPDATE request_log SET params = jsonb_set(params, '{decision,campaign}', '1')"
        " WHERE endpoint = 'decision'"
    )
    result = explain(shop, "--decision", decision)
    assert "Made again: another ad." in result.stdout
    assert "The log says campaign 1" in str(result.exception)
