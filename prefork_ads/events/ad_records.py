"""What stands in the params of the lines about ads: decisions, what became of them, conversions, states.

    {"request": {what the client sent}, "decision": {…}}     endpoint `decision`; the line's id is its id
    {"request": {…}, "event": {…}}                           `impression`, `viewable`, `click`
    {"request": {…}, "conversion": {…}}                      `conversion`
    {"state": {…}}                                           `state`: what budgets and pacing said, no request

A member that has its default or is not known is left out, and counts as what `.get` makes of it: no
campaign is "no ad", no country is "". Ids of things in the catalog are integers, a decision and a user are
32 hex digits, money is in millionths of the currency.

- The client's own parameters stand apart from what we know, so nobody can say by a parameter that a
  request had an ad. What a line is says its endpoint, never its params.
- `request` comes first and always, `{}` if it is empty: by these bytes whoever ships lines finds out with
  one search that there is nothing about ads among them (see `ad_lines`), and reads no client's parameters.

*Measured* on a machine that was busy with other work: 3 to 5 µs for a decision's params of 500 bytes,
nearly all of it orjson's.

Must not know: HTTP, SQL, the catalog.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, Required, TypedDict, cast

from prefork_ads.events.parameters import to_json

DECISION: Final = b"decision"
IMPRESSION: Final = b"impression"
VIEWABLE: Final = b"viewable"
CLICK: Final = b"click"
CONVERSION: Final = b"conversion"
STATE: Final = b"state"

Tier = Literal["sponsorship", "guaranteed", "standard", "house"]
PriceModel = Literal["cpm", "cpc", "cpa"]

_UUID7_MILLISECONDS: Final = slice(0, 12)


class Decision(TypedDict, total=False):
    """What was decided for one place, and all that it was decided by.

    What is counted stands before `version`, from `zone` on, so that whoever ships lines need not read the
    rest (see `ad_lines`). Without a version the order does not matter.
    """

    zone: Required[int]
    campaign: int
    creative: int
    country: str
    region: str
    city: str
    device: str
    os: str
    browser: str
    filtered: str
    # Of the catalog, and the id of the state line that was the last before it.
    version: int
    state: str
    draw: int
    tier: Tier
    price: int
    model: PriceModel
    languages: list[str]
    page: str
    keywords: list[str]
    values: list[list[str]]
    segments: list[int]
    # Campaigns that caps forbade, and those that stood on this page already.
    capped: list[int]
    after: list[int]
    places: int
    sizes: list[str]
    formats: list[str]
    uid: str
    # The day, in the campaign's time zone, whose lease was used: "2026-11-22".
    leased: str
    # The campaign or its advertiser has caps and the user is known.
    caps: bool
    # All that has a cap was left out, as without a uid: the person could not be looked up, or nothing more
    # could be remembered.
    away: bool
    # In the table alone, after a restatement: what `filtered` said when the decision was made.
    was_filtered: str


class AdEvent(TypedDict, total=False):
    """What became of a decision, as its signed token tells."""

    decision: Required[str]
    zone: Required[int]
    campaign: Required[int]
    creative: Required[int]
    price: int
    model: PriceModel
    country: str
    device: str
    uid: str
    filtered: str


class Conversion(TypedDict, total=False):
    """An order that an advertiser tells of."""

    advertiser: Required[int]
    order: Required[str]
    value: int
    uid: str
    # From a click's token.
    decision: str
    filtered: str


class State(TypedDict, total=False):
    """What budgets and pacing said from now on: all of it (`full`), or how it differs from the last."""

    after: str
    full: bool
    closed: list[int]
    opened: list[int]
    # Campaign (as JSON has it: text) to need.
    needs: dict[str, int]
    # How many places a roadblock may still have, where that is few; null: it is not any more.
    left: dict[str, int | None]


def decision_params(request: Mapping[str, Any], decision: Decision) -> bytes:
    """The params of a decision's line. Raises MalformedBody when the request is nested too deep."""
    return to_json({"request": request, "decision": decision})


def event_params(request: Mapping[str, Any], event: AdEvent) -> bytes:
    """The params of an impression, viewable or click. Raises MalformedBody."""
    return to_json({"request": request, "event": event})


def conversion_params(request: Mapping[str, Any], conversion: Conversion) -> bytes:
    """The params of a conversion's line. Raises MalformedBody."""
    return to_json({"request": request, "conversion": conversion})


def state_params(state: State) -> bytes:
    """The params of a state line."""
    return to_json({"state": state})


def decision_of(params: Mapping[str, Any]) -> Decision:
    """What the params of a decision's line say, once they are no JSON any more."""
    return cast(Decision, params["decision"])


def event_of(params: Mapping[str, Any]) -> AdEvent:
    """The same of an impression, viewable or click."""
    return cast(AdEvent, params["event"])


def conversion_of(params: Mapping[str, Any]) -> Conversion:
    """The same of a conversion."""
    return cast(Conversion, params["conversion"])


def state_of(params: Mapping[str, Any]) -> State:
    """The same of a state line."""
    return cast(State, params["state"])


def decided_ms(decision: str) -> int:
    """When a decision was made, in milliseconds since 1970: its id tells."""
    return int(decision[_UUID7_MILLISECONDS], 16)
