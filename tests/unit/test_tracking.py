"""Beacons and clicks: what is counted, what is refused, and where a click leads."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_ads.ads.pixel import GIF
from prefork_ads.ads.tokens import Keyring
from prefork_ads.metrics import Counter
from tests.unit.http_bed import PEER
from tests.unit.tracking_bed import (
    CLICK_WINDOW_S,
    DECISION,
    KEYRING,
    NOW_S,
    UID,
    WINDOW_S,
    Tracker,
    rows,
    signed,
)

EVENT = {
    "decision": DECISION.hex(),
    "zone": 12,
    "campaign": 5,
    "creative": 50,
    "price": 2_500_000,
    "model": "cpm",
    "country": "DE",
    "device": "desktop",
}


@pytest.mark.parametrize(
    ("path", "kind", "counter"),
    [
        ("/i/", "impression", Counter.IMPRESSIONS_TAKEN),
        ("/v/", "viewable", Counter.VIEWABLES_TAKEN),
    ],
)
def test_a_beacon_is_logged_with_what_its_token_says(
    path: str, kind: str, counter: Counter
) -> None:
    """A browser that asks for a picture gets one, sendBeacon gets nothing, and nobody may keep either."""
    tracker = Tracker()
    dot = tracker.ask(path + signed() + "?a=1")
    nothing = tracker.ask(path + signed(), method="POST", body=b"whatever")
    assert (dot.status, dot.body) == (200, GIF)
    assert dot.headers["content-type"] == "image/gif"
    assert (nothing.status, nothing.body) == (204, b"")
    for answer in (dot, nothing):
        assert "no-store" in answer.headers["cache-control"]
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert tracker.params() == [
        (kind, {"request": {"a": "1"}, "event": EVENT}),
        (kind, {"request": {}, "event": EVENT}),
    ]
    assert tracker.count(counter) == 2


def test_a_click_leads_where_the_creative_leads() -> None:
    """With what is known of the click in the place of macros, each as one value; others are left alone."""
    tracker = Tracker()
    text = signed()
    answer = tracker.ask(f"/c/{text}?x=y", {"referer": "https://News.example/a&b?q#f"})
    assert answer.status == 302
    assert answer.headers["location"] == (
        "https://shop.example/l?c=spring&z=home-top&p=news.example%2Fa%26b&"
        f"t={quote(text, safe='')}&k={{other}}"
    )
    assert "no-store" in answer.headers["cache-control"]
    assert tracker.params() == [("click", {"request": {"x": "y"}, "event": EVENT})]
    assert tracker.count(Counter.CLICKS_TAKEN) == 1


def test_a_click_on_an_ad_that_is_archived_by_now_leads_on() -> None:
    """The person has it on the screen all the same."""
    tracker = Tracker()
    answer = tracker.ask(f"/c/{signed(creative=60, campaign=6)}")
    assert answer.headers["location"] == "https://bolt.example/"
    assert len(tracker.events) == 1


SOMEWHERE = "https://evil.example/x"


@given(
    place=st.sampled_from(["query", "path", "referer", "host", "x-forwarded-host"]),
    name=st.sampled_from(
        ["url", "u", "dest", "redirect", "r", "click_url", "location", "page", ""]
    ),
    url=st.sampled_from(
        [SOMEWHERE, "//evil.example", "/\\evil.example", "https:evil.example", "%2F%2Fevil.example"]
    ),
)
def test_there_is_no_open_redirect(place: str, name: str, url: str) -> None:
    """Wherever a request names a place, a click leads to the advertiser or nowhere."""
    tracker = Tracker()
    path, headers = f"/c/{signed()}", {}
    if place == "query":
        path += f"?{name}={quote(url, safe='%/:')}"
    elif place == "path":
        path += f"/{quote(url, safe='%/:')}"
    elif place == "host":
        headers["host"] = "evil.example"
    else:
        headers[place] = url
    answer = tracker.ask(path, headers)
    location = answer.headers.get("location")
    assert location is None or location.startswith("https://shop.example/l?")
    assert "evil.example" not in (location or "").split("?")[0]
    assert (answer.status == 302) == (location is not None)


def test_a_late_click_is_led_on_and_not_counted() -> None:
    tracker = Tracker(now_s=NOW_S - 10.01 + CLICK_WINDOW_S)
    assert tracker.ask(f"/c/{signed()}").status == 302
    tracker.now_s += 0.02
    answer = tracker.ask(f"/c/{signed()}")
    assert answer.status == 302
    assert answer.headers["location"].startswith("https://shop.example/")
    assert len(tracker.events) == 1
    assert tracker.count(Counter.CLICKS_LATE) == 1


@pytest.mark.parametrize("path", ["/i/", "/v/", "/i/{}/image"])
def test_a_late_beacon_is_gone(path: str) -> None:
    """It is no event any more: nothing is logged, and the counter of refusals says so."""
    tracker = Tracker(now_s=NOW_S - 10 + WINDOW_S + 0.01)
    path = path.format(signed()) if "{}" in path else path + signed()
    answer = tracker.ask(path)
    assert answer.status == 410
    assert b"too long after" in answer.body
    assert tracker.events == []
    assert tracker.count(Counter.TRACKING_EXPIRED) == 1


@pytest.mark.parametrize("path", ["/i/", "/v/", "/c/"])
@pytest.mark.parametrize(
    ("text", "status", "counter"),
    [
        ("", 403, Counter.TRACKING_ALTERED),
        ("x", 403, Counter.TRACKING_ALTERED),
        (signed()[:-1] + "_", 403, Counter.TRACKING_ALTERED),
        (signed() + "A", 403, Counter.TRACKING_ALTERED),
        ("A" * 5000, 403, Counter.TRACKING_ALTERED),
        ("AQA" + signed()[3:], 410, Counter.TRACKING_EXPIRED),
        ("AQk" + signed()[3:], 403, Counter.TRACKING_ALTERED),
        ("..%2e%2e..", 403, Counter.TRACKING_ALTERED),
    ],
)
def test_a_token_that_is_none_leads_nowhere(
    path: str, text: str, status: int, counter: Counter
) -> None:
    """Cut, altered, too long, of a retired key, of an unknown one: refused with the reason, not logged."""
    tracker = Tracker()
    answer = tracker.ask(path + text)
    assert answer.status == status
    assert "location" not in answer.headers
    assert tracker.events == []
    assert tracker.count(counter) == 1


def test_a_token_of_the_future_is_refused() -> None:
    """Hosts' clocks may differ by minutes, not by hours: somebody's clock, or hand, is at work."""
    tracker = Tracker(now_s=NOW_S - 3600)
    assert tracker.ask(f"/i/{signed()}").status == 403
    tracker.now_s = NOW_S - 60
    assert tracker.ask(f"/i/{signed()}").status == 200


def test_a_percent_encoded_token_is_the_same() -> None:
    """Some who pass links on encode what need not be."""
    tracker = Tracker()
    text = "".join(f"%{ord(character):02x}" for character in signed())
    assert tracker.ask(f"/%69/{text}").status == 200
    assert tracker.ask(f"/c/{text}").status == 302
    assert [kind for kind, _ in tracker.params()] == ["impression", "click"]


def test_an_image_is_counted_when_it_is_asked_for() -> None:
    """What /ad?format=image led to: the impression, and then the picture."""
    tracker = Tracker()
    answer = tracker.ask(f"/i/{signed()}/image")
    assert answer.status == 302
    assert answer.headers["location"] == "/demo/a%20b.svg"
    assert tracker.params() == [("impression", {"request": {}, "event": EVENT})]


def test_a_creative_that_there_is_not_leads_nowhere() -> None:
    """Nor does a picture that is none."""
    tracker = Tracker()
    for path in (f"/c/{signed(creative=99)}", f"/i/{signed(creative=60)}/image"):
        answer = tracker.ask(path)
        assert answer.status == 404
        assert "location" not in answer.headers
    assert tracker.ask(f"/i/{signed()}/other").status == 404
    assert tracker.events == []
    assert tracker.count(Counter.TRACKING_UNKNOWN) == 2


def test_before_the_first_catalog_a_click_waits_and_a_beacon_counts() -> None:
    """A beacon's token says everything."""
    tracker = Tracker(rows=None)
    assert tracker.ask(f"/c/{signed()}").status == 503
    assert tracker.ask(f"/i/{signed()}").status == 200
    assert [kind for kind, _ in tracker.params()] == ["impression"]


@pytest.mark.parametrize("path", ["/i/", "/v/", "/c/"])
def test_what_the_log_cannot_take_is_not_promised(path: str) -> None:
    tracker = Tracker(log_takes=False)
    answer = tracker.ask(path + signed())
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert tracker.count(Counter.TRACKING_UNAVAILABLE) == 1


@pytest.mark.parametrize("path", ["/i/", "/v/", "/c/"])
def test_head_asks_and_does_nothing(path: str) -> None:
    """A scanner of links must not take the place of the person's own click."""
    tracker = Tracker()
    assert tracker.ask(path + signed(), method="HEAD").status in (200, 302)
    assert tracker.events == []


def test_programs_are_logged_and_marked() -> None:
    tracker = Tracker()
    tracker.ask(f"/i/{signed()}", {"user-agent": "Googlebot/2.1 (+http://www.google.com/bot.html)"})
    [(_, params)] = tracker.params()
    assert params["event"]["filtered"] == "bot: Googlebot"


def test_what_follows_from_a_filtered_decision_is_filtered() -> None:
    tracker = Tracker()
    tracker.ask(f"/i/{signed(filtered=True)}")
    [(_, params)] = tracker.params()
    assert params["event"]["filtered"] == "decision"


def test_more_than_people_can_do_is_logged_and_marked() -> None:
    """By address; what comes from elsewhere is not affected. Viewable ads do not count for it, and are judged
    by what does.
    """
    tracker = Tracker(max_events=2)
    for _ in range(5):
        tracker.ask(f"/v/{signed()}", {"x-forwarded-for": "203.0.113.9"})
    tracker.events.clear()
    for _ in range(3):
        tracker.ask(f"/i/{signed()}", {"x-forwarded-for": "203.0.113.9"})
    for kind in "iv":
        tracker.ask(f"/{kind}/{signed()}", {"x-forwarded-for": "198.51.100.7"})
    tracker.ask(f"/v/{signed()}", {"x-forwarded-for": "203.0.113.9"})
    marks = [params["event"].get("filtered") for _, params in tracker.params()]
    assert marks == [None, None, "rate", None, None, "rate"]
    # What is logged of the address is its network.
    networks = [event[6] for event in tracker.events]
    assert networks == [*["203.0.113.0"] * 3, *["198.51.100.0"] * 2, "203.0.113.0"]
    assert PEER[0] == "192.0.2.1"


@pytest.mark.parametrize(
    ("query", "headers", "kept"),
    [
        ("", {}, True),
        ("", {"sec-gpc": "1"}, False),
        ("", {"dnt": "1"}, False),
        ("?gdpr=1", {}, False),
        ("?gdpr=1&gdpr_consent=CPx", {}, True),
    ],
)
def test_a_user_id_is_kept_only_where_it_may_be(
    query: str, headers: dict[str, str], kept: bool
) -> None:
    """Also when the decision was made with one, and also one that stands in the request."""
    tracker = Tracker()
    more = "&uid=" if query else "?uid="
    tracker.ask(f"/i/{signed(uid=UID)}{query}{more}{UID.hex()}", headers)
    [(_, params)] = tracker.params()
    assert params["event"].get("uid") == (UID.hex() if kept else None)
    assert ("uid" in params["request"]) == kept


def test_keys_can_be_changed_while_tokens_are_about() -> None:
    """What was signed before is still counted."""
    tracker = Tracker()
    text = signed()
    old = KEYRING.keys
    try:
        KEYRING.replace([old[0]._replace(signs=False), old[0]._replace(id=2, secret=bytes(32))])
        assert tracker.ask(f"/i/{text}").status == 200
        assert Keyring(KEYRING.keys).sign(KEYRING.read(text.encode())) != text
        KEYRING.replace([old[0]._replace(secret=None)])
        assert tracker.ask(f"/i/{text}").status == 410
    finally:
        KEYRING.replace(old)


def test_a_landing_page_without_macros_is_taken_as_it_is() -> None:
    plain = {50: {**rows()["creative"][50], "click_url": "https://bücher.example/ä"}}
    tracker = Tracker(rows=rows(creative=plain))
    answer = tracker.ask(f"/c/{signed()}")
    assert answer.headers["location"] == "https://xn--bcher-kva.example/%C3%A4"
