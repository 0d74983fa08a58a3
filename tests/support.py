"""Helpers that every kind of test uses: waiting for something without sleeping and hoping."""

import time
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

T = TypeVar("T")

POLL_S: Final = 0.01


def wait_until(predicate: Callable[[], T], what: str, timeout_s: float = 45.0) -> T:
    """Poll until the predicate is true and return its value; fail with what was waited for."""
    give_up_at = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > give_up_at:
            raise AssertionError(f"waited {timeout_s:g} s for {what}; last seen: {value!r}")
        time.sleep(POLL_S)


def unmeasured(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that Ctrl-C is going to end in whatever Python code it is in.

    Coverage takes a lock for each function that it meets first. A KeyboardInterrupt behind that line leaves
    it locked, and the process waits for it for ever (*seen* with coverage 7, one time in fifteen).
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith("COVERAGE_PROCESS_")
    }
