"""Conversions: whose, which order, how much, and from which click."""

import json
from decimal import Decimal
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_ads.ads.pixel import GIF
from prefork_ads.metrics import Counter
from tests.unit.tracking_bed import DECISION, UID, Tracker, signed

JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


def test_an_order_is_logged() -> None:
    """By a picture in the advertiser's page, or by POST from its server."""
    tracker = Tracker()
    answer = tracker.ask("/conv?advertiser=acme&order=A-1&value=12.34&colour=red")
    assert (answer.status, answer.body) == (200, GIF)
    body = json.dumps({"advertiser": "acme", "order": 7, "value": 0.1}).encode()
    assert tracker.ask("/conv", JSON, method="POST", body=body).status == 204
    form = b"advertiser=acme&order=caf%C3%A9"
    assert tracker.ask("/conv", FORM, method="POST", body=form).status == 204
    assert [kind for kind, _ in tracker.params()] == ["conversion"] * 3
    assert [params["conversion"] for _, params in tracker.params()] == [
        {"advertiser": 1, "order": "A-1", "value": 12_340_000},
        {"advertiser": 1, "order": "7", "value": 100_000},
        {"advertiser": 1, "order": "café"},
    ]
    assert tracker.params()[0][1]["request"]["colour"] == "red"
    assert tracker.count(Counter.CONVERSIONS_TAKEN) == 3


@given(st.integers(0, 10**15 - 1), st.integers(0, 6))
def test_money_is_exact(micros: int, places: int) -> None:
    """Every amount comes out as it was written: to the last millionth of a billion."""
    micros -= micros % 10 ** (6 - places)
    amount = format(Decimal(micros).scaleb(-6).quantize(Decimal(1).scaleb(-places)), "f")
    tracker = Tracker()
    assert tracker.ask(f"/conv?advertiser=acme&order=1&value={amount}").status == 200
    [(_, params)] = tracker.params()
    assert params["conversion"].get("value", 0) == micros


@pytest.mark.parametrize(
    "value",
    [
        *(
            "-1",
            "1,5",
            "1.2345678",
            "1e3",
            "1000000000",
            "NaN",
            "inf",
            "0x10",
            "1.",
            ".5",
            " 1",
            "€5",
        ),
        *("1" * 500, "1_000", "٣"),
    ],
)
def test_what_is_no_amount_is_refused(value: str) -> None:
    """Nothing is rounded, and nothing is guessed."""
    tracker = Tracker()
    answer = tracker.ask(f"/conv?advertiser=acme&order=1&value={quote(value)}")
    assert answer.status == 400
    assert b"12.34" in answer.body
    assert tracker.events == []
    assert tracker.count(Counter.TRACKING_MALFORMED) == 1


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("order=1", 400, "advertiser="),
        ("advertiser=acme&advertiser=bolt&order=1", 400, "advertiser="),
        ("advertiser=nobody&order=1", 404, "no advertiser"),
        ("advertiser=acme", 400, "order="),
        ("advertiser=acme&order=+", 400, "order="),
        ("advertiser=acme&order=1&order=2", 400, "order="),
        ("advertiser=acme&order=" + "x" * 201, 400, "200 bytes"),
        ("advertiser=acme&order=a%0Ab", 400, "control"),
        ("advertiser=acme&order=M%FC1", 400, "UTF-8"),
        ("advertiser=acme&order=1&uid=7", 400, "UUID"),
        ("advertiser=acme&order=1&click=x", 403, "no token"),
        ("advertiser=acme&order=1&click=" + signed()[:-1] + "_", 403, "altered"),
        ("advertiser=acme&order=1&click=" + signed(campaign=6), 403, "another advertiser"),
        ("advertiser=acme&order=1&click=AQA" + signed()[3:], 410, "retired"),
        ("advertiser=acme&order=1&click=x&click=y", 400, "one token"),
    ],
)
def test_what_is_no_conversion_is_refused(query: str, status: int, words: str) -> None:
    """With words for whoever wrote the call, and nothing is logged."""
    tracker = Tracker()
    answer = tracker.ask(f"/conv?{query}")
    assert answer.status == status
    assert words in answer.body.decode()
    assert tracker.events == []


def test_a_body_that_is_none_is_refused() -> None:
    tracker = Tracker()
    for body, headers in ((b"{", JSON), (b"<x/>", {"content-type": "text/xml"})):
        assert tracker.ask("/conv", headers, method="POST", body=body).status == 400
    assert tracker.events == []


@pytest.mark.parametrize(
    "beside",
    [
        b'"uid": "0190163d-8694-73aa-bea5-966c2e123d00"',
        b'"customer": 12345678901234567890',
        b'"rate": 0.12345678901234567',
    ],
)
def test_numbers_of_a_body_are_read_whatever_stands_beside_them(beside: bytes) -> None:
    """What has many digits, or looks so (a sixth of all uuids does), has all numbers read otherwise."""
    tracker = Tracker()
    for numbers in (
        b'"order": 7, "value": 12.50',
        b'"order": 12345678901234567890, "value": 1.25e1',
    ):
        body = b'{"advertiser": "acme", %b, %b}' % (numbers, beside)
        assert tracker.ask("/conv", JSON, method="POST", body=body).status == 204
    said = [params["conversion"] for _, params in tracker.params()]
    assert [one["order"] for one in said] == ["7", "12345678901234567890"]
    assert [one["value"] for one in said] == [12_500_000, 12_500_000]


@pytest.mark.parametrize("value", [b"1e999", b"1e-999", b"12.1234567", b"1" * 900, b"-1", b"true"])
def test_what_is_no_amount_in_a_body_is_refused(value: bytes) -> None:
    tracker = Tracker()
    body = b'{"advertiser": "acme", "order": 1, "value": %b, "n": 12345678901234567890}' % value
    assert tracker.ask("/conv", JSON, method="POST", body=body).status == 400
    assert tracker.events == []


def test_a_click_s_token_says_which_decision_and_who() -> None:
    """The token itself, which has the uid in it, is not logged a second time."""
    tracker = Tracker()
    tracker.ask(f"/conv?advertiser=acme&order=1&click={signed(uid=UID)}")
    [(_, params)] = tracker.params()
    assert params["conversion"] == {
        "advertiser": 1,
        "order": "1",
        "decision": DECISION.hex(),
        "uid": UID.hex(),
    }
    assert params["request"] == {"advertiser": "acme", "order": "1"}


def test_a_click_of_a_filtered_decision_makes_a_filtered_conversion() -> None:
    """A shop's own server is a program, and that says nothing."""
    tracker = Tracker()
    tracker.ask(f"/conv?advertiser=acme&order=1&click={signed(filtered=True)}")
    tracker.ask("/conv?advertiser=acme&order=2", {"user-agent": "python-requests/2.31"})
    marks = [params["conversion"].get("filtered") for _, params in tracker.params()]
    assert marks == ["decision", None]


def test_a_user_id_is_kept_only_where_it_may_be() -> None:
    """In either spelling, unless the person's browser says otherwise."""
    tracker = Tracker()
    dashed = "0190163D-8694-73AA-BEA5-966C26F8AD00"
    tracker.ask(f"/conv?advertiser=acme&order=1&uid={dashed}")
    tracker.ask(f"/conv?advertiser=acme&order=2&uid={dashed}", {"sec-gpc": "1"})
    tracker.ask(f"/conv?advertiser=acme&order=3&click={signed(uid=UID)}", {"dnt": "1"})
    kept, *others = tracker.params()
    assert kept[1]["conversion"]["uid"] == UID.hex()
    for _, params in others:
        assert "uid" not in params["conversion"]
        assert "uid" not in params["request"]
        assert UID.hex() not in json.dumps(params)


def test_without_a_catalog_or_a_log_nothing_is_promised() -> None:
    for tracker in (Tracker(rows=None), Tracker(log_takes=False)):
        assert tracker.ask("/conv?advertiser=acme&order=1").status == 503
        assert tracker.count(Counter.TRACKING_UNAVAILABLE) == 1


def test_head_is_no_order() -> None:
    tracker = Tracker()
    assert tracker.ask("/conv?advertiser=acme&order=1", method="HEAD").status == 200
    assert tracker.events == []


def test_orders_of_an_archived_advertiser_still_come() -> None:
    """So do those of one without any campaign."""
    tracker = Tracker()
    assert tracker.ask("/conv?advertiser=retired&order=1").status == 200
    [(_, params)] = tracker.params()
    assert params["conversion"]["order"] == "1"
