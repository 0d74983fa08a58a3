"""The journal of one process, on real files: what it took is there, whatever happens in between."""

import errno
import fcntl
import os
import signal
import threading
from pathlib import Path
from typing import Final

import pytest

from prefork_ads.events import journal as journal_module
from prefork_ads.events import lines as lines_module
from prefork_ads.events import own_segment
from prefork_ads.events.journal import (
    IDLE_S,
    KEEP_SHIPPED_S,
    PROBE_AFTER_AT_MOST_S,
    PROBE_AFTER_S,
    UNREADABLE_S,
    Journal,
    JournalFailed,
    MemoryJournal,
)
from prefork_ads.events.segments import (
    DAMAGED,
    SUFFIX,
    adopt,
    list_segments,
    remove_leftovers,
)
from tests.unit.journal_bed import (
    Clock,
    FaultyOs,
    event,
    largest_file,
    make_journal,
    names,
    numbers_of,
    put,
    ship_all,
    small_disk,
)

EVENT_BYTES: Final = len(event(1)) + 1
PROBE_BYTES: Final = len(own_segment._PROBE)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> FaultyOs:
    faulty = FaultyOs()
    monkeypatch.setattr(own_segment, "os", faulty)
    monkeypatch.setattr(lines_module, "os", faulty)
    return faulty


def is_failing(journal: Journal) -> bool:
    """By a call: what a type checker knows of an attribute does not change with the journal."""
    return journal.failing


# -- from lines to batches ---------------------------------------------------------------------------


def test_what_is_written_is_shipped_in_order(tmp_path: Path) -> None:
    journal = make_journal(tmp_path)
    put(journal, 1, 2)
    put(journal, 3)
    assert journal.backlog_bytes == 3 * EVENT_BYTES
    assert journal.backlog_rows == 3
    batch = journal.next_batch(2, 1 << 20)
    assert batch is not None
    assert (batch.before, batch.after, batch.rows) == (0, 2 * EVENT_BYTES, 2)
    assert numbers_of(batch.data) == [1, 2]
    # Not shipped yet, so it is the next one again; with what was asked for this time.
    assert numbers_of(journal.next_batch(1000, 1 << 20).data) == [1, 2, 3]  # type: ignore[union-attr]
    journal.shipped(batch)
    assert ship_all(journal) == [3]
    assert (journal.backlog_bytes, journal.backlog_rows) == (0, 0)
    assert journal.next_batch(1000, 1 << 20) is None


def test_a_line_is_not_there_before_its_write(tmp_path: Path) -> None:
    journal = make_journal(tmp_path)
    assert journal.append(event(1))
    assert journal.next_batch(1, 1) is None
    assert names(tmp_path) == []
    journal.write()
    assert ship_all(journal) == [1]
    journal.write()
    assert journal.next_batch(1, 1) is None


def test_a_segment_is_text_for_copy(tmp_path: Path) -> None:
    journal = make_journal(tmp_path)
    put(journal, 1, 2)
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == event(1) + b"\n" + event(2) + b"\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_batches_are_bounded_and_hold_at_least_one_line(tmp_path: Path) -> None:
    journal = make_journal(tmp_path)
    put(journal, *range(10))
    by_rows = journal.next_batch(3, 1 << 20)
    by_bytes = journal.next_batch(1000, 4 * EVENT_BYTES + 1)
    smallest = journal.next_batch(1, 1)
    assert [batch.rows for batch in (by_rows, by_bytes, smallest) if batch] == [3, 4, 1]
    assert ship_all(journal, max_rows=3) == list(range(10))


def test_a_line_longer_than_any_piece(tmp_path: Path) -> None:
    journal = make_journal(tmp_path)
    long = event(2, b"x" * 3_000_000)
    for text in (event(1), long, event(3)):
        assert journal.append(text)
    journal.write()
    sizes = []
    while (batch := journal.next_batch(1000, 100)) is not None:
        sizes.append(len(batch.data))
        journal.shipped(batch)
    assert sizes == [EVENT_BYTES, len(long) + 1, EVENT_BYTES]


def test_segments_are_rotated_and_dropped(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, segment_bytes=2 * EVENT_BYTES)
    for number in range(5):
        put(journal, number)
    assert [size // EVENT_BYTES for _, _, size in journal.segments()] == [2, 2, 1]
    assert len(names(tmp_path)) == 3
    # A batch is of one segment.
    batches = []
    while (batch := journal.next_batch(1000, 1 << 20)) is not None:
        batches.append(numbers_of(batch.data))
        journal.shipped(batch)
    assert batches == [[0, 1], [2, 3], [4]]
    first, second, third = (name for name, _, _ in journal.segments())
    assert journal.drop_shipped() == [first, second]
    assert names(tmp_path) == [third + SUFFIX]
    assert journal.drop_shipped() == []
    put(journal, 5)
    assert ship_all(journal) == [5]
    assert journal.close() == [third]
    assert names(tmp_path) == []


def test_the_writer_is_woken_once_a_batch_waits(tmp_path: Path) -> None:
    journal = make_journal(tmp_path)
    woken: list[int] = []
    journal.backlog_threshold = 2 * EVENT_BYTES
    journal.on_backlog = lambda: woken.append(journal.backlog_bytes)
    put(journal, 1)
    assert woken == []
    put(journal, 2)
    put(journal, 3)
    assert woken == [2 * EVENT_BYTES]


def test_the_allowance_counts_what_waits_and_what_is_not_shipped(tmp_path: Path) -> None:
    journal = make_journal(tmp_path)
    journal.allowance = 3 * EVENT_BYTES
    put(journal, 1)
    assert journal.append(event(2))
    assert journal.append(event(3))
    assert not journal.append(event(4))
    journal.allowance = 4 * EVENT_BYTES
    assert journal.append(event(4))
    assert not journal.append(b"")
    journal.write()
    # Others have used up what was to be had: less than what is held.
    journal.allowance = EVENT_BYTES
    assert not journal.append(b"")
    assert ship_all(journal) == [1, 2, 3, 4]
    assert journal.append(event(5))


def test_ages(tmp_path: Path, clock: Clock) -> None:
    journal = make_journal(tmp_path, clock=clock)
    assert journal.oldest_unshipped_s == 0

    def pass_time(seconds: float) -> None:
        clock.now += seconds
        journal.tend()

    pass_time(100)
    put(journal, 1)
    pass_time(5)
    put(journal, 2)
    assert journal.oldest_unshipped_s == 5
    pass_time(10)
    assert journal.oldest_unshipped_s == 15
    batch = journal.next_batch(1, 1 << 20)
    assert batch is not None
    journal.shipped(batch)
    pass_time(1)
    # Never less than it is, and no more than the time between two looks.
    assert journal.oldest_unshipped_s == 11
    ship_all(journal)
    assert journal.oldest_unshipped_s == 0


def test_an_age_of_days_takes_little_memory(tmp_path: Path, clock: Clock) -> None:
    journal = make_journal(tmp_path, clock=clock)
    for number in range(5000):
        put(journal, number)
        clock.now += 1
        journal.tend()
    assert len(journal._marks) <= 1025
    assert journal.oldest_unshipped_s == 5000


def test_an_idle_server_leaves_nothing_behind(tmp_path: Path, clock: Clock) -> None:
    journal = make_journal(tmp_path, clock=clock)
    put(journal, 1)
    for _ in range(3):
        clock.now += IDLE_S
        journal.tend()
    assert journal.drop_shipped() == []
    ship_all(journal)
    journal.tend()
    clock.now += IDLE_S
    journal.tend()
    assert len(journal.drop_shipped()) == 1
    assert names(tmp_path) == []
    put(journal, 2)
    assert ship_all(journal) == [2]
    assert len(names(tmp_path)) == 1


# -- the ledger stands elsewhere ---------------------------------------------------------------------


def test_going_back_and_forth_within_a_segment(tmp_path: Path) -> None:
    journal = make_journal(tmp_path)
    put(journal, 1, 2, 3)
    ((name, _, _),) = journal.segments()
    ship_all(journal)
    assert journal.rewind(name, EVENT_BYTES)
    assert (journal.backlog_bytes, journal.backlog_rows) == (2 * EVENT_BYTES, 2)
    assert ship_all(journal) == [2, 3]
    assert journal.rewind(name, 0)
    assert journal.rewind(name, 2 * EVENT_BYTES)
    assert ship_all(journal) == [3]
    for position in (-1, 3 * EVENT_BYTES + 1):
        assert not journal.rewind(name, position)
    assert not journal.rewind("another", 0)
    assert journal.backlog_bytes == 0


def test_rows_are_counted_however_long_they_are(tmp_path: Path, faults: FaultyOs) -> None:
    """The gauge that shows them takes no negative number."""
    journal = make_journal(tmp_path)
    sizes = [1000, 1, 1, 1]
    for number, size in enumerate(sizes):
        assert journal.append(event(number, b"x" * size))
    journal.write()
    ((name, _, _),) = journal.segments()
    first = len(event(0, b"x" * 1000)) + 1
    assert journal.rewind(name, first)
    assert journal.backlog_rows == 3
    batch = journal.next_batch(2, 1 << 20)
    assert batch is not None
    journal.shipped(batch)
    assert journal.backlog_rows == 1
    assert not journal.rewind(name, first + 1)
    # As good as can be when nobody can look.
    faults.read_error = errno.EIO
    assert journal.rewind(name, 0)
    assert 0 < journal.backlog_rows <= 4
    faults.read_error = 0
    ship_all(journal)
    assert journal.backlog_rows == 0


def test_going_back_to_a_segment_that_was_shipped(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, segment_bytes=1)
    put(journal, 1, 2)
    put(journal, 3)
    (first, _, _), (second, _, _) = journal.segments()
    ship_all(journal)
    assert not journal.rewind(first, 1000)
    assert journal.rewind(first, EVENT_BYTES)
    assert ship_all(journal) == [2]
    assert journal.drop_shipped() == [first]
    # It is gone, and with it what a replica has lost of it.
    assert not journal.rewind(first, 0)
    assert journal.rewind(second, 0)
    assert ship_all(journal) == [3]


def test_what_is_shipped_is_kept_for_a_while(tmp_path: Path, clock: Clock) -> None:
    """A standby that is promoted may have missed it."""
    journal = make_journal(tmp_path, segment_bytes=1, clock=clock, keep_shipped_s=KEEP_SHIPPED_S)
    for number in range(3):
        put(journal, number)
        ship_all(journal)
        clock.now += 1
    (first, _, _), (second, _, _), _ = journal.segments()
    # The first one was finished when the second was begun.
    clock.now += KEEP_SHIPPED_S - 2.5
    assert journal.drop_shipped() == []
    clock.now += 0.5
    assert journal.drop_shipped() == [first]
    assert journal.rewind(second, 0)
    clock.now += 2 * KEEP_SHIPPED_S
    assert journal.drop_shipped() == []
    assert ship_all(journal) == [1]
    assert journal.drop_shipped() == []
    assert len(journal.close()) == 2
    assert names(tmp_path) == []


# -- writes that fail --------------------------------------------------------------------------------


def test_a_failed_write_is_taken_back(
    tmp_path: Path, clock: Clock, said: list[str], faults: FaultyOs
) -> None:
    journal = make_journal(tmp_path, clock=clock, report=said.append)
    put(journal, 1)
    faults.write_error, faults.write_bytes = errno.ENOSPC, 10
    assert journal.append(event(2))
    with pytest.raises(JournalFailed, match="No space left"):
        journal.write()
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size == EVENT_BYTES
    assert is_failing(journal)
    assert not journal.append(event(3))
    journal.allowance = 1 << 40
    assert not journal.append(b"")
    # A moment later it is tried.
    clock.now += PROBE_AFTER_S
    journal.tend()
    assert not is_failing(journal)
    assert path.stat().st_size == EVENT_BYTES
    put(journal, 4)
    assert ship_all(journal) == [1, 4]
    assert len(said) == 2


def test_a_short_write_goes_on(tmp_path: Path, faults: FaultyOs) -> None:
    journal = make_journal(tmp_path)
    faults.write_bytes = 10
    put(journal, 1, 2)
    assert ship_all(journal) == [1, 2]


def test_probes_come_less_and_less_often(tmp_path: Path, clock: Clock, faults: FaultyOs) -> None:
    journal = make_journal(tmp_path, clock=clock)
    faults.write_error, faults.always = errno.EIO, True
    assert journal.append(event(1))
    with pytest.raises(JournalFailed):
        journal.write()
    pauses = [PROBE_AFTER_S]
    for _ in range(8):
        before = clock.now
        while journal._probe_at == before + pauses[-1]:
            clock.now += 0.25
            journal.tend()
        pauses.append(journal._probe_at - clock.now)
    assert pauses[-1] == PROBE_AFTER_AT_MOST_S
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0
    faults.write_error = 0
    clock.now += PROBE_AFTER_AT_MOST_S
    journal.tend()
    put(journal, 2)
    assert ship_all(journal) == [2]


def test_a_segment_that_cannot_be_cut_is_closed_at_its_last_good_size(
    tmp_path: Path, clock: Clock, faults: FaultyOs
) -> None:
    journal = make_journal(tmp_path, clock=clock)
    put(journal, 1)
    faults.write_error, faults.write_bytes = errno.EIO, 2 * EVENT_BYTES - 5
    faults.truncate_error = errno.EIO
    for number in (2, 3):
        assert journal.append(event(number))
    with pytest.raises(JournalFailed):
        journal.write()
    faults.truncate_error = 0
    clock.now += PROBE_AFTER_S
    journal.tend()
    put(journal, 4)
    assert [path.stat().st_size for path in sorted(tmp_path.iterdir())] == [
        3 * EVENT_BYTES - 5,
        EVENT_BYTES,
    ]
    # A whole line lies behind the good size, and is not shipped.
    assert ship_all(journal) == [1, 4]
    assert len(journal.drop_shipped()) == 1


def test_a_full_disk(tmp_path: Path, clock: Clock, said: list[str]) -> None:
    """For real where we may mount one; what was acknowledged before and after is there."""
    directory = tmp_path / "disk"
    with small_disk(directory, 4 * PROBE_BYTES) as mounted:
        if not mounted:
            # Then the faults above have to do.
            return
        journal = make_journal(
            directory, segment_bytes=PROBE_BYTES, clock=clock, report=said.append
        )
        kept, number = [], 0
        while not is_failing(journal):
            batch = list(range(number, number + 100))
            number += 100
            assert all(journal.append(event(n, b"x" * 100)) for n in batch)
            try:
                journal.write()
                kept += batch
            except JournalFailed:
                assert is_failing(journal)
        assert "No space left" in said[0]
        assert len(kept) > 500
        clock.now += PROBE_AFTER_AT_MOST_S
        journal.tend()
        assert is_failing(journal)
        assert ship_all(journal) == kept
        journal.drop_shipped()
        clock.now += PROBE_AFTER_AT_MOST_S
        journal.tend()
        assert not is_failing(journal)
        put(journal, number)
        assert ship_all(journal) == [number]
        journal.close()
        assert names(directory) == []


def test_a_file_size_limit_begins_a_new_segment(tmp_path: Path) -> None:
    """Nobody notices: the tick that did not fit is cut off and goes to the next file."""
    journal = make_journal(tmp_path)
    with largest_file(3 * EVENT_BYTES + 10):
        for number in range(0, 20, 2):
            put(journal, number, number + 1)
    assert not is_failing(journal)
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    assert sizes == [2 * EVENT_BYTES] * 10
    assert ship_all(journal) == list(range(20))


def test_what_cannot_be_taken_back_is_not_written_again(
    tmp_path: Path, clock: Clock, faults: FaultyOs
) -> None:
    """Else a line that did get into the full file would be there twice, should we be killed."""
    journal = make_journal(tmp_path, clock=clock)
    put(journal, 1)
    faults.write_error, faults.write_bytes = errno.EFBIG, EVENT_BYTES
    faults.truncate_error = errno.EIO
    assert journal.append(event(2))
    assert journal.append(event(3))
    with pytest.raises(JournalFailed, match="File too large"):
        journal.write()
    assert len(names(tmp_path)) == 1
    assert ship_all(journal) == [1]


def test_a_tick_larger_than_any_file_may_be(tmp_path: Path, clock: Clock) -> None:
    journal = make_journal(tmp_path, clock=clock)
    put(journal, 1)
    with largest_file(2 * EVENT_BYTES):
        for number in (2, 3, 4):
            assert journal.append(event(number))
        with pytest.raises(JournalFailed, match="File too large"):
            journal.write()
    clock.now += PROBE_AFTER_S
    journal.tend()
    put(journal, 5)
    assert ship_all(journal) == [1, 5]


# -- the directory -----------------------------------------------------------------------------------


def test_a_directory_that_vanished_is_made_again(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "journal"
    journal = make_journal(directory, segment_bytes=1)
    put(journal, 1)
    assert directory.stat().st_mode & 0o777 == 0o700
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    put(journal, 2)
    # The first segment has no name any more, but our descriptor has the file.
    assert ship_all(journal) == [1, 2]
    put(journal, 3)
    assert len(journal.drop_shipped()) == 2


def test_no_segment_can_be_made(tmp_path: Path, clock: Clock) -> None:
    """A file where the directory should be: refused for root, too, unlike missing rights."""
    place = tmp_path / "journal"
    place.write_bytes(b"")
    journal = make_journal(place, clock=clock)
    assert journal.append(event(1))
    with pytest.raises(JournalFailed, match="Not a directory"):
        journal.write()
    place.unlink()
    clock.now += PROBE_AFTER_S
    journal.tend()
    put(journal, 2)
    assert ship_all(journal) == [2]


@pytest.mark.parametrize("times", [2, 3])
def test_somebody_takes_a_new_segment_for_a_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    journal = make_journal(tmp_path)
    lock = fcntl.flock
    refusals = iter(range(times))

    def refuse_first(fd: int, kind: int) -> None:
        if next(refusals, None) is not None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        lock(fd, kind)

    monkeypatch.setattr(fcntl, "flock", refuse_first)
    assert journal.append(event(1))
    if times < 3:
        journal.write()
        assert ship_all(journal) == [1]
    else:
        with pytest.raises(JournalFailed):
            journal.write()
        assert names(tmp_path) == []


def test_a_segment_goes_on_while_there_can_be_no_next_one(tmp_path: Path, said: list[str]) -> None:
    journal = make_journal(tmp_path / "journal", segment_bytes=1, report=said.append)
    put(journal, 1)
    (tmp_path / "journal").rename(tmp_path / "kept")
    (tmp_path / "journal").write_bytes(b"")
    put(journal, 2)
    (tmp_path / "journal").unlink()
    (tmp_path / "kept").rename(tmp_path / "journal")
    put(journal, 3)
    assert [size // EVENT_BYTES for _, _, size in journal.segments()] == [2, 1]
    assert ship_all(journal) == [1, 2, 3]
    assert len(said) == 1


def test_somebody_removes_the_file_that_is_written(
    tmp_path: Path, clock: Clock, said: list[str]
) -> None:
    journal = make_journal(tmp_path, clock=clock, report=said.append)
    put(journal, 1)
    (path,) = tmp_path.iterdir()
    path.unlink()
    journal.tend()
    assert "somebody removed" in said[0]
    put(journal, 2)
    assert len(names(tmp_path)) == 1
    assert ship_all(journal) == [1, 2]


def test_somebody_empties_the_file_that_is_written(
    tmp_path: Path, clock: Clock, said: list[str]
) -> None:
    journal = make_journal(tmp_path, clock=clock, report=said.append)
    put(journal, 1)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"")
    journal.tend()
    assert is_failing(journal)
    clock.now += PROBE_AFTER_S
    journal.tend()
    put(journal, 2)
    assert ship_all(journal) == [2]
    # What was lost is said, and the file is kept for whoever wants to know.
    assert any("lost" in message for message in said)
    assert journal.drop_shipped() == []
    assert names(tmp_path / DAMAGED) == [path.name]


def test_what_is_set_aside_is_counted(tmp_path: Path) -> None:
    """Once for each file, however often somebody asks."""
    journal = make_journal(tmp_path, segment_bytes=1)
    put(journal, 1)
    put(journal, 2)
    put(journal, 3)
    # As after a disk that lost a page of it.
    path = min(tmp_path.glob("*.tsv"))
    path.write_bytes(bytes(EVENT_BYTES - 1) + b"\n")
    assert ship_all(journal) == [2, 3]
    for _ in range(2):
        journal.drop_shipped()
        assert journal.damaged == 1
    assert names(tmp_path / DAMAGED) == [path.name]


def test_a_failure_between_append_and_write_loses_nothing_silently(
    tmp_path: Path, clock: Clock, faults: FaultyOs
) -> None:
    """It is found in the middle of a tick, and the answers of this tick are about to leave."""
    journal = make_journal(tmp_path, clock=clock)
    put(journal, 1)
    ship_all(journal)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"")
    assert journal.append(event(2))
    journal.tend()
    assert is_failing(journal)
    journal.write()
    assert ship_all(journal) == [2]
    # And where it cannot be written, write says so.
    clock.now += PROBE_AFTER_S
    journal.tend()
    assert journal.append(event(3))
    max(tmp_path.glob("*.tsv")).write_bytes(b"")
    journal.tend()
    faults.write_error = errno.ENOSPC
    with pytest.raises(JournalFailed):
        journal.write()


def test_what_comes_after_the_end_is_kept_or_refused(tmp_path: Path) -> None:
    journal = make_journal(tmp_path)
    assert journal.append(event(1))
    journal.close()
    journal.write()
    ((path, data),) = ((path, path.read_bytes()) for path in tmp_path.iterdir())
    assert numbers_of(data) == [1], path


def test_a_segment_with_another_name_stays_in_the_ledger(tmp_path: Path) -> None:
    """Its backup may be shipped by hand some day, and must not count twice then."""
    journal = make_journal(tmp_path / "journal", segment_bytes=1)
    put(journal, 1)
    put(journal, 2)
    (tmp_path / "backup").hardlink_to(min((tmp_path / "journal").iterdir()))
    ship_all(journal)
    assert journal.drop_shipped() == []


def test_what_cannot_be_removed_is_tried_again(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = make_journal(tmp_path, segment_bytes=1, report=said.append)
    put(journal, 1)
    put(journal, 2)
    ship_all(journal)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        assert journal.drop_shipped() == []
    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "sync_directory", refuse)
        # Removed, but perhaps only for now: the ledger is not told yet.
        assert journal.drop_shipped() == []
    assert len(journal.drop_shipped()) == 1
    assert len(said) == 2


def test_a_segment_that_cannot_be_read_does_not_stop_the_others(
    tmp_path: Path, clock: Clock, said: list[str], faults: FaultyOs
) -> None:
    journal = make_journal(tmp_path, segment_bytes=1, clock=clock, report=said.append)
    put(journal, 1)
    faults.read_error = errno.EIO
    assert journal.next_batch(10, 1000) is None
    faults.read_error = 0
    put(journal, 2)
    assert ship_all(journal) == [2]
    clock.now += UNREADABLE_S
    assert ship_all(journal) == [1]
    assert len(said) == 1


# -- on the disk -------------------------------------------------------------------------------------


def test_sync_covers_all_segments(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, segment_bytes=1)
    journal.sync()
    put(journal, 1)
    put(journal, 2)
    journal.sync()
    assert [segment._synced for segment in journal._segments] == [EVENT_BYTES] * 2
    ship_all(journal)
    journal.drop_shipped()
    journal.sync()
    journal.close()
    journal.sync()


def test_a_failed_sync_is_never_repeated(
    tmp_path: Path, clock: Clock, said: list[str], faults: FaultyOs
) -> None:
    journal = make_journal(tmp_path, clock=clock, report=said.append)
    put(journal, 1)
    faults.sync_error = errno.EIO
    with pytest.raises(JournalFailed, match="not safe"):
        journal.sync()
    # The kernel would say that all is well now; so it is not asked.
    journal.sync()
    assert journal.append(event(2))
    with pytest.raises(JournalFailed, match="not safe"):
        journal.write()
    clock.now += PROBE_AFTER_S
    journal.tend()
    put(journal, 3)
    journal.sync()
    assert ship_all(journal) == [1, 3]
    assert len(names(tmp_path)) == 2


def test_what_is_written_while_a_sync_fails_is_in_the_next_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = make_journal(tmp_path)
    put(journal, 1)
    entered, go_on = threading.Event(), threading.Event()

    def fail(_: int) -> None:
        entered.set()
        assert go_on.wait(30)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fail)
    failures: list[JournalFailed] = []

    def sync() -> None:
        try:
            journal.sync()
        except JournalFailed as error:
            failures.append(error)

    thread = threading.Thread(target=sync)
    thread.start()
    assert entered.wait(30)
    put(journal, 2)
    go_on.set()
    thread.join()
    monkeypatch.undo()
    assert len(failures) == 1
    sync()
    assert len(failures) == 2
    sync()
    assert len(failures) == 2
    assert ship_all(journal) == [1, 2]


def test_lost_pages_are_judged(tmp_path: Path, said: list[str], faults: FaultyOs) -> None:
    """After a failed fdatasync the file may read as zeros."""
    journal = make_journal(tmp_path, report=said.append)
    put(journal, 1, 2, 3)
    faults.sync_error = errno.EIO
    with pytest.raises(JournalFailed):
        journal.sync()
    (path,) = tmp_path.iterdir()
    with path.open("r+b") as file:
        file.seek(EVENT_BYTES + 5)
        file.write(bytes(20))
    assert ship_all(journal, max_rows=1) == [1, 3]
    assert any(f"byte {EVENT_BYTES}: has NUL bytes" in message for message in said)


def test_old_pages_are_judged(tmp_path: Path, said: list[str], faults: FaultyOs) -> None:
    """Or it may read as what was on the disk before."""
    journal = make_journal(tmp_path, report=said.append)
    put(journal, 1, 2, 3)
    faults.sync_error = errno.EIO
    with pytest.raises(JournalFailed):
        journal.sync()
    (path,) = tmp_path.iterdir()
    with path.open("r+b") as file:
        file.seek(EVENT_BYTES)
        file.write(b"some other file's text\n")
    assert ship_all(journal) == [1, 3]
    assert sum("fields" in message for message in said) == 1


@pytest.mark.parametrize("rounds", [60])
def test_all_of_it_at_once(tmp_path: Path, rounds: int) -> None:
    """Rotation, shipping and writing beside syncing and dropping in threads."""
    journal = make_journal(tmp_path, segment_bytes=3 * EVENT_BYTES)
    stop = threading.Event()
    gone: list[str] = []
    errors: list[BaseException] = []

    def sync() -> None:
        while not stop.is_set():
            journal.sync()

    def drop() -> None:
        while not stop.is_set():
            gone.extend(journal.drop_shipped())

    def guarded(work: "object") -> None:
        try:
            work()  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001 - told to the test
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (sync, drop)]
    for thread in threads:
        thread.start()
    shipped: list[int] = []
    for number in range(rounds):
        put(journal, 4 * number, 4 * number + 1)
        put(journal, 4 * number + 2)
        put(journal, 4 * number + 3)
        batch = journal.next_batch(3, 1 << 20)
        assert batch is not None
        shipped += numbers_of(batch.data)
        journal.shipped(batch)
    shipped += ship_all(journal)
    stop.set()
    for thread in threads:
        thread.join()
    gone += journal.close()
    assert not errors
    assert shipped == list(range(4 * rounds))
    assert len(gone) == len(set(gone)) == journal._sequence
    assert names(tmp_path) == []


# -- the end -----------------------------------------------------------------------------------------


def test_what_is_not_shipped_is_there_to_be_adopted(tmp_path: Path) -> None:
    journal = make_journal(tmp_path, segment_bytes=2 * EVENT_BYTES)
    for number in range(3):
        put(journal, number)
    batch = journal.next_batch(2, 1 << 20)
    assert batch is not None
    journal.shipped(batch)
    assert [found.alive for found in list_segments(tmp_path)] == [True, True]
    assert adopt(list_segments(tmp_path)[1].path) is None
    (first, _, _), _ = journal.segments()
    assert journal.close() == [first]
    (left,) = list_segments(tmp_path)
    assert left.alive is False
    assert not journal.append(event(4))
    journal.write()
    journal.allowance = 1 << 30
    journal.tend()
    assert not journal.append(event(4))
    assert journal.backlog_bytes == 0
    assert journal.close() == []


def test_a_killed_writer_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    """A forked writer is killed at any point. It says what it has acknowledged, and is its own database:
    what it says to have inserted, with the ledger's position, is inserted."""
    for attempt in range(12):
        directory = tmp_path / str(attempt)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            write_until_killed(directory, writer, attempt)
        os.close(writer)
        said = b""
        try:
            # Some more each time, so that the kill hits other moments.
            while said.count(b"\n") < 5 + 40 * attempt:
                piece = os.read(reader, 65536)
                assert piece, "the writer died too early"
                said += piece
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        while piece := os.read(reader, 65536):
            said += piece
        os.close(reader)
        acknowledged, stored, ledger = -1, [], {}
        for message in said.decode().splitlines():
            what, *values = message.split()
            if what == "acknowledged":
                acknowledged = int(values[0])
            else:
                ledger[values[0]] = int(values[1])
                stored += [int(number) for number in values[2:]]
        stored += adopt_all(directory, ledger)
        assert stored == list(range(len(stored)))
        assert stored[-1] >= acknowledged


def write_until_killed(directory: Path, tell: int, seed: int) -> None:
    """Never returns, whatever happens: the test's own process goes on elsewhere."""
    try:
        journal = make_journal(directory, segment_bytes=(20 + seed) * EVENT_BYTES)
        for first in range(0, 10_000_000, 3):
            put(journal, first, first + 1, first + 2)
            os.write(tell, b"acknowledged %d\n" % (first + 2))
            batch = journal.next_batch(2 + seed % 3, 1 << 20)
            assert batch is not None
            numbers = " ".join(map(str, numbers_of(batch.data)))
            os.write(tell, f"inserted {batch.segment} {batch.after} {numbers}\n".encode())
            journal.shipped(batch)
            journal.drop_shipped()
    finally:
        os._exit(1)


def adopt_all(directory: Path, ledger: dict[str, int]) -> list[int]:
    kept = []
    for found in list_segments(directory):
        segment = adopt(found.path)
        assert segment is not None
        with segment:
            assert segment.start_at(ledger.get(segment.name, 0))
            while (batch := segment.next_batch(7, 1 << 20)) is not None:
                kept += numbers_of(batch.data)
                segment.shipped(batch)
            assert segment.bad.count == 0
            assert segment.remove()
    remove_leftovers(directory)
    assert names(directory) == []
    return kept


# -- without files -----------------------------------------------------------------------------------


def memory_journal(max_rows: int = 1000, max_bytes: int = 1 << 20) -> MemoryJournal:
    return MemoryJournal("memory", max_rows=max_rows, max_bytes=max_bytes)


def put_in_memory(journal: MemoryJournal, *numbers: int) -> None:
    for number in numbers:
        assert journal.append(event(number))
    journal.write()


def test_in_memory_ticks_are_joined_and_split() -> None:
    journal = memory_journal()
    put_in_memory(journal, 1)
    put_in_memory(journal, 2, 3, 4)
    put_in_memory(journal, 5)
    shipped, positions = [], []
    for bounds in ((2, 1 << 20), (2, 1 << 20), (1000, EVENT_BYTES + 5), (9, 1)):
        batch = journal.next_batch(*bounds)
        assert batch is not None
        assert journal.segments() == [("memory", batch.before, 5 * EVENT_BYTES)]
        shipped.append(numbers_of(batch.data))
        positions.append((batch.before, batch.after))
        journal.shipped(batch)
        assert batch.rows == len(shipped[-1])
    assert shipped == [[1], [2, 3], [4], [5]]
    assert positions[-1] == (4 * EVENT_BYTES, 5 * EVENT_BYTES)
    assert (journal.backlog_bytes, journal.backlog_rows) == (0, 0)
    assert journal.next_batch(1, 1) is None
    assert journal.close() == ["memory"]
    assert not journal.append(event(6))


def test_in_memory_rows_and_bytes_are_bounded() -> None:
    journal = memory_journal(max_rows=3)
    put_in_memory(journal, 1, 2)
    assert journal.append(event(3))
    assert not journal.append(event(4))
    batch = journal.next_batch(1, 1 << 20)
    assert batch is not None
    journal.shipped(batch)
    assert journal.append(event(4))
    journal = memory_journal(max_bytes=2 * EVENT_BYTES)
    put_in_memory(journal, 1, 2)
    assert not journal.append(b"")


def test_in_memory_the_ledger_may_be_ahead_and_not_behind() -> None:
    journal = memory_journal()
    put_in_memory(journal, 1, 2)
    put_in_memory(journal, 3)
    assert journal.rewind("memory", EVENT_BYTES)
    batch = journal.next_batch(9, 1 << 20)
    assert batch is not None
    assert numbers_of(batch.data) == [2, 3]
    assert journal.backlog_rows == 2
    for position in (0, EVENT_BYTES + 1, 2 * EVENT_BYTES + 1, 4 * EVENT_BYTES):
        assert not journal.rewind("memory", position)
    assert not journal.rewind("another", EVENT_BYTES)
    assert journal.close() == []
    assert journal.drop_shipped() == []
    journal.sync()


def test_in_memory_wakes_and_ages(clock: Clock) -> None:
    journal = MemoryJournal("memory", max_rows=10, max_bytes=1 << 20, clock=clock)
    woken: list[int] = []
    journal.backlog_threshold, journal.on_backlog = EVENT_BYTES, lambda: woken.append(1)
    clock.now += 5
    journal.tend()
    put_in_memory(journal, 1)
    put_in_memory(journal, 2)
    assert woken == [1]
    clock.now += 2
    journal.tend()
    assert journal.oldest_unshipped_s == 2


def test_in_memory_what_is_left_goes_to_a_file(tmp_path: Path) -> None:
    journal = memory_journal()
    assert journal.rescue(tmp_path) is None
    put_in_memory(journal, 1, 2)
    batch = journal.next_batch(1, 1 << 20)
    assert batch is not None
    journal.shipped(batch)
    put_in_memory(journal, 3)
    path = journal.rescue(tmp_path / "new")
    assert path == tmp_path / "new" / f"unsent-memory-from-{EVENT_BYTES}.tsv"
    assert numbers_of(path.read_bytes()) == [2, 3]
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        journal.rescue(tmp_path / "new")
