"""The decision: which campaign, and which of its creatives, goes into each place of a page.

Whoever may be chosen is one mask, the AND of a few (see `audience`, `inventory`, `standing`). The best tier
that has anybody in it wins, one of its campaigns is drawn by weight times need with exact shares, and one of
that campaign's creatives by weight, from what is left of the same draw (see `choice`).

A single place, which is the usual case, is decided tier by tier. The best tiers have the lowest bits and are
the smallest, and AND with a short number reads and writes no more than its length: a sponsorship among
10,000 campaigns costs what it costs among its few hundred peers.

On a page with several places
- no campaign stands twice, and no advertiser that does not allow it;
- a roadblock takes all places or none. At the first place it competes for the whole page, if it fits
  everywhere and may be shown that often; a page that it cannot fill is shared as if it did not exist;
- places that are added to a page (`after`) belong to the roadblock that has the others, and else to none.

Nothing here is random, asks for the time or waits: the same catalog, standing, facts and draws make the
same choices again.

*Measured* by `scripts/decisions` (seed 1, two cores of 2.5 GHz that others used too): 6.5 µs with 100 or
1,000 campaigns, 8.7 µs with 10,000; with three places 17, 19 and 33 µs. With 10,000 most requests find a
sponsorship. Where the best tier that has anybody is a lower one it takes longer: 12 µs guaranteed, 21 µs
standard (7,000 of them: half of it is the draw, which counts the bits of each digit), 14 µs house.

Must not know: requests, what a budget is made of, events.
"""

from collections.abc import Iterator, Sequence

from prefork_ads.ads.catalog import Campaign, Catalog
from prefork_ads.ads.choice import draw_bit, draw_index
from prefork_ads.ads.facts import Choice, Facts, Place
from prefork_ads.ads.inventory import Fit
from prefork_ads.ads.masks import bits_of
from prefork_ads.ads.standing import Standing


def decide(
    catalog: Catalog,
    standing: Standing,
    facts: Facts,
    places: Sequence[Place],
    draws: Sequence[int],
    *,
    capped: int = 0,
    after: Sequence[Campaign] = (),
    paying: bool = True,
) -> list[Choice | None]:
    """What goes into each place; None: nothing.

    `draws`: one for each place. `capped`: the campaigns of which the user may see no more. `after`: those
    that stand on the page already. `paying`: False for who is no person; house ads are for everybody.
    """
    if len(places) == 1 and not after:
        # The usual case, which `fill_page` would decide the same.
        fit = catalog.inventory.fit(places[0])
        masks = catalog.audience.masks(facts)
        for rank in fit.ranks if paying else fit.ranks[-1:]:
            among = rank & standing.open
            for mask in masks:
                among &= mask
            if capped:
                among ^= among & capped
            if among:
                return [_draw(catalog, standing, fit, among, draws[0])]
        return [None]
    mask = catalog.audience.passing(facts) & standing.open
    if capped:
        mask ^= mask & capped
    if not paying:
        mask &= catalog.inventory.tiers["house"]
    return [choice for _, choice in fill_page(catalog, standing, places, draws, mask, after)]


def fill_page(
    catalog: Catalog,
    standing: Standing,
    places: Sequence[Place],
    draws: Sequence[int],
    mask: int,
    after: Sequence[Campaign],
) -> Iterator[tuple[int, Choice | None]]:
    """For each place: those of the mask that the rest of the page admits, and what was chosen."""
    owner = next((campaign for campaign in after if campaign.roadblock), None)
    if owner is not None:
        mask &= _bit_of(catalog, owner)
    elif after:
        mask ^= mask & catalog.roadblock_mask
        for campaign in after:
            mask ^= mask & rivals(catalog, campaign)
    else:
        mask ^= unfit_roadblocks(catalog, standing, places, mask)
    for place, draw in zip(places, draws, strict=True):
        choice = choose(catalog, standing, place, mask, draw)
        yield mask, choice
        if owner is not None:
            continue
        if choice is not None and choice.campaign.roadblock:
            owner = choice.campaign
            mask = 1 << owner.bit
            continue
        # The first place was where a roadblock could begin.
        mask ^= mask & catalog.roadblock_mask
        if choice is not None:
            mask ^= mask & rivals(catalog, choice.campaign)


def choose(
    catalog: Catalog, standing: Standing, place: Place, mask: int, draw: int
) -> Choice | None:
    """One of a mask for a place."""
    fit = catalog.inventory.fit(place)
    among = best_tier(catalog, mask & fit.mask)
    return _draw(catalog, standing, fit, among, draw) if among else None


def _draw(catalog: Catalog, standing: Standing, fit: Fit, among: int, draw: int) -> Choice:
    """One of these, of whom all fit and there is one at least."""
    by_bit = catalog.by_bit
    highest = by_bit[among.bit_length() - 1]
    assert highest is not None, "a bit of a mask has a campaign"
    # They are of one tier, and what lies below it need not be counted.
    first, digits = standing.digits(highest.tier)
    bit, rest = draw_bit(digits, among >> first, draw)
    campaign = by_bit[first + bit]
    assert campaign is not None, "a bit of a mask has a campaign"
    kinds = fit.kinds
    choices = [choice for kind, choice in catalog.entries[campaign.id].choices if kind in kinds]
    if len(choices) == 1:
        return choices[0]
    return choices[draw_index([choice.creative.weight for choice in choices], rest)]


def best_tier(catalog: Catalog, eligible: int) -> int:
    """Those of the best tier that has any."""
    if eligible:
        for rank in catalog.inventory.ranks:
            among = eligible & rank
            if among:
                return among
    return 0


def unfit_roadblocks(
    catalog: Catalog, standing: Standing, places: Sequence[Place], mask: int
) -> int:
    """The roadblocks of a mask that cannot take all these places."""
    roadblocks = mask & catalog.roadblock_mask
    fit = roadblocks
    for place in places if roadblocks else ():
        fit &= catalog.inventory.fit(place).mask
    for bit in bits_of(fit):
        if standing.left(bit) < len(places):
            fit ^= 1 << bit
    return roadblocks ^ fit


def rivals(catalog: Catalog, campaign: Campaign) -> int:
    """Those that may not stand on a page with it: itself, and usually its advertiser's others."""
    if campaign.allow_repeat:
        return _bit_of(catalog, campaign)
    return catalog.advertiser_mask.get(campaign.advertiser_id, 0)


def _bit_of(catalog: Catalog, campaign: Campaign) -> int:
    """Its bit in this catalog; the record may be of an older one."""
    known = catalog.campaigns.get(campaign.id)
    return 1 << known.bit if known is not None and known.bit >= 0 else 0
