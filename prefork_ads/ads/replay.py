"""A decision that was logged, made again: its line back into facts, places and draws, states into a standing.

A decision depends on nothing but these and the catalog of its version, so it must be the same.

Must not know: where lines come from, how it is shown.
"""

from collections.abc import Sequence

from prefork_ads.ads.catalog import Catalog
from prefork_ads.ads.explanation import Explanation, explain_page
from prefork_ads.ads.facts import Facts, Place
from prefork_ads.ads.standing import Standing
from prefork_ads.events.ad_records import Decision, State


def replay(
    catalog: Catalog, states: Sequence[State], page: Sequence[Decision], at_s: float
) -> list[Explanation]:
    """The decisions for the places of a page, made again."""
    first = page[0]
    return explain_page(
        catalog,
        standing_of(catalog, states),
        facts_of(first, at_s),
        [_place(catalog, one) for one in page],
        [one.get("draw", 0) for one in page],
        capped=capped_of(catalog, first),
        # What was known then, whatever a restatement says of it now.
        paying=not first.get("was_filtered", first.get("filtered", "")),
    )


def _place(catalog: Catalog, line: Decision) -> Place:
    sizes, formats = tuple(line.get("sizes", ())), tuple(line.get("formats", ()))
    return Place(catalog.zones_by_id[line["zone"]], sizes, formats)


def facts_of(line: Decision, at_s: float) -> Facts:
    """What was known of the sender and the page."""
    return Facts(
        at_s=at_s,
        country=line.get("country", ""),
        region=line.get("region", ""),
        city=line.get("city", ""),
        device=line.get("device", ""),
        os=line.get("os", ""),
        browser=line.get("browser", ""),
        languages=tuple(line.get("languages", ())),
        page=line.get("page", ""),
        keywords=frozenset(line.get("keywords", ())),
        values=frozenset((name, value) for name, value in line.get("values", ())),
        segments=frozenset(line.get("segments", ())),
    )


def capped_of(catalog: Catalog, line: Decision) -> int:
    """The campaigns that caps forbade: all that have one, where the user was not known."""
    if "capped" in line:
        mask = 0
        for campaign_id in line["capped"]:
            campaign = catalog.campaigns.get(campaign_id)
            if campaign is not None and campaign.bit >= 0:
                mask |= 1 << campaign.bit
        return mask
    known = "uid" in line and "away" not in line
    return 0 if known else catalog.capped_mask


def standing_of(catalog: Catalog, states: Sequence[State]) -> Standing:
    """How things stood after these; the first is a full one."""
    standing = Standing(catalog)
    for state in states:
        for campaign_id in state.get("closed", ()):
            if (bit := _bit(catalog, campaign_id)) >= 0:
                standing.close(bit)
        for campaign_id in state.get("opened", ()):
            if (bit := _bit(catalog, campaign_id)) >= 0:
                standing.reopen(bit)
        for name, need in state.get("needs", {}).items():
            if (bit := _bit(catalog, int(name))) >= 0:
                standing.set_need(bit, need)
        for name, left in state.get("left", {}).items():
            if (bit := _bit(catalog, int(name))) >= 0:
                standing.set_left(bit, left)
    return standing


def _bit(catalog: Catalog, campaign_id: int) -> int:
    campaign = catalog.campaigns.get(campaign_id)
    return campaign.bit if campaign is not None else -1
