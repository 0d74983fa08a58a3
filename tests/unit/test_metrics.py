"""The text of /metrics, read by Prometheus' own parser."""

from collections import Counter as Tally

import pytest
from prometheus_client.parser import text_string_to_metric_families

from prefork_ads.metrics import Counter, Gauge, exposition

MICROSECONDS = {Counter.LOOKUP_MICROSECONDS, Counter.LOG_MICROSECONDS}


def samples(text: bytes) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Each family's type and name, and its values by labels."""
    result: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text.decode()):
        assert family.documentation
        for sample in family.samples:
            by_labels = result.setdefault(f"{family.type} {sample.name}", {})
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in by_labels, "a series twice"
            by_labels[labels] = sample.value
    return result


def test_every_counter_and_gauge_is_shown_once_and_as_what_it_is() -> None:
    # A value of its own for each, which survives the division by a million.
    counters = [
        (index + 1) * (1_000_000 if index in MICROSECONDS else 1) for index in range(len(Counter))
    ]
    gauges = [index + 101 for index in range(len(Gauge))]
    shown: dict[str, list[float]] = {"counter": [], "gauge": []}
    for name, series in samples(exposition(counters, gauges)).items():
        shown[name.split()[0]] += series.values()
    assert Tally(shown["counter"]) == Tally(float(index + 1) for index in range(len(Counter)))
    assert Tally(shown["gauge"]) == Tally(float(value) for value in gauges)


def test_names_follow_the_conventions() -> None:
    for name in samples(exposition([0] * len(Counter), [0] * len(Gauge))):
        kind, _, metric = name.partition(" ")
        assert metric.startswith("prefork_ads_")
        assert metric.endswith("_total") == (kind == "counter")


def test_requests_are_told_apart_by_endpoint_and_status() -> None:
    counters = [0] * len(Counter)
    counters[Counter.AD_UNKNOWN], counters[Counter.LOG_UNAVAILABLE] = 5, 6
    requests = samples(exposition(counters, [0] * len(Gauge)))["counter prefork_ads_requests_total"]
    assert len(requests) == 7
    assert requests[("endpoint", "ad"), ("status", "204")] == 5
    assert requests[("endpoint", "log"), ("status", "503")] == 6


@pytest.mark.parametrize("microseconds", [0, 1, 999_999, 2**63, 2**64 - 1])
def test_times_are_seconds(microseconds: int) -> None:
    counters = [0] * len(Counter)
    counters[Counter.LOG_MICROSECONDS] = microseconds
    shown = samples(exposition(counters, [0] * len(Gauge)))["counter prefork_ads_log_seconds_total"]
    assert shown[()] == pytest.approx(microseconds / 1e6)


def test_large_numbers_keep_their_digits() -> None:
    counters = [2**64 - 1] * len(Counter)
    assert b"prefork_ads_log_rows_total 18446744073709551615\n" in exposition(
        counters, [0] * len(Gauge)
    )


def test_further_gauges() -> None:
    text = exposition([0] * len(Counter), [0] * len(Gauge), [("prefork_ads_workers", "Alive.", 4)])
    assert samples(text)["gauge prefork_ads_workers"] == {(): 4.0}
    assert text.endswith(b"\n")
