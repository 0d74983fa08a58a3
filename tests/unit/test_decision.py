"""A decision is what a plain, slow evaluation says it is, and what is explained is what happened.

The slow one (`slow_decision`) goes over the campaigns one by one with an `if` for each rule. Both are held
against each other with catalogs and requests at random, made of few words so that all rules meet.
"""

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from prefork_ads.ads.catalog import Catalog, Rows
from prefork_ads.ads.decision import decide
from prefork_ads.ads.explanation import Explanation, explain_page
from prefork_ads.ads.facts import Choice, Facts
from prefork_ads.ads.standing import Standing
from tests.unit.catalog_bed import (
    chance,
    compiled,
    random_draws,
    random_facts,
    random_places,
    random_rows,
    some,
)
from tests.unit.slow_decision import Row, SlowPage, SlowState, first_rule, fitting, shares

# Without the library's limits on time: the machine may have something else to do.
AT_RANDOM = settings(
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),
)


def random_state(random: Random, catalog: Catalog) -> tuple[Standing, SlowState]:
    """Closed and paced at random, told to both."""
    standing, state = Standing(catalog), SlowState()
    for campaign in catalog.campaigns.values():
        bit = campaign.bit
        if bit < 0:
            continue
        if campaign.leased:
            if chance(random, 0.3):
                state.closed.add(campaign.id)
            else:
                standing.reopen(bit)
        elif chance(random, 0.05):
            standing.close(bit)
            state.closed.add(campaign.id)
        if chance(random, 0.3):
            state.needs[campaign.id] = random.randint(0, 16)
            standing.set_need(bit, state.needs[campaign.id])
        if chance(random, 0.2):
            state.left[campaign.id] = random.randint(0, 3)
            standing.set_left(bit, state.left[campaign.id])
    return standing, state


def compare(
    random: Random, rows: Rows, catalog: Catalog, standing: Standing, state: SlowState
) -> int:
    """One page decided both ways; how many campaigns were compared."""
    facts, places = random_facts(random), random_places(random, catalog)
    draws = random_draws(random, places)
    capped = {one for one in catalog.campaigns if chance(random, 0.1)}
    after = some(random, [*catalog.campaigns], 2) if chance(random, 0.15) else []
    paying = chance(random, 0.95)
    mask = sum(1 << catalog.campaigns[one].bit for one in capped if catalog.campaigns[one].bit >= 0)
    beside = [catalog.campaigns[one] for one in after]
    choices = decide(
        catalog, standing, facts, places, draws, capped=mask, after=beside, paying=paying
    )
    explained = explain_page(
        catalog, standing, facts, places, draws, capped=mask, after=beside, paying=paying
    )
    page = SlowPage(
        places=[(rows["zone"][place.zone.id], place.sizes, place.formats) for place in places],
        after=[rows["campaign"][one] for one in after],
    )
    for choice, explanation in zip(choices, explained, strict=True):
        said = slowly(rows, catalog, facts, page, state, capped, paying)
        check_place(rows, said, state, choice, explanation, page)
        page.chosen.append(rows["campaign"][choice.campaign.id] if choice is not None else None)
    return len(catalog.campaigns) * len(places)


def slowly(
    rows: Rows,
    catalog: Catalog,
    facts: Facts,
    page: SlowPage,
    state: SlowState,
    capped: set[int],
    paying: bool,
) -> dict[int, str | None]:
    """By campaign: the first rule that drops it at the next place of the page."""
    campaigns: Sequence[Row] = [rows["campaign"][one] for one in catalog.campaigns]
    return {
        campaign["id"]: first_rule(rows, campaign, facts, page, state, capped, paying)
        for campaign in campaigns
    }


def check_place(
    rows: Rows,
    said: dict[int, str | None],
    state: SlowState,
    choice: Choice | None,
    explanation: Explanation,
    page: SlowPage,
) -> None:
    expected = shares([rows["campaign"][one] for one, rule in said.items() if rule is None], state)
    told = {verdict.campaign.id: verdict for verdict in explanation.verdicts}
    assert told.keys() == said.keys()
    for one, rule in said.items():
        verdict = told[one]
        if rule is not None:
            assert verdict.rule == rule
        elif one not in expected:
            assert verdict.rule == "tier"
        else:
            assert not verdict.rule
            assert verdict.probability == pytest.approx(expected[one], abs=1e-12)
            assert verdict.probability > 0
    assert explanation.choice == choice
    if choice is None:
        assert not expected
        return
    assert choice.campaign.id in expected
    zone, sizes, formats = page.places[len(page.chosen)]
    creatives = fitting(rows, rows["campaign"][choice.campaign.id], zone, sizes, formats)
    assert choice.creative.id in [creative["id"] for creative in creatives]


@AT_RANDOM
@given(st.randoms(use_true_random=False), st.integers(1, 12))
def test_a_decision_is_what_going_over_the_campaigns_says(random: Random, campaigns: int) -> None:
    """The same campaigns are dropped, by the same first rule; the others have the same shares."""
    rows = random_rows(random, campaigns)
    catalog = compiled(rows)
    standing, state = random_state(random, catalog)
    for _ in range(3):
        compare(random, rows, catalog, standing, state)


def test_ten_thousand_pairs_of_campaign_and_request() -> None:
    """The same with larger catalogs and a fixed seed."""
    assert compare_at_random(4, 10_000) >= 10_000


@pytest.mark.once
@pytest.mark.timeout(300)
def test_a_hundred_thousand_pairs_of_campaign_and_request() -> None:
    """What is promised: no difference in 100,000."""
    assert compare_at_random(5, 100_000) >= 100_000


def compare_at_random(seed: int, pairs: int) -> int:
    random = Random(seed)
    compared = 0
    while compared < pairs:
        rows = random_rows(random, random.randint(1, 120))
        catalog = compiled(rows)
        standing, state = random_state(random, catalog)
        for _ in range(8):
            compared += compare(random, rows, catalog, standing, state)
    return compared
