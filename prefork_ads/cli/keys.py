"""`prefork-ads keys`: the keys that tokens in tracking URLs are signed with.

Must not know: SQL, what a token looks like.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from prefork_ads.cli.database import existing_database
from prefork_ads.cli.options import (
    DATABASE_FIELDS,
    Command,
    Group,
    SectionOption,
    config_flags,
    settings,
)
from prefork_ads.cli.progress import counted
from prefork_ads.errors import ConfigError
from prefork_ads.values import DURATION

if TYPE_CHECKING:
    from prefork_ads.db.token_keys import TokenKey

_RETIRING = "Retiring"
# Conversions may come with the token of a click of four weeks ago.
_KEEP = "720h"
_LONGEST_S = 10 * 365 * 86_400


@click.group(cls=Group)
def keys() -> None:
    """Show and change the keys of tracking tokens.

    The links of an ad carry a token that is signed with one of these, so that nobody can make up an
    impression or a click. The first key makes itself. Change it when somebody may have seen it, or every
    few months.
    """


@keys.command(
    "list",
    cls=Command,
    params=config_flags(DATABASE_FIELDS),
    examples="""\
prefork-ads keys list
""",
)
@click.pass_context
def list_(context: click.Context, /, **flags: str | None) -> None:
    """Show the keys, without their secrets, and what each is used for."""
    config, _ = settings(context, flags)
    from prefork_ads.db import token_keys  # noqa: PLC0415 - help stays fast

    with existing_database(config) as dsn:
        found = token_keys.list_keys(dsn)
    for key in found:
        click.echo(f"{key.id:>3}  made {_time(key.created_at)}  {_use(key)}")


@keys.command(
    cls=Command,
    params=config_flags(DATABASE_FIELDS),
    examples="""\
prefork-ads keys rotate
prefork-ads keys rotate --keep 0
""",
)
@click.option(
    "--keep",
    default=_KEEP,
    metavar="DURATION",
    cls=SectionOption,
    section=_RETIRING,
    help="How long the tokens of the keys before it are taken; 0 when somebody has seen one of them."
    f" [default: {_KEEP}]",
)
@click.pass_context
def rotate(context: click.Context, /, keep: str, **flags: str | None) -> None:
    """Make a new key, and have the others retired.

    It signs nothing for its first minute, until every worker knows it; with --keep 0 it does at once, and
    until the workers have asked for their keys (some seconds) they refuse each other's tokens.
    """
    keep_s = _seconds("--keep", keep)
    config, _ = settings(context, flags)
    from prefork_ads.db import token_keys  # noqa: PLC0415 - help stays fast

    with existing_database(config) as dsn:
        made = token_keys.rotate(dsn, keep_s)
    click.echo(
        f"Key {made} was made. Tokens of the keys before it "
        + (f"are taken for {_lasting(keep_s)} more." if keep_s else "are refused from now on.")
    )


@keys.command(
    cls=Command,
    params=config_flags(DATABASE_FIELDS),
    examples="""\
prefork-ads keys retire 3
prefork-ads keys retire 3 --after 24h
""",
)
@click.argument("number", metavar="KEY", type=click.IntRange(0, 255))
@click.option(
    "--after",
    default="0",
    metavar="DURATION",
    cls=SectionOption,
    section=_RETIRING,
    help="How long its tokens are still taken. [default: 0]",
)
@click.pass_context
def retire(context: click.Context, /, number: int, after: str, **flags: str | None) -> None:
    """Have the tokens of a key refused: links that were signed with it lead nowhere any more.

    Where no other key is left a new one makes itself.
    """
    after_s = _seconds("--after", after)
    config, _ = settings(context, flags)
    from prefork_ads.db import token_keys  # noqa: PLC0415 - help stays fast

    with existing_database(config) as dsn:
        token_keys.retire(dsn, number, after_s)
    when = f"in {_lasting(after_s)}" if after_s else "from now on"
    click.echo(f"Tokens of key {number} are refused {when}.")


def _seconds(where: str, text: str) -> float:
    try:
        seconds = float(DURATION.parse(text))
    except ValueError:
        raise ConfigError(f"{where}: {text!r} is not {DURATION.accepts}.") from None
    if seconds > _LONGEST_S:
        raise ConfigError(f"{where}: {text!r} is more than ten years.")
    return seconds


def _lasting(seconds: float) -> str:
    """30 days, 36 hours, 90 seconds: the largest unit that divides it."""
    for unit, one, many in (
        (86_400, "day", "days"),
        (3600, "hour", "hours"),
        (60, "minute", "minutes"),
    ):
        if seconds >= unit and seconds % unit == 0:
            return counted(int(seconds // unit), one, many)
    return f"{seconds:,g} seconds"


def _use(key: "TokenKey") -> str:
    if key.retired:
        return f"retired {_time(key.retired_at)}"
    signs = "signs" if key.signs else "is taken"
    return signs if key.retired_at is None else f"{signs} until {_time(key.retired_at)}"


def _time(moment: datetime | None) -> str:
    assert moment is not None
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
