"""`prefork-ads journal`: see what waits in the journal, ship what nobody else does, look for damage.

Must not know: SQL, how a segment is read.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from prefork_ads.cli.database import database, name_of, say
from prefork_ads.cli.options import (
    DATABASE_FIELDS,
    Command,
    Group,
    SectionOption,
    config_flags,
    settings,
)
from prefork_ads.cli.progress import Progress, counted, show_bytes, show_time
from prefork_ads.config import DEFAULT, Config, Source
from prefork_ads.errors import DatabaseUnavailable, DataDirError, JournalDamaged, SchemaError

if TYPE_CHECKING:
    from prefork_ads.db.adoption import Outcome
    from prefork_ads.events.inspection import DamagedFile, Judgement
    from prefork_ads.events.segments import SegmentFile

EXIT_INTERRUPTED = 130
# After what pause those that somebody held are tried again.
_LOOK_S = 0.1
FIELDS = (*DATABASE_FIELDS, "journal_dir")


@click.group(cls=Group)
def journal() -> None:
    """Show, ship and verify events that are not in PostgreSQL yet.

    A server does all of this by itself. These are for a person who wants to see it, or to ship what a
    server that will not start again has left.
    """


@journal.command(
    cls=Command,
    params=config_flags(FIELDS),
    examples="""\
prefork-ads journal status
prefork-ads journal status --json | jq .unshipped_bytes
""",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON.", cls=SectionOption, section="Output"
)
@click.pass_context
def status(context: click.Context, /, as_json: bool, **flags: str | None) -> None:
    """Show the segments, who writes them, and how much of each is in PostgreSQL.

    Without PostgreSQL the files are shown all the same. An embedded one is not started for it.
    """
    config, sources = settings(context, flags)
    from prefork_ads.events import inspection, segments  # noqa: PLC0415 - help stays fast

    with _trouble_told(config):
        _look_for_directory(config, sources)
        found = segments.list_segments(config.journal_path)
        damaged = inspection.list_damaged(config.journal_path)
    # Without segments nothing waits, which needs no PostgreSQL to tell.
    positions = _positions(config, [file.name for file in found]) if found else {}
    if as_json:
        click.echo(json.dumps(_as_json(config, found, damaged, positions), indent=2))
    else:
        _print_status(config, found, damaged, positions)


@journal.command(
    cls=Command,
    params=config_flags((*FIELDS, "write_batch", "write_batch_bytes")),
    examples="""\
prefork-ads journal ship
prefork-ads journal ship --dsn postgresql://ads@db.example.org/ads --journal-dir /mnt/old/journal
""",
)
@click.pass_context
def ship(context: click.Context, /, **flags: str | None) -> None:
    """Ship the segments whose workers are gone, and remove them.

    Those of a running server are left to it. Each event counts once, whatever was shipped before and
    whoever else is at it. Stop it with Ctrl-C whenever you like: the same command goes on from there.
    """
    config, sources = settings(context, flags)
    from prefork_ads.events import segments  # noqa: PLC0415 - help stays fast

    with _trouble_told(config):
        _look_for_directory(config, sources)
        segments.remove_leftovers(config.journal_path)
        found = segments.list_segments(config.journal_path)
    waiting = [file for file in found if not file.alive]
    others = len(found) - len(waiting)
    outcomes: list[Outcome] = []
    failed = 0
    if waiting:
        with _migrated(config) as dsn, Progress(sys.stderr, "shipped", size=True) as progress:
            try:
                for outcome in _ship(config, dsn, waiting, progress):
                    if isinstance(outcome, str):
                        failed += 1
                        progress.close()
                        say(outcome)
                        continue
                    outcomes.append(outcome)
                    for worth_a_look, words in outcome.in_words():
                        if worth_a_look:
                            progress.close()
                            say(words)
            except KeyboardInterrupt:
                progress.close()
                say("Stopped. Nothing is lost, and the same command goes on from there.")
                context.exit(EXIT_INTERRUPTED)
    rows = sum(outcome.rows for outcome in outcomes)
    click.echo(f"{rows:,} events from {len(outcomes):,} segments were shipped.")
    if others:
        click.echo(f"{others:,} segments belong to running workers, who ship them.")
    if taken := len(waiting) - len(outcomes) - failed:
        click.echo(f"{taken:,} segments are held by somebody else, who may be shipping them.")
    aside = [outcome for outcome in outcomes if outcome.aside is not None]
    damage = (
        f"{len(aside)} of them are damaged and were set aside in"
        f" {config.journal_path / segments.DAMAGED}. Their good lines are in the table."
    )
    if failed:
        if aside:
            say(damage)
        raise DataDirError(
            f"{counted(failed, 'segment', 'segments')} could not be shipped, for the reasons above."
            " Mend that and run the same command again: it goes on from there."
        )
    if aside:
        raise JournalDamaged(damage)


@journal.command(
    cls=Command,
    params=config_flags(("data_dir", "journal_dir", "config")),
    examples="""\
prefork-ads journal verify && echo all well
""",
)
@click.pass_context
def verify(context: click.Context, /, **flags: str | None) -> None:
    """Read every segment and name each line that is not an event.

    Needs no database and changes nothing, also beside a running server. Segments that were set aside
    count until somebody has removed them. The exit status is 0, 65 when something is damaged, or 72 when
    nothing is but a segment could not be read.
    """
    config, sources = settings(context, flags)
    from prefork_ads.events import inspection, segments  # noqa: PLC0415 - help stays fast

    with _trouble_told(config), Progress(sys.stderr, "read", size=True) as progress:
        _look_for_directory(config, sources)
        found = segments.list_segments(config.journal_path)
        damaged = inspection.list_damaged(config.journal_path)
        files: list[SegmentFile | DamagedFile] = [*found, *damaged]
        total = sum(file.size for file in files)
        read = events = bad = unread = 0
        alive = {file.path for file in found if file.alive}
        for file in files:

            def show(at: int, before: int = read) -> None:
                progress(before + at, total)

            judgement = None
            try:
                judgement = inspection.judge(file.path, show)
            except OSError as error:
                unread += 1
                progress.close()
                say(f"{file.path} cannot be read: {segments.why_not(file.path, error)}")
            read += file.size
            if judgement is None:
                continue
            events += judgement.rows
            bad += judgement.bad > 0 or file in damaged
            for line in _complaints(judgement, file.path in alive):
                progress.close()
                say(f"{file.path}: {line}")
    there = counted(len(files), "segment", "segments")
    if bad:
        raise JournalDamaged(
            f"{bad} of {there} {'is' if bad == 1 else 'are'} damaged."
            + (f" {unread} could not be read." if unread else "")
        )
    if unread:
        raise DataDirError(
            f"{unread} of {there} could not be read, for the reasons above; the others are sound."
        )
    there = counted(len(found), "segment", "segments")
    click.echo(f"{there} with {counted(events, 'event', 'events')}, all sound.")


def _complaints(judgement: "Judgement", alive: bool) -> Iterator[str]:
    yield from judgement.descriptions
    if judgement.bad > len(judgement.descriptions):
        yield f"… and {judgement.bad - len(judgement.descriptions):,} lines more"
    if judgement.torn_bytes and not alive:
        yield (
            f"the last line is cut off ({judgement.torn_bytes} bytes); nobody was told that it counts"
        )


def _ship(
    config: Config, dsn: str, waiting: "list[SegmentFile]", progress: Progress
) -> "Iterator[Outcome | str]":
    """One after the other, or why it cannot be; what somebody else has taken meanwhile is left out."""
    from prefork_ads.db import adoption  # noqa: PLC0415 - help stays fast
    from prefork_ads.db.shipping import Attribution  # noqa: PLC0415
    from prefork_ads.events.segments import adopt, why_not  # noqa: PLC0415

    with adoption.connection(dsn) as connection, adoption.interruptible():
        known = adoption.positions(connection, [file.name for file in waiting])
        begins = {file.name: min(known.get(file.name, 0), file.size) for file in waiting}
        total = sum(file.size - begins[file.name] for file in waiting)
        done = rows = 0
        turns = deque((file, False) for file in waiting)
        paused = False
        while turns:
            file, again = turns.popleft()
            begin = begins[file.name]
            if again and not paused:
                time.sleep(_LOOK_S)
                paused = True

            def show(at: int, before: int = done - begin) -> None:
                progress(max(before + at, progress.done), total)

            try:
                segment = adopt(file.path)
                if segment is None and not again and file.path.exists():
                    # A keeper that looks whether it has an owner holds it for a moment.
                    turns.append((file, True))
                    continue
                if segment is not None:
                    with segment:
                        outcome = adoption.ship(
                            connection,
                            segment,
                            max_rows=config.write_batch,
                            max_bytes=config.write_batch_bytes,
                            now_unix_s=time.time(),
                            progress=show,
                            attribution=Attribution(
                                config.click_attribution_s, config.view_attribution_s
                            ),
                        )
                    rows += outcome.rows
                    yield outcome
            except OSError as error:
                yield f"{file.name} cannot be shipped: {why_not(file.path, error)}"
            done += file.size - begin
        progress(total, total, counted(rows, "event", "events"))


def _positions(config: Config, names: list[str]) -> dict[str, int] | None:
    """What the ledger says, None when it cannot be asked."""
    from prefork_ads.db import adoption  # noqa: PLC0415 - help stays fast
    from prefork_ads.db.data_dir import find_running  # noqa: PLC0415

    if config.dsn is None:
        running = find_running(config.data_dir)
        if running is None:
            return None
        dsn = running.dsn
    else:
        dsn = config.dsn
    try:
        with adoption.connection(dsn) as connection:
            return adoption.positions(connection, names)
    except (DatabaseUnavailable, SchemaError) as error:
        say(str(error))
        return None


def _print_status(
    config: Config,
    found: "list[SegmentFile]",
    damaged: "list[DamagedFile]",
    positions: dict[str, int] | None,
) -> None:
    total = sum(file.size for file in found)
    there = counted(len(found), "segment", "segments")
    head = f"{config.journal_path}: {there}, {show_bytes(total)}"
    if not found:
        click.echo(f"{config.journal_path}: no segments, nothing waits for PostgreSQL")
    elif positions is None:
        click.echo(f"{head}; how much of it is in PostgreSQL cannot be told now")
    else:
        waiting = sum(_unshipped(file, positions) for file in found)
        click.echo(f"{head}, {show_bytes(waiting)} not in PostgreSQL yet")
    for file in found:
        written = _written_unix_s(file)
        age = "" if written is None else f"  written {show_time(max(0, time.time() - written))} ago"
        left = "" if positions is None else f"  {show_bytes(_unshipped(file, positions))} to ship"
        click.echo(f"  {file.name}  {show_bytes(file.size)}{left}  owner: {_owner(file)}{age}")
    for lost in damaged:
        click.echo(f"  {lost.path}  {show_bytes(lost.size)}  damaged, set aside")


def _as_json(
    config: Config,
    found: "list[SegmentFile]",
    damaged: "list[DamagedFile]",
    positions: dict[str, int] | None,
) -> dict[str, object]:
    return {
        "directory": str(config.journal_path),
        "bytes": sum(file.size for file in found),
        "unshipped_bytes": None
        if positions is None
        else sum(_unshipped(file, positions) for file in found),
        "segments": [
            {
                "name": file.name,
                "bytes": file.size,
                "shipped_bytes": None
                if positions is None
                else file.size - _unshipped(file, positions),
                "owner_pid": _pid(file) if file.alive else None,
                "orphaned": None if file.alive is None else not file.alive,
                "began_unix_s": int(file.began),
                "written_unix_s": _written_unix_s(file),
            }
            for file in found
        ],
        "damaged": [{"path": str(file.path), "bytes": file.size} for file in damaged],
    }


def _unshipped(file: "SegmentFile", positions: Mapping[str, int]) -> int:
    return max(0, file.size - positions.get(file.name, 0))


def _owner(file: "SegmentFile") -> str:
    if file.alive is None:
        return "cannot be told"
    return f"pid {_pid(file)}" if file.alive else "nobody"


def _pid(file: "SegmentFile") -> int:
    """Of the process that began it, which its name tells."""
    return int(file.name.rsplit("-", 3)[1])


def _written_unix_s(file: "SegmentFile") -> float | None:
    try:
        return file.path.stat().st_mtime
    except OSError:
        return None


@contextmanager
def _migrated(config: Config) -> Iterator[str]:
    """The database, if it has our tables: shipping must not make any."""
    from prefork_ads.db.migrate import status as migrations  # noqa: PLC0415 - help stays fast

    with database(config) as dsn:
        if migrations(dsn).pending:
            raise SchemaError(
                f"{name_of(config)} lacks migrations: run `prefork-ads migrate` first."
            )
        yield dsn


def _look_for_directory(config: Config, sources: Mapping[str, Source]) -> None:
    """The default one may be missing: no server has run yet. One that somebody has named is a mistake.

    Otherwise a wrong letter in its name would look as if there were nothing left to ship.
    """
    if sources["journal_dir"] != DEFAULT:
        name, path, what = "journal_dir", config.journal_path, "journal's"
    elif sources["data_dir"] != DEFAULT:
        name, path, what = "data_dir", config.data_dir, "data"
    else:
        return
    try:
        path.stat()
    except FileNotFoundError:
        raise DataDirError(
            f"The {what} directory {path} does not exist. Correct --{name.replace('_', '-')}"
            f" ({sources[name]}); a server makes it when it starts."
        ) from None


@contextmanager
def _trouble_told(config: Config) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataDirError(
            f"The journal in {config.journal_path} cannot be read: {error.strerror}."
        ) from error
