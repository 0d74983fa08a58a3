"""The program that chooses a listener, run by a machine as small as what it needs."""

from itertools import combinations

import pytest

from prefork_ads.process.steering import Instruction, choice_among

_RANDOM_AT = 0xFFFFF000 + 56


def run(program: list[Instruction], drawn: int) -> int:
    """What the kernel's machine for classic BPF answers when it draws this number."""
    accumulator = at = 0
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        match code:
            case 0x20 if k == _RANDOM_AT:
                accumulator = drawn
            case 0x94:
                accumulator %= k
            case 0x04:
                accumulator += k
            case 0x35:
                at += if_true if accumulator >= k else if_false
            case 0x16:
                return accumulator
            case _:
                raise AssertionError(f"no such instruction: {code:#x} at {at - 1}")


@pytest.mark.parametrize("places", [c for n in range(1, 7) for c in combinations(range(6), n)])
def test_every_place_is_chosen_as_often_as_the_others(places: tuple[int, ...]) -> None:
    program = choice_among(places)
    answers = [run(program, 0xFFFFFF00 + drawn) for drawn in range(10 * len(places))]
    assert {place: answers.count(place) for place in set(answers)} == dict.fromkeys(places, 10)


def test_the_longest_program_is_well_within_the_kernels_limit() -> None:
    """BPF_MAXINSNS is 4096; the most slots are 128."""
    program = choice_among(range(1, 128, 2))
    assert len(program) < 256
    assert {run(program, drawn) for drawn in range(64)} == set(range(1, 128, 2))
