"""`prefork-ads check`: the settings with their sources, and whether serving with them would work.

Must not know: what is checked.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from prefork_ads import __version__
from prefork_ads.cli.options import Command, SectionOption, config_flags, settings
from prefork_ads.config import Config, Source
from prefork_ads.options import GROUPS, OPTIONS

if TYPE_CHECKING:
    from prefork_ads.cli.checks import Finding

_COLOURS = {"ok": "green", "warn": "yellow", "FAIL": "red"}


@click.command(
    cls=Command,
    params=config_flags(),
    examples="""\
prefork-ads check
prefork-ads check --config /etc/prefork-ads.toml --json | jq .checks
""",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON.", cls=SectionOption, section="Output"
)
@click.pass_context
def check(context: click.Context, /, as_json: bool, **flags: str | None) -> None:
    """Show the settings in effect, and try them without serving.

    Each setting is shown with where it comes from. Then the database is tried, the address, and the
    limits of this machine. The exit status is 0, or the one that serving would end with.
    """
    from prefork_ads.cli import checks  # noqa: PLC0415 - help stays fast

    config, sources = settings(context, flags)
    if as_json:
        findings = list(checks.run_all(config, sources))
        click.echo(json.dumps(_as_json(config, sources, findings), indent=2))
    else:
        _print_settings(config, sources)
        click.echo("\nChecks")
        findings = []
        for finding in checks.run_all(config, sources):
            findings.append(finding)
            level = click.style(f"{finding.level:4}", fg=_COLOURS[finding.level])
            click.echo(f"  {level}  {finding.check:<12} {finding.message}")
    context.exit(next((found.exit_code for found in findings if found.level == "FAIL"), 0))


def _print_settings(config: Config, sources: Mapping[str, Source]) -> None:
    rows = [
        (group, option.flag, option.show(getattr(config, option.field)), sources[option.field])
        for group, options in GROUPS.items()
        for option in options
    ]
    flag_width = max(len(flag) for _, flag, _, _ in rows)
    # One long path must not push the sources of all others out of sight.
    value_width = min(max(len(value) for _, _, value, _ in rows), 32)
    shown = ""
    for group, flag, value, source in rows:
        if group != shown:
            click.echo(f"\n{group}" if shown else group)
            shown = group
        click.echo(f"  {flag:<{flag_width}}  {value:<{value_width}}  {source}")


def _as_json(
    config: Config, sources: Mapping[str, Source], findings: "list[Finding]"
) -> dict[str, object]:
    return {
        "version": __version__,
        "settings": {
            option.key: {
                "value": _json_value(option.field, config),
                "source": sources[option.field].kind,
                "name": sources[option.field].name or None,
            }
            for option in OPTIONS.values()
        },
        "checks": [
            {"check": found.check, "level": found.level.lower(), "message": found.message}
            for found in findings
        ],
        "ok": all(found.level != "FAIL" for found in findings),
    }


def _json_value(field: str, config: Config) -> object:
    value = getattr(config, field)
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, tuple):
        return list(value)
    return OPTIONS[field].show(value)  # which hides passwords
