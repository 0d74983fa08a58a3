"""`prefork-ads catalog`: the catalog as files: apply them, check them, get them back, see the history.

Must not know: SQL, YAML, what a catalog consists of.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prefork_ads.cli.catalog_text import (
    complaints_told,
    in_numbers,
    looked_at,
    show_plan,
    show_warnings,
    watched,
    written,
)
from prefork_ads.cli.database import say
from prefork_ads.cli.options import (
    DATABASE_FIELDS,
    Command,
    Group,
    SectionOption,
    config_flags,
    settings,
)
from prefork_ads.cli.progress import counted
from prefork_ads.config import Config
from prefork_ads.errors import CatalogRefused

if TYPE_CHECKING:
    from prefork_ads.management.difference import Plan
    from prefork_ads.management.items import Items

FILES = click.Path(path_type=str, allow_dash=True)
WHAT = "What is done"

DRY_RUN = SectionOption(
    ["--dry-run"], section=WHAT, is_flag=True, help="Try everything and take it back."
)
YES = SectionOption(
    ["--yes", "-y"], section=WHAT, is_flag=True, help="Do not ask before something is archived."
)


@click.group(cls=Group)
def catalog() -> None:
    """The catalog of advertisers, campaigns, creatives, zones and sites, kept as files.

    docs/catalog.md describes the files. Workers serve a change within a second, without a reload.
    """


@catalog.command(
    cls=Command,
    params=[
        click.Argument(["files"], metavar="FILE…", nargs=-1, required=True, type=FILES),
        DRY_RUN,
        SectionOption(
            ["--prune"],
            section=WHAT,
            is_flag=True,
            help="Archive what is in the database and in none of the files.",
        ),
        YES,
        *config_flags(DATABASE_FIELDS),
    ],
    examples="""\
prefork-ads catalog apply catalog.yaml
prefork-ads catalog apply sites.yaml campaigns/*.yaml --prune --dry-run
prefork-ads catalog export | sed s/old.example/new.example/ | prefork-ads catalog apply -
""",
)
@click.pass_context
def apply(
    context: click.Context,
    /,
    files: tuple[str, ...],
    dry_run: bool,
    prune: bool,
    yes: bool,
    **flags: str | None,
) -> None:
    """Make the catalog as the files say, in one transaction, and show the difference.

    All files together are one catalog; - is standard input. Every mistake is named with its line, and
    then nothing is changed (exit status 65). The same files again change nothing. What the files leave
    out stays as it is, unless --prune archives it; nothing is ever deleted.
    """
    config, _ = settings(context, flags)
    with complaints_told():
        make = plan_of(files, prune)
    means = f"catalog apply {' '.join(Path(file).name for file in files)}"
    carry_out(config, make, f"{means} --prune" if prune else means, dry_run=dry_run, yes=yes)


def carry_out(
    config: Config, make: "Callable[[Items], Plan]", means: str, *, dry_run: bool, yes: bool
) -> None:
    """Apply a plan and say what it was; ask first where somebody can answer and something goes."""
    from prefork_ads.management import store  # noqa: PLC0415 - help stays fast

    with written(config) as dsn:
        agreed = None
        if not dry_run and not yes and watched():
            preview = store.preview(dsn, make).plan
            if preview.archived:
                show_plan(preview)
                things = counted(preview.archived, "thing is", "things are")
                click.confirm(f"{things} archived. Go on?", abort=True)
                agreed = preview
        done = store.apply(dsn, make, means, agreed=agreed, dry_run=dry_run)
    if agreed is None:
        show_plan(done.plan)
    show_warnings(done.plan.warnings)
    if done.plan.left and (dry_run or done.plan.changes):
        left = counted(len(done.plan.left), "thing", "things")
        say(f"{left} in the database and not in the files; --prune would archive them.")
    if not done.plan.changes:
        click.echo(
            f"Nothing to change in version {done.version}:"
            f" {counted(done.plan.unchanged, 'thing is', 'things are')} as wanted."
        )
    elif dry_run:
        click.echo(f"Tried and taken back: {in_numbers(done.plan)}.")
    else:
        click.echo(f"Version {done.version}: {in_numbers(done.plan)}.")


def plan_of(files: tuple[str, ...], prune: bool) -> "Callable[[Items], Plan]":
    """Read the files once; their plan may be made more than once."""
    from prefork_ads.management import reading  # noqa: PLC0415 - help stays fast
    from prefork_ads.management.complaints import Complaints  # noqa: PLC0415
    from prefork_ads.management.difference import plan  # noqa: PLC0415

    complaints = Complaints()
    wanted = reading.read_files(files, complaints)
    if complaints.incomplete:
        complaints.raise_if_any()

    def make(before: "Items") -> "Plan":
        return plan(wanted, before, prune=prune, complaints=complaints.copy())

    return make


@catalog.command(
    cls=Command,
    examples="""\
prefork-ads catalog check catalog.yaml && git push
""",
)
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=FILES)
def check(files: tuple[str, ...]) -> None:
    """Look for mistakes in files that are a whole catalog together. Needs no database.

    What they refer to has to be in them. Whether files that are a part of a catalog fit the rest, only
    `catalog apply --dry-run` can tell.
    """
    with complaints_told():
        make = plan_of(files, False)
    try:
        with complaints_told():
            found = make({})
    except CatalogRefused:
        say(
            "Only these files were looked at; `catalog apply --dry-run` looks into the database, too."
        )
        raise
    show_warnings(found.warnings)
    kinds = [change.item.relation for change in found.changes]
    parts = [counted(kinds.count(kind), kind, f"{kind}s") for kind in dict.fromkeys(kinds)]
    click.echo(f"No mistakes: {', '.join(parts) or 'an empty catalog'}.")


@catalog.command(
    cls=Command,
    params=[
        SectionOption(
            ["--at", "version"],
            section=WHAT,
            metavar="VERSION",
            type=click.IntRange(min=0),
            help="As it was at this version. [default: as it is]",
        ),
        SectionOption(
            ["--living"],
            section=WHAT,
            is_flag=True,
            help="Leave out what is archived, and what belongs to it.",
        ),
        *config_flags(DATABASE_FIELDS),
    ],
    examples="""\
prefork-ads catalog export > catalog.yaml
diff <(prefork-ads catalog export --at 41) <(prefork-ads catalog export --at 42)
""",
)
@click.pass_context
def export(
    context: click.Context, /, version: int | None, living: bool, **flags: str | None
) -> None:
    """Print the catalog as YAML. Applied again, it changes nothing."""
    config, _ = settings(context, flags)
    from prefork_ads.management import store  # noqa: PLC0415 - help stays fast
    from prefork_ads.management.items import without_archived  # noqa: PLC0415
    from prefork_ads.management.writing import to_yaml  # noqa: PLC0415

    with looked_at(config) as dsn:
        loaded = store.load(dsn, version)
    items = without_archived(loaded.items) if living else loaded.items
    click.echo(to_yaml(items, [f"The catalog at version {loaded.version}."]), nl=False)


@catalog.command(
    cls=Command,
    params=[
        SectionOption(
            ["--last"],
            section="Output",
            metavar="N",
            type=click.IntRange(1, 10_000),
            default=20,
            help="How many versions. [default: 20]",
        ),
        SectionOption(
            ["--json", "as_json"], section="Output", is_flag=True, help="Print JSON lines."
        ),
        *config_flags(DATABASE_FIELDS),
    ],
    examples="""\
prefork-ads catalog log
prefork-ads catalog log --last 1000 --json | jq -r 'select(.note | test("apply")) | .version'
""",
)
@click.pass_context
def log(context: click.Context, /, last: int, as_json: bool, **flags: str | None) -> None:
    """Show the last versions of the catalog: when, who, by what means, and how much changed.

    Who is the role in the database, and in front of it the user at the machine where the command ran.
    """
    config, _ = settings(context, flags)
    from prefork_ads.management import store  # noqa: PLC0415 - help stays fast

    with looked_at(config) as dsn:
        versions = store.history(dsn, last)
    for version in versions:
        at = version["at"]
        if as_json:
            click.echo(json.dumps(version | {"at": at.isoformat()}))
            continue
        means = version["note"] or "by SQL"
        what = ", ".join(
            f"{number:,} {relation}{'' if number == 1 else 's'} {word}"
            for relation, words in version["changes"].items()
            for word, number in words.items()
        )
        time = at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        click.echo(f"{version['version']:>6}  {time}  {means} ({version['by']}): {what}")
    if not versions and not as_json:
        click.echo("The catalog has never been changed.")


@catalog.command(
    cls=Command,
    params=[
        click.Argument(["version"], metavar="VERSION", type=click.IntRange(min=0)),
        DRY_RUN,
        YES,
        *config_flags(DATABASE_FIELDS),
    ],
    examples="""\
prefork-ads catalog log
prefork-ads catalog rollback 41 --dry-run
""",
)
@click.pass_context
def rollback(
    context: click.Context, /, version: int, dry_run: bool, yes: bool, **flags: str | None
) -> None:
    """Make the catalog again what it was at a version. What came after that is archived.

    The history stays: this is a new version, which can be rolled back too.
    """
    config, _ = settings(context, flags)
    from prefork_ads.management import store  # noqa: PLC0415 - help stays fast
    from prefork_ads.management.complaints import Complaints  # noqa: PLC0415
    from prefork_ads.management.difference import plan  # noqa: PLC0415

    with looked_at(config) as dsn:
        then = store.load(dsn, version).items

    def make(before: "Items") -> "Plan":
        return plan(then, before, prune=True, complaints=Complaints())

    carry_out(config, make, f"catalog rollback {version}", dry_run=dry_run, yes=yes)
