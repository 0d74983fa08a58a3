"""The catalog: a patched one serves as one compiled from all rows, and bits stay where they are."""

import time
from collections.abc import Callable
from copy import deepcopy
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from prefork_ads.ads.catalog import Catalog, Rows, compile_catalog
from prefork_ads.ads.decision import decide
from prefork_ads.ads.explanation import explain_page
from prefork_ads.ads.facts import DRAW_BITS, Facts, Place
from prefork_ads.ads.standing import CLOSED, SPENT, Standing
from tests.unit.catalog_bed import (
    Row,
    chance,
    compiled,
    finished,
    random_advertiser,
    random_campaign,
    random_creative,
    random_facts,
    random_rows,
    random_segment,
    random_site,
    random_targeting,
    random_zone,
)

Changed = tuple[str, int]


def change(random: Random, rows: Rows) -> Changed:
    """One row of the rows changed, added or deleted."""
    relation = random.choice(("campaign",) * 5 + ("creative",) * 3 + tuple(rows))
    one = random.choice([*rows[relation], len(rows[relation]) + 1])
    if relation == "segment" and chance(random, 0.3):
        # Campaigns may name it still: they are not understood from now on.
        rows[relation].pop(one, None)
    elif relation == "creative" and chance(random, 0.2):
        rows[relation].pop(one, None)
    elif relation == "campaign" and one in rows[relation] and chance(random, 0.7):
        rows[relation][one] = {**rows[relation][one], **small_change(random)}
    else:
        rows[relation][one] = anew(random, rows, relation, one)
    return relation, one


def small_change(random: Random) -> Row:
    return random.choice(
        (
            {"status": random.choice(("active", "paused", "archived"))},
            {"targeting": random_targeting(random)},
            {"weight": random.randint(1, 1000)},
            {"tier": random.choice(("standard", "house")), "price_micros": 0},
            {"ends_at": None},
        )
    )


def anew(random: Random, rows: Rows, relation: str, one: int) -> Row:
    made: dict[str, Callable[[], Row]] = {
        "advertiser": lambda: random_advertiser(random, one),
        "site": lambda: random_site(random, min(one, 3)) | {"id": one},
        "zone": lambda: random_zone(random, one),
        "segment": lambda: random_segment((one - 1) % 3 + 1) | {"id": one},
        "campaign": lambda: random_campaign(random, one, len(rows["advertiser"])),
        "creative": lambda: random_creative(random, one, len(rows["campaign"])),
    }
    return made[relation]()


def assert_alike(random: Random, patched: Catalog, whole: Catalog) -> None:
    """Nothing that can be asked tells the two apart."""
    assert patched.zones == whole.zones
    assert patched.creatives == whole.creatives
    assert patched.campaigns.keys() == whole.campaigns.keys()
    assert patched.refused == whole.refused
    assert patched.everyone.bit_count() == whole.everyone.bit_count()
    assert {one: mask.bit_count() for one, mask in patched.advertiser_mask.items()} == {
        one: mask.bit_count() for one, mask in whole.advertiser_mask.items()
    }
    for bit, campaign in enumerate(patched.by_bit):
        assert campaign is None or campaign.bit == bit
    one, other = Standing(patched), Standing(whole)
    for _ in range(4):
        facts = random_facts(random)
        zone = random.choice(list(whole.zones))
        draw = random.getrandbits(DRAW_BITS)
        assert told(patched, one, facts, zone, draw) == told(whole, other, facts, zone, draw)


def told(catalog: Catalog, standing: Standing, facts: Facts, zone: str, draw: int) -> object:
    """All of an explanation, campaigns by their ids."""
    places = [Place(catalog.zones[zone])] * 2
    explained = explain_page(catalog, standing, facts, places, [draw, draw // 3])
    return [
        (
            one.choice and (one.choice.campaign.id, one.choice.creative.id),
            {v.campaign.id: (v.rule, v.reason, v.need, v.probability) for v in one.verdicts},
        )
        for one in explained
    ]


def patch_at_random(random: Random, campaigns: int, rounds: int) -> None:
    rows = random_rows(random, campaigns)
    catalog = compiled(rows)
    for version in range(2, 2 + rounds):
        rows = deepcopy(rows)
        changes = [change(random, rows) for _ in range(random.randint(1, 4))]
        catalog = finished(catalog.patched(rows, changes, version))
        assert catalog.version == version
        assert_alike(random, catalog, compiled(rows, version))


@settings(
    max_examples=8,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),
)
@given(st.randoms(use_true_random=False), st.integers(1, 6))
def test_a_patched_catalog_is_the_one_compiled_from_all_rows(
    random: Random, campaigns: int
) -> None:
    """Whatever changed, and however often: the same rules, the same shares, the same ad for a draw."""
    patch_at_random(random, campaigns, 3)


@pytest.mark.parametrize("seed", range(12))
def test_many_changes_leave_no_trace(seed: int) -> None:
    """The same with larger catalogs, patched again and again."""
    patch_at_random(Random(seed), 30, 12)


def rows_of(campaigns: int, **columns: object) -> Rows:
    """Campaigns that all fit into one zone, each of an advertiser of its own."""
    random = Random(1)
    rows = random_rows(random, campaigns)
    rows["advertiser"] = {
        n: random_advertiser(random, n) | {"status": "active", "allow_repeat": False}
        for n in range(1, campaigns + 1)
    }
    for number in rows["campaign"]:
        rows["campaign"][number] |= {
            "advertiser_id": number,
            "status": "active",
            "tier": "standard",
            "starts_at": None,
            "ends_at": None,
            "goal_kind": None,
            "weight": 100,
            "roadblock": False,
            "targeting": {},
            **columns,
        }
    rows["creative"] = {
        n: random_creative(random, n, 1)
        | {
            "campaign_id": n,
            "status": "active",
            "format": "image",
            "width": 300,
            "height": 250,
            "weight": 1,
        }
        for n in rows["campaign"]
    }
    rows["site"][1]["status"] = "active"
    rows["zone"] = {
        1: random_zone(random, 1)
        | {
            "key": "home",
            "site_id": 1,
            "status": "active",
            "sizes": ["300x250"],
            "formats": ["image"],
            "floor_micros": 0,
        }
    }
    return rows


def test_a_change_moves_no_other_campaign() -> None:
    """Whoever keeps masks for a while may go on using them for campaigns that did not change."""
    rows = rows_of(6)
    before = compiled(rows)
    changed = deepcopy(rows)
    changed["campaign"][3]["status"] = "paused"
    changed["campaign"][7] = {**rows["campaign"][1], "id": 7, "key": "campaign-7"}
    after = finished(before.patched(changed, [("campaign", 3), ("campaign", 7)], 2))
    for one in (1, 2, 4, 5, 6):
        assert after.campaigns[one] is before.campaigns[one]
    assert after.campaigns[3].bit == -1
    again = finished(after.patched(rows, [("campaign", 3), ("campaign", 7)], 3))
    assert again.campaigns[3] == before.campaigns[3]


def test_the_catalog_before_is_as_it_was() -> None:
    """It is served from until the new one is ready, and by whoever has it in hand."""
    random = Random(7)
    rows = random_rows(random, 20)
    catalog, same = compiled(rows), compiled(rows)
    for version in range(2, 12):
        changed = deepcopy(rows)
        finished(catalog.patched(changed, [change(random, changed) for _ in range(3)], version))
    assert_alike(random, catalog, same)


def test_a_campaign_that_is_not_understood_is_refused_alone() -> None:
    """It says why, gets no bit, and everything else is served."""
    rows = rows_of(2)
    rows["campaign"][1]["targeting"] = {"geo": {"include": ["XX"]}}
    catalog = compiled(rows)
    assert catalog.refused == {
        1: "geo.include[0]: 'XX' is no country; countries are the two letters of ISO 3166-1, as DE"
    }
    assert catalog.campaigns[1].bit == -1
    assert catalog.campaigns[2].bit >= 0


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"time_zone": "Mars/Olympus"}, "this machine knows no time zone 'Mars/Olympus'"),
        ({"starts_at": "20000-01-01T00:00:00+00:00"}, "is no time that this program knows"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused_alone(columns: Row, words: str) -> None:
    rows = rows_of(2)
    rows["campaign"][1] |= columns
    catalog = compiled(rows)
    assert words in catalog.refused[1]
    assert list(catalog.entries) == [2]


def test_creatives_outlive_their_campaigns() -> None:
    """A late click must still lead on."""
    rows = rows_of(1)
    rows["campaign"][1]["status"] = "archived"
    rows["creative"][1]["status"] = "archived"
    catalog = compiled(rows)
    assert catalog.campaigns == {}
    assert catalog.creatives[1].click_url == "https://shop.example/"


def test_compiling_pauses() -> None:
    """A thousand campaigns are compiled in many steps, so that a loop can serve between them."""
    steps = compile_catalog(random_rows(Random(3), 1000), 1)
    assert sum(1 for _ in steps) > 50


# -- the standing ------------------------------------------------------------------------------------


def one_bit(catalog: Catalog, campaign: int) -> int:
    return catalog.campaigns[campaign].bit


def test_a_campaign_with_a_goal_starts_closed() -> None:
    catalog = compiled(rows_of(2, goal_kind="impressions"))
    standing = Standing(catalog)
    assert standing.open == 0
    standing.reopen(one_bit(catalog, 1))
    assert standing.open == 1 << one_bit(catalog, 1)


def test_all_that_shuts_a_campaign_must_end_before_it_is_open() -> None:
    """A lease that is used up stays so, whatever pacing says."""
    catalog = compiled(rows_of(1))
    standing, bit = Standing(catalog), one_bit(catalog, 1)
    standing.set_left(bit, 0)
    standing.close(bit)
    standing.set_need(bit, 0)
    standing.set_need(bit, 9)
    assert standing.shut(bit) == CLOSED | SPENT
    standing.reopen(bit)
    assert standing.open == 0
    standing.set_left(bit, 1)
    assert standing.open == 1 << bit
    standing.set_left(bit, None)
    assert standing.left(bit) > 10**9


@pytest.mark.parametrize("need", [-1, 17])
def test_a_need_has_its_bounds(need: int) -> None:
    with pytest.raises(ValueError, match="from 0 to 16"):
        Standing(compiled(rows_of(1))).set_need(0, need)


@pytest.mark.parametrize("whole", [False, True])
def test_a_standing_moves_with_its_campaigns(whole: bool) -> None:
    """What was said of a campaign holds in the next catalog, wherever its bit is; new ones start anew."""
    rows = rows_of(8, goal_kind="impressions")
    before = compiled(rows)
    standing = Standing(before)
    for one in range(1, 9):
        standing.reopen(one_bit(before, one))
        standing.set_need(one_bit(before, one), one)
    standing.set_left(one_bit(before, 2), 5)
    standing.set_left(one_bit(before, 3), 0)
    changed = deepcopy(rows)
    changed["campaign"][1]["weight"] = 300
    changed["campaign"][4]["status"] = "archived"
    changed["campaign"][5]["goal_kind"] = None
    changed["campaign"][9] = {**rows["campaign"][1], "id": 9, "key": "campaign-9"}
    if whole:
        after = compiled(changed, 2)
    else:
        after = finished(before.patched(changed, [("campaign", n) for n in (1, 4, 5, 9)], 2))
    moved = standing.moved_to(after)
    assert {one: moved.need(one_bit(after, one)) for one in (1, 2, 3, 6, 7, 8)} == {
        one: one for one in (1, 2, 3, 6, 7, 8)
    }
    assert moved.left(one_bit(after, 2)) == 5
    assert moved.shut(one_bit(after, 3)) == SPENT
    # It has no goal any more, and nothing said of its lease counts.
    assert (moved.shut(one_bit(after, 5)), moved.need(one_bit(after, 5))) == (0, 4)
    assert moved.shut(one_bit(after, 9)) == CLOSED
    for one, campaign in after.campaigns.items():
        first, digits = moved.digits(campaign.tier)
        number = sum((mask >> campaign.bit - first & 1) << place for place, mask in digits)
        assert number == moved.weight(campaign.bit), one


def test_roadblocks_take_a_page_or_nothing_of_it() -> None:
    """With a lease for fewer ads than the page has places it is as if there were no roadblock."""
    rows = rows_of(3)
    rows["campaign"][1]["roadblock"] = True
    rows["campaign"][1]["tier"] = "sponsorship"
    catalog = compiled(rows)
    standing = Standing(catalog)
    places = [Place(catalog.zones["home"])] * 2
    facts = Facts(at_s=time.time())
    chosen = decide(catalog, standing, facts, places, [0, 0])
    assert [choice and choice.campaign.id for choice in chosen] == [1, 1]
    standing.set_left(one_bit(catalog, 1), 1)
    chosen = decide(catalog, standing, facts, places, [0, 0])
    assert {choice and choice.campaign.id for choice in chosen} == {2, 3}
    assert decide(catalog, standing, facts, places[:1], [0])[0] is not None
