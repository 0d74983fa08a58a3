"""Which campaigns fit into a place: a creative for it, its site, its floor and its fallback, as masks.

None of this depends on a request's sender, so it is one mask per zone (and sizes and formats asked for), made
when the zone is first asked for.

Must not know: targeting but for the site, budgets.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from prefork_ads.ads.dimensions import SideMasks
from prefork_ads.ads.facts import Place
from prefork_ads.ads.masks import Members, mask_of, with_bit, without_bit
from prefork_ads.ads.planes import Planes
from prefork_ads.ads.records import TIERS, Campaign, Creative, Zone

# A format and a size; the size is "" where the creative has none.
Kind = tuple[str, str]
# A zone's number, sizes and formats.
PlaceKey = tuple[int, tuple[str, ...], tuple[str, ...]]

# Zones with what is asked for: each takes a mask and its parts by tier, 4 KB with 10,000 campaigns.
_MEMORY_ENTRIES = 4096


@dataclass(frozen=True, slots=True)
class Fit:
    """What fits into a place."""

    mask: int
    ranks: tuple[int, ...]
    """The mask's parts by tier, the best first. A number is as long as its highest bit is high."""
    kinds: frozenset[Kind]


def kind_of(creative: Creative) -> Kind:
    return _kind(creative.format, creative.size)


@lru_cache(maxsize=1024)
def _kind(format_: str, size: str) -> Kind:
    """One object for all creatives of a kind: looking for it in a set compares no strings."""
    return format_, size


def takes(place: Place, kind: Kind) -> bool:
    """Whether a creative of this kind may stand in the place.

    A zone without sizes takes every size, and so does a request; a creative without one fits anywhere.
    """
    zone, sizes = place.zone, place.sizes
    format_, size = kind
    if format_ not in zone.formats or (place.formats and format_ not in place.formats):
        return False
    if not size:
        return True
    return (not zone.sizes or size in zone.sizes) and (not sizes or size in sizes)


class Inventory:
    """Creatives, prices and tiers of all campaigns. Changed while it is drafted, as an audience is."""

    def __init__(self) -> None:
        self.everyone = 0
        self.kinds: dict[Kind, Members] = {}
        self.tiers = dict.fromkeys(TIERS, 0)
        self.by_thousand = 0
        """Those that pay for a thousand impressions; the others promise nothing for one."""
        self.prices = Planes()

    def copy(self) -> "Inventory":
        other = Inventory()
        other.kinds = self.kinds.copy()
        other.tiers = self.tiers.copy()
        other.by_thousand = self.by_thousand
        other.prices = self.prices.copy()
        return other

    def add(self, campaign: Campaign, kinds: Iterable[Kind]) -> None:
        """All but the price, which comes with those of its neighbours (`prices.fill`) or by itself."""
        bit = campaign.bit
        for kind in kinds:
            self.kinds[kind] = with_bit(self.kinds.get(kind, ()), bit)
        self.tiers[campaign.tier] |= 1 << bit
        if campaign.price_model == "cpm":
            self.by_thousand |= 1 << bit

    def remove(self, campaign: Campaign, kinds: Iterable[Kind]) -> None:
        bit = campaign.bit
        for kind in kinds:
            self.kinds[kind] = without_bit(self.kinds[kind], bit)
            if not self.kinds[kind]:
                del self.kinds[kind]
        self.tiers[campaign.tier] ^= 1 << bit
        if campaign.price_model == "cpm":
            self.by_thousand ^= 1 << bit

    def finish(self, everyone: int, zones: Mapping[int, Zone], sites: SideMasks) -> None:
        self.everyone = everyone
        self._zones = zones
        self._sites = sites
        self.ranks = tuple(self.tiers[tier] for tier in TIERS)
        self._fits: dict[PlaceKey, Fit] = {}

    def fit(self, place: Place) -> Fit:
        """What fits into a place."""
        # By its zone's number: a record takes longer to look up than to read.
        key = place.zone.id, place.sizes, place.formats
        found = self._fits.get(key)
        if found is None:
            if len(self._fits) >= _MEMORY_ENTRIES:
                self._fits.clear()
            # The zone as it is in this catalog; the place may be of an older one.
            found = self._fits[key] = self._fit(replace(place, zone=self._zones[key[0]]))
        return found

    def rules(self, place: Place) -> Iterator[tuple[str, int]]:
        """By name: the campaigns that pass, in the order in which they are told."""
        zone = place.zone
        yield "zone", self.everyone if zone.active else 0
        creative = 0
        for kind, members in self.kinds.items():
            if takes(place, kind):
                creative |= mask_of(members)
        yield "creative", creative
        yield "site", self._sites.passing((zone.site_key,))
        house = self.tiers["house"]
        if zone.floor_micros:
            cheap = self.prices.below(zone.floor_micros, self.by_thousand)
            yield "floor", (self.by_thousand ^ cheap) | house
        if zone.fallback == "none":
            yield "fallback", self.everyone ^ house

    def _fit(self, place: Place) -> Fit:
        mask = self.everyone
        for _, passing in self.rules(place):
            mask &= passing
        ranks = tuple(mask & rank for rank in self.ranks)
        return Fit(mask, ranks, frozenset(kind for kind in self.kinds if takes(place, kind)))
