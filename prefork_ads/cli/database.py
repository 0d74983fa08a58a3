"""The database that a command works on: the one of --dsn, or the embedded one for a while.

Must not know: what the command does with it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from prefork_ads.config import Config
from prefork_ads.dsn import redact_dsn
from prefork_ads.errors import DatabaseUnavailable, DataDirError, SchemaError


def say(message: str) -> None:
    """A line for people; standard output is kept for what a command is asked for."""
    click.echo(message, err=True)


@contextmanager
def database(config: Config) -> Iterator[str]:
    """Its connection string. An embedded server that already runs is used and left running."""
    with refusals_told():
        if config.dsn is not None:
            yield config.dsn
            return
        from prefork_ads.db.embedded import joined_or_started  # noqa: PLC0415 - help stays fast

        with joined_or_started(config.data_dir, report=say) as dsn:
            yield dsn


@contextmanager
def existing_database(config: Config) -> Iterator[str]:
    """The same for who only looks or changes what is there: a slip in --data-dir makes no new database."""
    if config.dsn is None and not (config.data_dir / "postgres").exists():
        raise DataDirError(
            f"There is no database in {config.data_dir}. Name the server's --data-dir or --dsn; the first"
            " start of prefork-ads makes one."
        )
    with database(config) as dsn:
        yield dsn


@contextmanager
def refusals_told() -> Iterator[None]:
    """What PostgreSQL refuses for reasons of its own (a right, a full disk) ends without a traceback."""
    import psycopg2  # noqa: PLC0415 - help stays fast

    try:
        yield
    except psycopg2.OperationalError as error:
        raise DatabaseUnavailable(f"PostgreSQL gave up: {_first_line(error)}.") from error
    except psycopg2.Error as error:
        raise SchemaError(
            f"PostgreSQL refused: {_first_line(error)}. `prefork-ads check` looks at the schema and at"
            " what this role may do."
        ) from error


def name_of(config: Config) -> str:
    """The database in words, without a password."""
    if config.dsn is None:
        return f"embedded PostgreSQL in {config.data_dir}"
    return redact_dsn(config.dsn)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
