"""`prefork-ads demo`: a catalog to look at, and visitors for it.

Must not know: SQL, what the catalog consists of.
"""

from urllib.parse import urlsplit

import click

from prefork_ads.cli.catalog import DRY_RUN, carry_out, plan_of
from prefork_ads.cli.catalog_text import complaints_told, in_numbers
from prefork_ads.cli.options import (
    DATABASE_FIELDS,
    Command,
    Group,
    config_flags,
    read_count,
    settings,
)
from prefork_ads.errors import ConfigError

EXIT_INTERRUPTED = 130
MOST_VISITORS = 10_000_000


@click.group(cls=Group)
def demo() -> None:
    """A catalog to look at, and visitors for it."""


@demo.command(
    cls=Command,
    params=[DRY_RUN, *config_flags(DATABASE_FIELDS)],
    examples="""\
prefork-ads demo load
prefork-ads demo load --dry-run
""",
)
@click.pass_context
def load(context: click.Context, /, dry_run: bool, **flags: str | None) -> None:
    """Put a few dozen campaigns with creatives into the catalog, and the zones of a page for them.

    What is there under other keys stays. The page that shows them all is /demo of a running server.
    """
    config, _ = settings(context, flags)
    from prefork_ads.demo import catalog_path  # noqa: PLC0415 - help stays fast

    with catalog_path() as path:
        with complaints_told():
            make = plan_of((str(path),), False)
        carry_out(config, make, "demo load", dry_run=dry_run, yes=True)


def load_into_empty(dsn: str) -> str | None:
    """Load it if the catalog has never been changed, and say so."""
    from prefork_ads.demo import catalog_path  # noqa: PLC0415 - help stays fast
    from prefork_ads.management import store  # noqa: PLC0415

    if store.version(dsn):
        return None
    with catalog_path() as path:
        done = store.apply(dsn, plan_of((str(path),), False), "demo load")
    return f"demo catalog loaded: {in_numbers(done.plan)}"


@demo.command(
    cls=Command,
    examples="""\
prefork-ads demo traffic
prefork-ads demo traffic --visitors 20k --minutes 5
""",
)
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="The server.")
@click.option(
    "--visitors",
    metavar="N",
    default="5_000",
    show_default=True,
    help="How many come on this day, such as 20k. Each opens two or three pages.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0.05, 1440),
    default=2.0,
    show_default=True,
    help="How long the day takes.",
)
@click.option(
    "--connections",
    type=click.IntRange(1, 1000),
    default=32,
    show_default=True,
    help="How many visitors may be under way at once.",
)
@click.option("--seed", type=int, help="Make the same day again.  [default: another each time]")
@click.pass_context
def traffic(
    context: click.Context,
    /,
    url: str,
    visitors: str,
    minutes: float,
    connections: int,
    seed: int | None,
) -> None:
    """Play a day of visitors against a running server that has the demo catalog.

    They come by the curve of a day, from midnight to midnight in so many minutes, see ads, click and
    buy. All come from this machine; start the server with --trusted-proxies 127.0.0.1 and each has a
    network of its own, otherwise most of what they do is taken for a program's and not billed.
    """
    import asyncio  # noqa: PLC0415 - help stays fast
    import random  # noqa: PLC0415
    import sys  # noqa: PLC0415

    from prefork_ads.cli.progress import Progress  # noqa: PLC0415
    from prefork_ads.demo import advertisers_of_campaigns  # noqa: PLC0415
    from prefork_ads.demo.traffic import Plan, Traffic  # noqa: PLC0415

    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ConfigError(f"--url: {url!r} is not like http://127.0.0.1:8080.")
    wanted = read_count("--visitors", visitors)
    if not 1 <= wanted <= MOST_VISITORS:
        raise ConfigError(f"--visitors: from 1 to {MOST_VISITORS:,}, not {wanted:,}.")
    chosen = random.randrange(1_000_000) if seed is None else seed  # noqa: S311 - no secret
    click.echo(f"seed {chosen}", err=True)
    plan = Plan(url, wanted, minutes * 60, connections, chosen, advertisers_of_campaigns())
    interrupted = False
    with Progress(sys.stderr, "visitors", lasts_s=minutes * 60) as progress:
        run = Traffic(plan, progress)
        try:
            asyncio.run(run.run())
        except KeyboardInterrupt:
            progress.close()
            interrupted = True
            click.echo("interrupted; this is how far the day came", err=True)
    told = run.told
    click.echo(
        f"{told.visitors:,} visitors opened {told.pages:,} pages with {told.places:,} places:"
        f" {told.ads:,} ads, {told.impressions:,} seen, {told.viewable:,} looked at,"
        f" {told.clicks:,} clicked, {told.conversions:,} orders."
    )
    if told.failures:
        click.echo(f"{told.failures:,} visitors left because the server did not answer.", err=True)
    if interrupted:
        context.exit(EXIT_INTERRUPTED)
