"""What ends a run with one line instead of a traceback."""


class OverloadError(Exception):
    """The run cannot go on; the message says what to do."""
