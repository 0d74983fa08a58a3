"""Standard output and standard error as Python has them, around a fork and at a process's end.

What waits in their buffers at a fork is written twice, by parent and child, so they are emptied before.
Three things make that less simple than two calls:

- A text that cannot be written (the reader has gone, the disk is full) stays in the buffer, and from then
  on every flush fails with it. The log does not care, it writes by itself; but a master that flushed so
  could fork nobody any more, and would end with Python's status 120.
- A stream is None when its descriptor was closed at the start.
- A closed descriptor is given to whatever is opened next. A listener or the scoreboard as number 2 would
  be written to by everybody who means standard error.

Must not know: what is written.
"""

import io
import os
import sys

_NUMBERS = {"stdout": 1, "stderr": 2}


def take_places() -> None:
    """At the start: descriptors 0 to 2 are never anything else, in programs that we start neither."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= max(_NUMBERS.values()):
        os.set_inheritable(fd, True)
    os.close(fd)


def flush() -> None:
    """Nothing waits any more: what cannot be written is forgotten."""
    for name, number in _NUMBERS.items():
        stream = getattr(sys, name)
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            # There is no way to empty the buffer of the old one. The new one has none.
            setattr(sys, name, _unbuffered(number))


def _unbuffered(number: int) -> io.TextIOWrapper | None:
    try:
        raw = io.FileIO(number, "w", closefd=False)
    except OSError:
        return None
    # Python makes the same of it when it is started with -u.
    return io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)
