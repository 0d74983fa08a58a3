"""Which campaigns fit into a place: a creative for it, its site, its floor and its fallback, as masks.

None of this depends on a request's sender, so it is one mask per zone (and sizes asked for), made when the
zone is first asked for.

Must not know: targeting but for the site, budgets.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from prefork_ads.ads.dimensions import SideMasks
from prefork_ads.ads.masks import Members, mask_of, with_bit, without_bit
from prefork_ads.ads.planes import Planes
from prefork_ads.ads.records import TIERS, Campaign, Creative, Zone

# A format and a size; the size is "" where the creative has none.
Kind = tuple[str, str]

# Zones with the sizes asked for: each takes a mask, 1.3 KB with 10,000 campaigns.
_MEMORY_ENTRIES = 4096


@dataclass(frozen=True, slots=True)
class Fit:
    """What fits into a place."""

    mask: int
    kinds: frozenset[Kind]


def kind_of(creative: Creative) -> Kind:
    return creative.format, creative.size


def takes(zone: Zone, sizes: tuple[str, ...], kind: Kind) -> bool:
    """Whether a creative of this kind has a place in the zone, when only these sizes are asked for.

    A zone without sizes takes every size, and so does a request; a creative without one fits anywhere.
    """
    format_, size = kind
    if format_ not in zone.formats:
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
        self.fit = lru_cache(maxsize=_MEMORY_ENTRIES)(self._fit)

    def rules(self, zone: Zone, sizes: tuple[str, ...]) -> Iterator[tuple[str, int]]:
        """By name: the campaigns that pass, in the order in which they are told."""
        yield "zone", self.everyone if zone.active else 0
        creative = 0
        for kind, members in self.kinds.items():
            if takes(zone, sizes, kind):
                creative |= mask_of(members)
        yield "creative", creative
        yield "site", self._sites.passing((zone.site_key,))
        house = self.tiers["house"]
        if zone.floor_micros:
            cheap = self.prices.below(zone.floor_micros, self.by_thousand)
            yield "floor", (self.by_thousand ^ cheap) | house
        if zone.fallback == "none":
            yield "fallback", self.everyone ^ house

    def _fit(self, zone_id: int, sizes: tuple[str, ...]) -> Fit:
        # By its number: a record takes longer to look up than to read.
        zone = self._zones[zone_id]
        mask = self.everyone
        for _, passing in self.rules(zone, sizes):
            mask &= passing
        return Fit(mask, frozenset(kind for kind in self.kinds if takes(zone, sizes, kind)))
