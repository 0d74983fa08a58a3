"""`prefork-ads migrate`: bring a database up to date without serving.

Must not know: what migrations contain.
"""

import click

from prefork_ads.cli.database import database, name_of, say
from prefork_ads.cli.options import DATABASE_FIELDS, Command, config_flags, settings


@click.command(
    cls=Command,
    params=config_flags(DATABASE_FIELDS),
    examples="""\
prefork-ads migrate
prefork-ads migrate --dsn postgresql://owner@db.example.org/ads
""",
)
@click.pass_context
def migrate(context: click.Context, /, **flags: str | None) -> None:
    """Apply the migrations that a database lacks.

    A start of the server does the same. This is for a server whose role may not create tables, and
    for an upgrade that is prepared beforehand. Any number of them may run at the same time.
    """
    from prefork_ads.db import migrate as migrations  # noqa: PLC0415 - help stays fast

    config, _ = settings(context, flags)
    with database(config) as dsn:
        applied = migrations.migrate(dsn, report=say, wait_s=0)
    done = f"{len(applied)} applied" if applied else "nothing to do"
    click.echo(f"Up to date: {name_of(config)} ({done}).")
