"""The draw: shares are exactly the weights, to the last draw where the numbers allow it."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_ads.ads.choice import draw_bit, draw_index, nth_bit
from prefork_ads.ads.facts import DRAW_BITS
from prefork_ads.ads.masks import bits_of, mask_of, with_bit, without_bit
from prefork_ads.ads.planes import Planes

DRAWS = 1 << DRAW_BITS


def planes_of(weights: dict[int, int]) -> Planes:
    planes = Planes()
    for bit, weight in weights.items():
        planes.toggle(bit, weight)
    return planes


def digits_of(weights: dict[int, int]) -> list[tuple[int, int]]:
    return [(place, mask) for place, mask in enumerate(planes_of(weights).digits) if mask]


def all_of(weights: dict[int, int]) -> int:
    return sum(1 << bit for bit in weights)


def middles(units: int) -> list[int]:
    """A draw from the middle of each unit."""
    return [(2 * unit + 1) * DRAWS // (2 * units) for unit in range(units)]


@given(st.dictionaries(st.integers(0, 300), st.integers(1, 40), min_size=1, max_size=12))
def test_each_campaign_has_as_many_units_as_it_weighs(weights: dict[int, int]) -> None:
    """Draws that are spread evenly give exactly the weights."""
    digits, among = digits_of(weights), all_of(weights)
    total = sum(weights.values())
    assert Counter(draw_bit(digits, among, draw)[0] for draw in middles(total)) == weights


@given(st.sets(st.integers(0, 200), min_size=1, max_size=30), st.data())
def test_only_who_is_asked_for_is_drawn(bits: set[int], data: st.DataObject) -> None:
    """Others weigh nothing, whatever their weight."""
    everybody = {bit: 1 + bit % 7 for bit in range(201)}
    draw = data.draw(st.integers(0, DRAWS - 1))
    found, rest = draw_bit(digits_of(everybody), all_of(dict.fromkeys(bits, 1)), draw)
    assert found in bits
    assert 0 <= rest < DRAWS


@pytest.mark.parametrize(
    "weights",
    [
        {0: 1, 1: 1},
        {0: 3, 5: 1, 64: 4},
        {3: 16000, 9999: 384},
        dict.fromkeys(range(0, 1000, 8), 1) | {1: 899},
    ],
)
def test_unit_borders_are_half_open(weights: dict[int, int]) -> None:
    """Where the total divides the draws, each unit has exactly as many: its first and last are its own."""
    digits, among = digits_of(weights), all_of(weights)
    total = sum(weights.values())
    assert DRAWS % total == 0, "or the last draw of a unit would not be known"
    wide = DRAWS // total
    first = Counter(draw_bit(digits, among, unit * wide)[0] for unit in range(total))
    last = Counter(draw_bit(digits, among, unit * wide + wide - 1)[0] for unit in range(total))
    assert first == last == weights


def test_the_first_and_the_last_draw_are_in_it() -> None:
    """Closed on both sides, a range would give one side a draw too much (with weights 1 and 1, 2 of 3)."""
    weights = {0: 1, 1: 1, 2: 1}
    digits = digits_of(weights)
    assert {draw_bit(digits, 0b111, draw)[0] for draw in (0, DRAWS // 2, DRAWS - 1)} == {0, 1, 2}


def test_shares_over_many_draws() -> None:
    """Chi squared over 200,000 draws stays where chance leaves it: 99.9 % with 9 degrees are below 27.9."""
    random = Random(11)
    weights = {bit * 37: random.randint(1, 1000) * random.randint(1, 16) for bit in range(10)}
    digits, among, total = digits_of(weights), all_of(weights), sum(weights.values())
    draws = 200_000
    found = Counter(draw_bit(digits, among, random.getrandbits(53))[0] for _ in range(draws))
    expected = {bit: draws * weight / total for bit, weight in weights.items()}
    assert sum((found[b] - expected[b]) ** 2 / expected[b] for b in weights) < 27.9


def test_what_is_left_of_a_draw_is_as_even_as_the_draw() -> None:
    """Whoever was drawn, the rest falls into each tenth of its range a tenth of the times."""
    random = Random(12)
    weights = {0: 5, 1: 1, 2: 4}
    digits = digits_of(weights)
    tenths: Counter[tuple[int, int]] = Counter()
    for _ in range(100_000):
        bit, rest = draw_bit(digits, 0b111, random.getrandbits(53))
        tenths[bit, rest * 10 >> DRAW_BITS] += 1
    for bit, weight in weights.items():
        expected = 1000 * weight
        squared = sum((tenths[bit, tenth] - expected) ** 2 / expected for tenth in range(10))
        assert squared < 27.9


def test_an_index_is_drawn_by_weight() -> None:
    assert Counter(draw_index([3, 1, 2], draw) for draw in middles(6)) == {0: 3, 1: 1, 2: 2}


@given(st.sets(st.integers(0, 3000), min_size=1, max_size=40))
def test_the_nth_bit_is_found(bits: set[int]) -> None:
    mask = sum(1 << bit for bit in bits)
    assert [nth_bit(mask, n) for n in range(len(bits))] == sorted(bits, reverse=True)
    assert list(bits_of(mask)) == sorted(bits, reverse=True)


@given(
    st.dictionaries(st.integers(0, 200), st.integers(0, 5000), max_size=40), st.integers(0, 6000)
)
def test_planes_compare_add_and_multiply(numbers: dict[int, int], limit: int) -> None:
    planes, everyone = planes_of(numbers), all_of(numbers)
    assert set(bits_of(planes.below(limit, everyone))) == {
        bit for bit, number in numbers.items() if number < limit
    }
    assert planes.total(everyone) == sum(numbers.values())
    assert all(planes.times(limit).at(bit) == number * limit for bit, number in numbers.items())


@given(st.lists(st.integers(0, 1 << 40), max_size=64), st.integers(0, 300))
def test_planes_are_filled_as_they_are_toggled(numbers: list[int], first: int) -> None:
    filled = Planes()
    filled.fill(first, numbers)
    assert filled.digits == planes_of({first + i: one for i, one in enumerate(numbers)}).digits


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50)), max_size=60))
def test_few_members_and_many_are_the_same_set(steps: list[tuple[bool, int]]) -> None:
    """Whether they are kept as numbers or as a mask."""
    members: int | tuple[int, ...] = ()
    expected: set[int] = set()
    for added, bit in steps:
        if added:
            members = with_bit(members, bit)
            expected.add(bit)
        else:
            members = without_bit(members, bit)
            expected.discard(bit)
        assert set(bits_of(mask_of(members))) == expected
        assert bool(members) == bool(expected)
