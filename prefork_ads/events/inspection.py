"""Segments as a person looks at them: read as they are, without owning or changing anything.

Must not know: SQL, what is done about what is found.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prefork_ads.events.segments import DAMAGED, SUFFIX, AdoptedSegment

_ROWS: Final = 10_000
_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class DamagedFile:
    """A segment that was set aside."""

    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the lines of a segment are worth."""

    rows: int
    bad: int
    # Where the first hundred bad ones are and what is wrong with them.
    descriptions: tuple[str, ...]
    # Bytes behind the last newline; of a living worker's segment they are being written.
    torn_bytes: int


def list_damaged(directory: Path) -> list[DamagedFile]:
    """The segments that were set aside. Raises OSError."""
    aside = directory / DAMAGED
    if not aside.is_dir():
        return []
    paths = [path for path in sorted(aside.iterdir()) if path.suffix == SUFFIX and path.is_file()]
    return [DamagedFile(path, path.stat().st_size) for path in paths]


def judge(path: Path, progress: Callable[[int], None]) -> Judgement | None:
    """Read every line; None: the file is gone, shipped by now. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    rows = 0
    # Not adopted, so nothing but reading may be asked of it.
    with AdoptedSegment(path, 0.0, fd) as segment:
        while (batch := segment.next_batch(_ROWS, _BYTES)) is not None:
            rows += batch.rows
            segment.shipped(batch)
            progress(segment.position)
        said = tuple(segment.descriptions())
        return Judgement(rows, segment.bad.count, said, segment.torn_bytes)
