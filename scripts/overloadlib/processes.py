"""Processes of the load: whoever is started is ended, too, whenever Ctrl-C comes.

A terminal's Ctrl-C reaches all of them at once. One ends them in order, and says what there is to say; to
the others signals are nothing that they see to themselves.

Python runs a handler between any two of its steps. The one between a fork and the line that remembers the
child left a child behind that nobody knew, at work for a minute (*seen*, in one run of hundreds). So signals
wait in the kernel meanwhile. A child inherits that (fork(2), execve(2)) and has to let them in again.

Must not know: what the processes do.
"""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess

_ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM come at the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # In here: what came before raises from this call, which has held the others back by then.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_in() -> None:
    """In a child that was started while they were held back."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)


def start(process: BaseProcess, stack: ExitStack) -> None:
    """It ends with the stack at the latest. It has to begin with `leave_signals_to_parent`."""
    with held_back():
        process.start()
        stack.callback(process.join)
        stack.callback(process.terminate)


def leave_signals_to_parent() -> None:
    """In a process of its own: only SIGTERM ends it, as its parent does, without a word."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    let_in()
