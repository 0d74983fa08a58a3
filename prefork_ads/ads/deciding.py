"""From what is asked for to what goes into the places: gathers all that decides, and lets `decision` decide.

The result holds everything that it was decided by, for the line that is logged, for whoever wants to know
why, and for the tokens of the answer.

- **Time.** The decision is made by the time that its line will say, to the millisecond, and by a state that
  was written before it. So who has the lines can make it again.
- **Caps.** Where the person is not known (no uid, PostgreSQL away, a program) campaigns with caps are left
  out: a cap that cannot be looked at is not broken.
- Programs are shown house ads at most.
- Budgets and caps are told of a choice as soon as it is made, and the next decision is made by what they say
  then. Should its line not be taken, nobody sees that ad, and its lease has that one back (`take_back`): no
  line would ever say that it was used. To caps it counts as shown for a while, which exceeds nothing.

Must not know: answers, lines, SQL, how a campaign is chosen.
"""

import random
import secrets
from dataclasses import dataclass
from typing import Any, Final

from prefork_ads.ads.asking import Asked
from prefork_ads.ads.budget import Budget
from prefork_ads.ads.caps import Caps
from prefork_ads.ads.catalog import Catalog
from prefork_ads.ads.clients import Client
from prefork_ads.ads.current import Current
from prefork_ads.ads.decision import decide
from prefork_ads.ads.endpoints import Found, Unavailable
from prefork_ads.ads.explanation import explain_page
from prefork_ads.ads.facts import DRAW_BITS, NO_SEGMENTS, Choices, Facts, Place
from prefork_ads.ads.geography import Where
from prefork_ads.ads.sender import Sender
from prefork_ads.ads.standing import Standing
from prefork_ads.events.event import EventClock
from prefork_ads.http.message import Request

# Formats of an answer that cannot show a creative of every format, and what they can show.
_SHOWABLE: Final = {"image": ("image",)}
# Places that were asked for, by zone, sizes and formats. Sizes are the clients' words.
_MAX_PLACES_REMEMBERED: Final = 4096
# Campaigns that are told of for each place.
_MOST_TOLD: Final = 1000


@dataclass(slots=True)
class Decided:
    """What goes into a page's places, and all that it was decided by."""

    catalog: Catalog
    standing: Standing
    state: str
    """The id of the last state line; "" before the first."""
    stamps: list[bytes]
    """Time and id of each place's line."""
    facts: Facts
    places: list[Place]
    draws: list[int]
    choices: Choices
    days: list[str]
    """For each place the day of the lease that was used; "" for none."""
    told: list[Any] | None
    """For each place why each campaign was chosen or not, if somebody wants to know."""
    known: bool
    """The person was looked up."""
    capped: int
    """The mask of what caps forbid."""
    client: Client
    address: str
    where: Where


class Deciding:
    """All of one worker that decides."""

    __slots__ = (
        "_budget",
        "_caps",
        "_clock",
        "_current",
        "_draw",
        "_places",
        "_places_of",
        "_sender",
    )

    def __init__(
        self, current: Current, budget: Budget, caps: Caps, sender: Sender, clock: EventClock
    ) -> None:
        self._current = current
        self._budget = budget
        self._caps = caps
        self._sender = sender
        self._clock = clock
        # No secret: a draw decides between ads, and is logged. Each process has a seed of its own.
        self._draw = random.Random(secrets.randbits(128)).getrandbits  # noqa: S311
        # Of one catalog.
        self._places: dict[tuple[str, tuple[str, ...], str], Place] = {}
        self._places_of: Catalog | None = None

    def decide(
        self, request: Request, asked: Asked, client: Client, found: Found, *, tell: bool = False
    ) -> Decided | None:
        """None when there is no such zone any more. `found` is the person's row, or UNAVAILABLE.

        `tell`: also why. It takes its time.
        """
        serving = self._current.serving
        if serving is None:
            return None
        catalog, standing = serving
        places = self._places_for(catalog, asked)
        if places is None:
            return None
        clock, sender = self._clock, self._sender
        # First, because it may write a line that ours refers to.
        state = self._budget.before(clock.now_s())
        stamp = clock.stamp()
        at_s = clock.stamped_s
        if isinstance(found, Unavailable):
            known, segments, capped = False, NO_SEGMENTS, catalog.capped_mask
        else:
            known, segments = True, self._caps.segments(found)
            capped = self._caps.capped(catalog, asked.uid, found, at_s, len(places))
        address = sender.address(request)
        where = sender.geography.find(address)
        facts = sender.facts(request, asked, client, where, at_s, segments)
        draw = self._draw
        draws = [draw(DRAW_BITS)] if len(places) == 1 else [draw(DRAW_BITS) for _ in places]
        paying = not client.bot
        choices = decide(catalog, standing, facts, places, draws, capped=capped, paying=paying)
        told = None
        if tell:
            # Before budgets are told what was served.
            explained = explain_page(
                catalog, standing, facts, places, draws, capped=capped, paying=paying
            )
            told = [one.as_json(_MOST_TOLD) for one in explained]
        stamps = [stamp]
        while len(stamps) < len(places):
            stamps.append(clock.another())
        days = self._served(choices, stamps, asked.uid if known else "", at_s)
        return Decided(
            catalog,
            standing,
            state,
            stamps,
            facts,
            places,
            draws,
            choices,
            days,
            told,
            known,
            capped,
            client,
            address,
            where,
        )

    def _served(self, choices: Choices, stamps: list[bytes], uid: str, at_s: float) -> list[str]:
        """Tell budgets and caps; for each place the day of the lease used. `uid`: "" for nobody known."""
        days = []
        for choice, stamp in zip(choices, stamps):  # noqa: B905 - strict costs; made together
            day = ""
            if choice is not None:
                campaign = choice.campaign
                if campaign.leased:
                    day = self._budget.served(campaign, at_s)
                if uid and campaign.capped:
                    self._caps.served(uid, campaign, stamp[-32:].decode(), at_s)
            days.append(day)
        return days

    def take_back(self, decided: Decided, placed: int) -> None:
        """Only the lines of the first `placed` places were taken."""
        for choice, day in zip(decided.choices[placed:], decided.days[placed:], strict=True):
            if choice is not None and day:
                self._budget.not_served(choice.campaign, day)

    def _places_for(self, catalog: Catalog, asked: Asked) -> list[Place] | None:
        if catalog is not self._places_of:
            self._places, self._places_of = {}, catalog
        known, form = self._places, asked.format
        places: list[Place] = []
        for key, sizes, count in asked.places:
            place = known.get((key, sizes, form))
            if place is None:
                zone = catalog.zones.get(key)
                if zone is None:
                    return None
                if len(known) >= _MAX_PLACES_REMEMBERED:
                    known.clear()
                place = known[key, sizes, form] = Place(zone, sizes, _SHOWABLE.get(form, ()))
            if count == 1:
                places.append(place)
            else:
                places += [place] * count
        return places
