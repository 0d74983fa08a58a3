"""`prefork-ads user`: what is kept of a user, changed or forgotten.

Must not know: SQL, or where a user's id stands.
"""

import sys
from pathlib import Path

import click

from prefork_ads.cli.database import existing_database, say
from prefork_ads.cli.options import DATABASE_FIELDS, Command, Group, config_flags, settings
from prefork_ads.cli.progress import Progress, counted

EXIT_INTERRUPTED = 130


@click.group(cls=Group)
def user() -> None:
    """Users: forget one, and put them into segments."""


@user.command(
    cls=Command,
    params=config_flags(DATABASE_FIELDS),
    examples="prefork-ads user forget 0190f0a2-5a1c-7c5e-8f11-4a1b2c3d4e5f\n",
)
@click.argument("uid", metavar="UUID")
@click.pass_context
def forget(context: click.Context, /, uid: str, **flags: str | None) -> None:
    """Take a user's id out of everything that is kept.

    Segments and frequencies are deleted. Events, conversions and requests stay counted and become
    nobody's. It may be stopped and repeated at any time.
    """
    from prefork_ads.management import people  # noqa: PLC0415 - help stays fast

    identity = people.read_uid(uid)
    config, _ = settings(context, flags)
    with existing_database(config) as dsn, Progress(sys.stderr, "days") as progress:
        done = people.forget(dsn, identity, progress)
    if not done.anything:
        click.echo(f"Nothing was known of {identity}.")
    else:
        click.echo(f"Forgotten: {identity}.")
        click.echo(f"  deleted: {counted(done.segments, 'segment', 'segments')},", nl=False)
        click.echo(f" {counted(done.frequencies, 'frequency', 'frequencies')}")
        click.echo(f"  now nobody's: {counted(done.events, 'event', 'events')},", nl=False)
        click.echo(f" {counted(done.conversions, 'conversion', 'conversions')},", nl=False)
        lines = done.requests + done.rejected
        click.echo(f" {counted(lines, 'line of the log', 'lines of the log')}")
    say(
        "Event lines that servers have not shipped yet, and links in ads that were delivered already, may"
        " still bring this id: repeat the command when `prefork-ads status` shows no backlog and the click"
        " window has passed."
    )


@user.group(cls=Group)
def segment() -> None:
    """The segments that users are in."""


@segment.command(
    cls=Command,
    params=config_flags(DATABASE_FIELDS),
    examples="prefork-ads user segment add 0190f0a2-5a1c-7c5e-8f11-4a1b2c3d4e5f cyclists\n",
)
@click.argument("uid", metavar="UUID")
@click.argument("key", metavar="SEGMENT")
@click.pass_context
def add(context: click.Context, /, uid: str, key: str, **flags: str | None) -> None:
    """Put a user into a segment. It counts from the user's next request on."""
    from prefork_ads.management import people  # noqa: PLC0415 - help stays fast

    identity = people.read_uid(uid)
    config, _ = settings(context, flags)
    with existing_database(config) as dsn:
        new = people.add_to_segment(dsn, identity, key)
    click.echo(f"{identity} is {'now' if new else 'already'} in {key}.")


@segment.command(
    cls=Command,
    params=config_flags(DATABASE_FIELDS),
    examples="prefork-ads user segment remove 0190f0a2-5a1c-7c5e-8f11-4a1b2c3d4e5f cyclists\n",
)
@click.argument("uid", metavar="UUID")
@click.argument("key", metavar="SEGMENT")
@click.pass_context
def remove(context: click.Context, /, uid: str, key: str, **flags: str | None) -> None:
    """Take a user out of a segment."""
    from prefork_ads.management import people  # noqa: PLC0415 - help stays fast

    identity = people.read_uid(uid)
    config, _ = settings(context, flags)
    with existing_database(config) as dsn:
        was = people.remove_from_segment(dsn, identity, key)
    click.echo(f"{identity} {'is no longer' if was else 'was not'} in {key}.")


@segment.command(
    "list",
    cls=Command,
    params=config_flags(DATABASE_FIELDS),
    examples="prefork-ads user segment list 0190f0a2-5a1c-7c5e-8f11-4a1b2c3d4e5f\n",
)
@click.argument("uid", metavar="UUID")
@click.pass_context
def list_(context: click.Context, /, uid: str, **flags: str | None) -> None:
    """Print the keys of the segments a user is in, one a line."""
    from prefork_ads.management import people  # noqa: PLC0415 - help stays fast

    identity = people.read_uid(uid)
    config, _ = settings(context, flags)
    with existing_database(config) as dsn:
        for key in people.segments_of(dsn, identity):
            click.echo(key)


@segment.command(
    "import",
    cls=Command,
    params=config_flags(DATABASE_FIELDS),
    examples="""\
prefork-ads user segment import cyclists.csv
zcat segments.csv.gz | prefork-ads user segment import -
""",
)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.pass_context
def import_(context: click.Context, /, file: Path, **flags: str | None) -> None:
    """Put users into segments from CSV with the header uid,segment; - is standard input.

    Who is in a segment already stays in it, so an import may be repeated. Bad lines are left out and
    named; then the exit status is 65.
    """
    from prefork_ads.management.segment_import import import_file  # noqa: PLC0415 - help stays fast

    config, _ = settings(context, flags)
    with existing_database(config) as dsn, Progress(sys.stderr, "read", size=True) as progress:

        def show(done: int, total: int | None, imported: int) -> None:
            progress(done, total, f"{imported:,} lines")

        try:
            report = import_file(dsn, str(file), show)
        except KeyboardInterrupt:
            progress.close()
            say(
                f"Stopped. Kept are {progress.note or '0 lines'}; the same command may be repeated."
            )
            context.exit(EXIT_INTERRUPTED)
    for error in report.first_errors:
        say(f"line {error.line}: {error.reason}")
    if report.refused > len(report.first_errors):
        say(f"… and {report.refused - len(report.first_errors):,} lines more.")
    report.raise_if_refused()
    click.echo(f"{counted(report.imported, 'line was', 'lines were')} imported.")
