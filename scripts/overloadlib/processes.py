"""Processes of the load: whoever is started is ended, too, whenever Ctrl-C comes.

A terminal's Ctrl-C reaches all of them at once. One ends them in order, and says what there is to say; to
the others signals are nothing that they see to themselves.

Python runs a handler between any two of its steps. The one between a fork and the line that remembers the
child left a child behind that nobody knew, at work for a minute (*seen*, in one run of hundreds). So they are
only noted meanwhile. Why the kernel does not hold them back: it does so for one thread (sigprocmask(2)), and
another that takes the signal has Python run the handler in the main one all the same.

Must not know: what the processes do.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_back() -> Iterator[None]:
    """In the main thread: Ctrl-C and SIGTERM come at the end of the block."""
    ours = os.getpid()
    came: list[int] = []
    over = False

    def note(number: int, _: FrameType | None) -> None:
        if os.getpid() != ours:
            # A process of the load that has not come to say so itself.
            if number == signal.SIGTERM:
                os._exit(128 + number)
        elif over:
            raise KeyboardInterrupt
        else:
            came.append(number)

    before = {number: signal.getsignal(number) for number in _ENDING}
    try:
        for number in _ENDING:
            signal.signal(number, note)
        yield
    finally:
        over = True
        for number in _ENDING:
            signal.signal(number, before[number])
        if came:
            signal.raise_signal(came[0])


def start(process: BaseProcess, stack: ExitStack) -> None:
    """It ends with the stack at the latest. It has to begin with `leave_signals_to_parent`."""
    with held_back():
        process.start()
        stack.callback(process.join)
        # Not SIGTERM: before the child is a whole Python, a signal that Python handles is forgotten there.
        stack.callback(process.kill)


def leave_signals_to_parent() -> None:
    """In a process of its own: Ctrl-C does not end it, SIGTERM does without a word."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
