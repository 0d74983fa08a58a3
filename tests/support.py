"""Helpers that every kind of test uses: waiting for something without sleeping and hoping."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

POLL_S: Final = 0.01


def wait_until(predicate: Callable[[], T], what: str, timeout_s: float = 10.0) -> T:
    """Poll until the predicate is true and return its value; fail with what was waited for."""
    give_up_at = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > give_up_at:
            raise AssertionError(f"waited {timeout_s:g} s for {what}; last seen: {value!r}")
        time.sleep(POLL_S)
