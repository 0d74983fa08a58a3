"""Why this ad and not another: for every campaign the first rule that dropped it, or its chance.

The rules are the masks that the decision is made of, one by one and by name. A campaign was dropped by
the first rule whose mask lacks its bit. So what is told here is what happened, and it costs a decision
nothing that it can be told.

    status       it or its advertiser is not active, or its targeting is not understood
    zone         the zone or its site is not active
    creative     none of its creatives has a size and format for the place
    site         it is not for this site
    floor        it pays less than the zone's floor
    fallback     the zone shows no house ads
    flight, hours, geo, device, os, browser, language, page, keywords, values, segments
                 it is not for this moment, or not for this sender
    budget       it has no lease, or has used it up; pacing says that it has had enough for now
    caps         it has caps, and the user has seen enough of it or is not known
    bot          the sender is no person, so only house ads are shown
    neighbours   the page has it already, or its advertiser; or it is a roadblock that cannot have all
    tier         a better tier has somebody

Must not know: requests, how an explanation is shown.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prefork_ads.ads.catalog import Campaign, Catalog
from prefork_ads.ads.decision import best_tier, fill_page
from prefork_ads.ads.facts import Choice, Facts, Place
from prefork_ads.ads.masks import bits_of
from prefork_ads.ads.reasons import reason_of
from prefork_ads.ads.standing import Standing


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one campaign."""

    campaign: Campaign
    rule: str
    """What dropped it; "": nothing did."""
    reason: str
    """The rule in words, as far as there is more to say."""
    need: int = 0
    weight: int = 0
    """What it weighed in the draw, in units of the catalog's weights."""
    total: int = 0
    """What all in the draw weighed."""

    @property
    def probability(self) -> float:
        return self.weight / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of all campaigns for one place."""

    place: Place
    choice: Choice | None
    verdicts: Sequence[Verdict]
    """By probability, then by how far they came."""

    def as_json(self, most: int | None = None) -> dict[str, Any]:
        """For programs: the best of them, or all."""
        choice = self.choice
        return {
            "zone": self.place.zone.key,
            "campaign": choice.campaign.key if choice is not None else None,
            "creative": choice.creative.key if choice is not None else None,
            "campaigns": [_as_json(verdict) for verdict in self.verdicts[:most]],
            "left_out": max(0, len(self.verdicts) - most) if most is not None else 0,
        }


def explain(
    catalog: Catalog,
    standing: Standing,
    facts: Facts,
    place: Place,
    draw: int,
    *,
    capped: int = 0,
    after: Sequence[Campaign] = (),
    paying: bool = True,
) -> Explanation:
    """A decision for one place, as `decide` makes it."""
    [explanation] = explain_page(
        catalog, standing, facts, (place,), (draw,), capped=capped, after=after, paying=paying
    )
    return explanation


def explain_page(
    catalog: Catalog,
    standing: Standing,
    facts: Facts,
    places: Sequence[Place],
    draws: Sequence[int],
    *,
    capped: int = 0,
    after: Sequence[Campaign] = (),
    paying: bool = True,
) -> list[Explanation]:
    """A decision for the places of a page, as `decide` makes it."""
    everyone = catalog.everyone
    sender = [
        *catalog.audience.rules(facts),
        ("budget", standing.open),
        ("caps", everyone ^ (everyone & capped)),
        ("bot", everyone if paying else catalog.inventory.tiers["house"]),
    ]
    mask = everyone
    for _, passing in sender:
        mask &= passing
    explanations = []
    admitted = fill_page(catalog, standing, places, draws, mask, after)
    for place, (admitting, choice) in zip(places, admitted, strict=True):
        rules = [*catalog.inventory.rules(place), *sender]
        rules.append(("neighbours", admitting))
        verdicts = _verdicts(catalog, standing, facts, rules)
        explanations.append(Explanation(place, choice, verdicts))
    return explanations


def _verdicts(
    catalog: Catalog, standing: Standing, facts: Facts, rules: Sequence[tuple[str, int]]
) -> list[Verdict]:
    """Of all campaigns; those that came farthest first."""
    verdicts: list[Verdict] = []
    rest = catalog.everyone
    segments = catalog.segment_keys()
    for rule, passing in rules:
        passed = rest & passing
        for bit in bits_of(rest ^ passed):
            campaign = _campaign(catalog, bit)
            wish = catalog.entries[campaign.id].wish
            reason = reason_of(rule, wish, facts, standing.shut(bit), segments)
            verdicts.append(Verdict(campaign, rule, reason))
        rest = passed
    among = best_tier(catalog, rest)
    for bit in bits_of(rest ^ among):
        verdicts.append(Verdict(_campaign(catalog, bit), "tier", "a better tier has somebody"))
    total = sum(standing.weight(bit) for bit in bits_of(among))
    for bit in bits_of(among):
        campaign, weight = _campaign(catalog, bit), standing.weight(bit)
        verdicts.append(Verdict(campaign, "", "", standing.need(bit), weight, total))
    verdicts.reverse()
    # Stable, so those that were dropped stay in the order in which they came far.
    verdicts.sort(key=lambda verdict: -verdict.weight)
    return [*verdicts, *_not_served(catalog)]


def _not_served(catalog: Catalog) -> Iterator[Verdict]:
    for campaign in catalog.campaigns.values():
        if campaign.bit < 0:
            refused = catalog.refused.get(campaign.id)
            reason = "it or its advertiser is not active" if refused is None else refused
            yield Verdict(campaign, "status", reason)


def _campaign(catalog: Catalog, bit: int) -> Campaign:
    campaign = catalog.by_bit[bit]
    assert campaign is not None, "a bit of a mask has a campaign"
    return campaign


def _as_json(verdict: Verdict) -> dict[str, Any]:
    campaign = verdict.campaign
    told: dict[str, Any] = {"campaign": campaign.key, "tier": campaign.tier}
    if verdict.rule:
        told["rule"] = verdict.rule
        if verdict.reason:
            told["reason"] = verdict.reason
    else:
        told["need"] = verdict.need
        told["weight"] = campaign.weight
        told["probability"] = verdict.probability
    return told
