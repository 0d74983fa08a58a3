"""The server, put together: the one place where all rooms meet.

In this order, so that each failure comes as early as it can and leaves nothing behind: the address
(which costs nothing to try), the database, its schema and partitions, then the master, which forks.
All modules are imported by then, so the children share their memory.

A database given by --dsn is tried once and a failure ends the start: whoever supervises us starts us
again, and a wrong host name is told at once instead of after a wait.

Must not know: how any of the parts works.
"""

import resource
import sys
from collections.abc import Callable
from contextlib import ExitStack

from prefork_ads import __version__
from prefork_ads.cli.database import name_of, refusals_told, say
from prefork_ads.cli.progress import Progress
from prefork_ads.config import Config
from prefork_ads.db import partitions, variants
from prefork_ads.db.embedded import EmbeddedPostgres
from prefork_ads.db.migrate import migrate
from prefork_ads.metrics import Counter, Gauge
from prefork_ads.process import listener, log
from prefork_ads.process.keeper import keeper_main
from prefork_ads.process.log import logger
from prefork_ads.process.master import Master
from prefork_ads.process.scoreboard import Scoreboard
from prefork_ads.process.services import Service
from prefork_ads.process.worker import worker_main

# A client on this machine reaches a server on every address by the loopback one.
_WILDCARDS = {"//0.0.0.0:": "//127.0.0.1:", "//[::]:": "//[::1]:"}


def serve(config: Config, load_config: Callable[[], Config], demo_variants: int) -> int:
    """Serve until told to stop; the exit status."""
    log.configure("master")
    database = name_of(config)
    logger.info("prefork-ads %s: %d workers, database %s", __version__, config.workers, database)
    _try_address(config)
    _allow_many_files()
    with ExitStack() as stack:
        services: list[Service] = []
        own_dsn: str | None = None
        if config.dsn is None:
            server = stack.enter_context(EmbeddedPostgres(config.data_dir, report=_report))
            services.append(Service("postgres", lambda: server.pid, server.start))
            own_dsn = server.dsn
        serving = _with_dsn(config, own_dsn)
        with refusals_told():
            example_id = _prepare(serving, demo_variants)
        master = Master(
            serving,
            worker_main=worker_main,
            keeper_main=keeper_main,
            load_config=lambda: _with_dsn(load_config(), own_dsn),
            scoreboard=Scoreboard(counters=len(Counter), gauges=len(Gauge), workers=config.workers),
            services=services,
            database=database,
            on_ready=lambda url: _show("\n".join(what_to_try(url, example_id))),
        )
        return master.run()


def what_to_try(url: str, example_id: str | None) -> list[str]:
    """Three commands that show what this server does."""
    curl, base = "curl", url
    if url.startswith("unix:"):
        curl, base = f"curl --unix-socket '{url.removeprefix('unix:')}'", "http://localhost"
    for every, loopback in _WILDCARDS.items():
        base = base.replace(every, loopback)
    lines = ["Try it:", f"  {curl} {base}/", f"  {curl} '{base}/log?hello=world'"]
    if example_id is not None:
        lines.append(f"  {curl} '{base}/ad?id={example_id}'")
    else:
        unknown = "00000000-0000-7000-8000-000000000000"
        lines.append(
            f"  {curl} -i '{base}/ad?id={unknown}'"
            "   # unknown: `prefork-ads variants generate 10k` makes some"
        )
    return lines


def _with_dsn(config: Config, own_dsn: str | None) -> Config:
    """Where the embedded server is ours, children are told how to reach it."""
    return config.replace(dsn=own_dsn) if config.dsn is None else config


def _try_address(config: Config) -> None:
    """Take the address and let it go: a port in use is told before a database has been started."""
    if config.unix_socket is not None:
        listener.open_unix(config.unix_socket, slots=1, backlog=1).close()
    else:
        listener.open_tcp(config.host, config.port, slots=1, backlog=1).close()


def _allow_many_files() -> None:
    """Each connection is a file; the soft limit is 1024 only for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        # A hard limit above fs.nr_open cannot be set even to itself; what we have must do.
        pass


def _prepare(config: Config, demo_variants: int) -> str | None:
    """Schema, partitions, demonstration rows; the id of an ad that there is, if there is one."""
    assert config.dsn is not None, "given, or that of the embedded server"
    migrate(config.dsn, report=_report, wait_s=0)
    prepared = partitions.prepare(config.dsn, config.log_table)
    if prepared.postponed:
        _report(f"--log-table {config.log_table} has to wait for a session that uses request_log")
    example = variants.sample(config.dsn, 1)
    if not example and demo_variants:
        with Progress(sys.stderr, "demo variants") as progress:
            variants.generate(config.dsn, demo_variants, progress=progress)
        example = variants.sample(config.dsn, 1)
    return example[0] if example else None


def _show(text: str) -> None:
    """To people. That nobody reads standard error any more is no reason to stop serving."""
    try:
        say(text)
    except OSError:
        pass


def _report(message: str) -> None:
    logger.info("%s", message)
