"""The documentation names what exists: files, headings, options, variables, metrics, exit statuses.

What its commands do is shown by tests/system/test_readme.py.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import click
import pytest

from prefork_ads.cli import cli
from prefork_ads.errors import PreforkAdsError
from prefork_ads.metrics import CELLS, About, exposition
from prefork_ads.options import ENV_PREFIX, OPTIONS

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
RUNNING: Final = ROOT / "docs/running.md"
MONITORING: Final = ROOT / "docs/monitoring.md"

_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_FENCED: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_HEADING: Final = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_FLAG: Final = re.compile(r"(?<=`)--[a-z][a-z-]*")
_VARIABLE: Final = re.compile(rf"\b{ENV_PREFIX}[A-Z_]+\b")
_METRIC: Final = re.compile(r"\bprefork_ads_[a-z_]+\b")


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(_FENCED.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Where the links of a page lead in this repository: the file and the heading."""
    for link in _LINK.findall(_FENCED.sub("", page.read_text(encoding="utf-8"))):
        if "://" not in link:
            path, _, anchor = unquote(link).partition("#")
            yield (page.parent / path if path else page), anchor


def flags_of(command: click.Command) -> set[str]:
    flags = {
        flag
        for parameter in command.params
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }
    if isinstance(command, click.Group):
        flags = flags.union(*map(flags_of, command.commands.values()))
    return flags


def metric_names() -> set[str]:
    text = exposition([0] * CELLS, [], About("0", 0.0)).decode()
    return {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}


def series_names() -> set[str]:
    """Also what a histogram consists of."""
    parts = ("", "_bucket", "_sum", "_count")
    text = exposition([0] * CELLS, [], About("0", 0.0)).decode()
    histograms = re.findall(r"^# TYPE (\w+) histogram$", text, re.MULTILINE)
    return metric_names() | {name + part for name in histograms for part in parts}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading of it."""
    for target, anchor in links(page):
        assert target.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {target.name}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_and_variables_exist(page: Path) -> None:
    """Every flag that begins a piece of code is one of ours; so is every variable."""
    text = page.read_text(encoding="utf-8")
    known = flags_of(cli) | {option.flag for option in OPTIONS.values()} | {"--help"}
    assert set(_FLAG.findall(text)) <= known
    variables = {name for option in OPTIONS.values() for name in option.env}
    assert set(_VARIABLE.findall(text)) <= variables


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_metrics_exist(page: Path) -> None:
    """A dashboard made from the documentation must not stay empty."""
    named = set(_METRIC.findall(page.read_text(encoding="utf-8")))
    assert named <= series_names()


def test_every_metric_is_documented() -> None:
    """In the tables of docs/monitoring.md, each once."""
    text = MONITORING.read_text("utf-8")
    rows = re.findall(r"^\| `(prefork_ads_[a-z_]+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(metric_names())


def test_every_exit_status_is_documented() -> None:
    """Supervisors are configured by this table."""
    rows = re.findall(r"^\| (\d+) \| [^|]+ \|[^|]*\|$", RUNNING.read_text("utf-8"), re.MULTILINE)
    failures = {error.exit_code for error in PreforkAdsError.__subclasses__()}
    assert {int(row) for row in rows} == failures | {0, PreforkAdsError.exit_code, 130}
