"""Takes one measurement: start, probe, warm up, load, stop, count.

A contender is started anew for each, so that none works off in one measurement what it put aside in the one
before, and is given the time to write what it holds, which is reported too: a short run says nothing about
one that answers faster than it can write.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchlib.checking import LogCount, Sent, load_failures, log_failures, size_failures
from benchlib.contenders import Contender
from benchlib.database import Database
from benchlib.environment import BenchEnvironment
from benchlib.errors import BenchError
from benchlib.plan import Case, Load, Step
from benchlib.probes import probe
from benchlib.servers import Server, free_port, running
from benchlib.wrk import LoadFiles, WrkResult, run


@dataclass(frozen=True, slots=True)
class Measurement:
    contender: str
    case: Case
    round: int
    result: WrkResult | None
    sent: Sent | None
    log: LogCount | None
    # From SIGTERM to the end: what it had answered and not yet written is in here.
    stop_s: float | None
    failures: tuple[str, ...]

    @property
    def requests_per_s(self) -> float | None:
        """None when it does not count."""
        return None if self.failures or self.result is None else self.result.requests_per_s

    def as_json(self) -> dict[str, Any]:
        document = asdict(self)
        document["requests_per_s"] = self.requests_per_s
        return document


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement of a run shares."""

    environment: BenchEnvironment
    database: Database
    files: LoadFiles
    load: Load
    # The ads that the probes ask for, by id.
    ads: Mapping[str, Mapping[str, object]]

    def measure(self, contender: Contender, step: Step) -> Measurement:
        try:
            return self._measure(contender, step)
        except BenchError as error:
            return Measurement(
                contender.name, step.case, step.round, None, None, None, None, (str(error),)
            )

    def _measure(self, contender: Contender, step: Step) -> Measurement:
        case = step.case
        if contender.log is not None:
            self.database.empty(contender.log)
        if contender.campaigns:
            self.database.catalogs.serve(contender.campaigns)
        port = free_port()
        command = contender.command(
            self.environment, port=port, dsn=self.database.dsn, workers=case.workers
        )
        with running(contender.name, command, port, self._log_path(step)) as server:
            result, sent, failures = self._load(contender, case, server)
            stop_s = server.stop()
        log = None
        if contender.log is not None:
            log = self.database.count(contender.log, case.workload, sent.latest_ms / 1e3)
            failures += log_failures(sent, log)
        if contender.campaigns:
            failures += self.database.catalogs.failures()
        if failures:
            failures.append(f"what it said is in {self._log_path(step)}")
        return Measurement(
            contender.name, case, step.round, result, sent, log, stop_s, tuple(failures)
        )

    def _load(
        self, contender: Contender, case: Case, server: Server
    ) -> tuple[WrkResult, Sent, list[str]]:
        asked = server.wait_until_ready(contender.ready_path)
        # Of the requests that asked whether it is up, one was answered; is it among those we count?
        logged = int(contender.ready_path.startswith(f"/{case.workload}"))
        chooses = contender.campaigns > 0
        probed = probe(server.port, case.workload, self.ads, contender.asks if chooses else ())
        failures = list(probed.wrong)
        answered, latest_ms = 0, 0.0
        for letter, duration_s in (("w", self.load.warm_up_s), ("m", self.load.duration_s)):
            result = run(
                server.port,
                case.workload,
                contender.asks,
                self.files,
                letter=letter,
                threads=self.load.threads,
                connections=case.connections,
                duration_s=duration_s,
            )
            answered += result.requests
            latest_ms = max(latest_ms, result.latency_ms["max"])
            failures += load_failures(result)
        if not chooses:
            # Of ads that are chosen no two are of a size; the log says whether there were any.
            failures += size_failures(result, probed.bytes_per_answer)
        sent = Sent(
            answered=answered,
            probes=probed.asked + logged,
            in_flight=2 * case.connections + logged * (asked - 1),
            latest_ms=latest_ms,
        )
        return result, sent, failures

    def _log_path(self, step: Step) -> Path:
        """One file for each measurement: when one fails, what its contender said is still there."""
        case = step.case
        name = f"{step.contender}-{case.workload}-{case.workers}w-{case.connections}c-{step.round}"
        return self.environment.directory / "logs" / f"{name}.log"
