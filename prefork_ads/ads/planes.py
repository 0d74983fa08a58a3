"""One number per campaign, all of them in binary: one mask per digit.

Written this way, numbers of thousands of campaigns are compared with a limit, or summed over any set of
campaigns, in a few operations per digit and without looking at a campaign: weights for the draw, prices
against a floor, flights against now.

Must not know: what the numbers mean.
"""

from collections.abc import Sequence

# Short masks cost a third of long ones, so many numbers are first written into masks of this many bits.
LONGEST_FILL = 64


class Planes:
    """Numbers by bit. A bit that was given none has zero."""

    __slots__ = ("digits",)

    def __init__(self, digits: Sequence[int] = ()) -> None:
        self.digits = list(digits)
        """The mask of each binary digit, the lowest first."""

    def copy(self) -> "Planes":
        return Planes(self.digits)

    def toggle(self, bit: int, number: int) -> None:
        """Give a bit without a number this one, or take it away again: each undoes the other."""
        digits = self.digits
        one = 1 << bit
        place = 0
        while number:
            if place == len(digits):
                digits.append(0)
            if number & 1:
                digits[place] ^= one
            number >>= 1
            place += 1

    def fill(self, first: int, numbers: Sequence[int]) -> None:
        """Give these numbers to bits from `first` on; at most LONGEST_FILL of them, which had none."""
        assert len(numbers) <= LONGEST_FILL
        short = Planes()
        for bit, number in enumerate(numbers):
            short.toggle(bit, number)
        for place, mask in enumerate(short.digits):
            if place == len(self.digits):
                self.digits.append(0)
            self.digits[place] |= mask << first

    def at(self, bit: int) -> int:
        """The number of a bit."""
        return sum((mask >> bit & 1) << place for place, mask in enumerate(self.digits))

    def times(self, factor: int) -> "Planes":
        """All numbers multiplied: shifted and added, digit by digit, as on paper."""
        product = Planes()
        for place in range(factor.bit_length()):
            if factor >> place & 1:
                product._add([0] * place + self.digits)
        return product

    def _add(self, digits: Sequence[int]) -> None:
        carry = 0
        for place in range(max(len(self.digits), len(digits)) + 1):
            if place == len(self.digits):
                self.digits.append(0)
            one, other = self.digits[place], digits[place] if place < len(digits) else 0
            self.digits[place] = one ^ other ^ carry
            carry = one & other | carry & (one | other)
        while self.digits and not self.digits[-1]:
            self.digits.pop()

    def total(self, mask: int) -> int:
        """The sum over a mask."""
        return sum((digit & mask).bit_count() << p for p, digit in enumerate(self.digits) if digit)

    def below(self, limit: int, mask: int) -> int:
        """Those of a mask whose number is less than the limit."""
        less = 0
        # From the highest digit: `mask` are those that are equal to the limit so far.
        for place in range(max(len(self.digits), limit.bit_length()) - 1, -1, -1):
            digit = self.digits[place] & mask if place < len(self.digits) else 0
            if limit >> place & 1:
                less |= mask ^ digit
                mask = digit
            else:
                mask ^= digit
        return less
