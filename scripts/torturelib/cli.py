"""The command `scripts/torture`: options, the loop over the schedule, the verdict, the exit status.

0: every promise held. 1: one did not, or the bed could not go on. 2: it was asked for something that
there is not. 130: a second Ctrl-C; nothing was compared. The first Ctrl-C ends the schedule and compares
what was sent so far.
"""

import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click
import psycopg2

from prefork_ads.errors import PreforkAdsError
from torturelib import report, schedule
from torturelib.bed import Bed, BedSettings, Outcome
from torturelib.errors import Interrupted, NotRecovered, TortureError
from torturelib.kinds import ALL, BY_NAME
from torturelib.progress import Progress
from torturelib.schedule import Step
from torturelib.truth import Truth
from torturelib.verdict import Judgement, judge_log, judge_requests, judge_tables
from torturelib.waiting import Waiter

EXIT_INTERRUPTED = 130
SEEDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which steps, and when it is over."""

    kinds: tuple[str, ...]
    steps: Iterator[Step]
    limit_s: float | None
    count: int | None


def wanted(seed: int, minutes: float, faults: str | None, plan: str | None) -> Wanted:
    known = {name: kind.kind() for name, kind in BY_NAME.items()}
    if plan is not None:
        if faults is not None:
            raise TortureError("a plan names its faults; leave --faults out")
        numbers = schedule.parse_plan(plan, tuple(known))
        steps = list(schedule.planned(seed, known, numbers))
        return Wanted(tuple(numbers), iter(steps), None, len(steps))
    names = tuple(schedule.parse_plan(faults, tuple(known))) if faults else tuple(known)
    endless = schedule.endless(seed, [known[name] for name in names])
    return Wanted(names, endless, minutes * 60, None)


def torture(settings: BedSettings, what: Wanted) -> int:
    """One run; the exit status."""
    waiter = Waiter()
    waiter.take_signals()
    print(
        f"seed {settings.seed}, folder {settings.folder}, faults: {', '.join(what.kinds)}",
        file=sys.stderr,
    )
    with closing(Bed(settings, waiter)) as bed:
        bed.open(what.kinds)
        for name, reason in bed.unsupported.items():
            print(f"without {name}: {reason}", file=sys.stderr)
        gave_up = run(bed, waiter, what)
        print("stopping the clients and the server, comparing …", file=sys.stderr)
        run_s = bed.elapsed_s
        outcome = bed.finish()
        judgement = judge(bed)
    wrong = [*gave_up, *judgement.broken]
    if judgement.broken_count > len(judgement.broken):
        wrong.append(f"… {judgement.broken_count:,} requests that should not have failed in all")
    wrong += judge_end(bed, outcome)
    said = "\n".join(
        (
            report.table(judgement.by_kind, bed.unsupported),
            "",
            report.figures(outcome.comparison, run_s),
            report.verdict(wrong),
        )
    )
    print(f"\n{said}", flush=True)
    (settings.folder / "report.txt").write_text(f"seed {settings.seed}\n{said}\n", encoding="utf-8")
    return 1 if wrong else 0


def run(bed: Bed, waiter: Waiter, what: Wanted) -> list[str]:
    """All steps that there is time for; what ended it early, if it was not the user."""
    progress = Progress(limit_s=what.limit_s, steps=what.count)
    waiter.tick = lambda: progress.move(bed.counts)
    began_s = time.monotonic()
    for step in what.steps:
        if waiter.interrupted or (
            what.limit_s is not None and time.monotonic() - began_s > what.limit_s
        ):
            break
        progress.begin(step)
        step_began_s = time.monotonic()
        try:
            did = bed.take(step)
        except TortureError as error:
            return [str(error)]
        progress.end(step, did, time.monotonic() - step_began_s, bed.counts)
    if waiter.interrupted:
        print("interrupted; this is how far it came", file=sys.stderr)
    return []


def judge(bed: Bed) -> Judgement:
    truth = Truth(bed.truth_path)
    costs = {name: kind.may_cost for name, kind in BY_NAME.items()}
    return judge_requests(bed.windows, costs, truth.failures(), truth.gaps())


def judge_end(bed: Bed, outcome: Outcome) -> list[str]:
    return [
        *judge_tables(outcome.comparison, outcome.files_left, bed.windows),
        *outcome.trouble,
        *judge_log(bed.log_lines()),
    ]


def _list_kinds(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        width = max(map(len, BY_NAME))
        for kind in ALL:
            print(f"{kind.name:<{width}}  {kind.about}")
        context.exit()


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="How long.",
)
@click.option("--seed", type=click.IntRange(0), help="Repeat the schedule of an earlier run.")
@click.option("--faults", metavar="NAME,…", help="Only these kinds; see --list. [default: all]")
@click.option(
    "--plan",
    metavar="NAME*N,…",
    help="Exactly these faults in random order, however long it takes.",
)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Workers.")
@click.option(
    "--clients",
    type=click.IntRange(2),
    default=6,
    show_default=True,
    help="Clients of each kind: a connection for each request, one that is kept, pipelining.",
)
@click.option(
    "--rate",
    type=click.FloatRange(1),
    default=600.0,
    show_default=True,
    help="Requests a second of all clients together.",
)
@click.option(
    "--worker-timeout-s",
    type=click.FloatRange(1),
    default=4.0,
    show_default=True,
    help="After what time without a sign of life the server kills a worker.",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where everything of the run goes. [default: a new one for temporary files]",
)
@click.option("--keep", is_flag=True, help="Keep the folder of a good run, too.")
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_kinds,
    help="Print the kinds of fault and what they are.",
)
@click.argument("server_options", nargs=-1, type=click.UNPROCESSED)
def main(
    minutes: float,
    seed: int | None,
    faults: str | None,
    plan: str | None,
    workers: int,
    clients: int,
    rate: float,
    worker_timeout_s: float,
    folder: Path | None,
    keep: bool,
    server_options: Sequence[str],
) -> None:
    """Do all kinds of harm to a server under load, and look whether an event is missing.

    Clients keep their own truth: every event that was answered with success. In the end it is compared
    with the tables of PostgreSQL: none may be missing, none be there twice, and no request may have
    failed that the fault of the moment does not excuse. Server and PostgreSQL are started for the run
    and nothing is left of them.

    Ctrl-C ends the run early and compares; a second one gives up. SERVER_OPTIONS, after --, go to the
    server: scripts/torture --minutes 60 -- --journal-sync always
    """
    seed = random.randrange(SEEDS) if seed is None else seed
    try:
        what = wanted(seed, minutes, faults, plan)
    except TortureError as error:
        raise click.UsageError(str(error)) from error
    own_folder = folder or Path(tempfile.mkdtemp(prefix="prefork-ads-torture-"))
    try:
        settings = BedSettings(
            folder=own_folder.absolute(),
            seed=seed,
            workers=workers,
            clients=clients,
            rate_per_s=rate,
            worker_timeout_s=worker_timeout_s,
            server_options=tuple(server_options),
        )
        status = torture(settings, what)
    except (TortureError, NotRecovered, PreforkAdsError, psycopg2.Error) as error:
        print(f"torture: {error}", file=sys.stderr)
        status = 1
    except Interrupted:
        print("given up", file=sys.stderr)
        status = EXIT_INTERRUPTED
    if status == 0 and not keep and folder is None:
        shutil.rmtree(own_folder, ignore_errors=True)
    else:
        print(f"everything is in {own_folder}; again with --seed {seed}", file=sys.stderr)
    sys.exit(status)
