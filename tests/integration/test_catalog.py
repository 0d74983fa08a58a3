"""The catalog in PostgreSQL: what the schema refuses, and files that become rows and back."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2 import sql

from prefork_ads.errors import CatalogRefused, DatabaseUnavailable
from prefork_ads.management import edit, reading, store
from prefork_ads.management.complaints import Complaints, Refused
from prefork_ads.management.difference import Plan, plan
from prefork_ads.management.items import DEFAULTS, REFERENCE, Item, Items
from prefork_ads.management.writing import to_yaml
from prefork_ads.report import goals
from tests.conftest import Database, Server
from tests.support import wait_until

CATALOG = """\
time_zone: Europe/Berlin
advertisers: {acme: Acme Outdoors}
sites: {news: {domain: news.example, zones: {box: {sizes: [300x250]}}}}
segments: {runners: People who run}
campaigns:
  spring:
    advertiser: acme
    starts: 2026-12-01
    ends: 2030-12-31 18:00
    goal: {total: 50000, daily: 2000}
    pacing: even
    price: {cpm: 4.50}
    targeting: {geo: [DE, NO], segments: runners}
    creatives:
      spring-box: {size: 300x250, click: "https://acme.example/", html: Hi}
"""


def planner(text: str, *, prune: bool = False) -> Callable[[Items], Plan]:
    complaints = Complaints()
    wanted: Items = {}
    reading.read_text(text, "c.yaml", wanted, complaints)
    return lambda before: plan(wanted, before, prune=prune, complaints=complaints.copy())


def apply(database: Database, text: str, *, prune: bool = False) -> store.Applied:
    return store.apply(database.dsn, planner(text, prune=prune), "a test")


def rows(database: Database) -> list[tuple[Any, ...]]:
    return database.fetch("SELECT relation, id, content FROM catalog_at(9999) ORDER BY 1, 2")


def versions(database: Database) -> int:
    version: int = database.fetch("SELECT version FROM catalog_state")[0][0]
    return version


def somebody_waits(database: Database) -> bool:
    """For a lock that another holds."""
    return bool(
        database.fetch(
            """SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid)
                WHERE NOT granted AND datname = current_database()"""
        )
    )


# ---- applying


def test_files_become_rows_in_one_version(database: Database) -> None:
    done = apply(database, CATALOG)
    assert (done.version, len(done.plan.changes)) == (1, 6)
    assert database.fetch(
        """SELECT c.key, a.key, starts_at, ends_at, time_zone, goal_kind, goal_total, goal_daily,
                  pacing, price_model, price_micros, targeting
             FROM campaign AS c JOIN advertiser AS a ON a.id = advertiser_id"""
    ) == [
        (
            "spring",
            "acme",
            datetime(2026, 11, 30, 23, tzinfo=UTC),
            datetime(2030, 12, 31, 17, tzinfo=UTC),
            "Europe/Berlin",
            "impressions",
            50_000,
            2000,
            "even",
            "cpm",
            4_500_000,
            {"geo": {"include": ["DE", "NO"]}, "segments": {"any": ["runners"]}},
        )
    ]


def test_the_same_files_again_change_nothing(database: Database) -> None:
    apply(database, CATALOG)
    before = rows(database)
    again = apply(database, CATALOG)
    assert (again.version, again.plan.changes, again.plan.unchanged) == (1, [], 6)
    assert rows(database) == before
    assert database.fetch("SELECT count(*) FROM catalog_change") == [(6,)]


def test_a_change_keeps_the_id_and_says_who_did_it(database: Database) -> None:
    apply(database, CATALOG)
    before = database.fetch("SELECT id FROM campaign")
    apply(database, CATALOG.replace("4.50", "5.00"))
    assert database.fetch("SELECT id FROM campaign WHERE price_micros = 5000000") == before
    (second, _) = store.history(database.dsn, 10)
    assert second["changes"] == {"campaign": {"changed": 1}}
    assert second["note"].endswith(": a test")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[DE, NO]", "[DE, XX]", "'XX' is no country"),
        ("[DE, NO]", "[DE, NO", "is not YAML"),
        ("2026-12-01", "2026-02-30", "February 2026 has 28 days"),
        ("creatives:", "creatives: {}\n#", "has no creative"),
        ("segments: runners}", "keywords: 50%}", "has a '%'"),
    ],
)
def test_a_catalog_with_a_mistake_changes_nothing(
    database: Database, old: str, new: str, said: str
) -> None:
    """Also where all the rest of it is good and new."""
    apply(database, CATALOG)
    before = rows(database)
    text = CATALOG.replace("acme: Acme Outdoors", "acme: Acme, other: Other").replace(old, new)
    if "#" in new:
        text = text.replace("      spring-box", "#")
    if new == "[DE, NO":
        text += "advertisers: {}\n"
    # Of this campaign nothing is there yet, so that no creative of it is.
    text = text.replace("  spring:", "  autumn:").replace("spring-box", "autumn-box")
    with pytest.raises(Refused) as refused:
        apply(database, text)
    assert said in "\n".join(map(str, refused.value.complaints))
    assert rows(database) == before
    assert versions(database) == 1


def test_what_only_the_schema_knows_is_told_with_its_place(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model and the schema should agree; where they do not, the schema decides."""
    database.execute("ALTER TABLE campaign ADD CONSTRAINT no_spring CHECK (key <> 'spring')")
    with pytest.raises(Refused) as refused:
        apply(database, CATALOG)
    (complaint,) = refused.value.complaints
    assert str(complaint).startswith("c.yaml:6:3: campaigns.spring: PostgreSQL refuses it: ")
    assert "no_spring" in str(complaint)
    assert versions(database) == 0
    assert database.fetch("SELECT count(*) FROM advertiser") == [(0,)]


def test_what_the_reading_lets_pass_the_schema_takes_at_each_limit(database: Database) -> None:
    sizes = ", ".join(f"{n}x9999" for n in range(9900, 10_000))
    url = "https://a.example/"
    text = f"""\
advertisers: {{{"a" * 100}: {{name: {"é" * 200}, caps: {{hour: 32767, day: 32767, flight: 2147483647}}}}}}
sites: {{s: {{domain: "a-b.c:65535", zones: {{z: {{sizes: [{sizes}], floor: 1000000}}}}}}}}
campaigns:
  c:
    advertiser: {"a" * 100}
    weight: 1000
    starts: 2000-01-01
    ends: 2200-12-31 23:59:59.999999
    goal: {{total: 1_000_000_000_000, daily: 1_000_000_000_000}}
    price: {{cpa: 1000000}}
    creatives:
      x: {{size: 9999x9999, click: "{url}{"x" * (4000 - len(url))}", html: {"x" * 200_000}}}
      y: {{size: 1x1, click: "{url}", image: "/{"x" * 3999}", alt: {"x" * 1000}}}
"""
    assert len(apply(database, text).plan.changes) == 6


def test_prune_archives_and_nothing_is_ever_deleted(database: Database) -> None:
    apply(database, CATALOG)
    smaller = CATALOG[: CATALOG.index("campaigns:")]
    left = apply(database, smaller)
    assert left.plan.left == [("campaign", "spring"), ("creative", "spring-box")]
    assert left.version == 1
    assert apply(database, smaller, prune=True).plan.archived == 2
    assert database.fetch("SELECT status FROM campaign") == [("archived",)]
    assert apply(database, smaller, prune=True).plan.changes == []


def test_a_dry_run_is_accepted_by_the_database_and_taken_back(database: Database) -> None:
    done = store.apply(database.dsn, planner(CATALOG), "a test", dry_run=True)
    assert (done.version, len(done.plan.changes)) == (0, 6)
    assert versions(database) == 0
    assert rows(database) == []


def test_two_applies_take_turns(database: Database) -> None:
    """The second waits for the first, and finds its work: one version, and no error."""
    waiting = threading.Event()
    done: list[store.Applied] = []

    def first_holds_the_lock(before: Items) -> Plan:
        second.start()
        wait_until(lambda: somebody_waits(database), "the second apply at the lock")
        waiting.set()
        return planner(CATALOG)(before)

    second = threading.Thread(target=lambda: done.append(apply(database, CATALOG)))
    first = store.apply(database.dsn, first_holds_the_lock, "a test")
    second.join(30)
    assert waiting.is_set()
    assert (first.version, len(first.plan.changes)) == (1, 6)
    assert [(one.version, one.plan.changes) for one in done] == [(1, [])]


def test_a_transaction_that_was_left_open_is_not_waited_for_for_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(database, CATALOG)
    monkeypatch.setattr(store, "LOCK_WAIT_S", 0.1)
    with closing(database.connect(autocommit=False)) as forgotten, forgotten.cursor() as cursor:
        cursor.execute("UPDATE campaign SET weight = 7")
        with pytest.raises(DatabaseUnavailable, match="has not finished; nothing was changed"):
            apply(database, CATALOG.replace("4.50", "6.00"))
    assert versions(database) == 1


def test_an_edit_by_hand_that_meets_an_apply_is_survived(database: Database) -> None:
    """It has changed the row and waits for the lock that we hold: one of both begins again."""
    apply(database, CATALOG)
    errors: list[str] = []
    tries = 0

    def by_hand() -> None:
        try:
            database.execute("UPDATE campaign SET weight = 7 WHERE key = 'spring'")
        except psycopg2.errors.DeadlockDetected as error:
            errors.append(str(error))

    def with_an_edit_in_between(before: Items) -> Plan:
        nonlocal tries
        tries += 1
        if tries == 1:
            other.start()
            wait_until(lambda: somebody_waits(database), "the edit at the lock")
        return planner(CATALOG.replace("4.50", "6.00"))(before)

    other = threading.Thread(target=by_hand)
    store.apply(database.dsn, with_an_edit_in_between, "a test")
    other.join(30)
    assert database.fetch("SELECT price_micros FROM campaign") == [(6_000_000,)]
    assert tries + len(errors) == 2


def test_what_was_agreed_to_must_still_be_it(database: Database) -> None:
    apply(database, CATALOG)
    make = planner("advertisers: {}\n", prune=True)
    agreed = store.preview(database.dsn, make).plan
    database.execute("UPDATE campaign SET weight = 7")
    with pytest.raises(CatalogRefused, match="changed the catalog meanwhile; nothing was changed"):
        store.apply(database.dsn, make, "a test", agreed=agreed)
    assert database.fetch("SELECT status FROM campaign") == [("active",)]
    agreed = store.preview(database.dsn, make).plan
    assert store.apply(database.dsn, make, "a test", agreed=agreed).plan.archived == 6


# ---- single things


def test_single_members_are_set_and_taken_away(database: Database) -> None:
    apply(database, CATALOG)

    def set_(*assignments: tuple[str, str]) -> None:
        store.apply(database.dsn, edit.setting("campaign", ["spring"], assignments), "a test")

    set_(("weight", "200"), ("goal_total", "60000"), ("targeting.geo.include", "[FR]"))
    set_(("price.cpc", "0.35"), ("name", "Spring: the sale"), ("caps.day", "3"))
    set_(("caps.day", ""), ("ends", ""), ("pacing", "asap"))
    assert database.fetch(
        """SELECT weight, goal_total, targeting #> '{geo,include}', price_model, price_micros, name,
                  cap_day, ends_at, starts_at
             FROM campaign"""
    ) == [
        (200, 60_000, ["FR"], "cpc", 350_000, "Spring: the sale", None, None,
         datetime(2026, 11, 30, 23, tzinfo=UTC)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("wieght", "3", "campaigns.spring.wieght: is not known here; did you mean 'weight'?"),
        ("weight", "3000", "campaigns.spring.weight: '3000' is not a whole number from 1 to 1,000"),
        ("ends", "2026-02-30", "campaigns.spring.ends: '2026-02-30' is no date: February 2026 has"),
        ("targeting.geo", "[XX]", "campaigns.spring.targeting.geo.include[0]: 'XX' is no country"),
        (
            "targeting.keywords",
            "50%",
            "campaigns.spring.targeting.keywords.any[0]: '50%' has a '%'",
        ),
        ("targeting", "{geo: [", "targeting: is not YAML"),
        ("advertiser", "other", "campaigns.spring.advertiser: there is no advertiser 'other'"),
    ],
)
def test_a_bad_value_is_refused_in_the_words_of_a_file(
    database: Database, name: str, value: str, said: str
) -> None:
    apply(database, CATALOG)
    with pytest.raises(Refused) as refused:
        store.apply(database.dsn, edit.setting("campaign", ["spring"], [(name, value)]), "a test")
    assert str(refused.value.complaints[0]).startswith(said)
    assert versions(database) == 1


def test_a_thing_that_is_not_there(database: Database) -> None:
    apply(database, CATALOG)
    with pytest.raises(CatalogRefused, match=r"no campaign 'sprng'; did you mean 'spring'\?"):
        store.apply(database.dsn, edit.setting("campaign", ["sprng"], []), "a test")


def test_resuming_a_campaign_that_has_nothing_to_show_is_refused(database: Database) -> None:
    apply(database, CATALOG)
    for relation, key in (("campaign", "spring"), ("creative", "spring-box")):
        make = edit.setting(relation, [key], [("status", "archived")])
        store.apply(database.dsn, make, "a test")
    make = edit.setting("campaign", ["spring"], [("status", "active")])
    with pytest.raises(Refused) as refused:
        store.apply(database.dsn, make, "a test")
    assert "has no creative" in str(refused.value.complaints[0])


def test_the_last_creative_may_go_at_once_and_it_is_told(database: Database) -> None:
    """One that must not be shown a minute longer is no time for rules."""
    apply(database, CATALOG)
    make = edit.setting("creative", ["spring-box"], [("status", "archived")])
    done = store.apply(database.dsn, make, "a test")
    assert [str(warning) for warning in done.plan.warnings] == [
        "campaigns.spring: has no creative any more"
    ]


# ---- there and back

KEYS = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,6}", fullmatch=True)
# What YAML could take for something else, break, fold or lose.
TRICKY = st.sampled_from(
    ["no", "~", "null", "1_000", "2026-12-01", "0x1f", "1e3", "- a", "a: b", "a #b", "'", '"', "{a}",
     "[a]", "&a", "*a", "!a", "|", ">", "%", "@", "`", "<<", "=", "?", " a", "a ", "é ü 漢", "\U0001f600",
     "a" * 130, "word " * 30, "\u2028", "\x85", "\ufeff", "\x7f", "a\tb", ".5", "+1", "on"]
)  # fmt: skip
TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20
)
ANY = TRICKY | TEXT
NAME = ANY.filter(
    lambda t: bool(t.strip()) and not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in t)
)
LINES = st.lists(
    ANY | st.sampled_from(["\n", "\r\n", "  \n", "\n\n ", "\r"]), min_size=1, max_size=6
)
HTML = LINES.map("".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e15, 1e15) | ANY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY, inner, max_size=3),
    max_leaves=8,
)
STATUS = st.sampled_from(["active", "paused", "archived"])
AMOUNT = st.integers(0, 10**12) | st.integers(0, 1000).map(lambda n: n * 10_000)
IMAGE = st.sampled_from(["/a.svg", "https://a.example/ü?x={y}"])
CAP = st.none() | st.integers(1, 32_767)
MOMENT = st.integers(946_684_800_000_000, 7_289_000_000_000_000).map(
    lambda us: datetime.fromtimestamp(us // 10**6, UTC).replace(microsecond=us % 10**6)
) | st.integers(0, 70_000).map(lambda day: datetime.fromtimestamp(946_684_800 + day * 86_400, UTC))
ZONE = st.sampled_from(["UTC", "Europe/Berlin", "Asia/Beirut", "America/Havana", "Pacific/Apia"])
WORDS = st.lists(NAME.map(str.lower).filter(lambda t: t == t.lower() == t.strip()), min_size=1, max_size=3,
                 unique=True).map(lambda ws: [w for w in ws if not set(w) & set("%*?")] or ["a"])  # fmt: skip


@st.composite
def campaigns(draw: st.DrawFn) -> dict[str, Any]:
    tier = draw(st.sampled_from(["sponsorship", "guaranteed", "standard", "house"]))
    moments = sorted({draw(MOMENT), draw(MOMENT)})
    starts, ends = (
        draw(st.sampled_from([moments[0], None])),
        draw(st.sampled_from([moments[-1], None])),
    )
    if starts == ends:
        ends = None
    kind = draw(st.none() | st.sampled_from(["impressions", "clicks"]))
    total = draw(st.integers(1, 10**12)) if kind else None
    daily = draw(st.none() | st.integers(1, total)) if total else None
    if daily and draw(st.booleans()):
        total = None
    even = daily is not None or (total is not None and ends is not None)
    targeting: dict[str, Any] = {}
    if draw(st.booleans()):
        targeting["keywords"] = {draw(st.sampled_from(["any", "none"])): draw(WORDS)}
        targeting["values"] = {draw(NAME): {"any": draw(st.lists(NAME, min_size=1, max_size=3))}}
        targeting["geo"] = {"include": ["NO", "DE-BE-Berlin"]}
        targeting["hours"] = [{"days": ["mon"], "hours": [0, 23]}, {}]
    return {
        "name": draw(NAME), "status": draw(STATUS | st.just("draft")), "tier": tier,
        "weight": draw(st.integers(1, 1000)), "starts_at": starts, "ends_at": ends,
        "time_zone": draw(ZONE), "goal_kind": kind, "goal_total": total, "goal_daily": daily,
        "pacing": draw(st.sampled_from(["even", "asap"])) if even else "asap",
        "price_model": draw(st.sampled_from(["cpm", "cpc", "cpa"])),
        "price_micros": 0 if tier == "house" else draw(AMOUNT),
        "cap_hour": draw(CAP), "cap_day": draw(CAP), "cap_flight": draw(CAP),
        "roadblock": draw(st.booleans()), "targeting": targeting,
    }  # fmt: skip


@st.composite
def creatives(draw: st.DrawFn) -> dict[str, Any]:
    form = draw(st.sampled_from(["html", "image", "native"]))
    size = draw(st.tuples(st.integers(1, 9999), st.integers(1, 9999)) | st.none())
    width, height = size or ((None, None) if form == "native" else (300, 250))
    return {
        "name": draw(NAME), "status": draw(STATUS), "format": form, "width": width, "height": height,
        "html": draw(HTML) if form == "html" else None,
        "image_url": draw(IMAGE) if form == "image" else None,
        "native": draw(st.dictionaries(ANY, JSON, max_size=4)) if form == "native" else None,
        "alt": draw(st.none() | HTML), "weight": draw(st.integers(1, 1000)),
        "click_url": draw(st.sampled_from(["https://a.example", "http://[::1]:80/#{x}", "https://ä.example/~"])),
    }  # fmt: skip


@st.composite
def catalogs(draw: st.DrawFn) -> Items:
    """Any catalog that the schema takes, in items."""
    items: Items = {}

    def add(relation: str, columns: dict[str, Any]) -> None:
        key = draw(KEYS)
        other = REFERENCE.get(relation)
        if other is not None:
            there = [k for r, k in items if r == other]
            if not there:
                return
            columns[other] = draw(st.sampled_from(there))
        items[relation, key] = Item(relation, key, {**DEFAULTS[relation], **columns})

    for _ in range(draw(st.integers(1, 2))):
        add("advertiser", {
            "name": draw(NAME), "status": draw(STATUS), "allow_repeat": draw(st.booleans()),
            "cap_hour": draw(CAP), "cap_day": draw(CAP), "cap_flight": draw(CAP)})  # fmt: skip
        add("site", {"name": draw(NAME), "status": draw(STATUS), "domain": "a-1.example:80"})
        add(
            "segment", {"name": draw(NAME), "status": draw(st.sampled_from(["active", "archived"]))}
        )
    for _ in range(draw(st.integers(0, 2))):
        add("zone", {
            "name": draw(NAME), "status": draw(STATUS),
            "sizes": draw(st.sampled_from([["300x250"], ["1x1", "9999x9999"]])),
            "formats": draw(st.permutations(["html", "image", "native"])),
            "floor_micros": draw(AMOUNT), "fallback": draw(st.sampled_from(["house", "none"]))})  # fmt: skip
        add("campaign", draw(campaigns()))
        add("creative", draw(creatives()))
    # One that runs needs something to show.
    shown = {
        i.columns["campaign"] for i in items.values() if i.relation == "creative" and not i.archived
    }
    for item in items.values():
        if (
            item.relation == "campaign"
            and item.columns["status"] == "active"
            and item.key not in shown
        ):
            item.columns["status"] = "paused"
    return items


@pytest.fixture
def emptied(database: Database) -> Iterator[Callable[[], Database]]:
    """The database, emptied each time."""
    with closing(database.connect()) as conn, conn.cursor() as cursor:

        def empty() -> Database:
            for relation in ("creative", "campaign", "zone", "segment", "site", "advertiser"):
                cursor.execute(f"DELETE FROM {relation}")
            return database

        yield empty


@pytest.mark.once
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(wanted=catalogs())
def test_an_export_applies_back_to_nothing_changed(
    emptied: Callable[[], Database], wanted: Items
) -> None:
    """Of any catalog: what is written is what is loaded is what its export says, in any place."""
    database = emptied()

    def make(before: Items) -> Plan:
        return plan(wanted, before, prune=False, complaints=Complaints())

    store.apply(database.dsn, make, "a test")
    loaded = store.load(database.dsn).items
    assert {n: i.columns for n, i in loaded.items()} == {n: i.columns for n, i in wanted.items()}
    text = to_yaml(loaded, ["A heading."])
    again = store.apply(database.dsn, planner(text, prune=True), "a test")
    assert again.plan.changes == []
    emptied()
    store.apply(database.dsn, planner(text), "a test")
    assert store.load(database.dsn).items == loaded


def test_an_earlier_version_comes_back(database: Database) -> None:
    """As an export, and as a rollback, which archives what was not there yet."""
    apply(database, CATALOG)
    first = store.load(database.dsn).items
    apply(
        database, CATALOG.replace("4.50", "9.00") + "  autumn: {advertiser: acme, status: draft}\n"
    )
    assert store.load(database.dsn, 1).items == first
    assert store.load(database.dsn, 0).items == {}

    def make(before: Items) -> Plan:
        return plan(first, before, prune=True, complaints=Complaints())

    assert store.apply(database.dsn, make, "a test").version == 3
    now = store.load(database.dsn).items
    assert now.pop(("campaign", "autumn")).archived
    assert now == first
    with pytest.raises(CatalogRefused, match="There is no version 4; the last one is 3"):
        store.load(database.dsn, 4)


# ---- the schema itself

GOOD: dict[str, dict[str, Any]] = {
    "advertiser": {"key": "a", "name": "A"},
    "site": {"key": "s", "name": "S", "domain": "s.example"},
    "zone": {"key": "z", "site_id": 1, "name": "Z", "sizes": ["300x250"]},
    "campaign": {"key": "c", "advertiser_id": 1, "name": "C"},
    "creative": {
        "key": "x", "campaign_id": 1, "name": "X", "format": "html", "width": 300, "height": 250,
        "html": "Hi", "click_url": "https://a.example/",
    },
}  # fmt: skip


@pytest.fixture
def small(database: Database) -> Database:
    database.execute("INSERT INTO advertiser (key, name) VALUES ('acme', 'Acme')")
    database.execute("INSERT INTO site (key, name, domain) VALUES ('news', 'News', 'n.example')")
    database.execute("INSERT INTO campaign (key, advertiser_id, name) VALUES ('sale', 1, 'Sale')")
    return database


NONSENSE: list[tuple[str, dict[str, Any]]] = [
    ("advertiser", {"key": "A"}),
    ("advertiser", {"key": "acme"}),
    ("advertiser", {"name": " "}),
    ("advertiser", {"name": "a\nb"}),
    ("advertiser", {"cap_day": 0}),
    ("site", {"domain": "https://s.example"}),
    ("zone", {"sizes": ["300x0"]}),
    ("zone", {"sizes": ["300x250", "300x250"]}),
    ("zone", {"sizes": [["300x250"], ["1x1"]]}),
    ("zone", {"sizes": [None]}),
    ("zone", {"sizes": []}),
    ("zone", {"formats": []}),
    ("zone", {"formats": ["video"]}),
    ("zone", {"floor_micros": -1}),
    ("zone", {"site_id": 77}),
    ("campaign", {"status": "running"}),
    ("campaign", {"starts_at": "infinity"}),
    ("campaign", {"ends_at": "20260-01-01"}),
    ("campaign", {"starts_at": "2026-01-02", "ends_at": "2026-01-02"}),
    ("campaign", {"time_zone": "CEST"}),
    ("campaign", {"goal_total": 5}),
    ("campaign", {"goal_kind": "clicks"}),
    ("campaign", {"goal_kind": "clicks", "goal_total": 5, "goal_daily": 6}),
    ("campaign", {"goal_kind": "clicks", "goal_total": 5, "pacing": "even"}),
    ("campaign", {"tier": "house", "price_micros": 5}),
    ("campaign", {"weight": 0}),
    ("campaign", {"targeting": json.dumps([1])}),
    ("creative", {"click_url": "javascript:alert(1)"}),
    ("creative", {"click_url": "https://{host}/"}),
    ("creative", {"click_url": "https://good.example@evil.example/"}),
    ("creative", {"click_url": "https://a.example/\nx"}),
    ("creative", {"format": "image", "html": None, "image_url": "//evil.example/x"}),
    ("creative", {"image_url": "/x.svg"}),
    ("creative", {"width": None}),
    ("creative", {"html": None}),
]


def test_the_schema_refuses_nonsense(small: Database) -> None:
    """Whoever writes it, and by whatever means."""
    with closing(small.connect()) as conn, conn.cursor() as cursor:

        def insert(relation: str, columns: dict[str, Any]) -> None:
            names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
            statement = f"INSERT INTO {relation} ({names}) VALUES ({marks})"
            cursor.execute(statement, list(columns.values()))

        def refused(relation: str, columns: dict[str, Any]) -> bool:
            try:
                insert(relation, columns)
            except psycopg2.IntegrityError:
                return True
            return False

        taken = [(r, change) for r, change in NONSENSE if not refused(r, GOOD[r] | change)]
        assert taken == []
        for relation, columns in GOOD.items():
            insert(relation, columns)


def test_what_things_are_counted_by_cannot_come_to_mean_another(small: Database) -> None:
    small.execute("INSERT INTO advertiser (key, name) VALUES ('other', 'Other')")
    for change in ("key = 'sold'", "advertiser_id = 2"):
        with pytest.raises(
            psycopg2.IntegrityError, match="campaign sale keeps its key and its adv"
        ):
            small.execute(f"UPDATE campaign SET {change}")
    with pytest.raises(psycopg2.errors.FeatureNotSupported, match="cannot be truncated"):
        small.execute("TRUNCATE creative")


def test_a_change_by_sql_is_a_version_too(small: Database) -> None:
    """With who did it, and once for a transaction."""
    small.execute("BEGIN; UPDATE campaign SET weight = 5; UPDATE site SET name = 'N'; COMMIT")
    latest = store.history(small.dsn, 1)[0]
    assert latest["changes"] == {"campaign": {"changed": 1}, "site": {"changed": 1}}
    assert latest["note"] is None
    small.execute("UPDATE campaign SET weight = 5")
    assert store.history(small.dsn, 1)[0]["version"] == latest["version"]


@pytest.fixture
def manager(database: Database, postgres: Server) -> Iterator[str]:
    """A DSN of a role that the page about the catalog has granted what it grants."""
    role = f"{database.name}_manager"
    name = sql.Identifier(role)
    postgres.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'hunter2'").format(name))
    try:
        text = (Path(__file__).parents[2] / "docs/catalog.md").read_text("utf-8")
        grants = [line for line in text.splitlines() if line.startswith("GRANT")]
        assert grants
        for line in grants:
            database.execute(line.replace("ads_manager", f'"{role}"'))
        yield psycopg2.extensions.make_dsn(database.dsn, user=role, password="hunter2")
    finally:
        database.execute(f'DROP OWNED BY "{role}"')
        postgres.execute(sql.SQL("DROP ROLE {}").format(name))


def test_the_documented_grants_are_enough_and_the_history_is_not_theirs(
    database: Database, manager: str
) -> None:
    assert store.apply(manager, planner(CATALOG), "a test").version == 1
    assert store.history(manager, 1)[0]["by"] == f"{database.name}_manager"
    (one,), _ = goals.load(manager)
    assert one.in_all.goal == 50_000
    as_manager = Database(database.name, manager)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        as_manager.execute("DELETE FROM catalog_change")
