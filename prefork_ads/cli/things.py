"""`prefork-ads campaign|creative|zone|advertiser`: look at single things of the catalog and change them.

The four have the same commands, made here from one description; campaigns have `progress` besides.

Must not know: SQL, YAML, which members a thing has.
"""

import json
from typing import Any, Final

import click

from prefork_ads.cli.catalog import DRY_RUN, WHAT, carry_out
from prefork_ads.cli.catalog_text import looked_at
from prefork_ads.cli.goals import progress
from prefork_ads.cli.options import (
    DATABASE_FIELDS,
    Command,
    Group,
    SectionOption,
    config_flags,
    settings,
)
from prefork_ads.errors import ConfigError

RELATIONS: Final = ("advertiser", "campaign", "creative", "zone")

# What `set` is shown with in the help.
EXAMPLES: Final = {
    "campaign": "spring-sale weight=200 goal_total=50000 targeting.geo.include='[DE, AT]'",
    "creative": "spring-sale-box weight=50 click=https://shop.example/spring",
    "zone": "home-top floor=0.80 sizes='[728x90, 970x250]'",
    "advertiser": "acme caps.day=6 allow_repeat=true",
}
COLUMNS: Final = {
    "campaign": ("advertiser", "tier", "weight", "starts", "ends", "price"),
    "creative": ("campaign", "size", "weight"),
    "zone": ("site", "sizes", "floor"),
    "advertiser": ("caps",),
}
# What is done, what becomes of the status, and what that means.
MOVES: Final = {
    "pause": ("paused", "Pause these: they are not served until they are resumed."),
    "resume": ("active", "Set these active, whether they were paused, drafts or archived."),
    "archive": ("archived", "Archive these: not served, not listed, and kept for the reports."),
}


def group_of(relation: str) -> click.Group:
    """The commands for one kind of thing."""

    @click.group(relation, cls=Group, help=f"Look at {relation}s and change single ones.")
    def group() -> None:
        """Its help is its argument."""

    group.add_command(_list(relation))
    group.add_command(_show(relation))
    group.add_command(_set(relation))
    for verb, (status, text) in MOVES.items():
        group.add_command(_move(relation, verb, status, text))
    if relation == "campaign":
        group.add_command(progress)
    return group


def _list(relation: str) -> click.Command:
    @click.command(
        "list",
        cls=Command,
        params=[
            SectionOption(
                ["--all", "all_"], section=WHAT, is_flag=True, help="Also what is archived."
            ),
            SectionOption(
                ["--json", "as_json"], section=WHAT, is_flag=True, help="Print JSON lines."
            ),
            *config_flags(DATABASE_FIELDS),
        ],
        help=f"List the {relation}s, one a line.",
        examples=f"prefork-ads {relation} list --json | jq -r .key\n",
    )
    @click.pass_context
    def command(context: click.Context, /, all_: bool, as_json: bool, **flags: str | None) -> None:
        config, _ = settings(context, flags)
        from prefork_ads.management import store  # noqa: PLC0415 - help stays fast
        from prefork_ads.management.writing import members_of  # noqa: PLC0415

        with looked_at(config) as dsn:
            items = store.load(dsn).items
        found = [
            {"key": key, **members_of(item, whole=True)}
            for (kind, key), item in items.items()
            if kind == relation and (all_ or not item.archived)
        ]
        if as_json:
            for one in found:
                click.echo(json.dumps(one, default=str))
        else:
            _table(relation, found)

    return command


def _table(relation: str, found: list[dict[str, Any]]) -> None:
    names = ("key", "status", *COLUMNS[relation], "name")
    rows = [[_cell(one.get(name)) for name in names] for one in found]
    widths = [max((len(row[n]) for row in rows), default=0) for n in range(len(names))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())
    if not rows:
        click.echo(f"There are no {relation}s.")


def _cell(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, dict):
        return " ".join(f"{name} {one}" for name, one in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _show(relation: str) -> click.Command:
    @click.command(
        "show",
        cls=Command,
        params=[
            click.Argument(["key"], metavar="KEY"),
            *config_flags(DATABASE_FIELDS),
        ],
        help=f"Print one {relation} as a catalog's file says it; a campaign with its creatives.",
        examples=f"prefork-ads {relation} show {EXAMPLES[relation].split()[0]}\n",
    )
    @click.pass_context
    def command(context: click.Context, /, key: str, **flags: str | None) -> None:
        config, _ = settings(context, flags)
        from prefork_ads.management import edit, store  # noqa: PLC0415 - help stays fast
        from prefork_ads.management.writing import to_yaml  # noqa: PLC0415

        with looked_at(config) as dsn:
            items = store.load(dsn).items
        item = edit.find(items, relation, key)
        shown = {item.name: item}
        if relation == "campaign":
            shown |= {name: one for name, one in items.items() if one.reference == item.name}
        click.echo(to_yaml(shown), nl=False)

    return command


def _set(relation: str) -> click.Command:
    @click.command(
        "set",
        cls=Command,
        params=[
            click.Argument(["key"], metavar="KEY"),
            click.Argument(["assignments"], metavar="NAME=VALUE…", nargs=-1, required=True),
            DRY_RUN,
            *config_flags(DATABASE_FIELDS),
        ],
        help=(
            f"Change members of one {relation}.\n\nNames are those of a catalog's file, with dots into"
            " what has members itself. A value that begins with [ or { is a list or a mapping; an"
            " empty one takes the member away."
        ),
        examples=f"prefork-ads {relation} set {EXAMPLES[relation]}\n",
    )
    @click.pass_context
    def command(
        context: click.Context,
        /,
        key: str,
        assignments: tuple[str, ...],
        dry_run: bool,
        **flags: str | None,
    ) -> None:
        config, _ = settings(context, flags)
        pairs = [_pair(text) for text in assignments]
        from prefork_ads.management import edit  # noqa: PLC0415 - help stays fast

        means = f"{relation} set {key} {' '.join(assignments)}"
        make = edit.setting(relation, [key], pairs)
        carry_out(config, make, means, dry_run=dry_run, yes=True)

    return command


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise ConfigError(f"{text!r} is not of the form NAME=VALUE, such as weight=200.")
    return name, value


def _move(relation: str, verb: str, status: str, text: str) -> click.Command:
    @click.command(
        verb,
        cls=Command,
        params=[
            click.Argument(["keys"], metavar="KEY…", nargs=-1, required=True),
            DRY_RUN,
            *config_flags(DATABASE_FIELDS),
        ],
        help=text,
        examples=f"prefork-ads {relation} {verb} {EXAMPLES[relation].split()[0]}\n",
    )
    @click.pass_context
    def command(
        context: click.Context, /, keys: tuple[str, ...], dry_run: bool, **flags: str | None
    ) -> None:
        config, _ = settings(context, flags)
        from prefork_ads.management import edit  # noqa: PLC0415 - help stays fast

        make = edit.setting(relation, keys, [("status", status)])
        carry_out(config, make, f"{relation} {verb} {' '.join(keys)}", dry_run=dry_run, yes=True)

    return command
