"""Every answer to a beacon, a click or a conversion is counted once, under the status that it has."""

from typing import Any

import pytest

from prefork_ads.metrics import TRACK_ANSWERS
from prefork_ads.process.worker import ANSWERED
from tests.unit.tracking_bed import NOW_S, WINDOW_S, Tracker, signed

TOKEN = signed()
RETIRED = "AQA" + TOKEN[3:]
ORDER = "/conv?advertiser=acme&order=1"

# Of each handler, by every way out of it: the path, the method, the status, and what is special.
ANSWERS: list[tuple[str, str, int, dict[str, Any]]] = [
    (f"/i/{TOKEN}", "GET", 200, {}),
    (f"/i/{TOKEN}", "POST", 204, {}),
    (f"/i/{TOKEN}", "HEAD", 200, {}),
    (f"/%69/{TOKEN}", "GET", 200, {}),
    (f"/i/{TOKEN}/image", "GET", 302, {}),
    ("/i/none", "GET", 403, {}),
    ("/i/none/image", "GET", 403, {}),
    (f"/i/{TOKEN}/other", "GET", 404, {}),
    (f"/i/{signed(creative=60)}/image", "GET", 404, {}),
    (f"/i/{RETIRED}", "GET", 410, {}),
    (f"/i/{TOKEN}", "POST", 410, {"now_s": NOW_S + WINDOW_S}),
    (f"/i/{TOKEN}/image", "GET", 410, {"now_s": NOW_S + WINDOW_S}),
    (f"/i/{TOKEN}", "POST", 503, {"log_takes": False}),
    (f"/i/{TOKEN}/image", "GET", 503, {"log_takes": False}),
    (f"/i/{TOKEN}/image", "GET", 503, {"rows": None}),
    (f"/v/{TOKEN}", "GET", 200, {}),
    (f"/v/{TOKEN}", "POST", 204, {}),
    ("/v/none", "POST", 403, {}),
    (f"/v/{RETIRED}", "POST", 410, {}),
    (f"/v/{TOKEN}", "POST", 503, {"log_takes": False}),
    (f"/c/{TOKEN}", "GET", 302, {}),
    (f"/c/{TOKEN}", "HEAD", 302, {}),
    # Late, and led on all the same.
    (f"/c/{TOKEN}", "GET", 302, {"now_s": NOW_S + 10**6}),
    ("/c/none", "GET", 403, {}),
    (f"/c/{signed(creative=99)}", "GET", 404, {}),
    (f"/c/{RETIRED}", "GET", 410, {}),
    (f"/c/{TOKEN}", "GET", 503, {"log_takes": False}),
    (f"/c/{TOKEN}", "GET", 503, {"rows": None}),
    (ORDER, "GET", 200, {}),
    (ORDER, "POST", 204, {}),
    (ORDER, "HEAD", 200, {}),
    ("/conv?order=1", "GET", 400, {}),
    (f"{ORDER}&click=none", "POST", 403, {}),
    ("/conv?advertiser=nobody&order=1", "GET", 404, {}),
    (f"{ORDER}&click={RETIRED}", "POST", 410, {}),
    (ORDER, "GET", 503, {"log_takes": False}),
    (ORDER, "GET", 503, {"rows": None}),
]


def counted(tracker: Tracker) -> dict[int, int]:
    """By status, without what did not occur."""
    found = {status: tracker.count(counter) for status, counter in TRACK_ANSWERS.items()}
    return {status: count for status, count in found.items() if count}


@pytest.mark.parametrize(("path", "method", "status", "special"), ANSWERS)
def test_an_answer_counts_once_under_its_status(
    path: str, method: str, status: int, special: dict[str, Any]
) -> None:
    tracker = Tracker(**special)
    assert tracker.ask(path, method=method).status == status
    assert counted(tracker) == {status: 1}
    assert tracker.ask(path, method=method).status == status
    assert counted(tracker) == {status: 2}
    assert sum(tracker.count(counter) for counter in ANSWERED) == 2, "for --max-requests"


def test_each_status_that_is_counted_occurs() -> None:
    """Else its series would be zero for ever, and look as if all were well."""
    assert {status for _, _, status, _ in ANSWERS} == set(TRACK_ANSWERS)


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        (f"/c/{TOKEN}", "POST", 405),
        ("/conv", "PUT", 405),
        (f"/i/{TOKEN}", "OPTIONS", 204),
        (f"/x/{TOKEN}", "GET", 404),
        ("/conv/", "GET", 404),
        ("/tag.js", "GET", 200),
    ],
)
def test_what_no_handler_of_tracking_answers_is_not_counted(
    path: str, method: str, status: int
) -> None:
    tracker = Tracker()
    assert tracker.ask(path, method=method).status == status
    assert counted(tracker) == {}


def test_a_handler_that_fails_has_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol answers for it, and has a counter of its own."""

    def breaks(_: Tracker, line: bytes) -> bool:
        raise ValueError(line)

    monkeypatch.setattr(Tracker, "_append", breaks)
    tracker = Tracker()
    for path in (f"/i/{TOKEN}", f"/c/{TOKEN}", ORDER):
        assert tracker.ask(path).status == 500
    assert counted(tracker) == {}
