"""What dead workers have left is in the table exactly once, whoever ships it and whatever came before."""

import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork_ads.db import adoption
from prefork_ads.db.adoption import Outcome
from prefork_ads.db.queries import query
from prefork_ads.db.shipping import TOO_OLD_WITHOUT_ROW, Pace, Shipment
from prefork_ads.errors import DatabaseUnavailable
from prefork_ads.events.event import EventClock, line
from prefork_ads.events.inspection import judge, list_damaged
from prefork_ads.events.journal import Journal
from prefork_ads.events.lines import Batch
from prefork_ads.events.segments import adopt, list_segments, new_stream
from prefork_ads.events.uuid7 import Uuid7
from tests.conftest import Database
from tests.support import wait_until

NOW = time.time()
BAD = (
    b"not an event",
    b"\0" * 40,
    b"\xff\xfe",
    b"2026-11-22 10:00:00.000+00\tx\tlog\t{}\t\\N\t\\N\t\\N\t\\N",
)


def event(number: int, *, params: str | None = None) -> bytes:
    stamp = EventClock(Uuid7()).stamp()
    params_json = (params or json.dumps({"n": number})).encode()
    return line(stamp, b"log", params_json, b"test's \\", None, "192.0.2.1", None)


def leave(folder: Path, lines: Sequence[bytes], *, torn: bytes = b"", began: float = NOW) -> Path:
    """A segment as a killed worker leaves it."""
    journal = Journal(folder, new_stream("test", 1, began), segment_bytes=1 << 20)
    for text in lines:
        assert journal.append(text)
    journal.write()
    journal.close()
    [path] = [file.path for file in list_segments(folder) if file.began == int(began)][-1:]
    with path.open("ab") as file:
        file.write(torn)
    return path


def ship(
    database: Database,
    path: Path,
    *,
    max_rows: int = 100,
    max_bytes: int = 1 << 20,
    dsn: str | None = None,
) -> Outcome | None:
    """What the keeper does with one segment; None: somebody has it."""
    segment = adopt(path)
    if segment is None:
        return None
    with segment, adoption.connection(dsn or database.dsn) as connection:
        return adoption.ship(
            connection, segment, max_rows=max_rows, max_bytes=max_bytes, now_unix_s=NOW
        )


def shipped(database: Database, path: Path, **options: Any) -> Outcome:
    outcome = ship(database, path, **options)
    assert outcome is not None, "somebody has it"
    return outcome


def numbers(database: Database) -> list[int]:
    return [n for (n,) in database.fetch("SELECT (params->>'n')::int FROM request_log ORDER BY 1")]


def ledger(database: Database) -> list[tuple[Any, ...]]:
    return database.fetch("SELECT name, shipped_bytes FROM journal_segment WHERE closed IS NULL")


def set_ledger(database: Database, path: Path, position: int) -> None:
    database.execute("INSERT INTO journal_segment VALUES (%s, %s)", path.stem, position)


def waiting_for_locks(database: Database) -> int:
    return len(
        database.fetch(
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database()"
        )
    )


@pytest.fixture(autouse=True)
def _partitions(database: Database) -> None:
    database.execute("SELECT request_log_ensure(current_date - 1, current_date + 1)")


def test_a_segment_is_shipped_whole_and_nothing_is_left_of_it(
    database: Database, tmp_path: Path
) -> None:
    path = leave(tmp_path, [event(n) for n in range(250)])
    outcome = shipped(database, path)
    assert (outcome.rows, outcome.aside, outcome.torn_bytes) == (250, None, 0)
    assert numbers(database) == list(range(250))
    assert ledger(database) == []
    assert list(tmp_path.iterdir()) == []


def test_it_goes_on_where_the_dead_worker_was(database: Database, tmp_path: Path) -> None:
    lines = [event(n) for n in range(10)]
    path = leave(tmp_path, lines)
    set_ledger(database, path, sum(len(text) + 1 for text in lines[:4]))
    assert shipped(database, path).rows == 6
    assert numbers(database) == list(range(4, 10))
    assert ledger(database) == []


def test_the_file_goes_before_its_ledger_row(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power failure in between leaves a row that nobody asks for, and not a file that counts twice."""
    path = leave(tmp_path, [event(1)])

    def fail(_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("prefork_ads.events.segments.sync_directory", fail)
    with pytest.raises(OSError, match="Input/output"):
        ship(database, path)
    assert numbers(database) == [1]
    assert len(ledger(database)) == 1


def test_a_file_that_is_shorter_than_the_ledger_says_is_in_the_table(
    database: Database, tmp_path: Path
) -> None:
    """Power failed: PostgreSQL had synced what the journal had not."""
    path = leave(tmp_path, [event(1)])
    size = path.stat().st_size
    set_ledger(database, path, size + 500)
    outcome = shipped(database, path)
    assert (outcome.rows, outcome.lost_bytes, outcome.aside) == (0, 500, None)
    assert [text for look, text in outcome.in_words() if look]
    assert numbers(database) == []
    assert not path.exists()


def test_of_a_stream_that_the_ledger_may_have_forgotten_nothing_is_shipped(
    database: Database, tmp_path: Path
) -> None:
    began = NOW - TOO_OLD_WITHOUT_ROW.total_seconds() - 60
    path = leave(tmp_path, [event(1)], began=began)
    outcome = shipped(database, path)
    assert outcome.aside is not None
    assert "nobody knows" in outcome.why[0]
    assert numbers(database) == []
    assert [file.path for file in list_damaged(tmp_path)] == [outcome.aside]


def test_an_old_stream_with_a_ledger_row_is_shipped(database: Database, tmp_path: Path) -> None:
    began = NOW - TOO_OLD_WITHOUT_ROW.total_seconds() - 60
    path = leave(tmp_path, [event(1)], began=began)
    set_ledger(database, path, 0)
    assert shipped(database, path).rows == 1
    assert numbers(database) == [1]


def test_a_line_that_was_cut_off_does_not_count(database: Database, tmp_path: Path) -> None:
    path = leave(tmp_path, [event(1)], torn=event(2)[:-3])
    outcome = shipped(database, path)
    assert (outcome.rows, outcome.torn_bytes, outcome.aside) == (1, len(event(2)) - 3, None)
    assert numbers(database) == [1]
    assert not path.exists()


def test_damaged_lines_are_left_out_and_the_file_is_kept(
    database: Database, tmp_path: Path
) -> None:
    path = leave(tmp_path, [event(0), BAD[0], event(1), BAD[1], BAD[2], event(2)])
    content = path.read_bytes()
    outcome = shipped(database, path, max_rows=2)
    assert outcome.rows == 3
    assert outcome.aside is not None
    assert outcome.aside.read_bytes() == content
    assert outcome.why[0].startswith(f"line 2, byte {len(event(0)) + 1}: ")
    assert len(outcome.why) == 3
    assert numbers(database) == [0, 1, 2]
    # Somebody puts it back, or restores the directory: nothing counts twice.
    outcome.aside.rename(path)
    again = shipped(database, path)
    assert again.rows == 0
    assert again.aside is not None
    assert numbers(database) == [0, 1, 2]


def test_damage_is_also_found_by_who_comes_after_all_was_shipped(
    database: Database, tmp_path: Path
) -> None:
    """The keeper was killed after the last good line and before it put the file aside."""
    path = leave(tmp_path, [event(0), BAD[0], event(1)])
    set_ledger(database, path, path.stat().st_size)
    outcome = shipped(database, path)
    assert outcome.rows == 0
    assert outcome.aside is not None
    assert not path.exists()


def test_a_line_that_postgresql_refuses_is_kept_and_the_rest_goes_on(
    database: Database, tmp_path: Path
) -> None:
    lines = [event(n) for n in range(50)]
    # Sound as a line; PostgreSQL alone knows that this is no address.
    lines[17] = lines[17].replace(b"192.0.2.1", b"192.0.2.x")
    path = leave(tmp_path, [BAD[0], *lines])
    outcome = shipped(database, path)
    assert (outcome.rows, outcome.rejected) == (49, 1)
    assert numbers(database) == [n for n in range(50) if n != 17]
    assert database.fetch("SELECT line FROM request_log_rejected") == [(lines[17].decode(),)]


def test_a_missing_partition_is_made(database: Database, tmp_path: Path) -> None:
    database.execute("SELECT request_log_drop_before('9999-12-31')")
    path = leave(tmp_path, [event(1)])
    assert shipped(database, path).rows == 1
    assert numbers(database) == [1]


@given(
    st.lists(st.one_of(st.none(), st.sampled_from(BAD)), min_size=1, max_size=12),
    st.integers(0, 12),
    st.integers(1, 5),
    st.integers(1, 600),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_sound_line_counts_wherever_it_is_cut(
    database: Database,
    tmp_path: Path,
    parts: list[bytes | None],
    from_line: int,
    max_rows: int,
    max_bytes: int,
) -> None:
    """Whatever is damaged, wherever the ledger stands, however large the batches are."""
    database.execute("TRUNCATE request_log")
    lines = [event(n) if bad is None else bad for n, bad in enumerate(parts)]
    path = leave(tmp_path, lines)
    start = min(from_line, len(lines))
    if start:
        set_ledger(database, path, sum(len(text) + 1 for text in lines[:start]))
    outcome = shipped(database, path, max_rows=max_rows, max_bytes=max_bytes)
    good = [n for n, bad in enumerate(parts) if bad is None and n >= start]
    assert numbers(database) == good
    assert outcome.rows == len(good)
    assert (outcome.aside is not None) == any(bad is not None for bad in parts)


# -- not alone -------------------------------------------------------------------------------------


def test_the_dead_workers_last_statement_may_still_run(database: Database, tmp_path: Path) -> None:
    """It waits for a lock, and so does ours behind it: one of them counts."""
    lines = [event(n) for n in range(5)]
    path = leave(tmp_path, lines)
    set_ledger(database, path, 0)
    first = b"\n".join(lines[:3])
    last_words = {
        "segment": path.stem,
        "before": 0,
        "after": len(first) + 1,
        "lines": first.decode(),
    }
    with (
        closing(database.connect()) as theirs,
        closing(database.connect(autocommit=False)) as blocker,
        ThreadPoolExecutor() as threads,
    ):
        blocker.cursor().execute("LOCK TABLE request_log IN ACCESS EXCLUSIVE MODE")
        dying = threads.submit(theirs.cursor().execute, query("log_insert"), last_words)
        wait_until(lambda: waiting_for_locks(database) == 1, "the worker's statement to wait")
        adopting = threads.submit(shipped, database, path)
        wait_until(lambda: waiting_for_locks(database) == 2, "the adopter's to wait as well")
        blocker.rollback()
        dying.result()
        adopting.result()
    assert numbers(database) == list(range(5))
    assert ledger(database) == []


def test_of_two_adopters_one_has_it(database: Database, tmp_path: Path) -> None:
    path = leave(tmp_path, [event(1)])
    first = adopt(path)
    assert first is not None
    with first:
        assert ship(database, path) is None
        assert numbers(database) == []
    assert shipped(database, path).rows == 1


def test_many_adopters_of_many_segments_count_each_event_once(
    database: Database, tmp_path: Path
) -> None:
    """As the keepers of several servers that share a directory."""
    for n in range(20):
        leave(tmp_path, [event(10 * n + m) for m in range(10)], began=NOW - n)
    start = threading.Barrier(4)

    def keep() -> None:
        start.wait()
        for file in list_segments(tmp_path):
            ship(database, file.path, max_rows=3)

    with ThreadPoolExecutor(4) as threads:
        for keeper in [threads.submit(keep) for _ in range(4)]:
            keeper.result()
    for file in list_segments(tmp_path):
        # Looked at by somebody at the moment somebody else tried; the next look gets it.
        shipped(database, file.path)
    assert numbers(database) == list(range(200))
    assert ledger(database) == []


def test_a_connection_that_ends_in_between_costs_nothing(
    database: Database, tmp_path: Path
) -> None:
    path = leave(tmp_path, [event(n) for n in range(20)])
    with (
        closing(database.connect(autocommit=False)) as blocker,
        ThreadPoolExecutor() as threads,
    ):
        blocker.cursor().execute("LOCK TABLE request_log IN ACCESS EXCLUSIVE MODE")
        adopting = threads.submit(shipped, database, path)
        wait_until(lambda: waiting_for_locks(database) == 1, "the adopter's statement to wait")
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        with pytest.raises(DatabaseUnavailable):
            adopting.result()
        blocker.rollback()
    assert numbers(database) == []
    assert shipped(database, path, max_rows=7).rows == 20
    assert numbers(database) == list(range(20))


@pytest.mark.parametrize("damage", ["DELETE FROM journal_segment", "TRUNCATE journal_segment"])
def test_a_database_that_is_put_back_meanwhile_gets_everything_again(
    database: Database, tmp_path: Path, damage: str
) -> None:
    path = leave(tmp_path, [event(n) for n in range(20)])
    segment = adopt(path)
    assert segment is not None
    done: list[int] = []

    def put_back(position: int) -> None:
        if not done:
            database.execute(f"TRUNCATE request_log; {damage}")
        done.append(position)

    with segment, adoption.connection(database.dsn) as connection:
        adoption.ship(
            connection, segment, max_rows=5, max_bytes=1 << 20, now_unix_s=NOW, progress=put_back
        )
    assert numbers(database) == list(range(20))
    assert not path.exists()


def test_what_is_not_because_of_a_line_is_not_blamed_on_one(
    database: Database, tmp_path: Path
) -> None:
    path = leave(tmp_path, [event(1)])
    database.execute("ALTER TABLE request_log RENAME TO elsewhere")
    with pytest.raises(Exception, match="does not exist"):
        ship(database, path)
    database.execute("ALTER TABLE elsewhere RENAME TO request_log")
    assert shipped(database, path).rows == 1
    assert numbers(database) == [1]


def test_the_documented_copy_loads_a_segment(database: Database, tmp_path: Path) -> None:
    path = leave(tmp_path, [event(n) for n in range(5)])
    with closing(database.connect()) as conn, conn.cursor() as cursor, path.open("rb") as file:
        cursor.copy_expert("COPY request_log FROM STDIN", file)
    assert numbers(database) == list(range(5))
    assert database.fetch("SELECT DISTINCT user_agent FROM request_log") == [("test's \\",)]


# -- looking ---------------------------------------------------------------------------------------


def test_judging_a_file_changes_nothing(tmp_path: Path) -> None:
    path = leave(tmp_path, [event(0), BAD[0], event(1)], torn=b"half a l")
    content = path.read_bytes()
    seen: list[int] = []
    judgement = judge(path, seen.append)
    assert judgement is not None
    assert (judgement.rows, judgement.bad, judgement.torn_bytes) == (2, 1, 8)
    assert judgement.descriptions[0].startswith("line 2, ")
    assert seen[-1] == len(content) - 8
    assert path.read_bytes() == content
    path.unlink()
    assert judge(path, seen.append) is None


# -- decisions -------------------------------------------------------------------------------------


def refusals(*sqlstates: str, rows: int = 8) -> tuple[Shipment, Pace, list[bool]]:
    pace = Pace(100)
    lines = b"".join(event(n) + b"\n" for n in range(rows))
    shipment = Shipment(Batch("s", 0, len(lines), lines, rows), pace, ads=None)
    answers = []
    for sqlstate in sqlstates:
        assert shipment.next() is not None
        answers.append(shipment.refused(sqlstate, "no"))
    return shipment, pace, answers


@pytest.mark.parametrize("sqlstate", ["53100", "42P01", "42501", "57014", "25006", ""])
def test_a_full_disk_is_no_reason_to_give_up_a_line(sqlstate: str) -> None:
    assert refusals(sqlstate, rows=1)[2] == [False]


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
def test_a_batch_that_stood_in_anothers_way_is_sent_again_as_it_is(sqlstate: str) -> None:
    """PostgreSQL has undone it; and no line is to blame, however often that happens."""
    shipment, pace, answers = refusals(*20 * [sqlstate])
    assert answers == 20 * [True]
    assert pace.rows == 100
    assert not shipment.refused(sqlstate, "for ever"), "and then the connection is made anew"


def test_a_bad_line_is_looked_for_by_halves() -> None:
    shipment, pace, answers = refusals("22P02")
    assert answers == [True]
    assert shipment.next() is None
    assert not shipment.counted
    assert pace.rows == 4
    for _ in range(9):
        pace.widen()
    assert pace.rows == 100


def test_a_partition_is_made_once_before_a_line_is_blamed() -> None:
    shipment, _, answers = refusals("23514", rows=1)
    making = shipment.next()
    assert making is not None
    assert making.name == "request_log_ensure"
    shipment.answered([(1,)])
    assert answers == [True]
    assert shipment.refused("23514", "still none")
    rejecting = shipment.next()
    assert rejecting is not None
    assert rejecting.name == "log_reject"
    assert not shipment.refused("22021", "not even as text")
