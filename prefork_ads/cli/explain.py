"""`prefork-ads explain`: why this campaign and not another, for a request or for a decision that was logged.

Must not know: SQL, how a decision is made.
"""

import json
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from prefork_ads.cli.database import existing_database, say
from prefork_ads.cli.options import (
    DATABASE_FIELDS,
    Command,
    SectionOption,
    config_flags,
    settings,
)
from prefork_ads.errors import ConfigError, ReplayDiffers

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 - a class, badly named

    from prefork_ads.ads.catalog import Catalog
    from prefork_ads.ads.explanation import Explanation
    from prefork_ads.ads.facts import Facts

_REQUEST = "A request"
_LOGGED = "A decision that was made"
_OUTPUT = "Output"

_HEX = re.compile(r"[0-9a-f]{32}")
_REGION = re.compile(r"[A-Z]{2}-[A-Z0-9]{1,3}")
_SIZE = re.compile(r"[1-9]\d*x[1-9]\d*")
_SCHEME = re.compile(r"^(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)

_ASSUMED = """\
Assumed: a campaign with a goal has a lease as long as its goal is not reached, and nobody is paced. What
workers hold and need changes every second; for a decision that was made, --decision knows it.\
"""


def _option(
    name: str, metavar: str, words: str, **more: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        name, metavar=metavar, help=words, cls=SectionOption, section=_REQUEST, **more
    )


@click.command(
    cls=Command,
    params=config_flags(DATABASE_FIELDS),
    examples="""\
prefork-ads explain --zone home-top --country DE --device mobile
prefork-ads explain --zone home-top --kw wine,food --k section=travel --at 2026-12-24T18:00+01:00
prefork-ads explain --zone home-top --uid 0190f0a2-5a1c-7c5e-8f11-4a1b2c3d4e5f --json | jq '.[0].campaigns[0]'
prefork-ads explain --decision 0197c8d1f3a87c5e8f114a1b2c3d4e5f
""",
)
@_option("--zone", "KEY", "The zone that asks for an ad.")
@_option("--country", "CC", "Such as DE: ISO 3166-1.", default="")
@_option("--region", "CC-REG", "Such as DE-BE: ISO 3166-2.", default="")
@_option("--city", "NAME", "Such as Berlin: the English name.", default="")
@_option("--device", "NAME", "desktop, mobile, tablet, tv, other.", default="")
@_option("--os", "NAME", "windows, macos, linux, android, ios, chromeos, other.", default="")
@_option("--browser", "NAME", "chrome, safari, firefox, edge, opera, samsung, other.", default="")
@_option("--language", "TAG,…", "As preferred: de,en.", default="")
@_option("--page", "URL", "The page that the zone is on.", default="")
@_option("--kw", "WORD,…", "Keywords.", default="")
@_option("--k", "NAME=VALUE", "A key-value; may be repeated.", multiple=True)
@_option("--size", "WxH,…", "Only these of the zone's sizes.", default="")
@_option("--uid", "UUID", "The user; segments and caps are looked up.", default="")
@_option("--at", "TIME", "2026-12-24T18:00+01:00; without an offset it is UTC. [default: now]")
@click.option(
    "--decision",
    metavar="ID",
    help="Make this decision again, as its line in the log says, and see whether it is the same.",
    cls=SectionOption,
    section=_LOGGED,
)
@click.option(
    "--all",
    "all_of_them",
    is_flag=True,
    help="Show every campaign.",
    cls=SectionOption,
    section=_OUTPUT,
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON.", cls=SectionOption, section=_OUTPUT
)
@click.pass_context
def explain(context: click.Context, /, **flags: Any) -> None:
    """Show for each campaign the first rule that dropped it, or its chance.

    A request is described by options and held against the newest catalog. A decision that was made is made
    again from its line in the log: with the catalog of its version, what budgets and pacing said then, and
    the same draw. So it must be the same ad, and that is checked.
    """
    own = {name: flags.pop(name) for name in list(flags) if name in _OWN}
    config, _ = settings(context, flags)
    if (own["decision"] is None) == (own["zone"] is None):
        raise ConfigError("Say --zone and what the request is like, or --decision and its id.")
    from prefork_ads.db import session  # noqa: PLC0415 - help stays fast

    with existing_database(config) as dsn, session.connection(dsn, writes=False) as conn:
        if own["decision"] is not None:
            _explain_decision(conn, own)
        else:
            _explain_request(conn, own)


_OWN = frozenset(
    (
        *("zone", "country", "region", "city", "device", "os", "browser", "language", "page"),
        *("kw", "k", "size", "uid", "at", "decision", "all_of_them", "as_json"),
    )
)


def _explain_decision(conn: "Connection", own: dict[str, Any]) -> None:
    from prefork_ads.ads.replay import replay  # noqa: PLC0415 - help stays fast
    from prefork_ads.db import decisions  # noqa: PLC0415

    line_id = own["decision"].replace("-", "").lower()
    if not _HEX.fullmatch(line_id):
        raise ConfigError(f"--decision: {own['decision']!r} is no id; it has 32 hex digits.")
    made_at, line = decisions.decision(conn, line_id)
    page = decisions.page(conn, line_id, made_at, line)
    states = decisions.states(conn, line.get("state"))
    catalog = _compiled(*decisions.catalog(conn, line["version"]))
    explained = replay(catalog, states, page, made_at.timestamp())
    explanation = explained[[one.get("draw") for one in page].index(line.get("draw"))]
    choice = explanation.choice
    found = (choice.campaign.id, choice.creative.id) if choice is not None else (None, None)
    same = found == (line.get("campaign"), line.get("creative"))
    if own["as_json"]:
        told = {"decision": line_id, "version": line["version"], "same": same}
        _print_json([{**told, **_as_json(explanation, own)}])
    else:
        when = made_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        click.echo(f"Decision {line_id}, {when} UTC, catalog version {line['version']}")
        click.echo("Made again: " + ("the same." if same else "another ad."))
        _print_text(explanation, own, drawn=True)
    if not same:
        raise ReplayDiffers(
            f"The log says campaign {line.get('campaign')} with creative {line.get('creative')}, and"
            f" {found[0]} with {found[1]} came out. Please report it, with this output."
        )


def _explain_request(conn: "Connection", own: dict[str, Any]) -> None:
    from prefork_ads.ads import explanation  # noqa: PLC0415 - help stays fast
    from prefork_ads.ads.facts import Place  # noqa: PLC0415
    from prefork_ads.ads.standing import Standing  # noqa: PLC0415
    from prefork_ads.db import decisions  # noqa: PLC0415

    at_s = _moment(own["at"])
    catalog = _compiled(*decisions.catalog(conn))
    zone = catalog.zones.get(own["zone"])
    if zone is None:
        known = ", ".join(sorted(catalog.zones)[:20]) or "none"
        raise ConfigError(f"--zone: the catalog has no zone {own['zone']!r}. There are: {known}.")
    segments, capped = _person(conn, catalog, own["uid"], at_s)
    standing = Standing(catalog)
    for campaign_id, (total, day) in decisions.delivered(conn, at_s).items():
        campaign = catalog.campaigns.get(campaign_id)
        if campaign is None or campaign.bit < 0:
            continue
        of_all = campaign.goal_total is None or total < campaign.goal_total
        if of_all and (campaign.goal_daily is None or day < campaign.goal_daily):
            standing.reopen(campaign.bit)
    found = explanation.explain(
        catalog,
        standing,
        _facts(own, at_s, segments),
        Place(zone, tuple(_words(own["size"]))),
        0,
        capped=capped,
    )
    if own["as_json"]:
        told = _as_json(found, own)
        # Nothing was drawn, so nobody has won.
        _print_json([{name: told[name] for name in told if name not in ("campaign", "creative")}])
    else:
        _print_text(found, own, drawn=False)
        say(_ASSUMED)


def _facts(own: dict[str, Any], at_s: float, segments: frozenset[int]) -> "Facts":
    from prefork_ads.ads.facts import Facts  # noqa: PLC0415 - help stays fast
    from prefork_ads.ads.targeting import validate_targeting  # noqa: PLC0415

    region, city = own["region"], own["city"]
    if region and not _REGION.fullmatch(region):
        raise ConfigError(f"--region: {region!r} is not like DE-BE.")
    for pair in own["k"]:
        if not pair.partition("=")[1]:
            raise ConfigError(f"--k: {pair!r} is not NAME=VALUE.")
    for size in _words(own["size"]):
        if not _SIZE.fullmatch(size):
            raise ConfigError(f"--size: {size!r} is not like 300x250.")
    country = own["country"] or region.partition("-")[0]
    if city and not city.startswith(f"{country}-"):
        city = f"{region or country}-{city}"
    has = {
        "geo": [place for place in (country, region, city) if place],
        "device": [own["device"]] if own["device"] else [],
        "os": [own["os"]] if own["os"] else [],
        "browser": [own["browser"]] if own["browser"] else [],
        "language": _words(own["language"]),
    }
    asked = {name: {"include": values} for name, values in has.items() if values}
    # What no campaign could ask for is no request either.
    if problems := validate_targeting(asked, (), ()):
        # A country stands before its region and its city, so what is wrong with it may be said thrice.
        told = dict.fromkeys(_option_of(problem) for problem in problems)
        raise ConfigError("; ".join(told) + ".")
    pairs = [pair.partition("=") for pair in own["k"]]
    host, slash, path = re.split("[?#]", _SCHEME.sub("", own["page"]))[0].partition("/")
    return Facts(
        at_s=at_s,
        country=country,
        region=region,
        city=city,
        device=own["device"],
        os=own["os"],
        browser=own["browser"],
        languages=tuple(_words(own["language"])),
        page=host.lower() + slash + path,
        keywords=frozenset(word.lower() for word in _words(own["kw"])),
        values=frozenset((name, value) for name, _, value in pairs),
        segments=segments,
    )


def _option_of(problem: str) -> str:
    name, _, words = problem.partition(": ")
    option = name.partition(".")[0]
    return f"{'--country' if option == 'geo' else f'--{option}'}: {words}"


def _person(
    conn: "Connection", catalog: "Catalog", uid: str, at_s: float
) -> tuple[frozenset[int], int]:
    """The segments, and the mask of what caps forbid: all that has a cap, where there is no user."""
    if not uid:
        return frozenset(), catalog.capped_mask
    from prefork_ads.ads.caps import Caps  # noqa: PLC0415 - help stays fast
    from prefork_ads.db import decisions  # noqa: PLC0415
    from prefork_ads.management.people import read_uid  # noqa: PLC0415

    identity = str(read_uid(uid))
    row = decisions.person(conn, identity)
    caps = Caps(lambda: 0.0)
    return caps.segments(row), caps.capped(catalog, identity, row, at_s)


def _compiled(version: int, rows: Any) -> "Catalog":
    from prefork_ads.ads.catalog import compile_catalog  # noqa: PLC0415 - help stays fast

    steps = compile_catalog(rows, version)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            catalog: Catalog = end.value
            return catalog


def _moment(text: str | None) -> float:
    if text is None:
        return time.time()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--at: {text!r} is no time; write 2026-12-24T18:00+01:00.") from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _as_json(explanation: "Explanation", own: dict[str, Any]) -> dict[str, Any]:
    from prefork_ads.cli.explain_text import SHOWN  # noqa: PLC0415 - help stays fast

    return explanation.as_json(None if own["all_of_them"] else SHOWN)


def _print_json(told: Sequence[dict[str, Any]]) -> None:
    click.echo(json.dumps(told, indent=2, ensure_ascii=False))


def _print_text(explanation: "Explanation", own: dict[str, Any], *, drawn: bool) -> None:
    from prefork_ads.cli.explain_text import text_of  # noqa: PLC0415 - help stays fast

    for line in text_of(explanation, all_of_them=own["all_of_them"], drawn=drawn):
        click.echo(line)
