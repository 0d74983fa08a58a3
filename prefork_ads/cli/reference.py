"""The reference of all options as Markdown, for docs/configuration.md.

    python -m prefork_ads.cli.reference

prints what stands between the two markers there; a test holds the two equal.

Must not know: any value that depends on this machine.
"""

import click

from prefork_ads.cli.options import default_text
from prefork_ads.options import GROUPS, Option

BEGIN = "<!-- options: made by `python -m prefork_ads.cli.reference` -->"
END = "<!-- end of options -->"


def reference() -> str:
    """One table for each group."""
    parts = []
    for name, group in GROUPS.items():
        parts.append(
            f"### {name}\n\n| Flag | Default | Allowed | What it is |\n|---|---|---|---|\n"
        )
        parts.extend(_row(option) for option in group)
        parts.append("\n")
    return "".join(parts)


def _row(option: Option) -> str:
    allowed = option.allowed_text() or option.kind.metavar.replace("|", " or ")
    text = option.help.replace("|", r"\|")
    notes = []
    if option.also_env:
        notes.append("Also " + ", ".join(f"`{name}`" for name in option.also_env) + ".")
    if not option.on_reload:
        notes.append("*Restart.*")
    cells = (f"`{option.flag}`", default_text(option), allowed, " ".join([text, *notes]))
    return "| " + " | ".join(cells) + " |\n"


if __name__ == "__main__":
    click.echo(reference(), nl=False)
