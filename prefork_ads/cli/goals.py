"""`prefork-ads campaign progress`: how campaigns do against their goals.

Must not know: SQL, what an even delivery is.
"""

import json
import shutil

import click

from prefork_ads.cli.catalog import WHAT
from prefork_ads.cli.catalog_text import looked_at
from prefork_ads.cli.database import say
from prefork_ads.cli.options import (
    DATABASE_FIELDS,
    Command,
    SectionOption,
    config_flags,
    settings,
)
from prefork_ads.cli.progress import counted

# How wide a table is where no terminal says how wide it is.
_PIPE_COLUMNS = 120

_HOW = "prefork-ads campaign set {key} goal_total=50000"


@click.command(
    cls=Command,
    params=[
        click.Argument(["keys"], metavar="[KEY…]", nargs=-1),
        SectionOption(
            ["--all", "all_"],
            section=WHAT,
            is_flag=True,
            help="Also drafts, what is paused, and flights that are over.",
        ),
        SectionOption(["--json", "as_json"], section=WHAT, is_flag=True, help="Print JSON lines."),
        *config_flags(DATABASE_FIELDS),
    ],
    examples="""\
prefork-ads campaign progress
prefork-ads campaign progress spring-sale winter-boots
prefork-ads campaign progress --json | jq -r 'select(.state == "behind") | .key'
""",
)
@click.pass_context
def progress(
    context: click.Context, /, keys: tuple[str, ...], all_: bool, as_json: bool, **flags: str | None
) -> None:
    """Show how campaigns do against their goals, the worst first.

    What was delivered in all and on the campaign's own day, and what an even delivery would have by
    now: in all by the days of the flight, of a day as it is paced, both along the traffic of the last
    week. Behind is under 90 % of either, ahead over 110 %, and by more than half an hour's worth; with
    pacing asap only behind is told. Without a KEY these are all active campaigns that have a goal.
    """
    config, _ = settings(context, flags)
    from prefork_ads.cli.goals_text import as_object, table  # noqa: PLC0415 - help stays fast
    from prefork_ads.management import edit, store  # noqa: PLC0415
    from prefork_ads.report import goals  # noqa: PLC0415

    with looked_at(config) as dsn:
        found, bare = goals.load(dsn, keys or None)
        known = {one.campaign.key for one in found}.union(bare)
        if any(key not in known for key in keys):
            items = store.load(dsn).items
            for key in keys:
                edit.find(items, "campaign", key)
    shown = [one for one in found if keys or all_ or one.is_active]
    for key in bare:
        say(f"{key} has no goal; one is set with: {_HOW.format(key=key)}")
    if as_json:
        for one in shown:
            click.echo(json.dumps(as_object(one)))
        return
    if shown:
        click.echo("\n".join(table(shown, shutil.get_terminal_size((_PIPE_COLUMNS, 24)).columns)))
    elif not found and not keys:
        click.echo(f"No campaign has a goal; one is set with: {_HOW.format(key='KEY')}")
    if left := len(found) - len(shown):
        are = counted(left, "campaign is", "campaigns are")
        click.echo(f"{are} paused, a draft or over; --all shows them too.")
