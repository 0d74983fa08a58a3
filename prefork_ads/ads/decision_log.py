"""The lines of decisions, and what follows from each: counters and the token of the ad.

**The line is the decision.** It is in the journal before the answer leaves; its id is the decision's. With
the catalog of its version and the state that it names it can be made again (`explain --decision`). Of a
page's places the first line holds the request; the others would only repeat it.

*Measured*: 6 µs a line with its token.

Must not know: how it was decided, what the answer looks like.
"""

from collections.abc import Callable
from typing import Any, Final

from prefork_ads.ads.asking import Asked
from prefork_ads.ads.deciding import Decided
from prefork_ads.ads.formats import Placed
from prefork_ads.ads.masks import bits_of
from prefork_ads.ads.sender import Sender
from prefork_ads.ads.tokens import Keyring, Token
from prefork_ads.events.ad_records import DECISION, decision_params
from prefork_ads.events.parameters import Parameters
from prefork_ads.http.message import Request
from prefork_ads.metrics import Cells, Counter

# Plain numbers: looking a member up on its enum costs more than counting does.
_FILLED: Final = int(Counter.DECISIONS_FILLED)
_HOUSE: Final = int(Counter.DECISIONS_HOUSE)
_UNFILLED: Final = int(Counter.DECISIONS_UNFILLED)
_FILTERED: Final = int(Counter.DECISIONS_FILTERED)

# So many campaigns with caps can always be named.
_FEW: Final = 16

AppendLine = Callable[[bytes], bool]


class DecisionLog:
    """Logs the decisions of one worker."""

    __slots__ = ("_append_line", "_counters", "_keyring", "_sender")

    def __init__(
        self,
        append_line: AppendLine,
        keyring: Keyring,
        sender: Sender,
        counters: Cells,
    ) -> None:
        self._append_line = append_line
        self._keyring = keyring
        self._sender = sender
        self._counters = counters

    def keep(
        self, request: Request, parameters: Parameters, asked: Asked, decided: Decided
    ) -> list[Placed]:
        """A line for each place, and what the answer is made of.

        When the log does not take one it is shorter: the places before that one.
        """
        shared = _shared(asked, decided)
        several = len(decided.places) > 1
        append_line, line = self._append_line, self._sender.line
        placed: list[Placed] = []
        after: list[int] = []
        for place, choice, draw, stamp, day in zip(  # noqa: B905 - strict costs; they are made together
            decided.places, decided.choices, decided.draws, decided.stamps, decided.days
        ):
            if placed:
                parameters = {}
            # A `Decision`, as a cast would say for 0.1 µs a line.
            record: Any = shared.copy() if several else shared
            record["zone"] = place.zone.id
            record["draw"] = draw
            if place.sizes:
                record["sizes"] = place.sizes
            if place.formats:
                record["formats"] = place.formats
            if after:
                record["after"] = after.copy()
            if choice is None:
                del record["campaign"], record["creative"]
            else:
                campaign = choice.campaign
                record["campaign"] = campaign.id
                record["creative"] = choice.creative.id
                record["tier"] = campaign.tier
                record["model"] = campaign.price_model
                if campaign.price_micros:
                    record["price"] = campaign.price_micros
                if day:
                    record["leased"] = day
                if campaign.capped and decided.known:
                    record["caps"] = True
                after.append(campaign.id)
            params = decision_params(parameters, record)
            if not append_line(line(stamp, DECISION, params, request, decided.address)):
                break
            one = Placed(place.zone, choice, stamp[-32:].decode())
            self._taken(one, asked.uid, decided)
            placed.append(one)
        return placed

    def _taken(self, one: Placed, uid: str, decided: Decided) -> None:
        """The line is in the journal."""
        choice, counters = one.choice, self._counters
        bot = decided.client.bot
        if choice is None:
            counters[_FILTERED if bot else _UNFILLED] += 1
            return
        campaign = choice.campaign
        counters[_FILTERED if bot else _HOUSE if campaign.tier == "house" else _FILLED] += 1
        one.token = self._keyring.sign(
            Token(
                bytes.fromhex(one.decision),
                one.zone.id,
                campaign.id,
                choice.creative.id,
                campaign.price_micros,
                campaign.price_model,
                decided.where.country,
                decided.client.device,
                bytes.fromhex(uid.replace("-", "")) if uid else None,
                bool(bot),
            )
        )


def _shared(asked: Asked, decided: Decided) -> dict[str, Any]:
    """What is the same for all places of a request. What is not known is left out.

    What is counted comes first, see `Decision`. Three of it are each place's own and only keep their seats.
    """
    facts = decided.facts
    record: dict[str, Any] = {
        "zone": 0,
        "campaign": 0,
        "creative": 0,
        **decided.where.record,
        **decided.client.record,
    }
    if decided.client.bot:
        record["filtered"] = f"bot: {decided.client.bot}"
    record["version"] = decided.catalog.version
    if decided.state:
        record["state"] = decided.state
    if facts.languages:
        # The JSON of a tuple is that of a list.
        record["languages"] = facts.languages
    if facts.page:
        record["page"] = facts.page
    if asked.uid:
        record["uid"] = asked.uid.replace("-", "")
    if len(decided.places) > 1:
        record["places"] = len(decided.places)
    if facts.keywords:
        record["keywords"] = sorted(facts.keywords)
    if facts.values:
        record["values"] = sorted(facts.values)
    if facts.segments:
        record["segments"] = sorted(facts.segments)
    if asked.uid and (not decided.known or _is_all(decided)):
        record["away"] = True
    elif decided.capped and decided.known:
        record["capped"] = _ids(decided)
    return record


def _is_all(decided: Decided) -> bool:
    """Whether all that has a cap was left out, as `caps` does when its memory is full.

    There may be thousands of them; to name each in each line took a third of a worker (*measured*).
    """
    capped = decided.capped
    return capped == decided.catalog.capped_mask and capped.bit_count() > _FEW


def _ids(decided: Decided) -> list[int]:
    by_bit = decided.catalog.by_bit
    return [campaign.id for bit in bits_of(decided.capped) if (campaign := by_bit[bit]) is not None]
