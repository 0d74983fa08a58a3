"""The pure parts of the fault test bed: what is to happen, and what is made of what happened."""

import asyncio
import hashlib
import itertools
import json
import random
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from torturelib import report, schedule, verdict, visitors  # noqa: E402
from torturelib.clients import AWKWARD, ClientSettings, notes  # noqa: E402
from torturelib.comparing import Comparison, Counted, Sample  # noqa: E402
from torturelib.errors import TortureError  # noqa: E402
from torturelib.exchange import Answer, Cut, Exchange, Left, WrongAnswer  # noqa: E402
from torturelib.faults import IN_HAND, NO_LOOKUP, NOT_THERE, NOTHING  # noqa: E402
from torturelib.kinds import ALL, BY_NAME  # noqa: E402
from torturelib.truth import Gap, Header, Request, Truth, TruthWriter  # noqa: E402
from torturelib.verdict import CALM, Window  # noqa: E402

KINDS = {name: kind.kind() for name, kind in BY_NAME.items()}
HEADER = Header(run="abc", seed=7, began_s=100.0, began_at="2026-11-22T10:00:00+00:00")
COSTS = {"kill": IN_HAND, "away": NO_LOOKUP, "reload": NOTHING, "restart": NOT_THERE}
COUNTED = Counted(5, 7, 5, 0, 0, 0, 0, 0, 0)
CLEAN = Comparison(10, 9, 10, 0, 0, 0, 1, 0, 0, 0, COUNTED)


# What is to happen.


def test_a_seed_says_everything() -> None:
    """A run that failed can be repeated."""
    kinds = list(KINDS.values())
    one, same = (list(itertools.islice(schedule.endless(7, kinds), 100)) for _ in range(2))
    assert one == same
    assert one != list(itertools.islice(schedule.endless(8, kinds), 100))


def test_every_kind_comes_before_any_comes_again() -> None:
    """A short run, too, has seen most of them."""
    kinds = list(KINDS.values())
    steps = itertools.islice(schedule.endless(1, kinds), 3 * len(kinds))
    assert Counter(step.kind for step in steps) == dict.fromkeys(KINDS, 3)


def test_only_what_may_happen_inside_happens_inside() -> None:
    """A reload inside an outage, but no outage inside a reload."""
    kinds = list(KINDS.values())
    nested = [s for s in itertools.islice(schedule.endless(3, kinds), 500) if s.inner]
    assert nested
    for step in nested:
        assert step.inner is not None
        assert KINDS[step.kind].outer
        assert KINDS[step.inner].inner
        assert 0 <= step.inner_after_s <= step.hold_s


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_is_carried_out_exactly(seed: int) -> None:
    """Also when some of its faults happen inside others."""
    plan = {"worker-kill": 10, "postgres-kill": 7, "master-kill": 3}
    steps = list(schedule.planned(seed, KINDS, plan))
    done = Counter(step.kind for step in steps) + Counter(s.inner for s in steps if s.inner)
    assert done == plan
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))


def test_plans_are_read() -> None:
    known = ("worker-kill", "reload")
    assert schedule.parse_plan(" worker-kill*3, reload,reload", known) == {
        "worker-kill": 3,
        "reload": 2,
    }


@pytest.mark.parametrize("text", ["", "nothing*3", "reload*", "reload*0", "reload*x", "reload*-1"])
def test_plans_with_mistakes_are_refused(text: str) -> None:
    known = ("worker-kill", "reload")
    if text == "reload*":
        assert schedule.parse_plan(text, known) == {"reload": 1}
        return
    with pytest.raises(TortureError):
        schedule.parse_plan(text, known)


def test_every_kind_says_what_it_is_and_may_cost() -> None:
    """By names that differ; the costs are those of outcomes that there are."""
    assert len(BY_NAME) == len(ALL)
    outcomes = {"cut", "refused", "503"}
    for kind in ALL:
        assert kind.about
        assert {outcome for _, outcome in kind.may_cost} <= outcomes


# The truth.


def test_the_truth_is_read_as_it_was_written(tmp_path: Path) -> None:
    """And half a line at its end, of a client that was killed, is no truth."""
    path = tmp_path / "truth.jsonl"
    writer = TruthWriter(path, HEADER)
    writer.request(1, "log", "keep", 100.5, 0.25, "204")
    writer.gap("ad", 100.0, 103.0)
    writer.request(2, "ad", "close", 101.0, 0.5, "cut")
    writer.close()
    with path.open("a") as file:
        file.write('[3, "log", "ke')
    truth = Truth(path)
    assert truth.header == HEADER
    assert list(truth.requests()) == [
        Request(1, "log", "keep", 0.5, 0.25, "204"),
        Request(2, "ad", "close", 1.0, 0.5, "cut"),
    ]
    assert [request.number for request in truth.failures()] == [2]
    assert list(truth.gaps()) == [Gap("ad", 0.0, 3.0)]


def test_settings_reach_the_clients() -> None:
    settings = ClientSettings(8080, 6, 500.0, HEADER, "truth", "pulse", "ads")
    assert ClientSettings.from_json(settings.as_json()) == settings


def test_notes_carry_their_checksum() -> None:
    """Through the query string and with every awkward character."""
    made = [parse_qs(note, keep_blank_values=True) for note in notes(random.Random(1), 300)]
    for note in made:
        digest = hashlib.md5(note["note"][0].encode(), usedforsecurity=False).hexdigest()
        assert note["sum"] == [digest[:16]]
    texts = "".join(note["note"][0] for note in made)
    assert all(piece in texts for piece in AWKWARD)


# One connection.

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
EMPTY = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


class FakeTransport(asyncio.Transport):
    """The other end of the connection is the test."""

    def write(self, data: object) -> None:
        """What was asked is not looked at."""

    def close(self) -> None:
        """Nor is this."""


def answer_of(*pieces: bytes, end: bool = False) -> Answer:
    async def ask() -> Answer:
        exchange = Exchange()
        exchange.connection_made(FakeTransport())
        (asked,) = exchange.ask([b"?"])
        for piece in pieces:
            exchange.data_received(piece)
        if end:
            exchange.connection_lost(None)
        return await asked

    return asyncio.run(ask())


def test_an_answer_is_complete_or_it_is_none() -> None:
    """However it is cut into pieces."""
    assert answer_of(*(OK[i : i + 1] for i in range(len(OK)))) == Answer(200, b"hi", closing=False)
    assert answer_of(EMPTY) == Answer(204, b"", closing=True)
    for length in range(len(OK)):
        with pytest.raises(Cut):
            answer_of(OK[:length], end=True)


def test_pipelined_answers_come_in_order() -> None:
    """Those behind an answer that closes are the client's to ask again; those that are cut are not."""

    async def ask(end: bytes) -> list[object]:
        exchange = Exchange()
        exchange.connection_made(FakeTransport())
        asked = exchange.ask([b"?"] * 4)
        exchange.data_received(OK + OK.replace(b"hi", b"ho") + end)
        exchange.connection_lost(None)
        return await asyncio.gather(*asked, return_exceptions=True)

    first, second, third, fourth = asyncio.run(ask(EMPTY))
    assert (first, second) == (Answer(200, b"hi", closing=False), Answer(200, b"ho", closing=False))
    assert third == Answer(204, b"", closing=True)
    assert isinstance(fourth, Left)
    assert all(isinstance(answer, Cut) for answer in asyncio.run(ask(OK[:-1]))[2:])


def test_what_nobody_asked_for_is_noticed() -> None:
    """At the next question."""

    async def ask() -> Answer:
        exchange = Exchange()
        exchange.connection_made(FakeTransport())
        (first,) = exchange.ask([b"?"])
        exchange.data_received(OK + b"x")
        await first
        (second,) = exchange.ask([b"?"])
        return await second

    with pytest.raises(WrongAnswer):
        asyncio.run(ask())


@pytest.mark.parametrize(
    "data",
    [b"HTTP/1.1 200 OK\r\n\r\n", b"200 OK\r\n\r\n", b"x" * 9000],
    ids=["no length", "no HTTP", "no end"],
)
def test_what_is_no_answer_is_noticed(data: bytes) -> None:
    with pytest.raises(WrongAnswer):
        answer_of(data)


# The verdict.

WINDOWS = [
    Window(1, ("kill",), 10.0, 12.0),
    Window(2, ("away", "kill"), 20.0, 25.0),
    Window(3, ("reload",), 30.0, 31.0),
]


def judged(*failures: Request, gaps: tuple[Gap, ...] = ()) -> verdict.Judgement:
    return verdict.judge_requests(WINDOWS, COSTS, failures, gaps)


@pytest.mark.parametrize(
    ("request_", "kind", "broken"),
    [
        (Request(1, "log", "keep", 10.5, 0.1, "cut"), "kill", False),
        (Request(2, "log", "keep", 9.9, 0.2, "cut"), "kill", False),
        (Request(3, "log", "keep", 9.0, 30.0, "cut"), "kill", False),
        (Request(4, "ad", "keep", 21.0, 0.1, "503"), "away + kill", False),
        (Request(5, "log", "keep", 21.0, 0.1, "cut"), "away + kill", False),
        (Request(6, "log", "keep", 21.0, 0.1, "503"), "away + kill", True),
        (Request(7, "ad", "close", 30.5, 0.1, "cut"), "reload", True),
        (Request(8, "log", "keep", 15.0, 0.1, "cut"), CALM, True),
        (Request(9, "log", "keep", 10.5, 0.1, "wrong"), "kill", True),
        (Request(10, "log", "keep", 12.5, 0.1, "cut"), CALM, True),
    ],
)
def test_a_failure_is_held_against_the_fault_of_its_time(
    request_: Request, kind: str, broken: bool
) -> None:
    """One that a fault of its time may cost is only counted; any other breaks a promise."""
    judgement = judged(request_)
    assert judgement.by_kind[kind].failed.total() == 1
    assert judgement.broken_count == broken
    assert len(judgement.broken) == broken


def test_many_failures_are_counted_and_few_shown() -> None:
    requests = [Request(n, "log", "keep", 15.0, 0.1, "cut") for n in range(1000)]
    judgement = judged(*requests)
    assert judgement.broken_count == 1000
    assert len(judgement.broken) == verdict.SHOWN


def test_the_longest_gap_belongs_to_the_fault() -> None:
    gaps = (Gap("log", 10.1, 10.6), Gap("log", 10.7, 11.9), Gap("ad", 14.0, 14.5))
    by_kind = judged(gaps=gaps).by_kind
    assert by_kind["kill"].longest_gap_s == {"log": pytest.approx(1.2)}
    assert by_kind[CALM].longest_gap_s == {"ad": pytest.approx(0.5)}
    assert "1.20 s" in report.table(by_kind, {})


def test_a_clean_comparison_is_no_reproach() -> None:
    assert verdict.judge_tables(CLEAN, [], WINDOWS) == []


@pytest.mark.parametrize("figure", ["lost", "duplicates", "damaged", "strange", "rejected"])
def test_every_difference_is_a_reproach(figure: str) -> None:
    counts = {name: getattr(CLEAN, name) for name in Comparison.__dataclass_fields__}
    wrong = verdict.judge_tables(Comparison(**{**counts, figure: 1}), [], WINDOWS)
    assert len(wrong) == 1


@pytest.mark.parametrize(
    "figure",
    [
        *("uncounted", "made_up", "rollup_requests_off", "rollup_events_off"),
        *("other_campaign", "over_goal"),
    ],
)
def test_every_difference_of_what_counts_is_a_reproach(figure: str) -> None:
    found = replace(CLEAN, ads=replace(COUNTED, **{figure: 1}))
    assert len(verdict.judge_tables(found, [], WINDOWS)) == 1


def test_a_visit_tells_of_what_it_was_shown_and_of_nothing_else() -> None:
    """Each link of the answer, some of them twice, and none without an ad."""
    link = "http://torture/%s/TOKEN"
    shown = {
        "decision": "019a0000-0000-7000-8000-000000000001",
        "campaign": "plain",
        "urls": {name: link % name[0] for name in ("impression", "viewable", "click")},
    }
    told: Counter[tuple[str, str]] = Counter()
    for seed in range(200):
        visit = visitors.Visit(random.Random(seed))
        assert visit.take(200, json.dumps(shown).encode())
        told.update(visit.events())
    assert set(told) == {("impression", "i/TOKEN"), ("viewable", "v/TOKEN"), ("click", "c/TOKEN")}
    assert told["impression", "i/TOKEN"] > 200 * 0.9
    assert not visitors.Visit(random.Random(0)).take(204, b"")
    assert not visitors.Visit(random.Random(0)).take(200, b'{"decision": "7"}')


def test_the_lost_are_told_with_the_fault_that_may_have_lost_them() -> None:
    """The one in which they were sent, or the next."""
    counts = {name: getattr(CLEAN, name) for name in Comparison.__dataclass_fields__}
    sample = Sample(17, "log", 9.9, 0.01, 0)
    found = Comparison(
        **{**counts, "lost": 3, "lost_at_s": (9.9, 10.5, 40.0), "samples": (sample,)}
    )
    wrong = "\n".join(verdict.judge_tables(found, ["journal/a.tsv"], WINDOWS))
    assert "2 lost in or before step 1, kill" in wrong
    assert "1 lost after the last step" in wrong
    assert "event 17 of /log" in wrong
    assert "journal/a.tsv" in wrong


def test_bugs_in_the_log_are_a_reproach() -> None:
    line = "2026-11-22T10:00:00.000Z worker-0[1] critical: the writer failed"
    assert verdict.judge_log(["…", line]) != []
    assert verdict.judge_log(["2026-11-22T10:00:00.000Z master[1] error: worker killed"]) == []
