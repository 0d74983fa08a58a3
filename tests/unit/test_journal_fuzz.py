"""Any course of events, and any bytes in a file, against plain models of what must come of them.

PREFORK_ADS_TEST_EXAMPLES sets how many are tried; the default takes some seconds.
"""

import contextlib
import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from prefork_ads.events import lines as lines_module
from prefork_ads.events import own_segment
from prefork_ads.events.event import EventClock
from prefork_ads.events.event import line as make_line
from prefork_ads.events.journal import IDLE_S, UNREADABLE_S, Batch, Journal, JournalFailed
from prefork_ads.events.lines import why_bad
from prefork_ads.events.parameters import (
    MalformedBody,
    add_form,
    add_json,
    parse_query,
    to_json,
)
from prefork_ads.events.segments import (
    SUFFIX,
    AdoptedSegment,
    adopt,
    list_segments,
    new_stream,
    remove_leftovers,
    segment_name,
)
from prefork_ads.events.uuid7 import Uuid7
from tests.unit.journal_bed import (
    BEGAN,
    Clock,
    FaultyOs,
    event,
    make_journal,
    numbers_of,
)

EXAMPLES: Final = int(os.environ.get("PREFORK_ADS_TEST_EXAMPLES", "400"))
FUZZ = settings(max_examples=EXAMPLES, deadline=None)
COURSES = settings(max_examples=max(EXAMPLES // 6, 1), stateful_step_count=40, deadline=None)

EVENT_BYTES: Final = len(event(1)) + 1
bounds = st.tuples(st.integers(1, 5), st.integers(1, 6 * EVENT_BYTES))


class Database:
    """Rows and ledger, which move together, and can lose their last transactions together."""

    def __init__(self) -> None:
        self.ledger: dict[str, int] = {}
        self.transactions: list[tuple[Batch, list[int]]] = []

    def insert(self, batch: Batch) -> int:
        """What the shipping statement does; where the ledger stands afterwards."""
        if self.ledger.get(batch.segment, 0) == batch.before:
            self.transactions.append((batch, numbers_of(batch.data)))
            self.ledger[batch.segment] = batch.after
        return self.ledger.get(batch.segment, 0)

    def lose_last(self) -> None:
        batch, _ = self.transactions.pop()
        self.ledger[batch.segment] = batch.before

    def rows(self) -> list[int]:
        return [number for _, numbers in self.transactions for number in numbers]


class JournalMachine(RuleBasedStateMachine):
    """One worker after the other on one directory; each ends by a kill, and the rest is adopted."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.faults = FaultyOs()
        self.patch.setattr(own_segment, "os", self.faults)
        self.patch.setattr(lines_module, "os", self.faults)
        self.home = tempfile.TemporaryDirectory()
        self.directory = Path(self.home.name) / "journal"
        self.clock = Clock()
        self.database = Database()
        self.number = 0
        self.waiting: list[int] = []
        # What clients were told, and what was refused and may be stored all the same.
        self.acknowledged: list[int] = []
        self.perhaps: set[int] = set()
        self.unsynced: list[int] = []

    @initialize(events=st.integers(1, 8), keep_shipped_s=st.sampled_from([0.0, 1.0]))
    def start(self, events: int, keep_shipped_s: float) -> None:
        """A worker is born."""
        self.segment_bytes = events * EVENT_BYTES
        self.keep_shipped_s = keep_shipped_s
        self.journal = self.new_journal()

    def new_journal(self) -> Journal:
        return make_journal(
            self.directory,
            self.segment_bytes,
            keep_shipped_s=self.keep_shipped_s,
            clock=self.clock,
        )

    @rule(count=st.integers(1, 5))
    def append(self, count: int) -> None:
        for _ in range(count):
            self.number += 1
            # Of different lengths: positions must not be a matter of counting.
            taken = self.journal.append(event(self.number, b"x" * (self.number % 7)))
            assert taken != self.journal.failing
            if taken:
                self.waiting.append(self.number)

    @rule()
    def write(self) -> None:
        waiting, self.waiting = self.waiting, []
        cutting_fails = bool(self.faults.truncate_error)
        try:
            self.journal.write()
        except JournalFailed:
            assert self.journal.failing
            if cutting_fails:
                self.perhaps.update(waiting)
        else:
            self.acknowledged += waiting

    @rule(
        code=st.sampled_from([errno.ENOSPC, errno.EIO, errno.EFBIG]),
        lines=st.integers(0, 3),
        more=st.integers(0, EVENT_BYTES - 1),
        cutting_fails=st.booleans(),
    )
    def write_that_fails(self, code: int, lines: int, more: int, cutting_fails: bool) -> None:
        self.append(4)
        if self.waiting:
            self.faults.write_error = code
            self.faults.write_bytes = lines * EVENT_BYTES + more
            self.faults.truncate_error = errno.EROFS if cutting_fails else 0
            self.write()
            self.faults.write_error = self.faults.write_bytes = self.faults.truncate_error = 0

    @rule(by=bounds)
    def ship(self, by: tuple[int, int]) -> None:
        batch = self.journal.next_batch(*by)
        if batch is not None:
            position = self.database.insert(batch)
            if position == batch.after:
                self.journal.shipped(batch)
            else:
                assert self.journal.rewind(batch.segment, position)

    @rule(by=bounds, committed=st.booleans())
    def ship_with_unknown_outcome(self, by: tuple[int, int], committed: bool) -> None:
        batch = self.journal.next_batch(*by)
        if batch is not None and committed:
            self.database.insert(batch)

    @rule()
    def reconnect(self) -> None:
        """The ledger is the truth."""
        for name, _, _ in self.journal.segments():
            assert self.journal.rewind(name, self.database.ledger.get(name, 0))

    @precondition(lambda self: self.database.transactions)
    @rule(count=st.integers(1, 4))
    def fail_over(self, count: int) -> None:
        """To a replica that lags, by no more than what is still held: beyond that nobody can help."""
        for _ in range(count):
            held = {name for name, _, _ in self.journal.segments()}
            if self.database.transactions and self.database.transactions[-1][0].segment in held:
                self.database.lose_last()
        self.reconnect()

    @rule()
    def drop(self) -> None:
        for name in self.journal.drop_shipped():
            assert not (self.directory / (name + SUFFIX)).exists()
            self.database.ledger.pop(name, None)

    @rule(seconds=st.sampled_from([0.25, 1.0, IDLE_S, UNREADABLE_S]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.journal.tend()
        assert self.journal.oldest_unshipped_s >= 0

    @rule(works=st.booleans())
    def sync(self, works: bool) -> None:
        self.faults.sync_error = 0 if works else errno.EIO
        with contextlib.suppress(JournalFailed):
            self.journal.sync()
        self.faults.sync_error = 0

    @rule(by=bounds)
    def unreadable(self, by: tuple[int, int]) -> None:
        self.faults.read_error = errno.EIO
        assert self.journal.next_batch(*by) is None
        self.faults.read_error = 0

    @rule(by=bounds)
    def kill(self, by: tuple[int, int]) -> None:
        """The kernel closes what the dead had open; others adopt what it left."""
        for segment in (*self.journal._segments, *self.journal._finished.values()):
            segment.close()
        self.waiting.clear()
        self.adopt_all(*by)
        self.journal = self.new_journal()

    @rule(by=bounds)
    def close(self, by: tuple[int, int]) -> None:
        self.write()
        for name in self.journal.close():
            self.database.ledger.pop(name, None)
        self.adopt_all(*by)
        self.journal = self.new_journal()

    def adopt_all(self, max_rows: int, max_bytes: int) -> None:
        for found in list_segments(self.directory):
            segment = adopt(found.path)
            assert segment is not None
            with segment:
                assert segment.start_at(self.database.ledger.get(segment.name, 0))
                while (batch := segment.next_batch(max_rows, max_bytes)) is not None:
                    assert self.database.insert(batch) == batch.after
                    segment.shipped(batch)
                assert segment.bad.count == 0
                assert segment.remove()
                self.database.ledger.pop(segment.name, None)
        assert remove_leftovers(self.directory) == []

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "journal"):
            return
        held = self.journal.segments()
        assert self.journal.backlog_bytes == sum(size - shipped for _, shipped, size in held)
        rows = 0
        for name, shipped, size in held:
            data = (self.directory / (name + SUFFIX)).read_bytes()
            assert len(data) >= size
            rows += data[shipped:size].count(b"\n")
        assert self.journal.backlog_rows == rows
        assert len({name for name, _, _ in held}) == len(held)

    def teardown(self) -> None:
        try:
            if hasattr(self, "journal"):
                self.kill((5, 1 << 20))
                rows = self.database.rows()
                assert len(rows) == len(set(rows)), "counted twice"
                assert set(self.acknowledged) <= set(rows), "lost"
                assert set(rows) <= set(self.acknowledged) | self.perhaps, "never acknowledged"
                assert not any(self.directory.iterdir() if self.directory.exists() else ())
                assert self.database.ledger == {}
        finally:
            self.patch.undo()
            self.home.cleanup()


def test_any_course_of_events() -> None:
    run_state_machine_as_test(JournalMachine, settings=COURSES)


# -- any bytes ---------------------------------------------------------------------------------------

good_line = st.integers(0, 999).map(event)
mutated_line = st.builds(
    lambda line, at, byte: line[: at % len(line)] + bytes([byte]) + line[at % len(line) + 1 :],
    good_line,
    st.integers(0, 1000),
    st.integers(0, 255),
)
cut_line = st.builds(lambda line, at: line[: at % len(line)], good_line, st.integers(0, 1000))
piece = st.one_of(
    good_line.map(lambda line: line + b"\n"),
    good_line.map(lambda line: line + b"\n"),
    good_line,
    mutated_line.map(lambda line: line + b"\n"),
    cut_line,
    st.binary(max_size=40),
    st.integers(1, 200).map(bytes),
    st.just(b"\n"),
)
contents = st.lists(piece, max_size=20).map(b"".join)


def judged(data: bytes) -> tuple[list[bytes], list[tuple[int, int, str]], int]:
    """Good lines, bad ones with offset, size and reason, and torn bytes, the plain way."""
    *lines, tail = data.split(b"\n")
    good, bad, offset = [], [], 0
    for line in lines:
        reason = why_bad(line)
        if reason:
            bad.append((offset, len(line) + 1, reason))
        else:
            good.append(line)
        offset += len(line) + 1
    if 0 in tail:
        bad.append((offset, len(tail), "has NUL bytes and no end"))
        tail = b""
    return good, bad, len(tail)


def read(
    segment: AdoptedSegment, max_rows: int, max_bytes: int
) -> tuple[list[bytes], list[tuple[int, int, str]], int]:
    good, position = [], 0
    while (batch := segment.next_batch(max_rows, max_bytes)) is not None:
        lines = batch.data.split(b"\n")
        assert lines.pop() == b""
        assert batch.rows == len(lines) <= max_rows
        assert batch.before == position < batch.after
        # At least one line; more only within the bound.
        assert batch.after - batch.before <= max_bytes or len(lines) <= 1
        position = batch.after
        good += lines
        segment.shipped(batch)
    bad = [(found.offset, found.size, found.reason) for found in segment.bad.kept]
    assert len(bad) == segment.bad.count
    return good, bad, segment.torn_bytes


@FUZZ
@given(contents, bounds, st.integers(1, 300), st.integers(0, 2000))
def test_any_bytes_are_judged_line_by_line(
    data: bytes, by: tuple[int, int], piece_bytes: int, start: int
) -> None:
    """Whatever the read size, and from whatever line the ledger says."""
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "_PIECE_BYTES", piece_bytes)
        path = Path(home) / (segment_name(new_stream("fuzz", 1, BEGAN), 1) + SUFFIX)
        path.write_bytes(data)
        segment = adopt(path)
        assert segment is not None
        with segment:
            assert read(segment, *by) == judged(data)
            told, newline = segment.descriptions(), b"\n"
            assert [text.partition(":")[0] for text in told] == [
                f"line {data[: found.offset].count(newline) + 1}, byte {found.offset}"
                for found in segment.bad.kept
            ]
        again = adopt(path)
        assert again is not None
        with again:
            # The ledger may point anywhere: nothing before it is read.
            again.start_at(start)
            rest = b""
            while (batch := again.next_batch(*by)) is not None:
                rest += batch.data
                again.shipped(batch)
            assert rest == b"".join(line + b"\n" for line in judged(data[start:])[0])


@FUZZ
@given(st.binary())
def test_a_judged_line_is_safe_to_send(data: bytes) -> None:
    """What the shipping statements rely on: text without NUL, eight fields, a day."""
    for line in data.split(b"\n"):
        if not why_bad(line):
            text = line.decode()
            assert "\0" not in text
            assert len(text.split("\t")) == 8


# What the parser lets through as a header's value.
header = st.none() | st.binary().map(
    lambda raw: bytes(byte for byte in raw if byte == 9 or (byte >= 32 and byte != 127))
)
json_number = st.from_regex(
    rb"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?", fullmatch=True
)
json_body = st.one_of(
    st.binary(),
    json_number,
    st.text().map(lambda text: json.dumps({text: text}).encode()),
    st.text().map(lambda text: json.dumps([text, {"a": text}], ensure_ascii=False).encode()),
)


@FUZZ
@given(
    query=st.binary().map(lambda raw: raw.replace(b"\0", b"")),
    form=st.binary(),
    body=json_body,
    user_agent=header,
    referer=header,
    address=st.sampled_from(["", "192.0.2.1", "2001:db8::1"]),
    language=header,
    milliseconds=st.integers(0, 253_402_300_799_999),
)
def test_no_event_of_ours_is_ever_judged_bad(
    query: bytes,
    form: bytes,
    body: bytes,
    user_agent: bytes | None,
    referer: bytes | None,
    address: str,
    language: bytes | None,
    milliseconds: int,
) -> None:
    """A judge that is wrong about a good line would keep an acknowledged event out of the table."""
    parameters = parse_query(query)
    add_form(parameters, form)
    try:
        add_json(parameters, body)
        params = to_json(parameters)
    except MalformedBody:
        params = to_json(parse_query(query))
    stamp = EventClock(Uuid7(), lambda: milliseconds * 1_000_000).stamp()
    event_line = make_line(stamp, b"log", params, user_agent, referer, address, language)
    assert why_bad(event_line) == ""
