"""Targeting: what is refused, in which words; and which pages meet a pattern."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_ads.ads.pages import PatternIndex, glob_matches, meets, pattern_problem
from prefork_ads.ads.places import COUNTRIES
from prefork_ads.ads.targeting import validate_targeting
from tests.unit.catalog_bed import PAGES, PATTERNS
from tests.unit.slow_decision import pattern_meets

WELL = {
    "geo": {"include": ["DE", "AT-9", "DE-BE-Berlin", "SG-Singapore"], "exclude": ["US-NY"]},
    "device": {"include": ["mobile"]},
    "os": {"exclude": ["ios"]},
    "browser": {"include": ["chrome", "safari"]},
    "language": {"include": ["de"]},
    "site": {"include": ["news"]},
    "page": {"include": ["news.example/sports/*", "*.example", "localhost:8080/x"]},
    "keywords": {"any": ["wine", "real_estate"], "all": ["food"], "none": ["war"]},
    "values": {"Team": {"any": ["FC 100%"]}},
    "segments": {"none": ["young"]},
    "hours": [{"days": ["mon"], "hours": [0, 23]}, {"hours": [12]}, {"days": ["sun"]}],
}


def problems(targeting: Any) -> list[str]:
    return validate_targeting(targeting, {"young"}, {"news"})


def test_what_is_well_is_accepted() -> None:
    assert problems(WELL) == []
    assert problems({}) == []


@pytest.mark.parametrize(
    ("targeting", "problem"),
    [
        ([], "targeting: must have members with names, not be []"),
        ({"colour": {}}, "colour: is not known; there are geo, device, os, browser, language,"),
        ({"geo": {"include": ["XX"]}}, "geo.include[0]: 'XX' is no country; countries are the"),
        ({"geo": {"include": ["DE", "de"]}}, "geo.include[1]: 'de' is no country; write 'DE'"),
        (
            {"geo": {"include": ["uk-lnd"]}},
            "geo.include[0]: 'uk-lnd' is no country; write 'GB-lnd'",
        ),
        ({"geo": {"include": ["DE-be"]}}, "geo.include[0]: 'DE-be' is no region; write 'DE-BE'"),
        ({"geo": {"include": ["DE-BE-"]}}, "geo.include[0]: 'DE-BE-' names no city; a region"),
        ({"geo": {"include": ["DE"], "exclude": ["DE"]}}, "geo: 'DE' stands in both include and"),
        ({"geo": {"any": ["DE"]}}, "geo.any: is not known; there are include, exclude"),
        ({"device": {"include": "tv"}}, "device.include: must be a list, not 'tv'"),
        ({"device": {"include": []}}, "device.include: is empty; leave it out if it is to say"),
        ({"device": {"include": ["phone"]}}, "device.include[0]: 'phone' is no device; there are"),
        ({"language": {"include": ["de-DE"]}}, "language.include[0]: 'de-DE' is no language;"),
        ({"site": {"include": ["gone"]}}, "site.include[0]: 'gone' is no site of the catalog"),
        ({"segments": {"any": ["gone"]}}, "segments.any[0]: 'gone' is no segment of the catalog"),
        ({"keywords": {"any": ["foot%"]}}, "keywords.any[0]: 'foot%' has a '%', which stands for"),
        ({"keywords": {"any": ["Wine"]}}, "keywords.any[0]: 'Wine' is not in lower case; write"),
        ({"keywords": {"any": [7]}}, "keywords.any[0]: 7 is no text; put it into quotation marks"),
        ({"keywords": {"any": [""]}}, "keywords.any[0]: is empty"),
        ({"keywords": {"all": list("abcdefghi")}}, "keywords.all: has 9 values; at most 8 are"),
        ({"keywords": {"any": ["a"], "none": ["a"]}}, "keywords: 'a' stands in both any and none"),
        ({"values": {"": {"any": ["x"]}}}, "values.: is empty"),
        ({"values": {"a": {"any": ["x" * 201]}}}, "values.a.any[0]: is longer than 200 bytes"),
        ({"values": {"a": {"any": ["\0"]}}}, "values.a.any[0]: has a character that no request"),
        ({"values": {str(n): {} for n in range(51)}}, "values: has 51 names; at most 50 are"),
        ({"keywords": {"any": ["x"] * 1001}}, "keywords.any: has 1001 values; at most 1000 are"),
        (
            {"hours": [{"hours": [24]}]},
            "hours[0].hours[0]: 24 is not a whole hour (0 to 23, or 22:00-24:00)",
        ),
        (
            {"hours": [{"hours": [True]}]},
            "hours[0].hours[0]: True is not a whole hour (0 to 23, or 22:00-24:00)",
        ),
        ({"hours": [{"days": ["Mon"]}]}, "hours[0].days[0]: 'Mon' is not a day (mon, tue, … sun)"),
        ({"hours": [{"day": ["mon"]}]}, "hours[0].day: is not known; there are days, hours"),
        (
            {"page": {"include": ["https://a.example/"]}},
            "page.include[0]: 'https://a.example/' has",
        ),
        (
            {"page": {"include": ["a.example/?x=1"]}},
            "page.include[0]: 'a.example/?x=1' goes beyond",
        ),
        ({"page": {"include": ["/sports/*"]}}, "page.include[0]: '/sports/*' begins with no host"),
    ],
)
def test_what_is_wrong_is_said(targeting: Any, problem: str) -> None:
    """With the path to it first, so that whoever wrote it finds the place."""
    found = problems(targeting)
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_all_problems_are_told_at_once_but_not_by_the_thousand() -> None:
    found = problems({"geo": {"include": [f"X{number}" for number in range(1000)]}})
    assert len(found) == 21
    assert found[-1] == "… and more"


def test_the_countries_are_those_of_the_standard() -> None:
    """ISO 3166-1 has 249; Kosovo has a code by which everybody knows it."""
    assert len(COUNTRIES) == 250
    assert "XK" in COUNTRIES


# -- pages -------------------------------------------------------------------------------------------


@given(
    st.lists(st.text("ab/*", max_size=8), min_size=1, max_size=12),
    st.text("ab/", max_size=12),
    st.sampled_from(["x.example", "m.x.example", "example", "y.example"]),
)
def test_patterns_are_found_as_a_regular_expression_would(
    paths: list[str], path: str, host: str
) -> None:
    hosts = ("x.example", "*.x.example", "*.example")
    patterns = {f"{hosts[i % 3]}/{one}" for i, one in enumerate(paths)} | {"x.example", "*.example"}
    index = PatternIndex()
    for pattern in patterns:
        index.add(pattern)
    page = f"{host}/{path}"
    expected = {pattern for pattern in patterns if pattern_meets(pattern, page)}
    assert sorted(index.matching(page)) == sorted(expected)
    for pattern in patterns - expected:
        index.remove(pattern)
    assert sorted(index.matching(page)) == sorted(expected)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_of_each_kind(pattern: str) -> None:
    assert pattern_problem(pattern) is None
    for page in PAGES:
        assert meets(pattern, page) == pattern_meets(pattern, page), page


def test_many_beginnings_of_one_host_are_found() -> None:
    """With more patterns than the path has characters they are looked up, not gone through."""
    index = PatternIndex()
    for number in range(1000):
        index.add(f"news.example/{number}/*")
    assert index.matching("news.example/77/x") == ["news.example/77/*"]


def test_no_pattern_can_be_slow() -> None:
    """As a regular expression this would take longer than the universe has."""
    began = time.process_time()
    assert not glob_matches("*a" * 90 + "b", "a" * 5000)
    assert meets("news.example/" + "*a" * 90, "news.example/" + "a" * 5000)
    assert not meets("*.example", ".".join("a" * 100) + ".other")
    # It takes 0.1 ms; a collection of this process's garbage, which may come right now, 0.1 s.
    assert time.process_time() - began < 2.0
