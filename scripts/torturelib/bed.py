"""The test bed: PostgreSQL, the network to it, the server, the clients, and what is done to them.

It opens everything in this order and closes it in the reverse one, whatever happens. The end of a good run
is in order: the clients stop and are answered, the server is told to stop and has to leave nothing behind,
and then the tables are looked at.

Must not know: which faults are to come, what makes a run good.
"""

import json
import secrets
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg2

from torturelib import processes
from torturelib.clients import ClientSettings
from torturelib.comparing import ROLLUP_IS_RAW, Comparison, compare, files_left
from torturelib.errors import NotRecovered, TortureError, Unsupported
from torturelib.faults import Fault, Parts
from torturelib.kinds import BY_NAME
from torturelib.load import Load
from torturelib.network import Network
from torturelib.postgres import Postgres
from torturelib.program import Program
from torturelib.schedule import Step
from torturelib.truth import Header, Truth
from torturelib.verdict import Window
from torturelib.waiting import Waiter

COMPLETE_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class BedSettings:
    folder: Path
    seed: int
    workers: int
    clients: int
    rate_per_s: float
    worker_timeout_s: float
    server_options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has shown, once everything has stopped."""

    comparison: Comparison
    files_left: list[str]
    trouble: list[str]
    """With the last stop."""


class Bed:
    def __init__(self, settings: BedSettings, waiter: Waiter) -> None:
        self._settings = settings
        self._waiter = waiter
        self.folder = settings.folder
        self.windows: list[Window] = []
        self.unsupported: dict[str, str] = {}
        self._prepared: list[type[Fault]] = []
        self._parts: Parts
        self._load: Load
        self._began_s = 0.0

    # Opening and closing.

    def open(self, kinds: Sequence[str]) -> None:
        settings, waiter = self._settings, self._waiter
        processes.adopt_orphans()
        self.folder.mkdir(parents=True, exist_ok=True)
        # PostgreSQL runs as another user when we are root, and has to get through here.
        self.folder.chmod(0o711)
        self._postgres = Postgres(self.folder, waiter)
        self._network = Network(self.folder)
        self._postgres.start()
        ads = self.folder / "ads.txt"
        self._postgres.prepare(ads)
        self._network.start(self._postgres.socket_path)
        self._program = Program(
            self.folder,
            waiter,
            port=_free_port(),
            dsn=self._postgres.dsn_through(self._network.port),
            workers=settings.workers,
            options=(
                *("--worker-timeout-s", f"{settings.worker_timeout_s:g}"),
                *settings.server_options,
            ),
        )
        self._parts = Parts(self.folder, self._program, self._postgres, self._network, waiter)
        self._prepare(kinds)
        self._program.start()
        self._began_s = time.monotonic()
        header = Header(
            run=secrets.token_hex(6),
            seed=settings.seed,
            began_s=self._began_s,
            began_at=datetime.now(UTC).isoformat(),
        )
        self.truth_path = self.folder / "truth.jsonl"
        client_settings = ClientSettings(
            port=self._program.port,
            clients=settings.clients,
            rate_per_s=settings.rate_per_s,
            header=header,
            truth=str(self.truth_path),
            pulse=str(self.folder / "pulse.jsonl"),
            ads=str(ads),
        )
        self._load = Load(self.folder, client_settings)
        self._load.start()
        self._settle()

    def _prepare(self, kinds: Sequence[str]) -> None:
        for name in kinds:
            try:
                BY_NAME[name].prepare(self._parts)
            except Unsupported as reason:
                self.unsupported[name] = str(reason)
            else:
                self._prepared.append(BY_NAME[name])

    def close(self) -> None:
        """Nothing runs after this; in any state, in any order, as often as one likes."""
        if hasattr(self, "_load"):
            self._load.kill()
        if hasattr(self, "_program"):
            self._program.kill_all()
        if hasattr(self, "_postgres"):
            self._network.stop()
            self._postgres.stop()
        for kind in self._prepared:
            kind.clean_up(self._parts)
        self._prepared.clear()

    # During the run.

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    @property
    def counts(self) -> str:
        answered, failed = self._load.answered.total(), self._load.failed.total()
        return f"{answered:,} answered, {failed:,} not"

    def take(self, step: Step) -> str:
        """Do one step; what was done, in words. Unsupported kinds are noted and passed over."""
        self._waiter.pause(step.pause_s)
        self._load.look()
        self._program.look()
        outer = self._fault(step.kind, step.pick)
        inner = self._fault(step.inner, step.inner_pick) if step.inner else None
        if outer is None:
            return "not done"
        from_s = self.elapsed_s
        happened = True
        try:
            self._do(outer, inner, step)
            self._settle()
            self._check_rollup(step)
        except Unsupported as reason:
            self.unsupported[step.kind] = str(reason)
            happened = False
            return f"not done: {reason}"
        except (NotRecovered, psycopg2.Error) as error:
            sentence = f"step {step.number}, {step}: {str(error).strip()}"
            raise TortureError(self._program.failure(f"did not recover: {sentence}")) from error
        finally:
            if happened:
                kinds = tuple(fault.name for fault in (outer, inner) if fault is not None)
                self.windows.append(Window(step.number, kinds, from_s, self.elapsed_s))
                self._note(step, self.windows[-1], (outer, inner))
        return "; ".join(fault.did for fault in (outer, inner) if fault is not None and fault.did)

    def _do(self, outer: Fault, inner: Fault | None, step: Step) -> None:
        """The inner one ends after the outer: some of them need PostgreSQL for that."""
        outer.begin()
        try:
            self._waiter.pause(step.inner_after_s if inner else step.hold_s)
            if inner is not None:
                inner.begin()
                self._waiter.pause(step.hold_s - step.inner_after_s)
        finally:
            outer.end()
        if inner is not None:
            inner.end()

    def _settle(self) -> None:
        """Until the server is whole again and nothing has failed for a while."""
        self._program.wait_until_complete(COMPLETE_LIMIT_S)
        since_s = time.monotonic()
        self._waiter.until(
            lambda: self._load.all_is_well(since_s),
            "half a second in which all requests are answered",
            COMPLETE_LIMIT_S,
        )

    def _check_rollup(self, step: Step) -> None:
        """While clients go on and workers ship: the sums are those of the rows at every moment."""
        [(is_raw,)] = self._postgres.execute(ROLLUP_IS_RAW)
        if not is_raw:
            raise TortureError(f"step {step.number}, {step}: the rollup differs from the raw rows")

    def _fault(self, name: str, pick: float) -> Fault | None:
        return None if name in self.unsupported else BY_NAME[name](self._parts, pick)

    def _note(self, step: Step, window: Window, faults: Sequence[Fault | None]) -> None:
        did = [fault.did for fault in faults if fault is not None]
        times = {"from_s": round(window.from_s, 3), "to_s": round(window.to_s, 3)}
        with (self.folder / "schedule.jsonl").open("a", encoding="utf-8") as schedule:
            schedule.write(json.dumps({**step.as_dict(), **times, "did": did}) + "\n")

    # The end.

    def finish(self) -> Outcome:
        """Stop all in order, and compare."""
        self._load.stop()
        status, trouble = 0, []
        try:
            status = self._stop_program()
        except NotRecovered as error:
            trouble.append(str(error))
        leftovers = self._program.leftovers()
        self._program.kill_all()
        # What is counted does not go through the network.
        comparison = compare(self._postgres.dsn, Truth(self.truth_path))
        if status:
            trouble.append(f"the last stop ended with status {status}")
        if leftovers:
            trouble.append(f"processes were left after the stop: {', '.join(leftovers)}")
        return Outcome(comparison, files_left(self._program.data_dir), trouble)

    def log_lines(self) -> list[str]:
        return self._program.said(0).splitlines()

    def _stop_program(self) -> int:
        self._network.open()
        self._postgres.start()
        if self._program.master is None:
            # A run that was given up may have left it dead. What its workers had is shipped by the next.
            self._program.start()
        self._program.signal_master(signal.SIGTERM)
        return self._program.wait_for_end()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
