"""What campaigns ask for in one dimension, as masks, so that a request is held against all of them at once.

`SideMasks` answers include and exclude. A campaign passes if it includes nothing, or one of the request's
values, and excludes none of them:

    (all without an include | OR of include[v]) & ~(OR of exclude[v])

`TermMasks` answers any, all and none in conjunctive form: a campaign's `any` is one clause with several
terms, each of its `all` a clause with one. The clauses of a campaign stand in slots 0, 1, 2, …, and of every
slot there is the mask of the campaigns that have no such clause, and per term the mask of those whose
clause there it meets:

    AND over slots (all without a clause here | OR of meets[slot][t]) & ~(OR of none[t])

Whoever has a clause in a slot has one in each lower slot. So at the first slot where nothing is met, all
that have more clauses have just been dropped, and the later slots say nothing new: a request costs what
it meets, not what the longest targeting of the catalog has. Key-values are one dimension for all names: a
term is a name with its value.

A value that no campaign names costs one lookup; a dimension that no campaign uses costs nothing. Masks
are changed only while a catalog is drafted (see `catalog`).

Must not know: what a value means, how campaigns are stored.
"""

from collections.abc import Collection, Hashable, Iterable
from typing import Generic, TypeVar

from prefork_ads.ads.masks import Members, mask_of, with_bit, without_bit
from prefork_ads.ads.targeting import Sides

Term = TypeVar("Term", bound=Hashable)

# Slots after the first, and whose clause there is met.
Further = tuple[tuple[int, int], ...]
# A campaign's clauses in the order of their slots, and what it must not meet.
Clauses = tuple[tuple[tuple[Term, ...], ...], tuple[Term, ...]]


class SideMasks:
    """Include and exclude in one dimension."""

    __slots__ = ("everyone", "exclude", "include", "including", "used")

    def __init__(self) -> None:
        self.everyone = 0
        """All campaigns there are; known when the draft is finished."""
        self.including = 0
        self.include: dict[str, Members] = {}
        self.exclude: dict[str, Members] = {}
        self.used = False
        """Some campaign asks for something here."""

    def copy(self) -> "SideMasks":
        other = SideMasks()
        other.including = self.including
        other.include = self.include.copy()
        other.exclude = self.exclude.copy()
        return other

    def add(self, bit: int, sides: Sides) -> None:
        if sides.include:
            self.including |= 1 << bit
        for value in sides.include:
            self.include[value] = with_bit(self.include.get(value, ()), bit)
        for value in sides.exclude:
            self.exclude[value] = with_bit(self.exclude.get(value, ()), bit)

    def remove(self, bit: int, sides: Sides) -> None:
        if sides.include:
            self.including ^= 1 << bit
        for value in sides.include:
            _take_out(self.include, value, bit)
        for value in sides.exclude:
            _take_out(self.exclude, value, bit)

    def finish(self, everyone: int) -> None:
        self.everyone = everyone
        self.used = bool(self.include or self.exclude)

    def passing(self, values: Iterable[str]) -> int:
        """Those that a request with these values passes; "" is no value."""
        passed = self.everyone ^ self.including
        dropped = 0
        for value in values:
            if value:
                passed |= mask_of(self.include.get(value, 0))
                dropped |= mask_of(self.exclude.get(value, 0))
        return passed ^ (passed & dropped)

    def table(self) -> dict[str, int]:
        """What passes for each value that some campaign names, of requests that have one value."""
        return {value: self.passing((value,)) for value in {**self.include, **self.exclude}}


class TermMasks(Generic[Term]):
    """Any, all and none in one dimension."""

    __slots__ = (
        "_known",
        "_most_known",
        "_unasked",
        "_without",
        "everyone",
        "having",
        "meets",
        "none",
        "used",
    )

    def __init__(self) -> None:
        self.everyone = 0
        self.having: list[int] = []
        """By slot: the campaigns with a clause there."""
        self.meets: dict[Term, dict[int, Members]] = {}
        """By term and slot: the campaigns whose clause there it meets."""
        self.none: dict[Term, Members] = {}
        self._without: tuple[int, ...] = ()
        self._unasked = 0
        self._known: dict[Term, tuple[int, Further, int]] = {}
        self._most_known = 0
        self.used = False

    def copy(self) -> "TermMasks[Term]":
        other: TermMasks[Term] = TermMasks()
        other.having = self.having.copy()
        other.meets = self.meets.copy()
        other.none = self.none.copy()
        return other

    def add(self, bit: int, clauses: Clauses[Term]) -> None:
        asked, refused = clauses
        self.having += [0] * (len(asked) - len(self.having))
        for slot, terms in enumerate(asked):
            self.having[slot] |= 1 << bit
            for term in terms:
                slots = self.meets.get(term, {})
                # A new dictionary each time: the old one may belong to a catalog that is in use.
                self.meets[term] = {**slots, slot: with_bit(slots.get(slot, ()), bit)}
        for term in refused:
            self.none[term] = with_bit(self.none.get(term, ()), bit)

    def remove(self, bit: int, clauses: Clauses[Term]) -> None:
        asked, refused = clauses
        for slot, terms in enumerate(asked):
            self.having[slot] ^= 1 << bit
            for term in terms:
                slots = dict(self.meets[term])
                _take_out(slots, slot, bit)
                if slots:
                    self.meets[term] = slots
                else:
                    del self.meets[term]
        for term in refused:
            _take_out(self.none, term, bit)

    def finish(self, everyone: int, memory: int) -> None:
        """`memory`: of how many terms the masks may be kept."""
        self.everyone = everyone
        self._most_known = memory
        while self.having and not self.having[-1]:
            self.having.pop()
        self._without = tuple(everyone ^ having for having in self.having)
        self._unasked = self._without[0] if self._without else everyone
        self.used = bool(self.having or self.none)

    def passing(self, terms: Collection[Term]) -> int:
        """Those that a request with these terms passes."""
        if not terms:
            return self._unasked
        first = dropped = 0
        further: Further = ()
        known = self._known
        for term in terms:
            expanded = known.get(term)
            if expanded is None:
                if term not in self.meets and term not in self.none:
                    continue
                expanded = self._expand(term)
            meeting, more, refusing = expanded
            # Adding nothing to a long mask would copy it.
            if meeting:
                first |= meeting
            if more:
                further += more
            if refusing:
                dropped |= refusing
        passed = self._passing_slots(first, further) if first else self._unasked
        return passed ^ (passed & dropped) if dropped else passed

    def _passing_slots(self, first: int, further: Further) -> int:
        without = self._without
        passed = without[0] | first
        slots = len(without)
        if slots == 1:
            return passed
        met: dict[int, int] = {}
        for slot, mask in further:
            met[slot] = met[slot] | mask if slot in met else mask
        for slot in range(1, slots):
            if slot not in met:
                return passed & without[slot]
            passed &= without[slot] | met[slot]
        return passed

    def _expand(self, term: Term) -> tuple[int, Further, int]:
        """What a term meets in the first slot, in further ones, and whom it drops; as masks, and kept."""
        slots = self.meets.get(term, {})
        further = tuple((slot, mask_of(members)) for slot, members in slots.items() if slot)
        expanded = mask_of(slots.get(0, 0)), further, mask_of(self.none.get(term, 0))
        if len(self._known) >= self._most_known:
            self._known.clear()
        self._known[term] = expanded
        return expanded


Key = TypeVar("Key", bound=Hashable)


def _take_out(masks: dict[Key, Members], key: Key, bit: int) -> None:
    left = without_bit(masks[key], bit)
    if left:
        masks[key] = left
    else:
        del masks[key]
