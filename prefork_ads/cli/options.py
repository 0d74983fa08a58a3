"""Options and help for all commands: click's parameters are made from the table of options.

click only collects the text of each flag. `config.load` reads it, so that a flag, a variable and
the file are parsed by the same code and refused in the same words.

Must not know: what any command does with its settings.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

import click
from click.shell_completion import CompletionItem

from prefork_ads.config import Config, Source, load
from prefork_ads.errors import ConfigError
from prefork_ads.options import GROUPS, OPTIONS, Option
from prefork_ads.values import COUNT

# Every command that needs the database finds it by these.
DATABASE_FIELDS = ("dsn", "data_dir", "config")

# Sections of options that are no settings.
DEMONSTRATION = "Demonstration"
HELP = "Help"

_DEFAULTS = {field.name: field.default for field in fields(Config)}


class FlagText(click.types.StringParamType):
    """Any text; completes the words or the paths that the option takes."""

    def __init__(self, option: Option) -> None:
        self.name = option.kind.metavar
        self.kind = option.kind

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        if self.kind.completes:
            # The shell knows paths better than we do and is told to complete one.
            return [CompletionItem(incomplete, type=self.kind.completes)]
        return [CompletionItem(word) for word in self.kind.choices if word.startswith(incomplete)]


class SectionOption(click.Option):
    """An option that belongs to a section of the help text."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class ConfigFlag(SectionOption):
    """The flag of one field of Config."""

    def __init__(self, option: Option, section: str) -> None:
        super().__init__(
            [option.flag, option.field], type=FlagText(option), help=option.help, section=section
        )
        self.option = option

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        notes = [f"default: {default_text(self.option)}", f"env: {', '.join(self.option.env)}"]
        if self.option.allowed is not None:
            notes.insert(0, self.option.allowed_text())
        flag = f"{self.option.flag} {self.option.kind.metavar}"
        return flag, f"{self.option.help} [{'; '.join(notes)}]"


def default_text(option: Option) -> str:
    """The default as one would type it, or in words where it depends on the machine."""
    return option.default_text or option.show(_DEFAULTS[option.field])


def config_flags(only: Collection[str] = tuple(OPTIONS)) -> list[click.Parameter]:
    """The flags of these fields, in the order of the table; pass them to a command as `params`."""
    return [
        ConfigFlag(option, section)
        for section, group in GROUPS.items()
        for option in group
        if option.field in only
    ]


def merged(context: click.Context, flags: Mapping[str, str | None]) -> dict[str, str | None]:
    """A command's own flags, and those in front of it where it has none.

    `prefork-ads --config F migrate` and `prefork-ads migrate --config F` are the same. Every command
    comes by here before it does anything, so here its secrets leave ps.
    """
    before: Mapping[str, str | None] = context.obj or {}
    given = {**before, **{name: text for name, text in flags.items() if text is not None}}
    if any(given.get(option.field) for option in OPTIONS.values() if option.secret):
        from setproctitle import setproctitle  # noqa: PLC0415 - help stays fast

        # From now on ps shows the command without its arguments, and without the password in them.
        setproctitle(context.command_path)
    return given


def settings(
    context: click.Context, flags: Mapping[str, str | None]
) -> tuple[Config, dict[str, Source]]:
    """The settings for a command, and where each comes from."""
    return load(merged(context, flags), os.environ)


def read_count(where: str, text: str) -> int:
    """A number of rows given on the command line."""
    try:
        return int(COUNT.parse(text))
    except ValueError:
        raise ConfigError(f"{where}: {text!r} is not {COUNT.accepts}.") from None


def _place(option: click.Option) -> int:
    """What is a command's own stands first, then its settings, then what hardly anybody needs."""
    if getattr(option, "section", HELP) in (DEMONSTRATION, HELP):
        return 2
    return 1 if isinstance(option, ConfigFlag) else 0


class Sections(click.Command):
    """Help in sections, each option with its default and its variables, and examples at the end."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)
        # click's own --help is the one option without a section; arguments stand in the usage line.
        options = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in sorted(options, key=_place):
            record = option.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(option, "section", HELP), []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {line}\n" for line in self.examples.splitlines()))


class Command(Sections):
    """One command."""


class Group(Sections, click.Group):
    """A command with commands of its own."""
