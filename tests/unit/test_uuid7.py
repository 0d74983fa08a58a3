"""Version 7 ids: the layout of RFC 9562, in order whatever the clock does, unlike any other process's."""

import os
import random
import uuid
from collections.abc import Callable
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from prefork_ads.events.uuid7 import WAITS_MS, Uuid7

NOW: Final = 1_700_000_000_123


def parts(text: bytes) -> tuple[int, int, int, int, int]:
    """unix_ts_ms, ver, rand_a, var, rand_b, by the figure in RFC 9562, 5.7."""
    assert len(text) == 32
    bits = f"{int(text, 16):0128b}"
    fields = bits[:48], bits[48:52], bits[52:64], bits[64:66], bits[66:]
    a, b, c, d, e = (int(field, 2) for field in fields)
    return a, b, c, d, e


def milliseconds_of(text: bytes) -> int:
    return parts(text)[0]


class Scripted(random.Random):
    """A source that gives the same bits each time."""

    def __init__(self, bits: Callable[[int], int]) -> None:
        super().__init__()
        self._bits = bits

    def getrandbits(self, k: int, /) -> int:
        return self._bits(k)


ZEROS: Final = Scripted(lambda _: 0)
ONES: Final = Scripted(lambda k: (1 << k) - 1)


@given(st.integers(0, (1 << 48) - 1))
def test_layout(milliseconds: int) -> None:
    for source in (None, ZEROS, ONES):
        text = Uuid7(source).next(milliseconds)
        stamp, version, _, variant, _ = parts(text)
        assert (stamp, version, variant) == (milliseconds, 7, 0b10)
        assert text == text.lower()
        assert uuid.UUID(text.decode()).variant == uuid.RFC_4122
        assert uuid.UUID(text.decode()).version == 7


def test_all_random_bits_are_used() -> None:
    assert parts(Uuid7(ZEROS).next(NOW))[4] == 0
    assert parts(Uuid7(ONES).next(NOW))[4] == (1 << 62) - 1
    counts = {parts(Uuid7().next(NOW))[2] for _ in range(200)}
    assert len(counts) > 100, "the counter starts anywhere"


def test_ids_of_one_millisecond_are_in_order() -> None:
    ids = Uuid7()
    made = [ids.next(NOW) for _ in range(1000)]
    assert made == sorted(set(made))
    assert {milliseconds_of(text) for text in made} == {NOW}


@given(st.lists(st.integers(NOW - 5000, NOW + 5000), min_size=2, max_size=50))
def test_ids_are_in_order_whatever_the_clock_does(clock: list[int]) -> None:
    ids = Uuid7()
    made = [ids.next(milliseconds) for milliseconds in clock]
    assert made == sorted(set(made))


def test_a_clock_that_goes_back_a_little_is_waited_for() -> None:
    ids = Uuid7()
    first = ids.next(NOW)
    assert milliseconds_of(ids.next(NOW - WAITS_MS)) == milliseconds_of(first)
    assert milliseconds_of(ids.next(NOW + 1)) == NOW + 1


def test_a_clock_that_was_ahead_and_is_put_right_is_believed() -> None:
    """Else ids would tell the time of the wrong clock for as long as it was ahead."""
    ids = Uuid7()
    ahead = ids.next(NOW + 2 * 86_400_000)
    made = [ids.next(NOW + n) for n in range(3)]
    assert [milliseconds_of(text) for text in made] == [NOW, NOW + 1, NOW + 2]
    assert made == sorted(made)
    assert ahead not in made


def test_past_the_counters_end_a_millisecond_is_borrowed() -> None:
    for source in (ZEROS, ONES):
        ids = Uuid7(source)
        made = [ids.next(NOW) for _ in range(20_000)]
        assert made == sorted(set(made))
        assert milliseconds_of(made[-1]) > NOW
        # Time catches up with what was borrowed.
        assert ids.next(NOW + 1) > made[-1]
        assert milliseconds_of(ids.next(NOW + 100)) == NOW + 100


def test_the_counter_has_room_in_each_millisecond() -> None:
    ids = Uuid7(ONES)
    made = [ids.next(NOW) for _ in range(2048)]
    assert {milliseconds_of(text) for text in made} == {NOW}


def test_generators_of_one_process_differ() -> None:
    one, two = Uuid7(), Uuid7()
    assert not {one.next(NOW) for _ in range(1000)} & {two.next(NOW) for _ in range(1000)}


def in_child(produce: Callable[[], bytes]) -> bytes:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, produce())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


def test_forked_processes_differ() -> None:
    """In the same millisecond, each with a generator of its own as a worker makes it after the fork."""
    made = [in_child(lambda: Uuid7().next(NOW)) for _ in range(4)] + [Uuid7().next(NOW)]
    assert len({parts(text)[4] for text in made}) == len(made)


def test_seeding_the_global_generator_changes_nothing() -> None:
    state = random.getstate()
    try:
        made = []
        for _ in range(2):
            random.seed(1)
            made.append(Uuid7().next(NOW))
    finally:
        random.setstate(state)
    assert made[0] != made[1]
