"""What signals are to the processes of the load: nothing that they see to themselves.

A terminal's Ctrl-C reaches all of them at once. One ends them in order, and says what there is to say.

Must not know: what they do.
"""

import signal


def leave_signals_to_parent() -> None:
    """In a process of its own: only SIGTERM ends it, as its parent does, without a word."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
