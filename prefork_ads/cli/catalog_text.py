"""What commands about the catalog have in common: its database, differences in colour, complaints.

Must not know: SQL, YAML.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

from prefork_ads.cli.database import database, existing_database, name_of, say
from prefork_ads.cli.progress import counted
from prefork_ads.config import Config
from prefork_ads.errors import SchemaError

if TYPE_CHECKING:
    from prefork_ads.management.complaints import Complaint
    from prefork_ads.management.difference import Plan

_COLOURS: Final = {"add": "green", "change": "yellow", "archive": "red"}
MOST_LINES: Final = 2000


@contextmanager
def written(config: Config) -> Iterator[str]:
    """The database with its tables, so that filling it may be the first thing one does."""
    from prefork_ads.db.migrate import migrate  # noqa: PLC0415 - help stays fast

    with database(config) as dsn, complaints_told():
        migrate(dsn, report=say, wait_s=0)
        yield dsn


@contextmanager
def looked_at(config: Config) -> Iterator[str]:
    """The database as it is: looking must not make tables."""
    from prefork_ads.db.migrate import status  # noqa: PLC0415 - help stays fast

    with existing_database(config) as dsn, complaints_told():
        if status(dsn).pending:
            raise SchemaError(
                f"{name_of(config)} lacks migrations: run `prefork-ads migrate` first."
            )
        yield dsn


@contextmanager
def complaints_told() -> Iterator[None]:
    """Each mistake on a line of its own, before the error that counts them."""
    from prefork_ads.management.complaints import Refused  # noqa: PLC0415 - help stays fast

    try:
        yield
    except Refused as refused:
        for complaint in refused.complaints:
            say(str(complaint))
        if refused.left_out:
            say(f"… and {counted(refused.left_out, 'mistake', 'mistakes')} more.")
        raise


def show_plan(plan: "Plan") -> None:
    """The changes, with colours where a person watches."""
    from prefork_ads.management.difference import describe  # noqa: PLC0415 - help stays fast

    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    shown = 0
    for change in plan.changes:
        for kind, line in describe(change):
            shown += 1
            if shown > MOST_LINES:
                click.echo(f"… of {counted(len(plan.changes), 'change', 'changes')} in all")
                return
            colour = _COLOURS.get(kind) if coloured else None
            click.echo(click.style(line, fg=colour) if colour else line)


def show_warnings(warnings: "Iterable[Complaint]") -> None:
    for number, warning in enumerate(warnings):
        if number == 50:
            say("… and more warnings.")
            return
        say(f"warning: {warning}")


def in_numbers(plan: "Plan") -> str:
    """3 added, 1 changed, 2 archived; 120 stay as they are."""
    kinds = [change.kind for change in plan.changes]
    words = {"add": "added", "change": "changed", "archive": "archived"}
    parts = [f"{kinds.count(kind):,} {word}" for kind, word in words.items() if kind in kinds]
    same = f"; {plan.unchanged:,} as they were" if plan.unchanged else ""
    return f"{', '.join(parts)}{same}"


def watched() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()
