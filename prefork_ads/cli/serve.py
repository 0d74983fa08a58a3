"""`prefork-ads`, bare or as `prefork-ads serve`: read the settings and hand them to `wiring`.

Must not know: how the server is put together.
"""

import os

import click

from prefork_ads.cli.options import (
    DEMONSTRATION,
    Command,
    SectionOption,
    config_flags,
    merged,
    read_count,
)
from prefork_ads.config import Config, load

DEMO_VARIANTS = SectionOption(
    ["--demo-variants"],
    metavar="N",
    help="Fill an empty ad_variant with N generated rows before serving. [default: none]",
    section=DEMONSTRATION,
)


DEMO_CATALOG = SectionOption(
    ["--demo-catalog/--no-demo-catalog"],
    default=None,
    help="Load the demo catalog into an empty one before serving. [default: no]",
    section=DEMONSTRATION,
)


@click.command(
    cls=Command,
    params=[*config_flags(), DEMO_VARIANTS, DEMO_CATALOG],
    examples="""\
prefork-ads serve --workers 4
prefork-ads serve --demo-variants 10k --demo-catalog
""",
)
@click.pass_context
def serve(context: click.Context, /, **flags: str | None) -> None:
    """Serve until told to stop; the same as no command at all.

    SIGTERM and Ctrl-C let requests finish and stop; a second one stops at once. SIGHUP reads the
    settings again and replaces the workers without dropping a request.
    """
    given = merged(context, flags)

    def load_config() -> Config:
        return load(given, os.environ)[0]

    config = load_config()
    demo_variants = read_count("--demo-variants", given.get("demo_variants") or "0")
    from prefork_ads.cli import wiring  # noqa: PLC0415 - loads everything; help stays fast

    demonstration = wiring.Demonstration(demo_variants, bool(given.get("demo_catalog")))
    context.exit(wiring.serve(config, load_config, demonstration))
