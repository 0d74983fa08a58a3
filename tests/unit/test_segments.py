"""The journal's directory: who owns what, what is a stranger's, and what the dead left behind."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from prefork_ads.events import lines as lines_module
from prefork_ads.events.lines import FINDINGS_KEPT, BadLine, Batch, why_bad
from prefork_ads.events.segments import (
    DAMAGED,
    NEW_SUFFIX,
    SUFFIX,
    AdoptedSegment,
    adopt,
    begin_segment,
    first_event_s,
    list_segments,
    new_stream,
    prepare_directory,
    remove_leftovers,
    segment_name,
    set_aside,
    stream_began,
    stream_of,
)
from tests.unit.journal_bed import BEGAN, event, names, numbers_of, refuse_to_open

STREAM: Final = new_stream("host.example", 4711, BEGAN)
FIRST: Final = segment_name(STREAM, 1)


def leave(directory: Path, data: bytes, name: str = FIRST) -> Path:
    """A segment whose owner is gone."""
    path = directory / (name + SUFFIX)
    path.write_bytes(data)
    return path


def adopted(path: Path) -> AdoptedSegment:
    segment = adopt(path)
    assert segment is not None
    return segment


def read_all(segment: AdoptedSegment, max_rows: int = 3, max_bytes: int = 1 << 20) -> list[Batch]:
    batches = []
    while (batch := segment.next_batch(max_rows, max_bytes)) is not None:
        # Asked for again, as after a lost connection: nothing is found twice.
        assert segment.next_batch(max_rows, max_bytes) == batch
        batches.append(batch)
        segment.shipped(batch)
    return batches


def lines_of(*numbers: int) -> bytes:
    return b"".join(event(number) + b"\n" for number in numbers)


# -- names -------------------------------------------------------------------------------------------


def test_a_name_tells_when_its_stream_began() -> None:
    assert FIRST.startswith("host.example-4711-")
    assert FIRST.endswith("-000001")
    assert stream_began(FIRST) == BEGAN
    assert new_stream("h", 1, BEGAN) != new_stream("h", 1, BEGAN)


def test_a_segment_tells_whose_it_is() -> None:
    """Also the only one of a journal in memory, which has the stream's own name."""
    assert stream_of(FIRST) == STREAM
    assert stream_of(segment_name(STREAM, 123_456_789)) == STREAM
    assert stream_of(STREAM) == STREAM


@pytest.mark.parametrize(
    "hostname", ["", ".", "../../etc", "a/b", "h" * 300, "böse\nwelt", "..", "-x", "a_b", "\0"]
)
def test_any_host_makes_a_name(hostname: str) -> None:
    name = segment_name(new_stream(hostname, os.getpid(), BEGAN), 999_999_999)
    assert stream_began(name) == BEGAN
    assert Path(name + NEW_SUFFIX).name == name + NEW_SUFFIX
    assert not name.startswith(".")
    assert len(name) < 200


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x",
        "unsent-h-1-00112233445566778899aabb-from-0",
        f"{FIRST}x",
        f"../{FIRST}",
        f"{FIRST}\n",
    ],
)
def test_names_of_others(name: str) -> None:
    assert stream_began(name) is None


# -- owning ------------------------------------------------------------------------------------------


def test_a_segment_is_locked_from_its_first_moment(tmp_path: Path) -> None:
    path, fd = begin_segment(tmp_path, FIRST)
    assert names(tmp_path) == [FIRST + SUFFIX]
    assert adopt(path) is None
    # A lock belongs to the open file, so it holds within a process, too; and goes with its last descriptor.
    copy = os.dup(fd)
    os.close(fd)
    assert adopt(path) is None
    os.close(copy)
    with adopted(path):
        assert adopt(path) is None
    adopted(path).release()


def test_a_name_is_never_used_twice(tmp_path: Path) -> None:
    path, fd = begin_segment(tmp_path, FIRST)
    os.write(fd, b"precious")
    with pytest.raises(FileExistsError):
        begin_segment(tmp_path, FIRST)
    assert path.read_bytes() == b"precious"
    assert names(tmp_path) == [FIRST + SUFFIX]
    (tmp_path / f"x{NEW_SUFFIX}").write_bytes(b"")
    with pytest.raises(FileExistsError):
        begin_segment(tmp_path, "x")
    os.close(fd)


def test_the_owner_removes_it_between_open_and_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock we get then is on a file without a name, or the name is another file's."""
    path = leave(tmp_path, lines_of(1))
    lock = fcntl.flock

    def remove_first(fd: int, kind: int) -> None:
        path.unlink(missing_ok=True)
        lock(fd, kind)

    def replace_first(fd: int, kind: int) -> None:
        (tmp_path / "other").write_bytes(b"")
        (tmp_path / "other").rename(path)
        lock(fd, kind)

    for trick in (remove_first, replace_first):
        path.write_bytes(lines_of(1))
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", trick)
            assert adopt(path) is None


def test_a_segment_somebody_takes_for_a_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cleaner locks it before its maker does: the maker is told, and nothing is left."""
    lock = fcntl.flock

    def clean_first(fd: int, kind: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        with (tmp_path / (FIRST + NEW_SUFFIX)).open("rb") as other:
            lock(other, fcntl.LOCK_EX)
            lock(fd, kind)

    monkeypatch.setattr(fcntl, "flock", clean_first)
    with pytest.raises(BlockingIOError):
        begin_segment(tmp_path, FIRST)
    assert names(tmp_path) == []


def test_leftovers_are_removed_unless_they_are_being_made(tmp_path: Path) -> None:
    left = tmp_path / (FIRST + NEW_SUFFIX)
    left.write_bytes(b"")
    made = tmp_path / (segment_name(STREAM, 2) + NEW_SUFFIX)
    others = tmp_path / f"precious{NEW_SUFFIX}"
    others.write_bytes(b"")
    with made.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert remove_leftovers(tmp_path) == [left.name]
        assert names(tmp_path) == sorted([made.name, others.name])
    assert remove_leftovers(tmp_path) == [made.name]
    assert remove_leftovers(tmp_path / "nowhere") == []


def test_a_leftover_that_may_not_be_removed_does_not_keep_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of another user, say. Nothing waits in it, and what is done next must not wait for it."""
    foreign, ours = (tmp_path / (segment_name(STREAM, n) + NEW_SUFFIX) for n in (1, 2))
    foreign.write_bytes(b"")
    ours.write_bytes(b"")
    refuse_to_open(foreign, monkeypatch)
    assert remove_leftovers(tmp_path) == [ours.name]
    assert names(tmp_path) == [foreign.name]


# -- the directory -----------------------------------------------------------------------------------


@contextmanager
def strangers(directory: Path) -> Iterator[None]:
    """Everything that has a segment's name and is none, or has none."""
    target = directory / "target"
    target.write_bytes(lines_of(1))
    numbers = iter(range(100, 200))

    def named() -> Path:
        return directory / (segment_name(STREAM, next(numbers)) + SUFFIX)

    with ExitStack() as stack:
        named().symlink_to(target)
        named().symlink_to(directory / "nowhere")
        named().mkdir()
        os.mkfifo(named())
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        # The path of a socket is short: bound where we are, then moved.
        short = Path(f"/tmp/journal-{os.getpid()}.sock")
        unix.bind(str(short))
        short.rename(named()) if short.stat().st_dev == directory.stat().st_dev else short.unlink()
        for name in ("notes.tsv", "unsent-h-1-00-from-0.tsv", FIRST, f".{FIRST}.tsv", "a b"):
            (directory / name).write_bytes(b"mine")
        (directory / DAMAGED).mkdir()
        leave(directory / DAMAGED, lines_of(1))
        yield


def test_strangers_are_left_alone(tmp_path: Path) -> None:
    with strangers(tmp_path):
        before = names(tmp_path)
        path = leave(tmp_path, lines_of(1), segment_name(STREAM, 2))
        (found,) = list_segments(tmp_path)
        assert (found.path, found.alive, found.began) == (path, False, BEGAN)
        assert found.size == len(lines_of(1))
        for stranger in before:
            assert adopt(tmp_path / stranger) is None
        assert remove_leftovers(tmp_path) == []
        assert adopted(path).remove()
        assert names(tmp_path) == before
        assert (tmp_path / "target").read_bytes() == lines_of(1)


def test_the_oldest_stream_comes_first(tmp_path: Path) -> None:
    order = [
        segment_name(new_stream("b", 1, BEGAN), 1),
        *(segment_name(new_stream("a", 1, BEGAN + 1), number) for number in (1,)),
        segment_name(STREAM.replace(f"{int(BEGAN):08x}", f"{int(BEGAN) + 2:08x}"), 2),
        segment_name(STREAM.replace(f"{int(BEGAN):08x}", f"{int(BEGAN) + 2:08x}"), 10),
    ]
    for name in reversed(order):
        leave(tmp_path, b"", name)
    _, fd = begin_segment(tmp_path, segment_name(new_stream("c", 1, BEGAN + 3), 1))
    found = list_segments(tmp_path)
    assert [segment.name for segment in found[:-1]] == order
    assert [segment.alive for segment in found] == [False] * 4 + [True]
    os.close(fd)
    assert list_segments(tmp_path / "nowhere") == []


def test_a_directory_that_takes_segments(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    for _ in range(2):
        prepare_directory(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert names(directory) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="exists"):
        prepare_directory(tmp_path / "file")


def test_a_directory_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="No locks"):
        prepare_directory(tmp_path)
    assert names(tmp_path) == []
    leave(tmp_path, b"")
    with pytest.raises(OSError, match="No locks"):
        adopt(tmp_path / (FIRST + SUFFIX))


def test_segments_of_another_user_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason why nobody knows whether they have an owner."""
    path = leave(tmp_path, lines_of(1))
    refuse_to_open(path, monkeypatch)
    owner = path.stat().st_uid
    (found,) = list_segments(tmp_path)
    assert (found.alive, found.size) == (None, len(lines_of(1)))
    assert found.trouble == f"{path}: Permission denied"
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    (found,) = list_segments(tmp_path)
    assert found.trouble.endswith(f"it belongs to another user (uid {owner})")
    with pytest.raises(PermissionError):
        adopt(found.path)


def test_a_segment_that_cannot_be_opened_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = leave(tmp_path, lines_of(1))
    leave(tmp_path, lines_of(2), segment_name(STREAM, 2))
    refuse_to_open(broken, monkeypatch, errno.EIO)
    assert [(found.alive, bool(found.trouble)) for found in list_segments(tmp_path)] == [
        (None, True),
        (False, False),
    ]


def test_when_the_first_event_of_a_segment_was(tmp_path: Path) -> None:
    """Only its first bytes are read: what is damaged there is passed over, and the rest stays unread."""
    second = event(2).replace(b"22:13:20", b"22:13:21")
    assert first_event_s(leave(tmp_path, lines_of(1) + second + b"\n")) == BEGAN + 0.001
    assert first_event_s(leave(tmp_path, b"\0\0\n" + second + b"\n")) == BEGAN + 1.002
    assert first_event_s(leave(tmp_path, event(1, b"x" * 10_000))) == BEGAN + 0.001
    assert first_event_s(leave(tmp_path, bytes(10_000) + b"\n" + lines_of(1))) is None
    assert first_event_s(leave(tmp_path, b"")) is None


# -- adopting ----------------------------------------------------------------------------------------


def test_a_segment_is_shipped_from_the_ledgers_position_and_removed(tmp_path: Path) -> None:
    path = leave(tmp_path, lines_of(1, 2, 3, 4))
    with adopted(path) as segment:
        assert segment.name == FIRST
        assert segment.start_at(len(lines_of(1)))
        batches = read_all(segment, max_rows=2)
        assert [numbers_of(batch.data) for batch in batches] == [[2, 3], [4]]
        assert [(batch.before, batch.after) for batch in batches] == [
            (len(lines_of(1)), len(lines_of(1, 2, 3))),
            (len(lines_of(1, 2, 3)), len(lines_of(1, 2, 3, 4))),
        ]
        assert (segment.torn_bytes, segment.bad.count) == (0, 0)
        assert names(tmp_path) == [path.name]
        assert segment.remove()
        assert names(tmp_path) == []
        # Once more, as after a failed sync of the directory.
        assert segment.remove()


def test_a_torn_line_was_never_acknowledged(tmp_path: Path) -> None:
    path = leave(tmp_path, lines_of(1) + event(2)[:-1])
    with adopted(path) as segment:
        assert [batch.rows for batch in read_all(segment)] == [1]
        assert segment.torn_bytes == len(event(2)) - 1
        assert segment.bad.count == 0


def test_nothing_but_a_torn_line(tmp_path: Path) -> None:
    with adopted(leave(tmp_path, b"x")) as segment:
        assert read_all(segment) == []
        assert segment.torn_bytes == 1
    with adopted(leave(tmp_path, b"")) as segment:
        assert read_all(segment) == []
        assert segment.torn_bytes == 0


def test_the_ledger_is_ahead_of_the_file(tmp_path: Path) -> None:
    """Power failed: PostgreSQL had synced the rows, the file system had not synced the file."""
    with adopted(leave(tmp_path, lines_of(1, 2))) as segment:
        assert not segment.start_at(len(lines_of(1, 2, 3)))
        assert read_all(segment) == []
        assert (segment.torn_bytes, segment.bad.count) == (0, 0)


def test_damaged_lines_are_named_and_the_rest_is_shipped(tmp_path: Path) -> None:
    data = lines_of(1) + b"nonsense\n" + lines_of(2, 3) + b"\n" + lines_of(4)
    path = leave(tmp_path, data)
    with adopted(path) as segment:
        batches = read_all(segment)
        assert [number for batch in batches for number in numbers_of(batch.data)] == [1, 2, 3, 4]
        assert batches[-1].after == len(data)
        assert segment.bad.count == 2
        assert segment.bad.bytes == len(b"nonsense\n\n")
        assert segment.descriptions() == [
            f"line 2, byte {len(lines_of(1))}: has 1 fields, not 8 (9 bytes)",
            f"line 5, byte {len(lines_of(1, 2, 3)) + 9}: has 1 fields, not 8 (1 bytes)",
        ]
        aside = segment.set_aside()
        assert aside.read_bytes() == data
        assert names(tmp_path) == [DAMAGED]
    assert list_segments(tmp_path) == []


def test_lines_are_judged_alone(tmp_path: Path) -> None:
    """What two of them make together is nobody's business: here one UTF-8 character."""
    first = event(1).removesuffix(b"\\N") + b"\xd6"
    with adopted(leave(tmp_path, first + b"\n\xaf\n" + lines_of(2))) as segment:
        assert [batch.rows for batch in read_all(segment)] == [1]
        assert [bad.reason for bad in segment.bad.kept] == ["is not UTF-8"] * 2


def test_a_batch_of_bad_lines_moves_the_position_and_nothing_else(tmp_path: Path) -> None:
    with adopted(leave(tmp_path, b"a\nb\nc\n" + lines_of(1))) as segment:
        first, second = read_all(segment)
        assert first == Batch(FIRST, 0, 6, b"", 0)
        assert numbers_of(second.data) == [1]


def test_lost_pages_at_the_end_are_damage_and_no_torn_line(tmp_path: Path) -> None:
    path = leave(tmp_path, lines_of(1) + event(2)[:20])
    os.truncate(path, 3 << 20)
    with adopted(path) as segment:
        assert [batch.rows for batch in read_all(segment)] == [1]
        assert segment.torn_bytes == 0
        assert segment.bad.kept == [
            BadLine(len(lines_of(1)), (3 << 20) - len(lines_of(1)), "has NUL bytes and no end")
        ]


def test_lost_pages_in_the_middle(tmp_path: Path) -> None:
    """Far more zeros than are read at once, in a line that does end: what is behind them is shipped."""
    path = leave(tmp_path, lines_of(1))
    with path.open("r+b") as file:
        file.seek(5 << 20)
        file.write(b"end of a line\n" + lines_of(2))
    with adopted(path) as segment:
        batches = read_all(segment, max_bytes=1 << 16)
        assert [batch.rows for batch in batches] == [1, 0, 1]
        assert [bad.reason for bad in segment.bad.kept] == ["has NUL bytes"]


def test_lines_longer_than_any_event_are_not_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "LONGEST_LINE_BYTES", 1 << 20)
    long = event(1, b"x" * (1 << 20))
    with adopted(leave(tmp_path, long + b"\n" + lines_of(2))) as segment:
        batches = read_all(segment, max_bytes=1)
        assert [batch.rows for batch in batches] == [0, 1]
        assert segment.bad.kept == [BadLine(0, len(long) + 1, "is longer than any event")]


def test_only_the_first_findings_are_kept(tmp_path: Path) -> None:
    with adopted(leave(tmp_path, b"x\n" * 5000)) as segment:
        read_all(segment, max_rows=17)
        assert segment.bad.count == 5000
        assert len(segment.bad.kept) == FINDINGS_KEPT
        assert segment.descriptions()[99].startswith("line 100, byte 198:")


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = leave(tmp_path, lines_of(1, 2, 3))
    with adopted(path) as segment:
        os.truncate(path, len(lines_of(1)))
        assert [numbers_of(batch.data) for batch in read_all(segment)] == [[1]]


def test_aside_nothing_is_replaced_and_no_link_is_followed(tmp_path: Path) -> None:
    paths = []
    for content in (b"1", b"2", b"3"):
        paths.append(set_aside(leave(tmp_path, content)))
    assert [path.read_bytes() for path in paths] == [b"1", b"2", b"3"]
    assert (tmp_path / DAMAGED).stat().st_mode & 0o777 == 0o700
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / DAMAGED).symlink_to(elsewhere)
    path = leave(other, b"4")
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        set_aside(path)
    assert path.read_bytes() == b"4"
    assert names(elsewhere) == []


def test_a_name_that_is_another_files_by_now_is_not_removed(tmp_path: Path) -> None:
    path = leave(tmp_path, lines_of(1))
    with adopted(path) as segment:
        path.rename(tmp_path / "moved")
        path.write_bytes(b"somebody else's")
        # It lives on under another name, so the ledger has to remember it.
        assert not segment.remove()
        assert path.read_bytes() == b"somebody else's"


# -- judging -----------------------------------------------------------------------------------------

STAMP: Final = b"2023-11-14 22:13:20.123+00\t018bcfe5687b7fff8000000000000000"


def a_line(stamp: bytes = STAMP, params: bytes = b"{}", agent: bytes = b"x") -> bytes:
    return b"\t".join((stamp, b"log", params, agent, b"\\N", b"192.0.2.1", b"\\N"))


@pytest.mark.parametrize(
    "line",
    [
        a_line(),
        a_line(params=b'{"a":"\\\\n\\\\\\\\"}'),
        a_line(params=b'{"n":1e999}'),
        a_line(params=b"9" * 1000),
        a_line(params=b'{"a":"\x7f"}'),
        a_line(agent=b""),
        a_line(agent=b"\\N"),
        a_line(agent=b"\\\\N"),
        a_line(agent=b"\\\\"),
        a_line(agent=b"\\t\\r\\n\\\\\\t"),
        a_line(agent="café \u2028 😀".encode()),
        a_line(stamp=STAMP.replace(b"2023-11-14", b"2024-02-29")),
    ],
)
def test_good_lines(line: bytes) -> None:
    assert why_bad(line) == ""


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "fields"),
        (a_line() + b"\tmore", "9 fields"),
        (a_line().rpartition(b"\t")[0], "7 fields"),
        (a_line(agent=b"a\0b"), "NUL"),
        (a_line(agent=b"a\rb"), "control"),
        (a_line(agent=b"caf\xe9"), "UTF-8"),
        (a_line(agent=b"\xed\xa0\x80"), "UTF-8"),
        (a_line(stamp=STAMP.replace(b"2023-11-14", b"2023-02-29")), "time"),
        (a_line(stamp=STAMP.replace(b"22:13", b"24:13")), "time"),
        (a_line(stamp=STAMP.replace(b"+00", b"+01")), "time"),
        (a_line(stamp=STAMP.replace(b"fff", b"ggg")), "id"),
        (a_line(stamp=STAMP[:-1]), "id"),
        (a_line(stamp=b"now\t" + STAMP[-32:]), "time"),
        (a_line(stamp="２０23-11-14 22:13:20.123+00\t".encode() + STAMP[-32:]), "time"),
        (a_line(params=b"{"), "JSON"),
        (a_line(params=b""), "JSON"),
        (a_line(params=b"\\N"), "JSON"),
        (a_line(params=b"9" * 5000), "JSON"),
        (a_line(agent=b"\\x41"), "escape"),
        (a_line(agent=b"\\"), "escape"),
        (a_line(agent=b"\\\\\\"), "escape"),
        (a_line(agent=b"\\N\\N"), "escape"),
        (a_line(agent=b"x\\N"), "escape"),
        (a_line(agent=b"\\Nx"), "escape"),
        (a_line(agent=b"\\."), "escape"),
    ],
)
def test_bad_lines(line: bytes, why: str) -> None:
    assert why in why_bad(line)
