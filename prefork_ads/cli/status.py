"""`prefork-ads status`: what the servers on this machine are doing, and whether they are well.

It looks at each server's scoreboard from outside and asks nobody, so it works while a server hangs or
refuses connections. Two looks make a rate: one command takes a second.

With --watch on a terminal the text is redrawn in place, on the terminal's other screen, so that afterwards
everything stands there as it did before. Elsewhere it is printed again and again.

Must not know: what is on a scoreboard, how figures are laid out.
"""

import dataclasses
import json
import os
import shutil
import signal
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

import click

from prefork_ads.cli.options import Command, SectionOption, merged
from prefork_ads.errors import ConfigError, NotServing, PreforkAdsError
from prefork_ads.values import DURATION

if TYPE_CHECKING:
    from prefork_ads.cli.status_figures import Server

# Between the two looks of a single report.
LOOK_TWICE_S = 1.0
WATCH_EVERY_S = 2.0
# Each look goes through all of /proc; more often than this nobody can read it.
_SHORTEST_S = 0.2
# How wide a report is where no terminal says how wide it is.
_PIPE_COLUMNS = 120

# What sets a terminal's other screen and hides the cursor, what undoes that, and what begins a frame.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _END_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


@click.command(
    cls=Command,
    params=[
        SectionOption(
            ["--watch"],
            is_flag=False,
            flag_value=str(WATCH_EVERY_S),
            metavar="[SECONDS]",
            help="Show it again every so often, until Ctrl-C. [default: 2s]",
            section="Status",
        ),
        SectionOption(
            ["--json", "as_json"],
            is_flag=True,
            help="Print JSON; with --watch one object a line.",
            section="Status",
        ),
        SectionOption(
            ["--port"],
            metavar="N",
            help="Only the server on this port. [default: all that this user may look at]",
            section="Status",
        ),
    ],
    examples="""\
prefork-ads status
prefork-ads status --watch
prefork-ads status --json | jq '.servers[].endpoints.log.per_s'
prefork-ads status >/dev/null || echo 'something is wrong'
""",
)
@click.pass_context
def status(context: click.Context, /, watch: str | None, as_json: bool, port: str | None) -> None:
    """Show what the servers on this machine are doing.

    Rates and times are those of the last second, or since the last look. Ends with 0 if all is well, 1 if
    something needs attention, and 3 if no server runs. It looks at memory and asks nobody, so it
    also works when the server does not answer. Only root sees servers of other users.
    """
    port = merged(context, {"port": port}).get("port")
    if watch is None:
        context.exit(_once(as_json, port))
    context.exit(_watch(_read_seconds(watch), as_json, port))


def _read_seconds(text: str) -> float:
    try:
        seconds = float(DURATION.parse(text))
    except ValueError:
        raise ConfigError(f"--watch: {text!r} is not {DURATION.accepts}.") from None
    if seconds < _SHORTEST_S:
        raise ConfigError(f"--watch: {text!r} is less than {_SHORTEST_S} s, the least there is.")
    return seconds


def _once(as_json: bool, port: str | None) -> int:
    from prefork_ads.cli.status_looks import Looks  # noqa: PLC0415 - help stays fast

    looks = Looks(port)
    looks.again()
    time.sleep(LOOK_TWICE_S)
    servers = looks.again()
    if not servers and not as_json:
        raise NotServing(_nobody(port))
    click.echo(_json(servers) if as_json else _text(servers, _size()[0]))
    return _verdict(servers)


def _watch(every_s: float, as_json: bool, port: str | None) -> int:
    from prefork_ads.cli.status_looks import Looks  # noqa: PLC0415 - help stays fast

    looks = Looks(port)
    servers = looks.again()
    in_place = sys.stdout.isatty() and not as_json
    # Signals are waited for instead of handled: nothing is cut off in the middle of a line.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    show = _Screen() if in_place else _Lines(as_json)
    try:
        with show:
            next_at = time.monotonic() + min(every_s, LOOK_TWICE_S)
            while True:
                came = signal.sigtimedwait(_SIGNALS, max(0.0, next_at - time.monotonic()))
                if came is None:
                    servers = looks.again()
                    next_at = time.monotonic() + every_s
                elif came.si_signo == signal.SIGTSTP:
                    show.halt()
                elif came.si_signo != signal.SIGWINCH:
                    return _verdict(servers)
                show.draw(servers, _nobody(port))
    except BrokenPipeError:
        # Who reads has seen enough. What waits in the buffer must not be tried again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _verdict(servers)


_SIGNALS = frozenset(
    {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGWINCH}
)


class _Lines:
    """Prints one report after the other."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def halt(self) -> None:
        _stop_here()

    def draw(self, servers: "list[Server]", nobody: str) -> None:
        if self._as_json:
            text = _json(servers)
        else:
            text = f"{_now()}\n{_text(servers, _size()[0]) if servers else nobody}\n"
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


class _Screen:
    """Redraws the terminal's other screen."""

    def __enter__(self) -> Self:
        self._write(_ENTER + _HOME + _END_OF_SCREEN)
        return self

    def __exit__(self, *_: object) -> None:
        self._write(_LEAVE)

    def halt(self) -> None:
        """Ctrl-Z: leave the terminal to the shell until we are told to go on."""
        self._write(_LEAVE)
        _stop_here()
        self._write(_ENTER)

    def draw(self, servers: "list[Server]", nobody: str) -> None:
        width, height = _size()
        lines = (_text(servers, width) if servers else nobody).split("\n")
        foot = f"{_now()}  Ctrl-C ends"
        if len(lines) > height - 2:
            lines = [*lines[: height - 3], "… the terminal is too small for the rest"]
        frame = "".join(f"{line}{_END_OF_LINE}\n" for line in [*lines, ""]) + foot[: width - 1]
        self._write(f"{_HOME}{frame}{_END_OF_LINE}{_END_OF_SCREEN}")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _stop_here() -> None:
    """Be stopped as if the signal had not been waited for; comes back when told to go on."""
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})


def _verdict(servers: "list[Server]") -> int:
    if not servers:
        return NotServing.exit_code
    return 0 if all(server.healthy for server in servers) else PreforkAdsError.exit_code


def _nobody(port: str | None) -> str:
    where = f" on port {port}" if port is not None else ""
    return f"No server{where} runs that this user may look at."


def _json(servers: "list[Server]") -> str:
    found = [{"healthy": server.healthy, **dataclasses.asdict(server)} for server in servers]
    healthy = bool(found) and all(server["healthy"] for server in found)
    return json.dumps({"healthy": healthy, "servers": found})


def _text(servers: "list[Server]", width: int) -> str:
    from prefork_ads.cli.status_text import render  # noqa: PLC0415 - help stays fast

    return "\n\n".join("\n".join(render(server, width)) for server in servers)


def _size() -> tuple[int, int]:
    size = shutil.get_terminal_size((_PIPE_COLUMNS, 24))
    return size.columns, size.lines


def _now() -> str:
    return datetime.now(UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")
