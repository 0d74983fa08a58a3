"""The command line without a database: help, exit statuses, completion, messages."""

import errno
import importlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from prefork_ads import __version__
from prefork_ads.cli import cli, main
from prefork_ads.cli.options import settings
from prefork_ads.cli.progress import Progress, counted, show_time
from prefork_ads.cli.reference import BEGIN, END, reference
from prefork_ads.cli.wiring import Examples, what_to_try
from prefork_ads.errors import DataDirError, JournalDamaged
from prefork_ads.events import inspection
from prefork_ads.events.inspection import Judgement
from prefork_ads.events.segments import list_segments
from prefork_ads.options import GROUPS, OPTIONS
from tests.unit.journal_bed import make_journal, put

ROOT = Path(__file__).parents[2]


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    # An environment of its own, but for what lets coverage follow.
    coverage = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}
    return subprocess.run(
        [sys.executable, "-m", "prefork_ads", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**coverage, "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **environ},
        timeout=60,
    )


# ---- help


@pytest.mark.parametrize("path", list(commands(cli)), ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    """With -h and --help, in full sentences."""
    for flag in ("-h", "--help"):
        result = CliRunner().invoke(cli, [*path, flag], prog_name="prefork-ads")
        assert result.exit_code == 0
        assert result.output.startswith("Usage: prefork-ads")
        assert "." in result.output
        assert "None" not in result.output


def test_help_has_every_option_with_default_and_variables() -> None:
    text = " ".join(CliRunner().invoke(cli, ["--help"], terminal_width=200).output.split())
    for option in OPTIONS.values():
        assert f"{option.flag} {option.kind.metavar} {option.help} [" in text
        assert f"env: {', '.join(option.env)}]" in text


def test_help_is_in_sections_and_ends_with_examples() -> None:
    text = CliRunner().invoke(cli, ["--help"]).output
    places = [text.index(f"\n{title}:\n") for title in ("Commands", *GROUPS, "Help", "Examples")]
    assert places[1:] == sorted(places[1:])
    assert places[0] < places[1]
    assert "prefork-ads --workers 4" in text[places[-1] :]


def test_help_wraps_to_the_terminal_and_leaves_examples_as_they_are() -> None:
    narrow = CliRunner().invoke(cli, ["--help"], terminal_width=60).output
    examples = narrow[narrow.index("\nExamples:\n") :]
    assert (
        "  prefork-ads --host 0.0.0.0                   reachable from other machines" in examples
    )
    before = narrow[: narrow.index("\nExamples:\n")]
    assert max(len(line) for line in before.splitlines()) <= 80


def test_documentation_lists_exactly_the_declared_options() -> None:
    """Regenerate with: python -m prefork_ads.cli.reference"""
    text = (ROOT / "docs/configuration.md").read_text()
    between = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    assert between.strip() == reference().strip()


# ---- small commands


def test_version() -> None:
    assert run("version").stdout.startswith(f"prefork-ads {__version__} (Python 3.")
    assert run("--version").stdout == f"prefork-ads {__version__}\n"


def test_help_and_version_load_nothing_heavy() -> None:
    """They must answer at once, and also where a library is broken."""
    heavy = {"uvloop", "httptools", "aiopg", "psycopg2", "orjson", "asyncio"}
    program = (
        "import sys; from prefork_ads.cli import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    script = run("completion", shell).stdout
    assert "_PREFORK_ADS_COMPLETE" in script
    assert "prefork-ads" in script


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("prefork-ads var", "plain,variants"),
        ("prefork-ads --read-", "plain,--read-batch"),
        ("prefork-ads --log-table ", "plain,unlogged"),
        ("prefork-ads --log-table l", "plain,logged"),
        ("prefork-ads check --config ", "file,"),
        ("prefork-ads --data-dir ", "dir,"),
        ("prefork-ads variants s", "plain,sample"),
        ("prefork-ads completion z", "plain,zsh"),
    ],
)
def test_completion_offers(words: str, offered: str) -> None:
    done = run(
        _PREFORK_ADS_COMPLETE="bash_complete",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split(" ")) - 1),
    )
    assert offered in done.stdout.splitlines()


# ---- failures


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "--port: '70000' is out of range: 0 to 65535."),
        (
            ["check", "--readers", "x"],
            "--readers: 'x' is not a whole number (10000, 10_000 or 10k).",
        ),
        (
            ["--reader-dsn", "host=x", "migrate"],
            "--reader-dsn (flag --reader-dsn) is given without",
        ),
        (["variants", "generate", "many"], "N: 'many' is not a whole number"),
        (["variants", "sample", "-1"], "No such option '-1'"),
        (["--demo-variants", "x"], "--demo-variants: 'x' is not a whole number"),
        (["serv"], "No such command 'serv'."),
        (["--prot", "1"], "No such option '--prot'"),
        (["variants", "import"], "See `prefork-ads variants import --help`."),
        (["completion", "tcsh"], "'tcsh' is not one of"),
        (["status", "--watch", "0"], "--watch: '0' is less than 0.2 s, the least there is."),
        (["status", "--watch", "199ms"], "--watch: '199ms' is less than 0.2 s"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_one_sentence(
    arguments: list[str], message: str
) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("prefork-ads: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_wrong_variable_is_an_error_too() -> None:
    done = run("check", WEB_CONCURRENCY="none")
    assert done.returncode == 2
    assert "environment variable WEB_CONCURRENCY (--workers): 'none' is not" in done.stderr


def test_a_database_that_is_not_there_ends_with_69(tmp_path: Path) -> None:
    """Named by host, port, user and database; without the password and without a traceback."""
    dsn = "postgresql://ads:hunter2@127.0.0.1:1/ads"
    for command in (["migrate"], ["variants", "sample", "1"], ["serve", "--port", "0"]):
        done = run(*command, PREFORK_ADS_DSN=dsn, PREFORK_ADS_DATA_DIR=str(tmp_path))
        assert done.returncode == 69, done.stderr
        assert "prefork-ads: error: The database at ads@127.0.0.1:1/ads cannot be" in done.stderr
        assert "hunter2" not in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["status", "ship", "verify"])
def test_a_journal_that_somebody_named_and_is_not_there_is_an_error(
    command: str, tmp_path: Path
) -> None:
    """A wrong letter must not look as if nothing were left to ship."""
    missing = tmp_path / "jornal"
    file = tmp_path / "ads.toml"
    file.write_text(f'journal-dir = "{missing}"\n')
    for source, flags, environ in (
        ("flag --journal-dir", ["--journal-dir", str(missing)], {}),
        ("environment PREFORK_ADS_JOURNAL_DIR", [], {"PREFORK_ADS_JOURNAL_DIR": str(missing)}),
        (f"file {file}", ["--config", str(file)], {}),
    ):
        done = run("journal", command, *flags, HOME=str(tmp_path), **environ)
        assert (done.returncode, done.stdout) == (72, ""), done.stderr
        assert done.stderr.startswith("prefork-ads: error: The journal's directory ")
        assert f"{missing} does not exist. Correct --journal-dir ({source});" in done.stderr
        assert not missing.exists()
    done = run("journal", command, "--data-dir", str(missing), HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (72, ""), done.stderr
    assert f"The data directory {missing} does not exist. Correct --data-dir" in done.stderr


def test_where_no_server_has_run_nothing_waits(tmp_path: Path) -> None:
    """And no PostgreSQL is needed to tell."""
    data = tmp_path / "data"
    data.mkdir()
    for command, words in (
        ("status", f"{data}/journal: no segments, nothing waits for PostgreSQL\n"),
        ("ship", "0 events from 0 segments were shipped.\n"),
        ("verify", "0 segments with 0 events, all sound.\n"),
    ):
        done = run("journal", command, "--data-dir", str(data), HOME=str(tmp_path))
        assert (done.returncode, done.stdout, done.stderr) == (0, words, "")
    done = run("journal", "status", "--json", "--data-dir", str(data), HOME=str(tmp_path))
    assert json.loads(done.stdout)["unshipped_bytes"] == 0


def test_one_segment_is_not_several(tmp_path: Path) -> None:
    journal = make_journal(tmp_path)
    put(journal, 1)
    journal.close()
    verified = run("journal", "verify", "--journal-dir", str(tmp_path), HOME=str(tmp_path))
    assert verified.stdout == "1 segment with 1 event, all sound.\n"
    shown = run("journal", "status", "--journal-dir", str(tmp_path), HOME=str(tmp_path))
    assert f"{tmp_path}: 1 segment, " in shown.stdout


def test_a_segment_that_cannot_be_read_hides_nothing_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        journal = make_journal(tmp_path)
        put(journal, number)
        journal.close()
    bad, other = (file.path for file in list_segments(tmp_path))
    judge = inspection.judge

    def judge_what_can_be_read(path: Path, progress: Callable[[int], None]) -> Judgement | None:
        if path == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return judge(path, progress)

    monkeypatch.setattr(inspection, "judge", judge_what_can_be_read)
    where = ["journal", "verify", "--journal-dir", str(tmp_path)]
    first = CliRunner().invoke(cli, where)
    assert isinstance(first.exception, DataDirError)
    assert f"{bad} cannot be read: " in first.stderr
    assert str(first.exception).startswith("1 of 2 segments could not be read")
    with other.open("ab") as file:
        file.write(b"not an event\n")
    second = CliRunner().invoke(cli, where)
    assert f"{other}: line 2, byte" in second.stderr
    assert isinstance(second.exception, JournalDamaged)
    assert str(second.exception) == "1 of 2 segments is damaged. 1 could not be read."


def test_options_in_front_of_a_command_count_for_it() -> None:
    seen: list[tuple[int, int]] = []

    @cli.command("probe-for-test")
    @click.option("--workers")
    @click.pass_context
    def probe(context: click.Context, /, workers: str | None) -> None:
        config, _ = settings(context, {"workers": workers})
        seen.append((config.port, config.workers))

    try:
        arguments = ["--port", "9", "--workers", "3", "probe-for-test", "--workers", "4"]
        assert CliRunner().invoke(cli, arguments).exit_code == 0
    finally:
        del cli.commands["probe-for-test"]
    assert seen == [(9, 4)]


def test_ctrl_c_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("prefork_ads.cli.serve"), "load", interrupted)
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 130
    assert capsys.readouterr().err.endswith("prefork-ads: interrupted\n")


def test_a_reader_that_leaves_is_no_traceback() -> None:
    """prefork-ads --help | head -1"""
    done = subprocess.run(
        f"{sys.executable} -m prefork_ads --help | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith("Usage: prefork-ads")
    assert done.stderr == ""


# ---- what to try


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8080", "curl http://127.0.0.1:8080/"),
        ("http://0.0.0.0:80", "curl http://127.0.0.1:80/"),
        ("http://[::]:80", "curl http://[::1]:80/"),
        ("http://[2001:db8::1]:80", "curl http://[2001:db8::1]:80/"),
        ("unix:/run/ads.sock", "curl --unix-socket '/run/ads.sock' http://localhost/"),
    ],
)
def test_what_to_try_can_be_pasted(url: str, shown: str) -> None:
    assert what_to_try(url, Examples("some-id"))[1] == f"  {shown}"


def test_without_ads_the_lines_say_how_to_make_some() -> None:
    *_, ad, zone = what_to_try("http://h:1", Examples("some-id", "home"))
    assert ad == "  curl 'http://h:1/ad?id=some-id'"
    assert zone == "  curl -A Mozilla 'http://h:1/ad?zone=home'"
    *_, ad, zone = what_to_try("http://h:1", Examples())
    assert "prefork-ads variants generate" in ad
    assert "prefork-ads demo load" in zone


def test_where_the_demonstration_is_a_browser_is_told_of_its_page() -> None:
    """Not behind a Unix socket, which no browser opens."""
    everything = Examples("some-id", "home-side", has_demo=True)
    assert (
        what_to_try("http://0.0.0.0:1", everything)[-1] == "In a browser: http://127.0.0.1:1/demo"
    )
    assert "/demo" not in what_to_try("unix:/run/ads.sock", everything)[-1]


# ---- progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_progress_on_a_terminal_redraws_one_line() -> None:
    stream, clock = Terminal(), Clock()
    with Progress(stream, "rows", clock=clock) as progress:
        progress(0, 4000)
        clock.now += 10
        progress(1000, 4000)
    lines = stream.getvalue().split("\r")
    assert lines[1].rstrip() == f"[{'.' * 30}]    0%  0 of 4,000 rows"
    assert lines[2] == f"[{'#' * 8}{'.' * 22}]   25%  1,000 of 4,000 rows  100/s  30s left\n"


def test_progress_of_a_resumed_run_does_not_count_what_was_there() -> None:
    stream, clock = Terminal(), Clock()
    progress = Progress(stream, "rows", clock=clock)
    progress(3000, 4000)
    clock.now += 10
    progress(3100, 4000)
    assert stream.getvalue().endswith("3,100 of 4,000 rows  10/s  1m 30s left")


def test_progress_of_what_lasts_a_known_time_does_not_guess_it() -> None:
    """A day of visitors ends at midnight, whether many came in the morning or few."""
    stream, clock = Terminal(), Clock()
    progress = Progress(stream, "visitors", clock=clock, lasts_s=120)
    progress(0, 4000)
    clock.now += 10
    progress(10, 4000)
    assert stream.getvalue().endswith("10 of 4,000 visitors  1/s  1m 50s left")


def test_progress_in_a_log_is_a_line_now_and_then() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(stream, "rows", clock=clock) as progress:
        for done in range(0, 101):
            progress(done, 100)
            clock.now += 0.125
    assert stream.getvalue().splitlines() == [
        "0%  0 of 100 rows",
        "40%  40 of 100 rows  8/s  8s left",
        "80%  80 of 100 rows  8/s  2s left",
        "100%  100 of 100 rows  8/s",
    ]


def test_progress_forgets_how_fast_it_once_was() -> None:
    stream, clock = Terminal(), Clock()
    progress = Progress(stream, "rows", clock=clock)
    progress(0, 10_000)
    clock.now += 1
    progress(5000, 10_000)
    for _ in range(60):
        clock.now += 1
        progress(progress.done + 10, 10_000)
    assert "  10/s  " in stream.getvalue().rpartition("\r")[2]


def test_progress_without_a_known_total() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(stream, "read", size=True, clock=clock)
    progress(512, None)
    clock.now += 8
    progress(10 << 20, None, "7 rows")
    assert stream.getvalue().splitlines() == ["512 B read", "10.0 MiB read  1.2 MiB/s  7 rows"]


def test_progress_where_there_is_more_than_was_asked_for() -> None:
    stream = io.StringIO()
    Progress(stream, "rows")(10_000, 100)
    assert stream.getvalue() == "100%  10,000 rows\n"


def test_one_and_many() -> None:
    said = [counted(number, "row", "rows") for number in (0, 1, 2, 1200)]
    assert said == ["0 rows", "1 row", "2 rows", "1,200 rows"]


def test_progress_of_nothing() -> None:
    stream = io.StringIO()
    Progress(stream, "rows")(0, 0)
    assert stream.getvalue() == "100%  0 of 0 rows\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59, "59s"), (725, "12m 05s"), (12_000, "3h 20m")],
)
def test_times(seconds: float, text: str) -> None:
    assert show_time(seconds) == text
