"""The command `prefork-ads`: bare it serves, with a word behind it it does one other thing.

Every failure that an operator can meet ends here, as one line on standard error and an exit status
that says whether starting again may help (see `errors`). Modules that cost time to import (uvloop,
psycopg2, …) are imported by the commands that use them, so that help and completion answer at once.

Must not know: sockets, SQL, fork.
"""

import platform
import sys
from typing import NoReturn

import click
from click.shell_completion import get_completion_class

from prefork_ads import __version__
from prefork_ads.cli.catalog import catalog
from prefork_ads.cli.check import check
from prefork_ads.cli.demo import demo
from prefork_ads.cli.explain import explain
from prefork_ads.cli.journal import journal
from prefork_ads.cli.keys import keys
from prefork_ads.cli.migrate import migrate
from prefork_ads.cli.options import HELP, Command, Group, SectionOption, config_flags
from prefork_ads.cli.report import report
from prefork_ads.cli.serve import DEMO_CATALOG, DEMO_VARIANTS, serve
from prefork_ads.cli.status import status
from prefork_ads.cli.things import RELATIONS, group_of
from prefork_ads.cli.user import user
from prefork_ads.cli.variants import variants
from prefork_ads.errors import PreforkAdsError

PROGRAM = "prefork-ads"

# 128 + SIGINT, as a shell reports a program that Ctrl-C ended.
EXIT_INTERRUPTED = 130

_EXAMPLES = """\
prefork-ads                                  serve on every core, with a PostgreSQL of its own
prefork-ads --workers 4 --port 9000          four workers on another port
prefork-ads --host 0.0.0.0                   reachable from other machines
DATABASE_URL=postgresql://ads:secret@db.example.org/ads prefork-ads
                                             use a PostgreSQL that is already there
prefork-ads --config /etc/prefork-ads.toml check
                                             what would happen, without serving
prefork-ads demo load                        campaigns to look at, on /demo of the server
prefork-ads catalog apply catalog.yaml       campaigns of your own
prefork-ads report --by campaign,day         what came of them
prefork-ads variants generate 1M             a million ads by id to try it with
curl 'http://127.0.0.1:8080/log?hello=world' log a request
kill -HUP $(pgrep -o prefork-ads)            reload without dropping a request
"""


@click.group(
    cls=Group,
    invoke_without_command=True,
    params=[*config_flags(), DEMO_VARIANTS, DEMO_CATALOG],
    examples=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(
    __version__,
    prog_name=PROGRAM,
    message="%(prog)s %(version)s",
    cls=SectionOption,
    section=HELP,
)
@click.pass_context
def cli(context: click.Context, /, **flags: str | None) -> None:
    """An ad server on every core, with its catalog, its log and its reports in PostgreSQL.

    Without a command it serves until it is told to stop. Every option can be given as a flag, as an
    environment variable or in a TOML file; a flag wins over the environment, the environment over the
    file. `prefork-ads check` shows what is in effect and why. Options in front of a command count
    for it too.
    """
    context.obj = flags
    if context.invoked_subcommand is None:
        context.invoke(serve)


cli.add_command(serve)
cli.add_command(check)
cli.add_command(migrate)
cli.add_command(journal)
cli.add_command(status)
cli.add_command(variants)
cli.add_command(catalog)
for _relation in RELATIONS:
    cli.add_command(group_of(_relation))
cli.add_command(demo)
cli.add_command(report)
cli.add_command(keys)
cli.add_command(user)
cli.add_command(explain)


@cli.command(cls=Command)
def version() -> None:
    """Print the version."""
    click.echo(f"{PROGRAM} {__version__} (Python {platform.python_version()})")


@cli.command(
    cls=Command,
    examples="""\
echo 'eval "$(prefork-ads completion bash)"' >> ~/.bashrc
echo 'eval "$(prefork-ads completion zsh)"' >> ~/.zshrc
prefork-ads completion fish > ~/.config/fish/completions/prefork-ads.fish
""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell."""
    make = get_completion_class(shell)
    assert make is not None, "click knows these three"
    click.echo(make(cli, {}, PROGRAM, "_PREFORK_ADS_COMPLETE").source())


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and leave with its exit status."""
    try:
        status = cli.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
    except PreforkAdsError as error:
        _say(str(error))
        status = error.exit_code
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else PROGRAM
        _say(f"{error.format_message()} See `{where} --help`.")
        status = error.exit_code
    except click.ClickException as error:
        _say(error.format_message())
        status = error.exit_code
    except click.Abort:
        click.echo(f"{PROGRAM}: interrupted", err=True)
        status = EXIT_INTERRUPTED
    sys.exit(status)


def _say(message: str) -> None:
    click.echo(f"{PROGRAM}: error: {message}", err=True)
