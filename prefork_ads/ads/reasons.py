"""Why a rule dropped a campaign, in words for a person.

Which rule it was says the mask (see `explanation`); this only puts what the campaign asks beside what the
request has.

Must not know: masks, decisions.
"""

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from prefork_ads.ads.audience import Wish
from prefork_ads.ads.dimensions import Clauses
from prefork_ads.ads.facts import Facts
from prefork_ads.ads.pages import meets
from prefork_ads.ads.schedule import hour_of_week
from prefork_ads.ads.standing import CLOSED, SPENT
from prefork_ads.ads.targeting import DAYS, Sides

# Of a long list the beginning is shown.
_SHOWN = 5

_FIXED = {
    "zone": "the zone or its site is not active",
    "creative": "no active creative fits the zone's formats and sizes",
    "floor": "it pays less for an impression than the zone's floor",
    "fallback": "the zone shows no house ads",
    "caps": "it has caps, and the user has seen enough of it or is not known",
    "bot": "the sender is no person",
    "neighbours": "the page has it or its advertiser, or it cannot have all places",
}


def reason_of(
    rule: str, wish: Wish, facts: Facts, shut: int, segment_keys: Mapping[int, str]
) -> str:
    """`shut`: why the standing has it shut (see `standing`)."""
    if rule == "budget":
        return _budget(shut)
    if rule == "segments":
        return _segments(wish, facts, segment_keys)
    return _FIXED.get(rule) or _ASKED[rule](wish, facts)


def _of_sender(rule: str, has: Callable[[Facts], tuple[str, ...]]) -> Callable[[Wish, Facts], str]:
    def reason(wish: Wish, facts: Facts) -> str:
        known = tuple(value for value in has(facts) if value)
        return _sides(wish.sides[rule], known, known)

    return reason


def _page(wish: Wish, facts: Facts) -> str:
    sides = wish.sides["page"]
    met = tuple(p for p in (*sides.include, *sides.exclude) if meets(p, facts.page))
    return _sides(sides, met, (facts.page,) if facts.page else ())


def _segments(wish: Wish, facts: Facts, keys: Mapping[int, str]) -> str:
    asked, refused = wish.segments
    named = (
        tuple(tuple(keys[term] for term in terms) for terms in asked),
        tuple(keys[term] for term in refused),
    )
    # A person may be in a segment that this version of the catalog does not have.
    return _terms(named, {keys.get(one) for one in facts.segments}, "segment ")


def _hours(wish: Wish, facts: Facts) -> str:
    assert wish.hours is not None, "only hours drop by hours"
    zone, _ = wish.hours
    day, hour = divmod(hour_of_week(facts.at_s, zone), 24)
    return f"it does not run in the hour of {DAYS[day]} {hour}:00 in {zone}"


_ASKED: dict[str, Callable[[Wish, Facts], str]] = {
    "site": lambda wish, _: f"it is {_wanted(wish.sides['site'])}",
    "flight": lambda wish, facts: _flight(wish, facts.at_s),
    "hours": _hours,
    "geo": _of_sender("geo", lambda facts: (facts.country, facts.region, facts.city)),
    "device": _of_sender("device", lambda facts: (facts.device,)),
    "os": _of_sender("os", lambda facts: (facts.os,)),
    "browser": _of_sender("browser", lambda facts: (facts.browser,)),
    "language": _of_sender("language", lambda facts: facts.languages),
    "page": _page,
    "keywords": lambda wish, facts: _terms(wish.keywords, facts.keywords),
    "values": lambda wish, facts: _terms(wish.values, facts.values),
}


def _sides(sides: Sides, met: tuple[str, ...], has: tuple[str, ...]) -> str:
    """`met` are the values of the sides that the request has, in whatever way."""
    if sides.include and not set(met) & set(sides.include):
        sender = f"the request has {_list(has)}" if has else "the request has nothing that is known"
        return f"it is for {_list(sides.include)}; {sender}"
    return f"it excludes {_list([value for value in met if value in sides.exclude])}"


def _wanted(sides: Sides) -> str:
    wanted = f"for {_list(sides.include)}" if sides.include else "for all"
    return f"{wanted} but {_list(sides.exclude)}" if sides.exclude else wanted


def _terms(clauses: Clauses[Any], has: Collection[Any], called: str = "") -> str:
    asked, refused = clauses
    for terms in asked:
        if not any(term in has for term in terms):
            some = "one of " if len(terms) > 1 else ""
            return f"it asks for {some}{called}{_list(terms)}"
    return f"it does not want {called}{_list([term for term in refused if term in has])}"


def _budget(shut: int) -> str:
    if shut & CLOSED:
        return "it has no lease that is open"
    if shut & SPENT:
        return "its lease is used up"
    return "pacing: it has had what it needs by now"


def _flight(wish: Wish, at_s: float) -> str:
    start, end = wish.flight
    if start is not None and at_s < start:
        return f"it begins at {_time(start)}"
    return f"it ended at {_time(end or 0)}"


def _time(second: int) -> str:
    try:
        return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError):
        return "no time that will be"


def _list(values: Collection[Any]) -> str:
    shown = [value if isinstance(value, str) else _term(value) for value in list(values)[:_SHOWN]]
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return ", ".join(shown) + more


def _term(value: Any) -> str:
    return "=".join(value) if isinstance(value, tuple) else str(value)
