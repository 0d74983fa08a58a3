"""The programs that are measured: how each is started, and where its log can be counted.

A contender that cannot run here (no Go compiler, say) is left out by name with the reason, never silently.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchlib.catalogs import ASKS
from benchlib.environment import BenchEnvironment
from benchlib.plan import Capability, Workload
from benchlib.servers import HOST

OURS = "prefork-ads"
WITHOUT_JOURNAL = "no-journal"
CEILING = "ceiling"
ZONE = "zone"
ZONE_OF_FEW = "zone-of-few"
MANY_CAMPAIGNS = 10_000
FEW_CAMPAIGNS = 100
BOTH = frozenset(Workload)

# A row is complete when everything the request carried is in it.
COMPLETE_COLUMNS = """
    time IS NOT NULL AND params ->> 'id' IS NOT NULL AND user_agent IS NOT NULL AND referer IS NOT NULL
    AND address IS NOT NULL AND language IS NOT NULL
"""
COMPLETE_JSON = """
    data ->> 'time' IS NOT NULL AND data -> 'params' ->> 'id' IS NOT NULL
    AND data ->> 'user_agent' IS NOT NULL AND data ->> 'referer' IS NOT NULL
    AND data ->> 'address' IS NOT NULL AND data ->> 'language' IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class LogTable:
    """Where a contender's log is, and how to read it."""

    name: str
    time: str = "time"
    endpoint: str = "endpoint"
    id: str = "id"
    params: str = "params"
    complete: str = COMPLETE_COLUMNS
    # The endpoint as it is logged, where it is not called as in the URL.
    called: str = ""


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    title: str
    # What comes before --host --port --dsn --workers.
    program: Callable[[BenchEnvironment], list[str]]
    log: LogTable | None
    workloads: frozenset[Workload] = BOTH
    most_workers: int | None = None
    # Asked until it answers 2xx; the peers have no health check, and the request they log is counted.
    ready_path: str = "/log?id=ready"
    # What stands before the id in a request's query; of several each request has one.
    asks: tuple[str, ...] = ("id=",)
    # How many campaigns there are to choose from, for who chooses.
    campaigns: int = 0

    @property
    def capability(self) -> Capability:
        return Capability(self.name, self.workloads, self.most_workers)

    def command(
        self, environment: BenchEnvironment, *, port: int, dsn: str, workers: int
    ) -> list[str]:
        return [
            *self.program(environment),
            *("--host", HOST, "--port", str(port), "--dsn", dsn, "--workers", str(workers)),
        ]


def _python_peer(file: str, *arguments: str) -> Callable[[BenchEnvironment], list[str]]:
    return lambda environment: [
        str(environment.python),
        str(environment.peers / file),
        *arguments,
    ]


def _ours(*arguments: str) -> Callable[[BenchEnvironment], list[str]]:
    # Nothing of a run is left outside .bench/.
    return lambda environment: [
        str(environment.prefork_ads),
        *("--data-dir", str(environment.directory / "data")),
        *arguments,
    ]


def _zone(name: str, campaigns: int) -> Contender:
    """The same program, choosing an ad for a zone and a person that PostgreSQL is asked for."""
    return Contender(
        name,
        f"prefork-ads, {campaigns:,} campaigns",
        _ours(),
        LogTable(
            "request_log",
            params="params -> 'request'",
            complete=COMPLETE_COLUMNS.replace("params ->> 'id'", "params #>> '{request,uid}'"),
            called="decision",
        ),
        workloads=frozenset({Workload.AD}),
        ready_path="/readyz",
        asks=ASKS,
        campaigns=campaigns,
    )


def _go(environment: BenchEnvironment) -> list[str]:
    return [str(environment.go_binary)]


ALL = (
    Contender(OURS, "prefork-ads", _ours(), LogTable("request_log"), ready_path="/readyz"),
    _zone(ZONE, MANY_CAMPAIGNS),
    _zone(ZONE_OF_FEW, FEW_CAMPAIGNS),
    # What the promise that nothing is lost costs: the same program without it.
    Contender(
        WITHOUT_JOURNAL,
        "prefork-ads, no journal",
        _ours("--journal", "off"),
        LogTable("request_log"),
        workloads=frozenset({Workload.LOG}),
        ready_path="/readyz",
    ),
    Contender(
        "original",
        "the original's design",
        _python_peer("original.py"),
        LogTable(
            "bench_original_log",
            time="(data ->> 'time')::timestamptz",
            endpoint="data ->> 'endpoint'",
            id="data ->> 'id'",
            params="data -> 'params'",
            complete=COMPLETE_JSON,
        ),
        most_workers=1,
    ),
    Contender(
        "fastapi",
        "FastAPI + asyncpg, uvicorn",
        _python_peer("fastapi_app.py"),
        LogTable("bench_fastapi_log"),
    ),
    Contender(
        "asgi-uvicorn",
        "raw ASGI + asyncpg, uvicorn",
        _python_peer("asgi_app.py", "--server", "uvicorn"),
        LogTable("bench_asgi_uvicorn_log"),
    ),
    Contender(
        "asgi-granian",
        "raw ASGI + asyncpg, granian",
        _python_peer("asgi_app.py", "--server", "granian"),
        LogTable("bench_asgi_granian_log"),
    ),
    Contender("go", "Go fasthttp + pgx", _go, LogTable("bench_go_log")),
    Contender(
        CEILING,
        "ceiling: no database",
        _python_peer("ceiling.py"),
        None,
        workloads=frozenset({Workload.LOG}),
    ),
)
BY_NAME = {contender.name: contender for contender in ALL}


def with_campaigns(contender: Contender, campaigns: int) -> Contender:
    """The same with so many campaigns, if it is the one that has many."""
    return _zone(ZONE, campaigns) if contender.name == ZONE else contender


def unavailable(contender: Contender, environment: BenchEnvironment) -> str | None:
    """Why it cannot run here, or None."""
    if (
        contender.name in (OURS, ZONE, ZONE_OF_FEW, WITHOUT_JOURNAL)
        and not Path(environment.prefork_ads).exists()
    ):
        return f"{environment.prefork_ads} is missing; run scripts/setup"
    if contender.name == "go":
        return environment.build_go()
    return None
