"""How things stand with the campaigns right now: which budgets are open, and who needs how much.

It belongs to one worker and one catalog, and changes while that is served. A campaign is open unless its
lease is closed or used up, or pacing gives it no need. It is drawn by its weight times its need, and these
products are kept in binary (see `planes`), so that a draw costs the same whatever anybody needs.

A campaign with a goal starts closed: it is served from a lease alone.

Must not know: leases, plans, requests.
"""

from collections.abc import Iterable
from itertools import zip_longest

from prefork_ads.ads.catalog import Campaign, Catalog
from prefork_ads.ads.choice import Digits
from prefork_ads.ads.masks import bits_of

NEUTRAL_NEED = 4
MOST_NEED = 16
# More than any page has places.
UNLIMITED = 1 << 62

# Why a campaign is shut; several may hold.
CLOSED, SPENT, UNNEEDED = 1, 2, 4


class Standing:
    """State by bit of the catalog; only what differs from the default is kept."""

    __slots__ = ("_digits", "_left", "_needs", "_numbers", "_shut", "catalog", "open")

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.open = catalog.everyone ^ catalog.leased_mask
        """The campaigns that may be served."""
        self._shut = dict.fromkeys(bits_of(catalog.leased_mask), CLOSED)
        self._needs: dict[int, int] = {}
        self._left: dict[int, int] = {}
        self._numbers = catalog.weights.times(NEUTRAL_NEED)
        self._digits: dict[str, tuple[int, Digits]] = {}

    def digits(self, tier: str) -> tuple[int, Digits]:
        """Weight times need of a tier's campaigns, for a draw, and the bit that these masks begin with."""
        found = self._digits.get(tier)
        if found is None:
            theirs = self.catalog.inventory.tiers[tier]
            first = max((theirs & -theirs).bit_length() - 1, 0)
            masks = [
                (place, (mask & theirs) >> first) for place, mask in enumerate(self._numbers.digits)
            ]
            found = first, tuple((place, mask) for place, mask in masks if mask)
            self._digits[tier] = found
        return found

    def weight(self, bit: int) -> int:
        """What the campaign weighs in a draw, in units of the catalog's weights."""
        campaign = self._campaign(bit)
        if campaign is None:
            return 0
        return campaign.weight // self.catalog.weight_unit * self._needs.get(bit, NEUTRAL_NEED)

    def need(self, bit: int) -> int:
        return self._needs.get(bit, NEUTRAL_NEED)

    def left(self, bit: int) -> int:
        """How many ads of the campaign may still be chosen."""
        return self._left.get(bit, UNLIMITED)

    def shut(self, bit: int) -> int:
        """Why it is not open: a sum of CLOSED, SPENT and UNNEEDED; 0: it is."""
        return self._shut.get(bit, 0)

    def close(self, bit: int) -> None:
        self._set_shut(bit, self.shut(bit) | CLOSED)

    def close_many(self, bits: Iterable[int]) -> None:
        """The same of many, in one go: a mask of thousands is not copied thousands of times."""
        digits = bytearray(len(self.catalog.by_bit) // 8 + 1)
        for bit in bits:
            self._shut[bit] = self._shut.get(bit, 0) | CLOSED
            digits[bit >> 3] |= 1 << (bit & 7)
        self.open &= ~int.from_bytes(digits, "little")

    def reopen(self, bit: int) -> None:
        self._set_shut(bit, self.shut(bit) & ~CLOSED)

    def set_left(self, bit: int, left: int | None) -> None:
        """So many ads may still be chosen (None: any number); without any it is shut until there are."""
        if left is None:
            self._left.pop(bit, None)
        else:
            self._left[bit] = left
        spent = left is not None and left <= 0
        self._set_shut(bit, self.shut(bit) | SPENT if spent else self.shut(bit) & ~SPENT)

    def set_need(self, bit: int, need: int) -> None:
        """0 (not now) to MOST_NEED; NEUTRAL_NEED is that of campaigns without a plan."""
        if not 0 <= need <= MOST_NEED:
            raise ValueError(f"A need is a number from 0 to {MOST_NEED}, not {need}.")
        before = self.weight(bit)
        if need == NEUTRAL_NEED:
            self._needs.pop(bit, None)
        else:
            self._needs[bit] = need
        if differing := before ^ self.weight(bit):
            self._numbers.toggle(bit, differing)
            self._digits.clear()
        self._set_shut(bit, self.shut(bit) & ~UNNEEDED if need else self.shut(bit) | UNNEEDED)

    def _set_shut(self, bit: int, shut: int) -> None:
        if shut:
            self._shut[bit] = shut
            self.open &= ~(1 << bit)
        else:
            self._shut.pop(bit, None)
            self.open |= 1 << bit & self.catalog.everyone

    def moved_to(self, catalog: Catalog) -> "Standing":
        """The same state for another catalog: by campaign, wherever its bit is."""
        pairs = enumerate(zip_longest(self.catalog.by_bit, catalog.by_bit))
        differing = [bit for bit, (old, new) in pairs if old is not new and old != new]
        if (
            len(differing) > len(catalog.by_bit) // 4
            or catalog.weight_unit != self.catalog.weight_unit
        ):
            moved = Standing(catalog)
            differing = [bit for bit, old in enumerate(self.catalog.by_bit) if self._known(old)]
        else:
            # The usual change concerns one campaign or two.
            moved = self._copy_for(catalog)
            for bit in differing:
                moved._renew(bit, self.weight(bit))
        for bit in differing:
            moved._take_over(self, bit)
        return moved

    def _known(self, campaign: Campaign | None) -> bool:
        """Whether there is anything to say of it that is not so from the start."""
        if campaign is None:
            return False
        bit = campaign.bit
        return campaign.leased or bit in self._shut or bit in self._needs or bit in self._left

    def _copy_for(self, catalog: Catalog) -> "Standing":
        copy = Standing.__new__(Standing)
        copy.catalog, copy.open = catalog, self.open
        copy._shut, copy._needs, copy._left = dict(self._shut), dict(self._needs), dict(self._left)
        copy._numbers, copy._digits = self._numbers.copy(), {}
        return copy

    def _renew(self, bit: int, weight_before: int) -> None:
        """Forget what is known of the bit: it has another campaign, or none, or a changed one."""
        self._needs.pop(bit, None)
        self._left.pop(bit, None)
        self._numbers.toggle(bit, weight_before ^ self.weight(bit))
        self._set_shut(bit, CLOSED if self.catalog.leased_mask >> bit & 1 else 0)

    def _take_over(self, before: "Standing", old_bit: int) -> None:
        old = before._campaign(old_bit)
        new = self.catalog.campaigns.get(old.id) if old is not None else None
        if old is None or new is None or new.bit < 0 or old.leased != new.leased:
            return
        if old_bit in before._left:
            self._left[new.bit] = before._left[old_bit]
        self.set_need(new.bit, before.need(old_bit))
        self._set_shut(new.bit, before.shut(old_bit))

    def _campaign(self, bit: int) -> Campaign | None:
        by_bit = self.catalog.by_bit
        return by_bit[bit] if bit < len(by_bit) else None
