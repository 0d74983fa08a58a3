"""`prefork-ads variants`: fill ad_variant, and look into it.

Must not know: SQL, or what a variant consists of.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import click

from prefork_ads.cli.database import database, name_of, say
from prefork_ads.cli.options import (
    DATABASE_FIELDS,
    Command,
    Group,
    SectionOption,
    config_flags,
    read_count,
    settings,
)
from prefork_ads.cli.progress import Progress, counted
from prefork_ads.config import Config
from prefork_ads.errors import ConfigError, SchemaError

EXIT_INTERRUPTED = 130


@click.group(cls=Group)
def variants() -> None:
    """Fill the table of ad variants, and look into it."""


@variants.command(
    cls=Command,
    params=config_flags(DATABASE_FIELDS),
    examples="""\
prefork-ads variants generate 1M
prefork-ads variants generate 50_000_000 --dsn postgresql://owner@db.example.org/ads
""",
)
@click.argument("total", metavar="N")
@click.pass_context
def generate(context: click.Context, /, total: str, **flags: str | None) -> None:
    """Generate rows inside PostgreSQL until there are N generated ones.

    N may be written 50_000_000 or 50M. Stop it with Ctrl-C whenever you like: what is there stays,
    and the same command goes on from there.
    """
    wanted = read_count("N", total)
    config, _ = settings(context, flags)
    from prefork_ads.db import variants as rows  # noqa: PLC0415 - help stays fast

    with _migrated(config) as dsn, Progress(sys.stderr, "rows") as progress:
        try:
            made = rows.generate(dsn, wanted, progress=progress)
        except KeyboardInterrupt:
            progress.close()
            say(
                f"Stopped at {progress.done:,} of {wanted:,} rows. They are kept, and the same"
                " command goes on from there."
            )
            context.exit(EXIT_INTERRUPTED)
    generated = counted(made, "row was", "rows were")
    there = counted(progress.done, "generated row", "generated rows")
    click.echo(f"{generated} generated; ad_variant has {there}.")


@variants.command(
    "import",
    cls=Command,
    params=config_flags(DATABASE_FIELDS),
    examples="""\
prefork-ads variants import ads.csv
prefork-ads variants import ads.jsonl --rejects rejected.txt
zcat ads.csv.gz | prefork-ads variants import - --format csv
""",
)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--format",
    "file_format",
    cls=SectionOption,
    section="Input",
    type=click.Choice(["auto", "csv", "jsonl"]),
    default="auto",
    help="What FILE holds; auto goes by its name. [default: auto]",
)
@click.option(
    "--strict",
    cls=SectionOption,
    section="Input",
    is_flag=True,
    help="Take nothing at all when a line is bad. [default: take the good lines]",
)
@click.option(
    "--rejects",
    cls=SectionOption,
    section="Input",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write bad lines to this file, each with its number and what is wrong with it.",
)
@click.pass_context
def import_(
    context: click.Context,
    /,
    file: Path,
    file_format: Literal["auto", "csv", "jsonl"],
    strict: bool,
    rejects: Path | None,
    **flags: str | None,
) -> None:
    """Import rows from CSV with a header, or from JSON lines; - is standard input.

    The columns are id, advertiser_id, campaign_id, width, height, title, image_url and click_url. A
    row whose id is there already replaces it, so an import may be repeated. Bad lines are left out
    and named; then the exit status is 65.
    """
    config, _ = settings(context, flags)
    _try_to_write(rejects)
    from prefork_ads.db import variants as rows  # noqa: PLC0415 - help stays fast

    with _migrated(config) as dsn, Progress(sys.stderr, "read", size=True) as progress:

        def show(done: int, total: int | None, imported: int) -> None:
            progress(done, total, f"{imported:,} rows")

        try:
            report = rows.import_file(dsn, str(file), file_format, strict, rejects, show)
        except KeyboardInterrupt:
            progress.close()
            kept = "Nothing was imported" if strict else f"Stopped. Kept are {progress.note or 0}"
            say(f"{kept}; the same command may be repeated.")
            context.exit(EXIT_INTERRUPTED)
    for error in report.first_errors:
        say(f"line {error.line}: {error.reason}")
    if report.refused > len(report.first_errors):
        say(f"… and {report.refused - len(report.first_errors):,} lines more.")
    if rejects is not None and report.refused:
        say(f"The refused lines are in {rejects}.")
    report.raise_if_refused()
    click.echo(f"{report.imported:,} rows were imported.")


def _try_to_write(path: Path | None) -> None:
    if path is not None:
        try:
            path.open("ab").close()
        except OSError as error:
            raise ConfigError(f"--rejects: {path} cannot be written: {error.strerror}.") from error


@variants.command(
    cls=Command,
    params=config_flags(DATABASE_FIELDS),
    examples="""\
prefork-ads variants sample 3
curl "http://127.0.0.1:8080/ad?id=$(prefork-ads variants sample 1)"
""",
)
@click.argument("number", metavar="N")
@click.pass_context
def sample(context: click.Context, /, number: str, **flags: str | None) -> None:
    """Print N ids that exist, one a line, taken at random."""
    wanted = read_count("N", number)
    config, _ = settings(context, flags)
    from prefork_ads.db import variants as rows  # noqa: PLC0415 - help stays fast
    from prefork_ads.db.migrate import status  # noqa: PLC0415

    with database(config) as dsn:
        # Looking must not make tables.
        if status(dsn).pending:
            raise SchemaError(
                f"{name_of(config)} lacks migrations: run `prefork-ads migrate` first."
            )
        for identity in rows.sample(dsn, wanted):
            click.echo(identity)


@contextmanager
def _migrated(config: Config) -> Iterator[str]:
    """The database with its tables, so that filling it may be the first thing one does."""
    from prefork_ads.db.migrate import migrate  # noqa: PLC0415 - help stays fast

    with database(config) as dsn:
        migrate(dsn, report=say, wait_s=0)
        yield dsn
