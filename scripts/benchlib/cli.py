"""The command `scripts/bench`: options, the loop over the plan, what is printed, the exit status.

Ctrl-C (and SIGTERM) end the running measurement, stop all that was started, and still print what has been
measured. The exit status is 1 when a measurement failed or a required ratio was not met, 130 after Ctrl-C.
"""

import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import click

from benchlib import contenders as known
from benchlib import machine, report, summary
from benchlib.browsers import BROWSERS, HEADERS_PER_REQUEST, write_header_file
from benchlib.chart import Chart
from benchlib.contenders import Contender
from benchlib.database import Database, database
from benchlib.environment import BenchEnvironment
from benchlib.errors import BenchError
from benchlib.measuring import Bench, Measurement
from benchlib.plan import Load, Step, cases, steps
from benchlib.progress import Progress
from benchlib.wrk import LoadFiles, find_wrk

PROBED_ADS = 200
# What a measurement takes besides warm-up and load: start, probes, stop, count.
OVERHEAD_S = 3.0
EXIT_INTERRUPTED = 130


class Numbers(click.ParamType[tuple[int, ...]]):
    """Positive whole numbers, separated by commas."""

    name = "N,N,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(dict.fromkeys(int(part) for part in str(value).split(",")))
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < 1:
            self.fail(f"{value!r} is not a list of positive numbers such as 1,2,4", param, ctx)
        return numbers


class Names(click.ParamType[tuple[str, ...]]):
    """Contenders, separated by commas."""

    name = "NAME,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(part.strip() for part in str(value).split(",")))
        for name in names:
            if name not in known.BY_NAME:
                self.fail(
                    f"there is no {name!r}; choose from {', '.join(known.BY_NAME)}", param, ctx
                )
        return names


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for, after the profiles."""

    contenders: tuple[str, ...]
    workers: tuple[int, ...]
    connections: tuple[int, ...]
    rounds: int
    rows: int
    campaigns: int
    browsers: int
    threads: int
    duration_s: int
    warm_up_s: int

    @property
    def load(self) -> Load:
        return Load(self.threads, self.duration_s, self.warm_up_s)


# What a profile changes; an option that was given wins.
NORMAL: dict[str, Any] = {
    "workers": (1, 2, 4),
    "connections": (100, 500),
    "rounds": 3,
    "threads": 2,
    "duration_s": 10,
    "warm_up_s": 3,
}
ORIGINAL = {"connections": (500,), "threads": 17, "duration_s": 30}
QUICK = {"workers": (1,), "connections": (100,), "rounds": 1, "duration_s": 3, "warm_up_s": 1}


def take_part(
    names: Sequence[str], environment: BenchEnvironment, campaigns: int
) -> tuple[list[Contender], dict[str, str]]:
    """Who can run here, and why the others cannot."""
    taking_part, skipped = [], {}
    for name in names:
        reason = known.unavailable(known.BY_NAME[name], environment)
        if reason is None:
            taking_part.append(known.with_campaigns(known.BY_NAME[name], campaigns))
        else:
            skipped[name] = reason
            print(f"without {name}: {reason}", file=sys.stderr)
    if not taking_part:
        raise BenchError("nobody is left to measure")
    return taking_part, skipped


def make_bench(environment: BenchEnvironment, tables: Database, settings: Settings) -> Bench:
    rows = tables.prepare_ads(settings.rows)
    files = LoadFiles(environment.directory / "headers.txt", environment.directory / "ids.txt")
    write_header_file(files.headers, settings.browsers)
    ids = tables.sample_ids(files.ids)
    print(
        f"ad_variant has {rows:,} rows; {len(ids):,} random ids, {HEADERS_PER_REQUEST} headers a request, "
        f"{settings.browsers:,} browsers",
        file=sys.stderr,
    )
    probed = random.sample(ids, min(PROBED_ADS, len(ids)))
    return Bench(environment, tables, files, settings.load, tables.ads(probed))


def take(
    bench: Bench,
    contenders: Sequence[Contender],
    plan: Sequence[Step],
    measurements: list[Measurement],
) -> bool:
    """Measures into the list; False when it was interrupted."""
    load = bench.load
    by_name = {contender.name: contender for contender in contenders}
    progress = Progress(len(plan), load.duration_s + load.warm_up_s + OVERHEAD_S)
    try:
        for step in plan:
            progress.step(step)
            measurement = bench.measure(by_name[step.contender], step)
            measurements.append(measurement)
            progress.done(measurement)
    except KeyboardInterrupt:
        print("\ninterrupted; this is what has been measured", file=sys.stderr)
        return False
    return True


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def bench_run(
    settings: Settings,
    dsn: str | None,
    json_path: Path | None,
    chart_path: Path | None,
    require: bool,
) -> int:
    environment = BenchEnvironment(Path(__file__).resolve().parents[2])
    environment.directory.mkdir(exist_ok=True)
    find_wrk()
    environment.install_peers()
    taking_part, skipped = take_part(settings.contenders, environment, settings.campaigns)
    all_cases = cases(settings.workers, settings.connections)
    plan = list(steps([c.capability for c in taking_part], all_cases, settings.rounds))
    measurements: list[Measurement] = []
    with database(environment, dsn) as tables:
        bench = make_bench(environment, tables, settings)
        finished = take(bench, taking_part, plan, measurements)
        for contender in taking_part:
            if contender.log is not None:
                tables.empty(contender.log)
        described = machine.describe(environment, tables.version)
    figures = summary.medians(measurements)
    names = [contender.name for contender in taking_part]
    print(f"\n{summary.table(figures, names, all_cases)}")
    if json_path is not None:
        content = report.document(
            machine=described,
            settings=asdict(settings),
            skipped=skipped,
            measurements=measurements,
            figures=figures,
        )
        report.write_json(json_path, content)
        print(f"every measurement: {json_path}")
    if chart_path is not None and figures:
        footnote = (
            f"{described['cpu']}, {described['cores']} cores shared by wrk, server and PostgreSQL; "
            f"median of {settings.rounds} × {settings.duration_s} s"
        )
        chart = Chart(figures, names, settings.workers, settings.connections[0], footnote)
        png_path = report.write_chart(environment, chart_path, chart.svg())
        print(f"chart: {chart_path}, {png_path}")
    judged = conclude(measurements, figures, settings.connections, require)
    return judged if finished else EXIT_INTERRUPTED


def conclude(
    measurements: Sequence[Measurement],
    figures: summary.Medians,
    connections: Sequence[int],
    require: bool,
) -> int:
    failed = [measurement for measurement in measurements if measurement.failures]
    for measurement in failed:
        case = measurement.case
        print(
            f"FAILED {measurement.contender} /{case.workload}, {case.workers} workers, "
            f"{case.connections} connections, round {measurement.round}: {measurement.failures[0]}"
        )
    unmet = False
    if require:
        for verdict in summary.verdicts(figures, connections):
            print(verdict)
            unmet |= not verdict.met
    return 1 if failed or unmet else 0


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--peers",
    type=Names(),
    metavar="NAME,…",
    help=f"Who takes part; all by default: {', '.join(known.BY_NAME)}.",
)
@click.option("--workers", type=Numbers(), metavar="N,…", help="Numbers of workers. [1,2,4]")
@click.option(
    "--connections", type=Numbers(), metavar="N,…", help="Numbers of connections. [100,500]"
)
@click.option(
    "--rounds", type=click.IntRange(1), help="Rounds; the median of them is reported. [3]"
)
@click.option("--duration", type=click.IntRange(1), help="Seconds of each measurement. [10]")
@click.option("--warm-up", type=click.IntRange(1), help="Seconds of load before each. [3]")
@click.option("--threads", type=click.IntRange(1), help="Threads of wrk. [2]")
@click.option(
    "--rows",
    type=click.IntRange(1),
    default=5_000_000,
    show_default=True,
    help="Rows that ad_variant has at least; built once.",
)
@click.option(
    "--campaigns",
    type=click.IntRange(1),
    default=known.MANY_CAMPAIGNS,
    show_default=True,
    help="Campaigns that the contender zone chooses from.",
)
@click.option(
    "--browsers",
    type=click.IntRange(1),
    default=BROWSERS,
    show_default=True,
    help="Browsers that the requests come from, each with headers of its own.",
)
@click.option(
    "--original",
    "profile",
    flag_value="original",
    help="As the prototype was measured: 17 threads, 500 connections, 30 seconds.",
)
@click.option(
    "--quick",
    "profile",
    flag_value="quick",
    help="Does it run at all? 1 worker, 100 connections, one round of 3 seconds.",
)
@click.option("--dsn", help="PostgreSQL to use instead of an embedded one in .bench/pg.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write all figures here.",
)
@click.option(
    "--chart",
    "chart_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the chart here (SVG), and a PNG beside it.",
)
@click.option(
    "--require",
    is_flag=True,
    help="Fail unless the ratios that prefork-ads promises are reached.",
)
def main(
    profile: str | None,
    dsn: str | None,
    json_path: Path | None,
    chart_path: Path | None,
    require: bool,
    rows: int,
    campaigns: int,
    browsers: int,
    peers: tuple[str, ...] | None,
    duration: int | None,
    warm_up: int | None,
    **given: Any,
) -> None:
    """Measure prefork-ads beside its peers, on this machine, in one run.

    Each contender logs the same requests to the same PostgreSQL, and looks up the same ads in it. They
    take turns; the median of the rounds is reported. A measurement in which an answer was wrong or
    missing, or after which a request is not in the log, fails.

    Needs wrk (apt-get install wrk); the Go peer needs golang-go and Debian's packages of fasthttp and
    pgx. What the Python peers need is installed into .bench/venv.
    """
    asked = {**given, "duration_s": duration, "warm_up_s": warm_up}
    values = NORMAL | {"original": ORIGINAL, "quick": QUICK, None: {}}[profile]
    values |= {name: value for name, value in asked.items() if value is not None}
    settings = Settings(
        contenders=peers or tuple(known.BY_NAME),
        rows=rows,
        campaigns=campaigns,
        browsers=browsers,
        **values,
    )
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        status = bench_run(settings, dsn, json_path, chart_path, require)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    sys.exit(status)
