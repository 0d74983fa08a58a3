"""`prefork-ads report`: figures, the proof that they are right, and their restatement.

Must not know: SQL, or how figures are made.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from prefork_ads.cli.database import existing_database, say
from prefork_ads.cli.options import (
    DATABASE_FIELDS,
    Command,
    Group,
    SectionOption,
    config_flags,
    settings,
)
from prefork_ads.cli.progress import Progress, counted
from prefork_ads.errors import ConfigError

if TYPE_CHECKING:
    from prefork_ads.report.wanted import Wanted

_FIGURES = "Figures"
_PERIOD = "Period"
_OUTPUT = "Output"
_PROOF = "Proof"

Format = Literal["table", "csv", "json", "html"]


_STARTS = click.option(
    "--from",
    "starts",
    cls=SectionOption,
    section=_PERIOD,
    metavar="TIME",
    help="Its beginning: 2026-11-22, 2026-11, 2026-11-22T14:00, today, yesterday.",
)
_ENDS = click.option(
    "--to",
    "ends",
    cls=SectionOption,
    section=_PERIOD,
    metavar="TIME",
    help="Its end: a day or month as a whole, or a moment that is not part of it any more.",
)


@click.group(
    cls=Group,
    invoke_without_command=True,
    params=config_flags(DATABASE_FIELDS),
    examples="""\
prefork-ads report --by campaign,day --from 2026-11
prefork-ads report --by day --tz Europe/Berlin --measures impressions,users,spend
prefork-ads report --by advertiser,campaign --rollup --sort spend
prefork-ads report --by campaign --where country=DE,device=mobile --format csv --output de.csv
prefork-ads report --by day,zone --format html --output report.html
prefork-ads report --check --from yesterday
""",
)
@click.option(
    "--by",
    cls=SectionOption,
    section=_FIGURES,
    metavar="NAMES",
    default="",
    help="Dimensions: hour, day, week, month, advertiser, campaign, creative, zone, site, country,"
    " device, tier, filtered. [default: the total alone]",
)
@click.option(
    "--measures",
    cls=SectionOption,
    section=_FIGURES,
    metavar="NAMES",
    help="Measures: requests, fills, fill_rate, impressions, viewable, viewability, clicks, ctr,"
    " conversions, value, spend, ecpm, users; or all. [default: those people ask for first]",
)
@click.option(
    "--where",
    cls=SectionOption,
    section=_FIGURES,
    metavar="NAME=VALUE,…",
    multiple=True,
    help="Only these. Several values of one dimension: one of them. No value: what is not known.",
)
@click.option(
    "--rollup",
    cls=SectionOption,
    section=_FIGURES,
    is_flag=True,
    help="Totals for each beginning of --by, and of everything.",
)
@click.option(
    "--cube",
    cls=SectionOption,
    section=_FIGURES,
    is_flag=True,
    help="Totals for each combination of --by.",
)
@click.option(
    "--sets",
    cls=SectionOption,
    section=_FIGURES,
    metavar="SETS",
    help='Totals for these combinations: "campaign;campaign,day;" (the last is of everything).',
)
@_STARTS
@_ENDS
@click.option(
    "--tz",
    "zone",
    cls=SectionOption,
    section=_PERIOD,
    metavar="ZONE",
    default="UTC",
    help="What a day is, such as Europe/Berlin. [default: UTC]",
)
@click.option(
    "--format",
    "shape",
    cls=SectionOption,
    section=_OUTPUT,
    type=click.Choice(["table", "csv", "json", "html"]),
    default="table",
    help="[default: table]",
)
@click.option(
    "--output",
    cls=SectionOption,
    section=_OUTPUT,
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Write to this file. [default: standard output]",
)
@click.option(
    "--sort",
    cls=SectionOption,
    section=_OUTPUT,
    metavar="MEASURE[:asc]",
    help="Largest first (or smallest). [default: in the order of --by]",
)
@click.option(
    "--limit",
    cls=SectionOption,
    section=_OUTPUT,
    type=int,
    metavar="N",
    help="At most N rows of each combination; totals stay those of everything.",
)
@click.option(
    "--check",
    cls=SectionOption,
    section=_PROOF,
    is_flag=True,
    help="Add everything up again from single decisions and events, and name what differs.",
)
@click.pass_context
def report(
    context: click.Context,
    /,
    by: str,
    measures: str | None,
    where: tuple[str, ...],
    rollup: bool,
    cube: bool,
    sets: str | None,
    zone: str,
    shape: Format,
    output: Path | None,
    sort: str | None,
    limit: int | None,
    check: bool,
    starts: str | None,
    ends: str | None,
    **flags: str | None,
) -> None:
    """Figures by any dimensions: requests, impressions, clicks, spend and what follows from them.

    Figures are exact at every moment. Bots and the like are kept and never billed: --where
    filtered=counted leaves them out, and --by filtered shows them apart.
    """
    if context.invoked_subcommand is not None:
        # Options in front of the word count for it too.
        before = context.obj or {}
        context.obj = {**before, **{name: text for name, text in flags.items() if text is not None}}
        return
    from prefork_ads.report.wanted import read  # noqa: PLC0415 - help stays fast

    wanted = read(
        by=by,
        cube=cube,
        rollup=rollup,
        sets=sets,
        where=where,
        measures=measures,
        zone=zone,
        starts=starts,
        ends=ends,
        sort=sort,
        limit=limit,
    )
    config, _ = settings(context, flags)
    with existing_database(config) as dsn:
        if check:
            _check(dsn, starts, ends, zone)
            return
        _figures(dsn, wanted, shape, output)


def _figures(dsn: str, wanted: "Wanted", shape: Format, output: Path | None) -> None:
    from prefork_ads.report.figures import report as make  # noqa: PLC0415 - help stays fast
    from prefork_ads.report.rendering import render  # noqa: PLC0415

    made = make(dsn, wanted)
    text = render(made, shape)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_bytes(text)
    except OSError as error:
        raise ConfigError(f"--output: {output} cannot be written: {error.strerror}.") from error
    say(f"{counted(len(made.rows), 'row is', 'rows are')} in {output}.")


def _check(dsn: str, starts: str | None, ends: str | None, zone: str) -> None:
    from prefork_ads.report.check import check as prove  # noqa: PLC0415 - help stays fast
    from prefork_ads.report.wanted import moments, today_in  # noqa: PLC0415

    first, last = moments(starts, ends, today_in(zone))
    with Progress(sys.stderr, "days") as progress:
        proof = prove(dsn, first, last, zone, progress=progress)
    for line in proof.notes:
        say(line)
    for difference in proof.differences:
        click.echo(str(difference))
    proof.raise_if_it_differs()
    click.echo(proof.summary)


@report.command(
    cls=Command,
    params=config_flags(DATABASE_FIELDS),
    examples="""\
prefork-ads report restate --from 2026-11-01 --dry-run
prefork-ads report restate --from 2026-11-01 --to 2026-11-22
""",
)
@_STARTS
@_ENDS
@click.option(
    "--dry-run",
    cls=SectionOption,
    section=_OUTPUT,
    is_flag=True,
    help="Show what would change, and change nothing.",
)
@click.pass_context
def restate(
    context: click.Context,
    /,
    starts: str | None,
    ends: str | None,
    dry_run: bool,
    **flags: str | None,
) -> None:
    """Judge anew which decisions and events were made by bots, by the list as it is now.

    For after an update of crawler-user-agents. Whole days of UTC are judged, each in a transaction of
    its own, so it may be stopped and repeated; the server may go on serving.
    """
    if starts is None:
        raise ConfigError("--from is needed: the first day to restate.")
    from prefork_ads.report.restate import restate as judge_anew  # noqa: PLC0415 - help stays fast
    from prefork_ads.report.wanted import moments, today_in  # noqa: PLC0415

    first, last = moments(starts, ends, today_in("UTC"))
    config, _ = settings(context, flags)
    assert first is not None
    with existing_database(config) as dsn, Progress(sys.stderr, "days") as progress:
        days = judge_anew(dsn, first, last, dry_run=dry_run, progress=progress)
    for day in days:
        click.echo(str(day))
    changed = sum(day.changed for day in days)
    verb = "would change" if dry_run else "changed"
    click.echo(
        f"{counted(changed, 'line', 'lines')} {verb} in {counted(len(days), 'day', 'days')}."
    )
