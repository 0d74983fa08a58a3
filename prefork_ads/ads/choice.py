"""The draw: one campaign out of a mask, with shares that are exactly its weights.

Weights are kept in binary, one mask per digit (see `planes`). The weight of a set is the sum over the
digits of 2**digit times the number of campaigns of the set that have it, which is a count of bits each.
So a draw lays out, digit by digit, as many units as the set weighs, takes the unit that it falls on, and
finds the campaign that the unit belongs to by halving. No candidate is looked at but the one that is found.

**Shares.** A draw is a whole number in [0, 2**53). It falls on unit `draw * total >> 53`: half-open
intervals, each unit with 2**53 / total draws, rounded up or down. A share is therefore off by less than
total / 2**53 of itself: 2**-29 for 1,000 campaigns of the greatest weight, which would show after some 10**17
decisions. Where total divides the number of draws, shares are exact.

The fraction that the multiplication leaves says where within its unit the draw fell. It is as good as a
fresh draw (53 bits less those of the total) and chooses the creative.

Must not know: what is drawn, what the weights come from.
"""

from collections.abc import Sequence
from typing import Final

from prefork_ads.ads.facts import DRAW_BITS

# What is left after a unit was found lies in [0, 2**DRAW_BITS), as the draw did.
_FRACTION: Final = (1 << DRAW_BITS) - 1

# Masks of the lower half, by the binary logarithm of its width. Enough for two million campaigns.
_LOWER: Final = tuple((1 << (1 << power)) - 1 for power in range(21))

# Places and masks of the digits that any campaign has, the lowest first.
Digits = Sequence[tuple[int, int]]


def draw_bit(digits: Digits, among: int, draw: int) -> tuple[int, int]:
    """The bit of `among` that the draw falls on, and the rest of the draw."""
    if not among & among - 1:
        return among.bit_length() - 1, draw
    units: list[tuple[int, int, int]] = []
    total = 0
    for place, mask in digits:
        having = mask & among
        if having:
            count = having.bit_count()
            total += count << place
            units.append((total, place, having))
    product = draw * total
    unit = product >> DRAW_BITS
    for up_to, place, having in units:
        if unit < up_to:
            # Counted from the end of this digit's units: which end does not matter to a share.
            return nth_bit(having, up_to - unit - 1 >> place), product & _FRACTION
    raise ValueError("The draw is greater than a draw can be, or nobody has any weight.")


def draw_index(weights: Sequence[int], draw: int) -> int:
    """The place in a short list that the draw falls on."""
    unit = draw * sum(weights) >> DRAW_BITS
    for index, weight in enumerate(weights):
        if unit < weight:
            return index
        unit -= weight
    raise ValueError("The draw is greater than a draw can be, or nothing has any weight.")


def nth_bit(mask: int, n: int) -> int:
    """The number of the n-th bit of a mask, from 0, the highest first."""
    below = 0
    power = (mask.bit_length() - 1).bit_length()
    while n:
        power -= 1
        upper = mask >> (1 << power)
        in_upper = upper.bit_count()
        if n < in_upper:
            mask = upper
            below += 1 << power
        else:
            mask &= _LOWER[power]
            n -= in_upper
    return below + mask.bit_length() - 1
