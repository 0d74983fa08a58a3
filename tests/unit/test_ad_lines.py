"""What a batch of lines says about ads is what its records say, and nothing a client sent is."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_ads.events import ad_lines, ad_records
from prefork_ads.events.ad_lines import LINES_A_STEP, Ads, BadRecord, add_up, added_up
from prefork_ads.events.ad_records import AdEvent, Conversion, Decision
from prefork_ads.events.event import EventClock, line
from prefork_ads.events.parameters import Parameters
from prefork_ads.events.uuid7 import Uuid7

# 2026-11-22 10:30:00 UTC
NOW_MS = 1_795_343_400_000
CLOCK = EventClock(Uuid7(), lambda: NOW_MS * 1_000_000)
HOUR, MINUTE = NOW_MS // 3_600_000, NOW_MS // 60_000
ID, USER = f"{NOW_MS:012x}7{'0' * 19}", "ab" * 16


def text(endpoint: bytes, params: bytes, agent: bytes | None = b"test") -> bytes:
    return line(CLOCK.stamp(), endpoint, params, agent, None, "192.0.2.1", None)


def decided(decision: Decision, request: Parameters | None = None) -> bytes:
    return text(b"decision", ad_records.decision_params(request or {}, decision))


def batch(*lines: bytes) -> bytes:
    return b"".join(one + b"\n" for one in lines)


def ads_of(*lines: bytes) -> Ads:
    ads = added_up(batch(*lines))
    assert ads is not None
    return ads


def test_decisions_are_added_up_by_what_the_rollup_tells_apart() -> None:
    full: Decision = {
        "zone": 1,
        "campaign": 2,
        "creative": 3,
        "country": "DE",
        "device": "phone",
        "price": 5,
        "model": "cpm",
    }
    ads = ads_of(
        decided(full),
        decided({**full, "page": "elsewhere"}),
        decided({**full, "filtered": "bot"}),
        decided({"zone": 1}),
    )
    assert ads.decisions.replace(", ", ",").split("\n") == [
        f"{{{HOUR},{HOUR},{HOUR}}}",
        "{1,1,1}",
        "{2,2,0}",
        "{3,3,0}",
        '{"DE","DE",""}',
        '{"phone","phone",""}',
        "{f,t,f}",
        "{2,1,1}",
    ]
    assert (ads.leased, ads.seen, ads.events, ads.conversions) == ("", "", "", "")


def test_leases_and_users_with_caps() -> None:
    leased: Decision = {"zone": 1, "campaign": 2, "creative": 3, "leased": "2026-11-22"}
    last = decided({**leased, "uid": USER, "caps": True})
    ads = ads_of(decided(leased), last, decided({**leased, "uid": USER}))
    assert ads.leased == f"2\t2026-11-22\t{MINUTE}\t3"
    assert ads.seen == f"{USER}\t2\t{last.split(chr(9).encode())[1].decode()}\t{NOW_MS}"


ORDERED = (
    "zone",
    "campaign",
    "creative",
    "country",
    "city",
    "device",
    "filtered",
    "version",
    "page",
    "price",
)
ENDS = ("leased", "caps")
NAMES = st.sampled_from(
    ["", "DE", "é", 'a"b', "a\\b", ',"version":', '"leased":"2026-11-23"}}', "\t"]
)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"zone": st.integers(1, 2), "version": st.integers(1, 9)},
            optional={
                "campaign": st.integers(1, 2),
                "creative": st.integers(3, 4),
                **dict.fromkeys(("country", "city", "device", "filtered", "page"), NAMES),
                "price": st.integers(0, 2),
                "leased": st.just("2026-11-22"),
                "caps": st.just(True),
            },
        ),
        max_size=8,
    )
)
def test_what_is_cut_out_of_a_line_is_what_reading_all_of_it_says(records: list[Any]) -> None:
    """As a server writes them, and the same in an order in which nothing can be cut out."""
    stamps, sides = [CLOCK.stamp() for _ in records], []
    for order in ((*ORDERED, "uid", *ENDS), ("uid", *ENDS, *reversed(ORDERED))):
        lines = []
        for stamp, record in zip(stamps, records, strict=True):
            said: Any = {**record, "uid": USER}
            said = {name: said[name] for name in order if name in said}
            params = ad_records.decision_params({"x": 1}, said)
            lines.append(line(stamp, b"decision", params, b"test", None, "192.0.2.1", None))
        sides.append(added_up(batch(*lines)))
    cut, read = sides
    if cut is None or read is None:
        assert cut == read
        return
    as_rows = [
        sorted(
            zip(
                *[column[1:-1].replace(" ", "").split(",") for column in ads.decisions.split("\n")],
                strict=True,
            )
        )
        for ads in (cut, read)
        if "," not in "".join(str(r.get("country", "")) + str(r.get("device", "")) for r in records)
    ]
    assert as_rows[:1] == as_rows[1:]
    assert sorted(cut.leased.split("\n")) == sorted(read.leased.split("\n"))
    assert cut.seen == read.seen


def test_a_servers_line_is_not_read_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says behind the version is left alone, unless a lease or a cap stands at its end."""
    monkeypatch.setattr(ad_lines, "_record", lambda *_: pytest.fail("it was read"))
    said: Decision = {
        "zone": 1,
        "campaign": 2,
        "creative": 3,
        "version": 4,
        "page": "x",
        "model": "cpm",
    }
    assert ads_of(decided(said), decided({**said, "price": 5})).decisions.endswith("{2}")


def test_an_event_stands_as_its_token_told() -> None:
    event: AdEvent = {
        "decision": ID,
        "zone": 1,
        "campaign": 2,
        "creative": 3,
        "price": 4,
        "model": "cpc",
        "country": "DE",
        "device": "phone",
        "uid": USER,
        "filtered": "bot:\ta \\ b",
    }
    short: AdEvent = {"decision": ID, "zone": 1, "campaign": 2, "creative": 3}
    ads = ads_of(
        text(b"click", ad_records.event_params({}, event)),
        text(b"viewable", ad_records.event_params({}, short)),
    )
    received = "2026-11-22 10:30:00.000+00"
    assert ads.events.split("\n") == [
        f"click\t{ID}\t{NOW_MS}\t{received}\t{USER}\t1\t2\t3\t4\tcpc\tDE\tphone\tbot:\\ta \\\\ b",
        f"viewable\t{ID}\t{NOW_MS}\t{received}\t\\N\t1\t2\t3\t0\tcpm\t\t\t\\N",
    ]


def test_a_conversion_keeps_the_advertisers_words() -> None:
    order: Conversion = {"advertiser": 7, "order": "a\tb\n\\N é", "value": 5, "decision": ID}
    ads = ads_of(text(b"conversion", ad_records.conversion_params({}, order)))
    assert ads.conversions == (f"7\ta\\tb\\n\\\\N é\t2026-11-22 10:30:00.000+00\t5\t\\N\t{ID}\t\\N")


@pytest.mark.parametrize(
    "said",
    [
        b'{"n":"1"}',
        b'{"request":{},"event":{"decision":"x"}}',
        b'{"request":"x,\\"decision\\":{"}',
        b'{"state":{"full":true}}',
    ],
)
@pytest.mark.parametrize("endpoint", [b"log", b"ad", b"clicks", b"state"])
def test_what_is_not_about_ads_says_nothing(endpoint: bytes, said: bytes) -> None:
    """Whatever its parameters and headers look like: the endpoint decides, and where it stands."""
    assert added_up(batch(*3 * [text(endpoint, said, b"decision")])) is None


def test_lines_without_ads_are_searched_once_and_not_split() -> None:
    assert ad_lines.says_nothing(batch(text(b"log", b'{"a":1}'), text(b"ad", b'{"request":"1"}')))
    assert not ad_lines.says_nothing(batch(text(b"log", b"{}"), decided({"zone": 1})))


def test_a_long_batch_is_read_in_steps() -> None:
    steps = add_up(batch(*(2 * LINES_A_STEP + 1) * [decided({"zone": 1})]))
    assert sum(1 for _ in steps) == 2


JSON = st.recursive(
    st.none() | st.integers(0, 9) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["decision", "event", "zone", 'a,"decision":{', "\\"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["decision", "event", "x"]), JSON, max_size=3), st.text())
def test_no_parameter_of_a_client_is_taken_for_a_record(request: Any, page: str) -> None:
    """Nor is any text in the record taken for its end."""
    ads = ads_of(decided({"zone": 4, "page": page, "keywords": [page]}, request))
    assert ads.decisions.split("\n")[1:] == ["{4}", "{0}", "{0}", '{""}', '{""}', "{f}", "{1}"]


@pytest.mark.parametrize(
    ("endpoint", "params"),
    [
        (b"decision", b'{"request":{}}'),
        (b"decision", b'{"request":{},"decision":{}}'),
        (b"decision", b'{"request":{},"decision":{"zone":[1]}}'),
        (b"decision", b'{"request":{},"decision":{"zone":1,"country":"a\\nb"}}'),
        (b"decision", b'{"request":{},"decision":{"zone":1,"campaign":2,"caps":true,"uid":"x"}}'),
        (b"decision", b'{"request":{},"decision":{"zone":1,"country":"%b"}}' % (201 * b"x")),
        (b"decision", b'{"request":{},"decision":{"zone":1x,"version":1}}'),
        (b"click", b'{"request":{},"event":{"decision":"12"}}'),
        (b"click", b'{"request":{},"event":[1]}'),
        (b"conversion", b'{"request":{},"conversion":{"advertiser":1,"order":2}}'),
    ],
)
def test_a_record_that_is_none_is_told(endpoint: bytes, params: bytes) -> None:
    """Whoever ships looks for the line then, and keeps it where a person finds it."""
    with pytest.raises(BadRecord, match="cannot be read"):
        added_up(batch(text(endpoint, params)))
