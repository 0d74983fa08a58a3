"""The command line: which load, on which server, for how long.

Ctrl-C and SIGTERM end the processes of the load and the server that was started.
"""

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import click

from overloadlib import report, workloads
from overloadlib.crowd import gathered
from overloadlib.errors import OverloadError
from overloadlib.load import Plan
from overloadlib.phases import Phase, run_phase
from overloadlib.server import Server, started
from overloadlib.slow import MOST, Slowed, slowed

PEAK_CONNECTIONS = 500
WARM_UP_S = 2.0
RECOVERY_SHARE = 0.5
RECOVERY_S = 5.0
SPARE_DESCRIPTORS = 200
DEMO_ADS = "20000"
OTHERS_PER_S = 1500.0
OTHERS_CONNECTIONS = 64


RunPhase = Callable[[str, float | None, float, int], Phase]


def _end_by_sigterm() -> None:
    """From now on, as by Ctrl-C."""
    ours = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() == ours:
            raise KeyboardInterrupt
        # A process of the load that has not come to say so itself.
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, end)


def _most_connections() -> int:
    import resource  # noqa: PLC0415 - not on every system that can ask for --help

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 28_000) if hard > 0 else 28_000
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted - SPARE_DESCRIPTORS


def _refuse_what_goes_ill_together(doubts: Mapping[str, object]) -> None:
    for words, are in doubts.items():
        if are:
            raise click.UsageError(words)


def _is_given(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(option)
    return source is not click.core.ParameterSource.DEFAULT


def _elsewhere(url: str) -> Server:
    parts = urlsplit(url)
    try:
        host = socket.gethostbyname(parts.hostname or "127.0.0.1")
    except OSError as error:
        raise OverloadError(f"{parts.hostname} has no IPv4 address: {error}") from None
    return Server((host, parts.port or 80), None, None)


def _judged(phases: Sequence[Phase], *, beside_a_crowd: bool) -> list[report.Verdict]:
    """What is said of the phases; it is printed, too."""
    first, second, *others, last = phases
    if beside_a_crowd:
        found = report.beside_a_crowd(first, second, last)
    else:
        print(report.offered(first, second))
        found = report.verdicts([first, last], second, others[0])
    print("\n".join(map(str, found)))
    return found


def _show(phase: Phase) -> Phase:
    print("\n".join(report.table(phase)), end="\n\n", flush=True)
    return phase


def _say(what: str, seconds: float) -> None:
    print(f"{what}, {seconds:g} s …", file=sys.stderr, flush=True)


def _phases(server: Server, plan: Plan, cores: list[int], pace: Slowed) -> RunPhase:
    def phase(name: str, rate: float | None, seconds: float, connections: int) -> Phase:
        _say(name, seconds)
        asked = replace(plan, rate=rate, duration_s=seconds, max_connections=connections)
        return run_phase(name, asked, server, cores, pace)

    return phase


def _ours(
    stack: contextlib.ExitStack, cores: list[int], slowness: float, arguments: Sequence[str]
) -> tuple[Server, Slowed]:
    """A server that is started for the run, and ends with the stack."""
    # Whether it may, before it takes long.
    with slowed(cores, slowness):
        pass
    _say("starting a server", 0)
    server = stack.enter_context(started(cores, arguments))
    return server, stack.enter_context(slowed(cores, slowness))


def _found(
    stack: contextlib.ExitStack, url: str | None, slowness: float, arguments: Sequence[str]
) -> tuple[Server, Slowed, list[int]]:
    """The server, how slow its cores are, and the cores of the load."""
    cores = sorted(os.sched_getaffinity(0))
    if url is not None:
        return _elsewhere(url), Slowed(()), cores
    half = max(1, len(cores) // 2)
    server_cores, load_cores = cores[:half], cores[half:] or cores
    if slowness > 1 and set(server_cores) & set(load_cores):
        raise click.UsageError(
            "--slowed is for a server on other cores than the load: here is but one."
        )
    return (*_ours(stack, server_cores, slowness, arguments), load_cores)


def overload(phase: RunPhase, plan: Plan, factor: float) -> list[Phase]:
    """The four phases, each shown when it is over."""
    phase("warm-up", None, WARM_UP_S, PEAK_CONNECTIONS)

    def at_its_peak(name: str) -> Phase:
        return _show(phase(name, None, plan.duration_s, PEAK_CONNECTIONS))

    peak = at_its_peak("peak")
    if not peak.good_per_s:
        raise OverloadError("no request was answered: is it the right address?")
    over = _show(phase("overload", factor * peak.good_per_s, plan.duration_s, plan.max_connections))
    after = _show(
        phase("afterwards", RECOVERY_SHARE * peak.good_per_s, RECOVERY_S, plan.max_connections)
    )
    return [peak, over, after, at_its_peak("peak again")]


def crowded(phase: RunPhase, plan: Plan, cores: list[int], number: int) -> list[Phase]:
    """Others alone, beside a crowd of so many, and alone again, each shown when it is over."""

    def others(name: str) -> Phase:
        return _show(phase(name, OTHERS_PER_S, plan.duration_s, OTHERS_CONNECTIONS))

    phase("warm-up", OTHERS_PER_S, WARM_UP_S, OTHERS_CONNECTIONS)
    alone = others("alone")
    print(f"a crowd of {number:,} gathers …", file=sys.stderr, flush=True)
    with gathered(plan.address, number, cores, plan.max_connections) as parts:
        # What it costs that thousands come is not measured: the question is what they cost once there.
        phase("the crowd is there", OTHERS_PER_S, WARM_UP_S, OTHERS_CONNECTIONS)
        beside = others("beside the crowd")
    least, sent_away = sum(part.least for part in parts), sum(part.sent_away for part in parts)
    phase("the crowd leaves", OTHERS_PER_S, WARM_UP_S, OTHERS_CONNECTIONS)
    print(f"of the crowd {least:,} at least were there; {sent_away:,} times one was sent away")
    return [alone, beside, others("alone again")]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--factor",
    type=click.FloatRange(min=1),
    default=5.0,
    show_default=True,
    help="How many times the measured peak is asked.",
)
@click.option(
    "--duration",
    type=click.IntRange(min=2),
    default=10,
    show_default=True,
    help="Seconds of each peak and of the overload.",
)
@click.option(
    "--deadline",
    type=click.FloatRange(min=0.01),
    default=1.0,
    show_default=True,
    help="Seconds after which a client gives up and closes.",
)
@click.option(
    "--workload",
    type=click.Choice(list(workloads.BY_NAME)),
    default="log",
    show_default=True,
    help="A pixel, 4 KB of JSON, or an ad.",
)
@click.option("--connection-per-request", is_flag=True, help="No connection is used twice.")
@click.option(
    "--crowd",
    type=click.IntRange(min=2),
    metavar="N",
    help="No overload: N clients that only take places, half of them with a header that never "
    "ends, half idle; and what 1,500 requests a second of others notice of it.",
)
@click.option(
    "--slowed",
    "slowness",
    type=click.FloatRange(min=1, max=MOST),
    default=1.0,
    metavar="F",
    help="Make the server's cores F times as slow, so that the load really is as many times what "
    "it can do where the load has but one core. Needs the right to real-time scheduling.",
)
@click.option(
    "--url",
    help="A server that runs already, such as http://127.0.0.1:8080; by default "
    "one is started for the run, on half of the cores.",
)
@click.option("--require", is_flag=True, help="Fail unless what the project promises is kept.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write all figures here.",
)
@click.argument("arguments", nargs=-1, metavar="[-- OPTIONS OF prefork-ads …]")
def main(
    factor: float,
    duration: int,
    deadline: float,
    workload: str,
    connection_per_request: bool,
    crowd: int | None,
    slowness: float,
    url: str | None,
    require: bool,
    json_path: Path | None,
    arguments: tuple[str, ...],
) -> None:
    """Ask a server for several times what it can do, and see what it does about it.

    The load is open: each request has its moment, whether or not the ones before it were answered, and a
    deadline, after which its client gives up. First the peak is measured with 500 connections that ask as
    fast as they are answered; then comes the overload; then half of the peak, to see how long the server
    takes to get well; then the peak again, since few machines are the same for a minute.

    Columns: due by the schedule; sent (the rest found no free connection, or the load itself was behind);
    good is 2xx in time; 503; too late is no answer by the deadline; failed is anything else.

    The load needs cores of its own. With less than two cores the figures say nothing.
    """
    _refuse_what_goes_ill_together(
        {
            "--slowed is for a server that the run starts, not for --url.": url and slowness > 1,
            "--crowd has others that keep their connections.": crowd and connection_per_request,
            "--crowd is no overload: it has no --factor.": crowd and _is_given("factor"),
        }
    )
    if workload == "ad":
        arguments = ("--demo-variants", DEMO_ADS, *arguments)
    _end_by_sigterm()
    try:
        with contextlib.ExitStack() as stack:
            server, pace, load_cores = _found(stack, url, slowness, arguments)
            # Nor may who watches the server take time from it. *Measured*: the watch on 19,000 connections
            # worked 35 ms on the server's core five times a second; the p99 there was 5.9 ms and not 4.4.
            os.sched_setaffinity(0, load_cores)
            requests = workloads.BY_NAME[workload](server)
            if connection_per_request:
                requests = workloads.closing(requests)
            plan = Plan(
                server.address,
                tuple(requests),
                None,
                float(duration),
                deadline,
                _most_connections(),
                not connection_per_request,
            )
            phase = _phases(server, plan, load_cores, pace)
            if crowd is None:
                phases = overload(phase, plan, factor)
            else:
                phases = crowded(phase, plan, load_cores, crowd)
    except OverloadError as error:
        raise SystemExit(f"overload: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    found = _judged(phases, beside_a_crowd=crowd is not None)
    if json_path is not None:
        json_path.write_text(json.dumps(report.as_json(phases), indent=1) + "\n")
    if require and not all(verdict.kept for verdict in found):
        raise SystemExit(1)
