"""The text of /metrics, read by Prometheus' own parser."""

from bisect import bisect_left
from collections import Counter as Tally

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from prefork_ads import metrics
from prefork_ads.metrics import (
    AD_MICROSECONDS,
    CELLS,
    INSERT_MICROSECONDS,
    LOG_MICROSECONDS,
    LOOKUP_KEYS,
    TRACK_ANSWERS,
    TRACK_MICROSECONDS,
    About,
    Counter,
    Gauge,
    Histogram,
    exposition,
)

ABOUT = About("1.2.3", 1_700_000_000.25, slots=4, open_to=2, crash_looping=1, workers=3)
HISTOGRAMS = [value for value in vars(metrics).values() if isinstance(value, Histogram)]


def families(text: bytes) -> dict[str, Metric]:
    """By the name of each family; nothing comes twice, and each says what it is."""
    result: dict[str, Metric] = {}
    for family in text_string_to_metric_families(text.decode()):
        assert family.documentation
        assert family.name not in result, "a family twice"
        series = [(sample.name, *sorted(sample.labels.items())) for sample in family.samples]
        assert len(series) == len(set(series)), "a series twice"
        result[family.name] = family
    return result


def values(family: Metric, suffix: str = "", **labels: str) -> list[float]:
    return [
        sample.value
        for sample in family.samples
        if sample.name == family.name + suffix and labels.items() <= sample.labels.items()
    ]


def show(counters: list[int], *gauges: tuple[int, list[int]]) -> dict[str, Metric]:
    return families(exposition(counters, gauges, ABOUT))


def test_every_counter_is_shown_once() -> None:
    counters = [1000 + index for index in range(CELLS)]
    shown = [
        value
        for family in show(counters).values()
        if family.type == "counter"
        for value in values(family, "_total")
    ]
    assert Tally(shown) == Tally(1000.0 + index for index in range(len(Counter)))


def test_every_gauge_is_shown() -> None:
    gauges = [(index + 1) * 1_000_000 for index in range(len(Gauge))]
    shown = {
        value
        for family in show([0] * CELLS, (0, gauges)).values()
        if family.type == "gauge"
        for sample in family.samples
        for value in (sample.value, sample.value * 1e3, sample.value * 1e6)
    }
    assert {float(value) for value in gauges} <= shown


def test_histograms_and_counters_do_not_overlap() -> None:
    """Each cell of a seat has one meaning, and none is left over."""
    cells = list(range(len(Counter)))
    for histogram in HISTOGRAMS:
        cells += range(histogram.first, histogram.end)
    assert sorted(cells) == list(range(CELLS))


def test_every_histogram_is_shown() -> None:
    cells = [0] * CELLS
    for times, histogram in enumerate(HISTOGRAMS, 1):
        histogram.observe(cells, 1, times)
    shown = [
        value
        for family in show(cells).values()
        if family.type == "histogram"
        for value in values(family, "_count")
    ]
    assert sorted(shown) == list(range(1, len(HISTOGRAMS) + 1))


@given(st.lists(st.tuples(st.integers(0, 2 * 10**7), st.integers(1, 100)), max_size=30))
def test_a_histogram_counts_what_is_no_larger_than_each_bound(
    observed: list[tuple[int, int]],
) -> None:
    """The definition of `le`, compared with counting everything anew for each bound."""
    cells = [0] * CELLS
    for value, times in observed:
        AD_MICROSECONDS.observe(cells, value, times)
    family = show(cells)["prefork_ads_request_duration_seconds"]
    buckets = {
        sample.labels["le"]: sample.value
        for sample in family.samples
        if sample.name.endswith("_bucket") and sample.labels["endpoint"] == "ad"
    }
    assert list(map(float, buckets)) == sorted(map(float, buckets))
    for bound, count in buckets.items():
        assert count == sum(times for value, times in observed if value / 1e6 <= float(bound))
    assert values(family, "_count", endpoint="ad") == [buckets["+Inf"]]
    [total] = values(family, "_sum", endpoint="ad")
    assert total == pytest.approx(sum(value * times for value, times in observed) / 1e6)
    assert values(family, "_count", endpoint="log") == [0]


@pytest.mark.parametrize("histogram", HISTOGRAMS)
def test_a_value_on_a_bound_belongs_to_it(histogram: Histogram) -> None:
    cells = [0] * CELLS
    for bound in histogram.bounds:
        histogram.observe(cells, bound)
        histogram.observe(cells, bound + 1)
    for bound in (histogram.bounds[0], histogram.bounds[-1]):
        assert histogram.buckets(cells)[bisect_left(histogram.bounds, bound)] >= 1
    assert histogram.count(cells) == 2 * len(histogram.bounds)
    assert histogram.buckets(cells)[-1] == 1
    assert histogram.sum(cells) == sum(2 * bound + 1 for bound in histogram.bounds)


def test_names_follow_the_conventions() -> None:
    for family in show([0] * CELLS, (0, [0] * len(Gauge))).values():
        assert family.name.startswith("prefork_ads_")
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")


def test_requests_are_told_apart_by_endpoint_and_status() -> None:
    counters = [0] * CELLS
    counters[Counter.AD_UNKNOWN], counters[Counter.LOG_UNAVAILABLE] = 5, 6
    requests = show(counters)["prefork_ads_requests"]
    assert len(requests.samples) == 9 + len(TRACK_ANSWERS)
    assert values(requests, "_total", endpoint="ad", status="204") == [5]
    assert values(requests, "_total", endpoint="log", status="503") == [6]


def test_each_answer_to_tracking_is_under_its_own_status() -> None:
    counters = [0] * CELLS
    for status, counter in TRACK_ANSWERS.items():
        counters[counter] = status
    requests = show(counters)["prefork_ads_requests"]
    shown = [sample for sample in requests.samples if sample.labels["endpoint"] == "track"]
    assert {int(sample.labels["status"]): sample.value for sample in shown} == {
        status: status for status in TRACK_ANSWERS
    }


def test_times_of_tracking_are_not_those_of_the_log() -> None:
    cells = [0] * CELLS
    TRACK_MICROSECONDS.observe(cells, 2_000_000, 3)
    family = show(cells)["prefork_ads_request_duration_seconds"]
    counts = {name: values(family, "_count", endpoint=name) for name in ("ad", "log", "track")}
    assert counts == {"ad": [0], "log": [0], "track": [3]}
    assert values(family, "_sum", endpoint="track") == [6]


@pytest.mark.parametrize("microseconds", [0, 1, 999_999, 2**63, 2**64 - 1])
def test_times_are_seconds(microseconds: int) -> None:
    cells = [0] * CELLS
    INSERT_MICROSECONDS.observe(cells, microseconds)
    family = show(cells)["prefork_ads_log_insert_duration_seconds"]
    assert values(family, "_sum") == [pytest.approx(microseconds / 1e6)]


def test_large_numbers_keep_their_digits() -> None:
    text = exposition([2**64 - 1] * CELLS, [], ABOUT)
    assert b"prefork_ads_log_rows_total 18446744073709551615\n" in text


def test_gauges_of_all_children_are_added_up() -> None:
    """The keeper's too; there may be none at all, before anybody is ready."""
    gauges = [0] * len(Gauge)
    gauges[Gauge.CONNECTIONS_OPEN] = 7
    shown = show([0] * CELLS, (0, gauges), (1, gauges), (-1, gauges))
    assert values(shown["prefork_ads_connections_open"]) == [21]
    assert values(show([0] * CELLS)["prefork_ads_connections_open"]) == [0]


def test_the_database_is_up_while_anybody_has_a_connection() -> None:
    connected, alone = [0] * len(Gauge), [0] * len(Gauge)
    connected[Gauge.READERS_CONNECTED] = 3
    up = show([0] * CELLS, (0, connected), (1, alone))["prefork_ads_database_up"]
    assert values(up, role="reader") == [1]
    assert values(up, role="writer") == [0]


def test_a_slot_with_two_children_is_one_series() -> None:
    """During a reload. Prometheus refuses a text that has a series twice."""
    old, new = [0] * len(Gauge), [0] * len(Gauge)
    old[Gauge.LOOP_LAG_MICROSECONDS], new[Gauge.LOOP_LAG_MICROSECONDS] = 5_000, 2_000
    old[Gauge.MEMORY_BYTES], new[Gauge.MEMORY_BYTES] = 100, 10
    shown = show([0] * CELLS, (1, old), (0, [0] * len(Gauge)), (1, new), (-1, old))
    delay = shown["prefork_ads_worker_event_loop_delay_seconds"]
    assert [sample.labels for sample in delay.samples] == [{"slot": "0"}, {"slot": "1"}]
    assert values(delay, slot="1") == [0.005]
    assert values(shown["prefork_ads_worker_memory_bytes"], slot="1") == [110]


def test_what_is_known_without_counting() -> None:
    shown = show([0] * CELLS)
    assert values(shown["prefork_ads_slots"]) == [4]
    assert values(shown["prefork_ads_slots_open"]) == [2]
    assert values(shown["prefork_ads_slots_crash_looping"]) == [1]
    assert values(shown["prefork_ads_workers"]) == [3]
    assert values(shown["prefork_ads_start_time_seconds"]) == [1_700_000_000.25]
    [build] = shown["prefork_ads_build_info"].samples
    assert build.value == 1
    assert build.labels["version"] == "1.2.3"
    assert build.labels["python"]


def test_an_observation_goes_into_shared_memory_as_into_a_list() -> None:
    words = memoryview(bytearray(8 * CELLS)).cast("Q")
    LOG_MICROSECONDS.observe(words, 120, 3)
    LOOKUP_KEYS.observe(words, 256)
    assert LOG_MICROSECONDS.count(words.tolist()) == 3
    assert LOOKUP_KEYS.sum(words.tolist()) == 256


def test_the_text_ends_with_a_line_end() -> None:
    assert exposition([0] * CELLS, [], ABOUT).endswith(b" 1\n")
