"""A catalog's files: what they may say, and how each mistake is told, with its place."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prefork_ads.demo import catalog_path
from prefork_ads.errors import ConfigError
from prefork_ads.management import reading, yaml_tree
from prefork_ads.management.complaints import Complaints, Mark, Refused
from prefork_ads.management.difference import Plan, describe, plan
from prefork_ads.management.entry import json_of
from prefork_ads.management.items import Items
from prefork_ads.management.moments import (
    BadMoment,
    read_end,
    read_start,
    read_zone,
    show_end,
    show_start,
)
from prefork_ads.management.writing import dump, to_yaml
from prefork_ads.management.yaml_tree import Listing, Members, Text

BERLIN = ZoneInfo("Europe/Berlin")

# What a campaign needs around it. Nine lines, so that a test's own begin at the tenth.
AROUND = """\
advertisers:
  acme: Acme Outdoors
sites:
  news: {domain: news.example}
segments:
  runners: People who run
zones:
  box: {site: news, sizes: [300x250]}
campaigns:
"""
CREATIVES = "    creatives: {box-1: {size: 300x250, click: 'https://a.example/', html: Hi}}\n"


def read(text: str) -> tuple[Items, Complaints]:
    items: Items = {}
    complaints = Complaints()
    reading.read_text(text, "c.yaml", items, complaints)
    return items, complaints


def planned(text: str, before: Items | None = None, *, prune: bool = False) -> Plan:
    items, complaints = read(text)
    return plan(items, before or {}, prune=prune, complaints=complaints)


def complaints_of(text: str, before: Items | None = None, *, prune: bool = False) -> list[str]:
    with pytest.raises(Refused) as refused:
        planned(text, before, prune=prune)
    return [str(complaint) for complaint in refused.value.complaints]


def campaign(*lines: str, creatives: str = CREATIVES) -> str:
    own = "".join(f"    {line}\n" for line in ("advertiser: acme", *lines))
    return f"{AROUND}  spring:\n{own}{creatives}"


# ---- what issue 4 asks for by name


def test_bad_yaml_is_told_with_line_and_column() -> None:
    assert complaints_of("campaigns:\n  a: [1,\n    2\n  b: {}\n") == [
        "c.yaml:4:4: is not YAML: while parsing a flow sequence from line 2, did not find expected"
        " ',' or ']'"
    ]


def test_a_tab_is_called_by_its_name() -> None:
    (said,) = complaints_of("campaigns:\n\tspring: {}\n")
    assert said.startswith("c.yaml:2:1: is not YAML: ")
    assert "there is a tab" in said or "cannot start any token" in said


def test_an_impossible_date() -> None:
    assert complaints_of(campaign("starts: 2026-02-30")) == [
        "c.yaml:12:13: campaigns.spring.starts: '2026-02-30' is no date: February 2026 has 28 days"
    ]


def test_a_missing_creative() -> None:
    (said,) = complaints_of(campaign(creatives=""))
    assert said.startswith("c.yaml:10:3: campaigns.spring: has no creative, so there is nothing to")


def test_an_unknown_country() -> None:
    (said,) = complaints_of(campaign("targeting: {geo: {include: [DE, XX]}}"))
    assert said.startswith(
        "c.yaml:12:37: campaigns.spring.targeting.geo.include[1]: 'XX' is no country; countries are"
    )


@pytest.mark.parametrize("keyword", ["50%", "%", "run*", "wh?t"])
def test_a_wildcard_in_a_keyword(keyword: str) -> None:
    (said,) = complaints_of(campaign("targeting:", f"  keywords: ['{keyword}']"))
    assert said.startswith("c.yaml:13:18: campaigns.spring.targeting.keywords.any[0]: ")
    assert "a keyword is compared whole" in said


# ---- all at once


def test_every_mistake_is_told_at_once_in_the_order_of_the_lines() -> None:
    text = campaign(
        "wieght: 3",
        "status: activ",
        "starts: yesterday",
        "time_zone: Europe/Berln",
        "goal: {total: 10, daily: 20, kind: views}",
        "pacing: evn",
        "price: {cpm: 1, cpc: 2}",
        "caps: {hour: 0}",
        "targeting: {segments: [runers], colour: red}",
    )
    said = [line.removeprefix("c.yaml:") for line in complaints_of("campains: {}\n" + text)]
    assert [line.split(" ")[0] for line in said] == [
        "1:1:", "13:5:", "14:13:", "15:13:", "16:16:", "17:30:", "17:40:", "18:13:", "19:12:",
        "20:18:", "21:28:", "21:37:",
    ]  # fmt: skip
    text = "\n".join(said)
    assert "campains: is not known here; did you mean 'campaigns'?" in text
    assert "wieght: is not known here; did you mean 'weight'?" in text
    assert "'activ' is not known; did you mean 'active'?" in text
    assert "'Europe/Berln' is no time zone; did you mean 'Europe/Berlin'?" in text
    assert "goal.daily: is more than the total of 10" in text
    assert "price: needs one of cpm, cpc and cpa" in text
    assert "caps.hour: '0' is not a whole number from 1 to 32,767" in text


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["advertiser: acme"], "12:5: advertiser: stands here twice, first in line 11"),
        (["weight: ten"], "12:13: campaigns.spring.weight: 'ten' is not a whole number"),
        (["weight: '5'"], "12:13: campaigns.spring.weight: '5' is not a whole number"),
        (["weight: [5]"], "12:13: campaigns.spring.weight: must be a whole number, not a list"),
        (["name: ''"], "12:11: campaigns.spring.name: must be one line of text"),
        (["roadblock: maybe"], "12:16: campaigns.spring.roadblock: 'maybe' is not true or false"),
        (["price: 4.50"], "12:12: campaigns.spring.price: must have members with names"),
        (
            ["price: {cpm: 4.5 EUR}"],
            "12:18: campaigns.spring.price.cpm: '4.5 EUR' is not an amount",
        ),
        (["price: {cpm: 0.0000001}"], "12:18: campaigns.spring.price.cpm: '0.0000001' is not an"),
        (["price: {cpm: .inf}"], "12:18: campaigns.spring.price.cpm: '.inf' is not an amount"),
        (["price: {cpm: -1}"], "12:18: campaigns.spring.price.cpm: '-1' is not an amount"),
        (["tier: house", "price: {cpm: 1}"], "13:18: campaigns.spring.price.cpm: must be 0"),
        (["goal: {kind: clicks}"], "12:11: campaigns.spring.goal: needs a total, a daily"),
        (["pacing: even"], "12:13: campaigns.spring.pacing: even needs a goal to spread"),
        (
            ["pacing: even", "goal: {total: 5}"],
            "12:13: campaigns.spring.pacing: even needs a daily goal, or a time by which",
        ),
        (
            ["starts: 2026-05-02", "ends: 2026-05-01"],
            "13:11: campaigns.spring.ends: is not after starts",
        ),
        (["starts: 2026-13-01"], "12:13: campaigns.spring.starts: '2026-13-01' is no date: there"),
        (["starts: 20260-01-01"], "12:13: campaigns.spring.starts: '20260-01-01' is no date"),
        (
            ["starts: 1999-01-01"],
            "12:13: campaigns.spring.starts: '1999-01-01' is not in the years",
        ),
        (["starts: 2026-01-01 25:00"], "12:13: campaigns.spring.starts: '2026-01-01 25:00' has a"),
        (["targeting: [DE]"], "12:16: campaigns.spring.targeting: must have members with names"),
        (
            ["targeting: {hours: {days: monday}}"],
            "12:25: campaigns.spring.targeting.hours[0].days[0]: 'monday' is not a day",
        ),
        (["<<: {weight: 5}"], "12:5: <<: merging is not taken"),
        (["weight: !!python/name:os.system 5"], "12:13: tags are not taken"),
    ],
)
def test_a_mistake_in_a_campaign(lines: list[str], said: str) -> None:
    (complaint,) = complaints_of(campaign(*lines))
    assert complaint.startswith(f"c.yaml:{said}")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ("size: 300x250, html: Hi", "creatives.c.click: is missing"),
        ("click: 'https://a.example/', html: Hi", "creatives.c.size: is missing"),
        ("size: 0x5, click: 'https://a.example/', html: Hi", "creatives.c.size: '0x5' is no size"),
        ("size: 1x5, click: 'https://a.example/'", "creatives.c: needs one of html, html_file"),
        (
            "size: 1x5, click: 'https://a.example/', html: a, image: /b.svg",
            "creatives.c: needs one of html, html_file, image and native to show; here are html and",
        ),
        (
            "size: 1x5, click: 'https://a.example/', html_file: none.html",
            "creatives.c.html_file: none.html cannot be read: No such file or directory",
        ),
        (
            "size: 1x5, click: 'https://a.example/', image: //evil.example/x",
            "creatives.c.image: '//evil.example/x' is neither an address of the web nor a path",
        ),
        ("click: 'https://a.example/', native: [1]", "creatives.c.native: must have members"),
    ],
)
def test_a_mistake_in_a_creative(members: str, said: str) -> None:
    (complaint,) = complaints_of(campaign(creatives=f"    creatives: {{c: {{{members}}}}}\n"))
    assert complaint.partition(": ")[2].startswith(said)


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "//a.example/",
        "https://{host}/",
        "https://good.example@evil.example/",
        "https://a.example /x",
        "https:///x",
        "ftp://a.example/",
    ],
)
def test_a_click_that_does_not_lead_to_a_host_that_stands_there(url: str) -> None:
    creatives = f"    creatives: {{c: {{size: 300x250, html: Hi, click: '{url}'}}}}\n"
    (complaint,) = complaints_of(campaign(creatives=creatives))
    assert "is no address of the web" in complaint


def test_things_that_refer_to_nothing_are_told_what_is_near() -> None:
    text = "advertisers: {acme: {}}\nzones: {box: {site: news, sizes: 300x250}}\n"
    text += "campaigns:\n  a: {advertiser: acm, status: draft}\n  b: {status: draft}\n"
    assert complaints_of(text) == [
        "c.yaml:2:21: zones.box.site: there is no site 'news'",
        "c.yaml:4:19: campaigns.a.advertiser: there is no advertiser 'acm'; did you mean 'acme'?",
        "c.yaml:5:3: campaigns.b.advertiser: is missing",
    ]


def test_a_key_may_stand_in_one_file_only(tmp_path: Path) -> None:
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for file in files:
        file.write_text("advertisers:\n  acme: Acme\n")
    complaints = Complaints()
    reading.read_files([str(file) for file in files], complaints)
    (complaint,) = complaints.found
    assert (
        str(complaint) == f"{files[1]}:2:3: advertisers.acme: is there already, at {files[0]}:2:3"
    )


def test_a_key_has_a_form() -> None:
    (said,) = complaints_of("advertisers:\n  Ac me: {}\n")
    assert said.startswith("c.yaml:2:3: advertisers: 'Ac me' is no key; one is made of small")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read: No such file"):
        reading.read_files([str(tmp_path / "none.yaml")], Complaints())
    (tmp_path / "latin.yaml").write_bytes(b"advertisers:\n  a: Caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml:2: a catalog must be UTF-8"):
        reading.read_files([str(tmp_path / "latin.yaml")], Complaints())


def test_html_may_lie_beside_the_catalog(tmp_path: Path) -> None:
    (tmp_path / "box.html").write_text("<p>Hi\n")
    creatives = (
        "    creatives: {c: {size: 300x250, click: 'https://a.example', html_file: box.html}}\n"
    )
    (tmp_path / "c.yaml").write_text(campaign(creatives=creatives))
    complaints = Complaints()
    items = reading.read_files([str(tmp_path / "c.yaml")], complaints)
    assert not complaints.found
    assert items["creative", "c"].columns["html"] == "<p>Hi\n"


# ---- what YAML would guess


def test_text_is_not_guessed_at() -> None:
    """NO is Norway and not false, 2024 a value like any other, 1_000 a number only where one is meant."""
    text = campaign(
        "name: 2026-01-01",
        "targeting: {geo: [NO], values: {year: [2024, yes]}, keywords: 007}",
        "goal: {total: 50_000}",
    )
    (added,) = [c.item for c in planned(text).changes if c.item.relation == "campaign"]
    assert added.columns["name"] == "2026-01-01"
    assert added.columns["targeting"] == {
        "geo": {"include": ["NO"]},
        "values": {"year": {"any": ["2024", "yes"]}},
        "keywords": {"any": ["007"]},
    }
    assert added.columns["goal_total"] == 50_000


@settings(max_examples=300)
@given(st.text(alphabet=st.sampled_from("0189+-.,_eExo:~ \n"), max_size=8))
@example("1e3")
@example("08")
@example("true")
@example("~")
def test_text_that_looks_like_something_else_is_written_so_that_it_stays_text(text: str) -> None:
    written = dump({"a title": text, "words": [text]})
    node = yaml_tree.read(written, "c.yaml", Complaints())
    assert node is not None
    assert json_of(node) == {"a title": text, "words": [text]}


def test_days_and_hours_may_be_spans() -> None:
    text = campaign("targeting: {hours: [{days: [fri-mon], hours: [08:00-11:00, 23]}]}")
    (item,) = [c.item for c in planned(text).changes if c.item.relation == "campaign"]
    assert item.columns["targeting"]["hours"] == [
        {"days": ["fri", "sat", "sun", "mon"], "hours": [8, 9, 10, 23]}
    ]


# ---- bounds


def test_aliases_are_followed_and_counted() -> None:
    """Nine lines that stand for a billion values end at the line where it is too much."""
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (said,) = complaints_of("\n".join(lines))
    assert said.startswith("c.yaml:7:")
    assert said.endswith("here are more than 2,000,000 values, aliases followed")


def test_an_alias_to_what_is_around_it_is_refused() -> None:
    (said,) = complaints_of("a: &a [*a]\n")
    assert said == "c.yaml:1:8: *a stands for nothing that is finished above it"


def test_an_alias_is_the_same_again() -> None:
    text = campaign("targeting: &t {geo: [DE]}").replace("news.example", "&d news.example")
    text += "  autumn:\n    advertiser: acme\n    status: draft\n    targeting: *t\n"
    changes = planned(text).changes
    found = {c.item.key: c.item.columns.get("targeting") for c in changes}
    assert found["spring"] == found["autumn"] == {"geo": {"include": ["DE"]}}


def test_depth_is_bounded() -> None:
    (said,) = complaints_of("a: " + "[" * 500)
    assert said == "c.yaml:1:43: is nested more than 40 deep"


def test_depth_beyond_what_the_parser_takes_is_called_so_too() -> None:
    """From libyaml 0.2.6 on it has a limit of its own, which it meets while it looks ahead."""
    (said,) = complaints_of("a: " + "[" * 100_000)
    assert re.fullmatch(r"c\.yaml:1:(43|1003): is nested more than 40 deep", said)


def test_a_second_document_is_refused() -> None:
    (said,) = complaints_of("advertisers: {}\n---\nsites: {}\n")
    assert said == "c.yaml:2:1: a second document begins here; put it into another file"


def test_a_character_that_yaml_does_not_allow_has_a_place() -> None:
    (said,) = complaints_of("advertisers:\n  a: b\x07c\n")
    assert said.startswith("c.yaml")
    assert "is not YAML: " in said


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "~\n", "campaigns:\n"])
def test_an_empty_catalog_is_one(text: str) -> None:
    assert planned(text).changes == []


@pytest.mark.parametrize("text", ["[1]", "word"])
def test_a_catalog_is_a_mapping(text: str) -> None:
    assert complaints_of(text) == [
        "c.yaml:1:1: a catalog has members such as campaigns, zones, sites"
    ]


@settings(max_examples=300)
@given(st.text(alphabet=st.sampled_from("ab:-[]{},&*!|>'\"#%@`\n\t ~0.?\\é"), max_size=60))
def test_no_text_breaks_the_reading(text: str) -> None:
    """Whatever is in a file: items or complaints, and never anything else."""
    _, complaints = read(text)
    for complaint in complaints.found:
        assert str(complaint).startswith("c.yaml")
    node = yaml_tree.read(text, "c.yaml", Complaints())
    assert node is None or isinstance(node, (Text, Listing, Members))


# ---- dates


@pytest.mark.parametrize(
    ("text", "zone", "starts", "ends"),
    [
        ("2026-12-01", "Europe/Berlin", "2026-11-30T23:00", "2026-12-01T23:00"),
        ("2026-12-01 09:00", "Europe/Berlin", "2026-12-01T08:00", "2026-12-01T08:00"),
        ("2026-7-1T9:00:30", "Europe/Berlin", "2026-07-01T07:00:30", "2026-07-01T07:00:30"),
        ("2026-12-01 09:00+05:30", "UTC", "2026-12-01T03:30", "2026-12-01T03:30"),
        ("2026-12-01T09:00Z", "Europe/Berlin", "2026-12-01T09:00", "2026-12-01T09:00"),
        # Clocks skip the midnight with which this day would begin, and that day is 23 hours long.
        ("2026-03-29", "Asia/Beirut", "2026-03-28T22:00", "2026-03-29T21:00"),
        # This day has two midnights; the first counts.
        ("2026-11-01", "America/Havana", "2026-11-01T04:00", "2026-11-02T05:00"),
        # This one never was: clocks went from the 29th to the 31st.
        ("2011-12-30", "Pacific/Apia", "2011-12-30T10:00", "2011-12-30T10:00"),
    ],
)
def test_a_date_is_that_of_the_campaigns_zone(text: str, zone: str, starts: str, ends: str) -> None:
    """A day alone is meant whole: from its first moment, through its last."""
    there = read_zone(zone)
    assert read_start(text, there) == datetime.fromisoformat(f"{starts}+00:00")
    assert read_end(text, there) == datetime.fromisoformat(f"{ends}+00:00")


def test_a_time_that_clocks_skip_does_not_exist() -> None:
    with pytest.raises(BadMoment, match="does not exist in Europe/Berlin: clocks skip it"):
        read_start("2026-03-29 02:30", BERLIN)


def test_a_time_that_comes_twice_needs_its_offset() -> None:
    with pytest.raises(BadMoment, match=r"write 2026-10-25 02:30:00\+02:00 or .* 02:30:00\+01:00"):
        read_start("2026-10-25 02:30", BERLIN)
    first, second = (read_start(f"2026-10-25 02:30+0{n}:00", BERLIN) for n in (2, 1))
    assert (second - first).total_seconds() == 3600


# fmt: off
ZONES = ("UTC", "Europe/Berlin", "Asia/Beirut", "America/Havana", "America/Sao_Paulo", "Asia/Kolkata",
         "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca", "America/Argentina/Buenos_Aires")
# fmt: on
MOMENTS = st.integers(946_684_800, 7_258_000_000).map(lambda s: datetime.fromtimestamp(s, UTC))
# Around the moments at which clocks change, which are on whole half hours.
HALF_HOURS = st.integers(0, 40 * 365 * 48).map(
    lambda n: datetime.fromtimestamp(946_684_800 + n * 1800, UTC)
)


@settings(max_examples=500)
@given(moment=MOMENTS | HALF_HOURS, zone=st.sampled_from(ZONES))
def test_a_moment_that_is_written_is_read_again(moment: datetime, zone: str) -> None:
    there = read_zone(zone)
    assert read_start(show_start(moment, there), there) == moment
    assert read_end(show_end(moment, there), there) == moment


def test_time_zones_are_known_on_a_machine_without_any() -> None:
    """A container may have no files of time zones; then a package of ours brings them."""
    known = subprocess.run(
        [sys.executable, "-c", "from zoneinfo import ZoneInfo; print(ZoneInfo('Europe/Berlin'))"],
        env={**os.environ, "PYTHONTZPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert known.stdout == "Europe/Berlin\n", known.stderr


@pytest.mark.parametrize(
    "name", ["CEST", "XYZ-3", "europe/berlin", "Europe/Nowhere", "../etc/passwd"]
)
def test_what_is_no_time_zone_of_the_list(name: str) -> None:
    with pytest.raises(BadMoment, match="is no time zone"):
        read_zone(name)


# ---- differences


def final(text: str) -> Items:
    return {change.item.name: change.item for change in planned(text).changes}


def shown(text: str, before: Items, *, prune: bool = False) -> list[str]:
    changes = planned(text, before, prune=prune).changes
    return [line for change in changes for _, line in describe(change)]


def test_the_same_again_is_no_change() -> None:
    text = campaign("price: {cpm: 4.50}")
    again = planned(text, final(text))
    assert (again.changes, again.unchanged) == ([], 6)


def test_a_difference_names_what_changes_in_the_files_own_words() -> None:
    before = final(campaign("weight: 100", "price: {cpm: 4.50}", "targeting: {geo: [DE, AT]}"))
    after = campaign(
        "weight: 250", "price: {cpm: 5}", "targeting: {geo: [DE, FR]}", "ends: 2030-01-01"
    )
    assert shown(after, before) == [
        "~ campaign spring",
        "    weight: 100 → 250",
        "    price.cpm: 4.50 → 5.00",
        "    targeting.geo.include: -AT +FR",
        "    ends: (none) → 2030-01-01",
    ]


def test_what_the_files_leave_out_stays_unless_it_is_pruned() -> None:
    before = final(campaign())
    text = AROUND.removesuffix("campaigns:\n")
    kept = planned(text, before)
    assert (kept.changes, kept.left) == ([], [("campaign", "spring"), ("creative", "box-1")])
    assert shown(text, before, prune=True) == ["- campaign spring", "- creative box-1"]


def test_a_pruned_thing_that_something_needs_is_a_mistake() -> None:
    before = final(campaign())
    text = campaign("weight: 5").replace("  acme: Acme Outdoors\n", "  other: Other\n")
    assert complaints_of(text, before, prune=True) == [
        "c.yaml:11:17: campaigns.spring.advertiser: advertiser 'acme' is not in the files, so --prune"
        " would archive it"
    ]


def test_what_was_paused_by_hand_is_not_resumed_by_a_file_that_is_silent() -> None:
    before = final(campaign())
    before["campaign", "spring"].columns["status"] = "paused"
    assert shown(campaign(), before) == []
    assert shown(campaign("status: active"), before) == [
        "~ campaign spring",
        "    status: paused → active",
    ]
    before["campaign", "spring"].columns["status"] = "archived"
    assert shown(campaign(), before)[1:] == ["    status: archived → active"]


def test_a_creative_stays_with_its_campaign() -> None:
    """What was counted for it would come to mean another."""
    before = final(campaign())
    text = (
        campaign(creatives="    status: paused\n") + "  autumn:\n    advertiser: acme\n" + CREATIVES
    )
    (said,) = complaints_of(text, before)
    assert "creatives.box-1.campaign: cannot change from 'spring' to 'autumn'" in said


def test_archiving_what_a_campaign_aims_at_is_a_mistake() -> None:
    before = final(campaign("targeting: {segments: [runners]}"))
    text = "segments: {runners: {name: People who run, status: archived}}\n"
    assert complaints_of(text, before) == [
        "c.yaml:12:28: campaigns.spring.targeting.segments.any[0]: 'runners' is no segment of the"
        " catalog"
    ]


def test_what_is_allowed_and_hardly_meant_is_a_warning() -> None:
    text = campaign("ends: 2020-01-01", "tier: guaranteed").replace("[300x250]", "[728x90]")
    assert [str(warning) for warning in planned(text).warnings] == [
        "c.yaml:12:11: campaigns.spring: is over already",
        "c.yaml:13:11: campaigns.spring: is guaranteed and has no goal",
        "c.yaml:14:31: creatives.box-1: fits no zone: none takes html of 300x250",
    ]


# ---- the documentation


def test_catalogs_in_the_documentation_are_sound() -> None:
    """Both files that docs/catalog.md shows, as whole catalogs."""
    text = (Path(__file__).parents[2] / "docs/catalog.md").read_text("utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    # The second one aims at what the first one has.
    first, second = (planned(block) for block in blocks)
    assert (len(first.changes), first.warnings) == (8, [])
    assert len(second.changes) == 2


# ---- the demonstration


def test_the_demonstration_catalog_is_sound_and_whole() -> None:
    """No mistake, no warning, every tier, and each picture it names is there."""
    complaints = Complaints()
    with catalog_path() as path:
        items = reading.read_files([str(path)], complaints)
        found = plan(items, {}, prune=False, complaints=complaints)
        assert [str(warning) for warning in found.warnings] == []
        assert len([name for name in items if name[0] == "campaign"]) >= 36
        columns = [item.columns for item in items.values()]
        assert {c.get("tier") for c in columns} >= {
            "sponsorship",
            "guaranteed",
            "standard",
            "house",
        }
        pictures = {c["image_url"] for c in columns if c.get("image_url")}
        pictures |= {c["native"]["image"] for c in columns if c.get("native")}
        for picture in pictures:
            assert (path.parent / picture.removeprefix("/demo/")).is_file(), picture
        named = {picture.removeprefix("/demo/") for picture in pictures}
        assert {file.name for file in path.parent.glob("*.svg")} == named
        pages = [c["html"] for c in columns if c.get("html")]
    assert not any("src=" in page or "@import" in page or "url(" in page for page in pages)
    read_again, complaints = read(to_yaml(items))
    assert complaints.found == []
    assert read_again == items


def test_a_mark_without_a_file_says_nothing() -> None:
    assert str(Mark()) == ""
