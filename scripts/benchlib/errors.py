"""The one way the bench gives up: a sentence that names the way out."""


class BenchError(Exception):
    """Printed as it is, without a traceback."""
