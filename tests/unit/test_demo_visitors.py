"""The day of visitors that the demonstration plays."""

import random
from collections import Counter
from fnmatch import fnmatch
from typing import Any

import pytest
import yaml

from prefork_ads.demo import advertisers_of_campaigns, catalog_path
from prefork_ads.demo.visitors import DAY_S, Page, busyness, day


def test_a_seed_makes_the_same_day_again() -> None:
    one, same, other = (list(day(200, random.Random(seed))) for seed in (7, 7, 8))
    assert one == same
    assert one != other


def test_visitors_come_in_order_and_by_the_curve_of_a_day() -> None:
    moments = [visitor.at_s for visitor in day(20_000, random.Random(1))]
    assert moments == sorted(moments)
    assert 0 <= moments[0] <= moments[-1] < DAY_S
    by_hour = Counter(int(at_s // 3600) for at_s in moments)
    total = sum(busyness(hour * 3600 + 1800) for hour in range(24))
    for hour in range(24):
        share = busyness(hour * 3600 + 1800) / total
        assert by_hour[hour] / 20_000 == pytest.approx(share, abs=0.01)


def test_a_few_are_programs_and_a_few_want_to_be_unknown() -> None:
    visitors = list(day(5_000, random.Random(2)))
    programs = sum(visitor.is_program for visitor in visitors)
    unknown = sum(not visitor.uid for visitor in visitors)
    assert 0.01 < programs / 5_000 < 0.03
    assert 0.12 < unknown / 5_000 < 0.18
    assert all(1 <= len(visitor.pages) <= 8 for visitor in visitors)


def test_every_zone_that_visitors_come_by_is_in_the_demonstration_catalog() -> None:
    with catalog_path() as path:
        catalog = path.read_text(encoding="utf-8")
    zones = {zone for v in day(2_000, random.Random(3)) for page in v.pages for zone in page.zones}
    assert len(zones) >= 8
    assert all(f"      {zone}:\n" in catalog for zone in zones)
    assert len(advertisers_of_campaigns()) >= 24


def _fits(targeting: dict[str, Any], page: Page) -> bool:
    """As far as the page decides: where it stands and what it is about."""
    words, values = targeting.get("keywords", {}), targeting.get("values", {})
    sections = values.get("section", {})
    where = page.url.partition("//")[2]
    return (
        (not words.get("any") or bool(set(words["any"]) & set(page.keywords)))
        and set(words.get("all", ())) <= set(page.keywords)
        and (not sections.get("any") or page.section in sections["any"])
        and any(fnmatch(where, pattern) for pattern in targeting.get("page", ["*"]))
    )


def test_every_campaign_of_the_demonstration_has_pages_that_it_fits() -> None:
    with catalog_path() as path:
        campaigns = yaml.safe_load(path.read_text(encoding="utf-8"))["campaigns"]
    pages = {page for visitor in day(5_000, random.Random(4)) for page in visitor.pages}
    without = [
        key
        for key, campaign in campaigns.items()
        if not any(_fits(campaign.get("targeting") or {}, page) for page in pages)
    ]
    assert not without
