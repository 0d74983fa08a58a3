"""The commands about the catalog as people run them: what they print, ask and end with."""

import json
import os
import pty
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.support import wait_until
from tests.system.harness import ROOT, Server
from tests.system.test_cli import command, environment, run

CATALOG = """\
advertisers: {acme: Acme Outdoors}
sites: {news: {domain: news.example, zones: {box: {sizes: [300x250]}}}}
campaigns:
  spring:
    advertiser: acme
    price: {cpm: 4.50}
    creatives:
      spring-box: {size: 300x250, click: "https://acme.example/", html: Hi}
"""
WRONG = """\
advertisers: {acme: Acme Outdoors}
campaigns:
  spring-sale:
    status: draft
    advertiser: acm
    starts: 2027-02-30
    wieght: 200
    targeting:
      geo: [DE, UK]
      keywords: 50%
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.yaml"
    path.write_text(CATALOG)
    return path


def test_applying_says_what_changes_and_twice_is_once(database: Database, file: Path) -> None:
    words = ["catalog", "apply", str(file), "--dsn", database.dsn]
    dry = run(*words, "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert dry.stdout.endswith("Tried and taken back: 5 added.\n")
    assert database.fetch("SELECT version FROM catalog_state") == [(0,)]
    first = run(*words)
    assert first.stdout.splitlines() == [
        "+ advertiser acme 'Acme Outdoors'",
        "+ site news 'news'",
        "+ zone box 'box' on news, 300x250",
        "+ campaign spring 'spring' of acme, standard",
        "+ creative spring-box 'spring-box' of spring, html",
        "Version 1: 5 added.",
    ]
    again = run(*words)
    assert again.stdout == "Nothing to change in version 1: 5 things are as wanted.\n"
    assert (again.returncode, again.stderr) == (0, "")


def test_mistakes_are_lines_on_standard_error_and_status_65(database: Database, file: Path) -> None:
    file.write_text(CATALOG.replace("cpm: 4.50", "cpm: much").replace("acme\n", "acmee\n"))
    done = run("catalog", "apply", str(file), "--dsn", database.dsn)
    assert done.returncode == 65
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"{file}:5:17: campaigns.spring.advertiser: there is no advertiser 'acmee'; did you mean 'acme'?",
        f"{file}:6:18: campaigns.spring.price.cpm: 'much' is not an amount from 0 to 1000000 with at most"
        " six decimals, such as 4.50",
        "prefork-ads: error: There are 2 mistakes; nothing was changed.",
    ]
    assert database.fetch("SELECT version FROM catalog_state") == [(0,)]


def test_check_needs_no_database(file: Path) -> None:
    done = run("catalog", "check", str(file))
    assert done.stdout == ("No mistakes: 1 advertiser, 1 site, 1 zone, 1 campaign, 1 creative.\n")
    done = run("catalog", "check", "-", stdin=CATALOG.replace("4.50", "free"))
    assert done.returncode == 65
    assert done.stderr.startswith("standard input:6:18: campaigns.spring.price.cpm: 'free' is not")
    assert run("catalog", "check", "/no/where.yaml").returncode == 2


@pytest.mark.once
def test_an_export_goes_back_in(database: Database, file: Path) -> None:
    to = ["--dsn", database.dsn]
    assert run("catalog", "apply", str(file), *to).returncode == 0
    export = run("catalog", "export", *to).stdout
    assert export.startswith("# The catalog at version 1.\nadvertisers:\n  acme:\n")
    assert run("catalog", "apply", "-", "--prune", *to, stdin=export).stdout.startswith(
        "Nothing to"
    )
    edited = export.replace("4.50", "9.00")
    assert "    price.cpm: 4.50 → 9.00" in run("catalog", "apply", "-", *to, stdin=edited).stdout
    assert run("catalog", "export", "--at", "1", *to).stdout == export


@pytest.mark.once
def test_single_edits_and_the_log_of_them(database: Database, file: Path) -> None:
    to = ["--dsn", database.dsn]
    run("catalog", "apply", str(file), *to)
    done = run("campaign", "set", "spring", "weight=200", "goal_total=50000", *to)
    assert done.stdout.splitlines() == [
        "~ campaign spring",
        "    weight: 100 → 200",
        "    goal.kind: (none) → impressions",
        "    goal.total: (none) → 50000",
        "Version 2: 1 changed.",
    ]
    assert run("campaign", "pause", "spring", *to).stdout.endswith("Version 3: 1 changed.\n")
    assert run("campaign", "list", *to).stdout == (
        "spring  paused  acme  standard  200  -  -  cpm 4.50  spring\n"
    )
    assert run("creative", "show", "spring-box", *to).stdout.startswith(
        "creatives:\n  spring-box:\n"
    )
    wrong = run("campaign", "set", "spring", "weight=heavy", *to)
    assert (wrong.returncode, wrong.stderr) == (
        65,
        "campaigns.spring.weight: 'heavy' is not a whole number from 1 to 1,000\n"
        "prefork-ads: error: There is one mistake; nothing was changed.\n",
    )
    unknown = run("zone", "archive", "bax", *to)
    assert unknown.stderr == "prefork-ads: error: There is no zone 'bax'; did you mean 'box'?\n"
    assert run("campaign", "set", "spring", "weight", *to).returncode == 2
    lines = run("catalog", "log", *to).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["3", "2", "1"]
    assert ": campaign pause spring (" in lines[0]
    assert lines[1].endswith(": 1 campaign changed")
    back = run("catalog", "rollback", "1", *to)
    assert back.stdout.endswith("Version 4: 1 changed; 4 as they were.\n")


@pytest.mark.once
def test_campaigns_and_their_goals(database: Database, file: Path) -> None:
    """All that are active, those that are named, and what is said where there is no goal."""
    to = ["--dsn", database.dsn]
    run("catalog", "apply", str(file), *to)
    how = "goal; one is set with: prefork-ads campaign set"
    none = run("campaign", "progress", *to)
    assert (none.returncode, none.stdout) == (0, f"No campaign has a {how} KEY goal_total=50000\n")
    named = run("campaign", "progress", "spring", *to)
    assert (named.returncode, named.stdout) == (0, "")
    assert named.stderr == f"spring has no {how} spring goal_total=50000\n"
    assert run("campaign", "progress", "--json", *to).stdout == ""

    run("campaign", "set", "spring", "goal_total=50000", *to)
    database.execute("INSERT INTO delivery_day VALUES (1, '2026-01-01', 90, 60, 2)")
    lines = run("campaign", "progress", *to, COLUMNS="76").stdout.splitlines()
    assert [" ".join(line.split()) for line in (lines[0], *lines[2:4])] == [
        "State Campaign Goal in Delivered Goal % Even Flight",
        "no even pace spring impressions 60 50,000 0 – –",
        "today 0 – – –",
    ]
    assert max(map(len, lines)) <= 76
    for words in ([], ["spring"], ["--all"]):
        (line,) = run("campaign", "progress", *words, "--json", *to).stdout.splitlines()
        told = json.loads(line)
        assert (told["key"], told["state"]) == ("spring", "no even pace")
        assert (told["delivered"], told["goal_total"], told["even"]) == (60, 50_000, None)

    run("campaign", "pause", "spring", *to)
    left = run("campaign", "progress", *to).stdout
    assert left == "1 campaign is paused, a draft or over; --all shows them too.\n"
    assert run("campaign", "progress", "--all", *to).stdout.splitlines()[2].startswith("paused")
    run("campaign", "archive", "spring", *to)
    assert run("campaign", "progress", "--all", *to).stdout.startswith("No campaign has a goal;")
    assert "archived  spring" in run("campaign", "progress", "spring", *to).stdout
    unknown = run("campaign", "progress", "spring", "sprong", *to)
    assert (unknown.returncode, unknown.stdout) == (65, "")
    assert unknown.stderr == (
        "prefork-ads: error: There is no campaign 'sprong'; did you mean 'spring'?\n"
    )


def test_on_a_terminal_it_asks_before_it_archives(database: Database, file: Path) -> None:
    """And says what in colour. Without an answer of yes nothing is changed."""
    to = ["--dsn", database.dsn]
    run("catalog", "apply", str(file), *to)
    file.write_text(CATALOG[: CATALOG.index("campaigns:")])
    for answer, status in (("n", "active"), ("y", "archived")):
        said, code = _on_a_terminal(answer, "catalog", "apply", str(file), "--prune", *to)
        assert "\x1b[31m- campaign spring\x1b[0m" in said
        assert code == (0 if answer == "y" else 130), said
        assert database.fetch("SELECT status FROM campaign") == [(status,)]


def _on_a_terminal(answer: str, *words: str) -> tuple[str, int]:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command(*words),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment(), "TERM": "xterm"},
    ) as process:
        os.close(theirs)
        said = b""

        def asked() -> bool:
            nonlocal said
            said += os.read(ours, 4096)
            return b"Go on?" in said

        wait_until(asked, "the question")
        os.write(ours, f"{answer}\n".encode())
        try:
            while part := os.read(ours, 4096):
                said += part
        except OSError:  # the other end is closed, as Linux says it
            pass
        os.close(ours)
        return said.decode(), process.wait(60)


@pytest.mark.once
def test_the_documentation_shows_what_happens(database: Database, tmp_path: Path) -> None:
    """The examples of docs/catalog.md, run."""
    text = (ROOT / "docs/catalog.md").read_text("utf-8")
    catalog = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[0]
    assert run("catalog", "apply", "-", "--dsn", database.dsn, stdin=catalog).returncode == 0
    words = "campaign set spring-sale weight=200 goal_total=600000"
    done = run(*words.split(), "--dsn", database.dsn)
    assert f"$ prefork-ads {words}\n{done.stdout}```" in text
    wrong = tmp_path / "spring.yaml"
    wrong.write_text(WRONG)
    done = run("catalog", "apply", str(wrong), "--dsn", database.dsn)
    said = done.stderr.replace(str(wrong), "spring.yaml")
    assert f"$ prefork-ads catalog apply spring.yaml\n{said}$ echo $?\n65\n" in text


def test_the_demonstration_is_loaded_in_one_word(database: Database) -> None:
    done = run("demo", "load", "--dsn", database.dsn)
    assert done.returncode == 0
    assert "Version 1: " in done.stdout
    again = run("demo", "load", "--dsn", database.dsn)
    assert again.stdout.startswith("Nothing to change in version 1: ")


@pytest.mark.once
def test_looking_makes_no_tables(empty_database: Database) -> None:
    looking = (["catalog", "export"], ["catalog", "log"], ["campaign", "list"])
    for words in (*looking, ["campaign", "progress"]):
        done = run(*words, "--dsn", empty_database.dsn)
        assert done.returncode == 70
        assert "lacks migrations: run `prefork-ads migrate` first." in done.stderr
    assert empty_database.fetch("SELECT to_regclass('campaign')") == [(None,)]


@pytest.mark.once
def test_looking_makes_no_database(tmp_path: Path) -> None:
    """A slip in --data-dir is told; it would have been an empty report from a database of its own."""
    nowhere = tmp_path / "nowhere"
    for words in (("report",), ("keys", "list"), ("catalog", "export"), ("explain", "--zone", "a")):
        done = run(*words, "--data-dir", str(nowhere))
        assert done.returncode == 72, done.stderr
        assert f"There is no database in {nowhere}" in done.stderr
    assert not nowhere.exists()


@pytest.mark.once
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--zone", "a", "--size", "big"), "--size: 'big' is not like 300x250"),
        (("--zone", "a", "--region", "Bayern"), "--region: 'Bayern' is not like DE-BE"),
        (("--zone", "a", "--k", "section"), "--k: 'section' is not NAME=VALUE"),
        (("--zone", "b"), "the catalog has no zone 'b'"),
    ],
)
def test_explain_refuses_what_no_request_could_say(
    database: Database, words: tuple[str, ...], reason: str
) -> None:
    database.execute(
        "INSERT INTO site (key, name, domain) VALUES ('s', 's', 's.example');"
        "INSERT INTO zone (key, site_id, name, sizes, formats)"
        " VALUES ('a', 1, 'a', '{300x250}', '{html}')"
    )
    done = run("explain", *words, "--dsn", database.dsn)
    assert done.returncode == 2
    assert reason in done.stderr


@pytest.mark.once
def test_visitors_say_at_once_that_there_is_nothing_to_visit(database: Database) -> None:
    """Not at the end of a day that nobody was there for."""
    done = run("demo", "traffic", "--url", "http://127.0.0.1:1")
    assert done.returncode == 69
    assert "does not answer" in done.stderr
    with Server(dsn=database.dsn) as server:
        done = run("demo", "traffic", "--url", server.url)
    assert done.returncode == 69
    assert "`prefork-ads demo load` puts it there" in done.stderr
