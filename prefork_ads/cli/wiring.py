"""The server, put together: the one place where all rooms meet.

In this order, so that each failure comes as early as it can and leaves nothing behind: the address
(which costs nothing to try), the database, its schema and partitions, then the master, which forks.
All modules are imported by then, so the children share their memory.

A database given by --dsn is tried once and a failure ends the start: whoever supervises us starts us
again, and a wrong host name is told at once instead of after a wait. Unless there is a snapshot of its
catalog: then we serve from that, and the keeper sees to schema and partitions when PostgreSQL is there.

Must not know: how any of the parts works.
"""

import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial

from prefork_ads import __version__
from prefork_ads.ads import clients
from prefork_ads.cli.database import name_of, refusals_told
from prefork_ads.cli.progress import Progress
from prefork_ads.config import Config
from prefork_ads.db import partitions, session, variants, zones
from prefork_ads.db.migrate import migrate
from prefork_ads.errors import DatabaseUnavailable, DataDirError
from prefork_ads.events.segments import prepare_directory
from prefork_ads.metrics import CELLS, Gauge, layout
from prefork_ads.options import OPTIONS
from prefork_ads.process import activation, affinity, listener, log, streams
from prefork_ads.process.keeper import keeper_main
from prefork_ads.process.log import logger
from prefork_ads.process.log_sink import LogSink
from prefork_ads.process.master import Master
from prefork_ads.process.postgres import PostgresOwner
from prefork_ads.process.scoreboard import Scoreboard
from prefork_ads.process.services import Service
from prefork_ads.process.shelf import Shelf
from prefork_ads.process.upgrade import Predecessor
from prefork_ads.process.worker import worker_main

# A client on this machine reaches a server on every address by the loopback one.
_WILDCARDS = {"//0.0.0.0:": "//127.0.0.1:", "//[::]:": "//[::1]:"}


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What is made where there is nothing yet."""

    variants: int = 0
    catalog: bool = False


@dataclass(frozen=True, slots=True)
class Examples:
    """What there is to try. None: nothing of the kind."""

    variant: str | None = None
    zone: str | None = None
    has_demo: bool = False
    """The zones of /demo are there."""


def serve(config: Config, load_config: Callable[[], Config], demonstration: Demonstration) -> int:
    """Serve until told to stop; the exit status."""
    streams.take_places()
    log.open_log(config.log_format, config.log_file)
    log.configure("master")
    database = name_of(config)
    logger.info("prefork-ads %s: %d workers, database %s", __version__, config.workers, database)
    affinity.check(config.cpu_affinity)
    predecessor = Predecessor.from_environment(os.environ, os.getpid())
    sockets = activation.take_sockets(os.environ, os.getpid())
    _look_at_address(config, predecessor, sockets)
    _allow_many_files()
    with ExitStack() as stack:
        services: list[Service] = []
        own_dsn: str | None = None
        if config.dsn is None:
            owner = _postgres(config, predecessor)
            stack.callback(owner.stop)
            services.append(Service("postgres", lambda: owner.pid, owner.start, owner))
            own_dsn = owner.dsn
        elif predecessor is not None and "postgres" in predecessor.services:
            # The old master has one and this one needs none: it ends with the old one.
            PostgresOwner.inherited(predecessor.services["postgres"]).let_go()
        _prepare_journal(config)
        serving = _with_dsn(config, own_dsn)
        with refusals_told():
            prepared, examples = _prepare_or_do_without(serving, demonstration)
        slots = max(config.workers, len(predecessor.by_slot) if predecessor else 0)
        scoreboard = Scoreboard(counters=CELLS, gauges=len(Gauge), workers=slots)
        scoreboard.describe(
            {
                "version": __version__,
                "database": database,
                "data_dir": str(config.data_dir),
                "master_pid": os.getpid(),
                **layout(),
            }
        )

        def on_ready(url: str) -> None:
            # After an upgrade nobody has to be told how to try it.
            if predecessor is None:
                _show("\n".join(what_to_try(url, examples)))

        # What takes a moment to make and never changes is made once, and shared by all workers.
        clients.prepare()
        master = Master(
            serving,
            worker_main=worker_main,
            keeper_main=partial(keeper_main, migrates=not prepared),
            load_config=lambda: _with_dsn(load_config(), own_dsn),
            scoreboard=scoreboard,
            services=services,
            database=database,
            on_ready=on_ready,
            sockets=sockets,
            predecessor=predecessor,
        )
        return master.run()


def what_to_try(url: str, examples: Examples) -> list[str]:
    """Commands that show what this server does, and where to look."""
    curl, base = "curl", url
    if url.startswith("unix:"):
        curl, base = f"curl --unix-socket '{url.removeprefix('unix:')}'", "http://localhost"
    for every, loopback in _WILDCARDS.items():
        base = base.replace(every, loopback)
    lines = ["Try it:", f"  {curl} {base}/", f"  {curl} '{base}/log?hello=world'"]
    if examples.variant is not None:
        lines.append(f"  {curl} '{base}/ad?id={examples.variant}'")
    else:
        unknown = "00000000-0000-7000-8000-000000000000"
        lines.append(
            f"  {curl} -i '{base}/ad?id={unknown}'"
            "   # unknown: `prefork-ads variants generate 10k` makes some"
        )
    if examples.zone is not None:
        # To the list of programs curl is one, and programs get house ads alone.
        lines.append(f"  {curl} -A Mozilla '{base}/ad?zone={examples.zone}'")
    else:
        lines.append(
            f"  {curl} -i '{base}/ad?zone=home-top'"
            "   # unknown: `prefork-ads demo load` makes a catalog"
        )
    if examples.has_demo and curl == "curl":
        lines.append(f"In a browser: {base}/demo")
    return lines


def _with_dsn(config: Config, own_dsn: str | None) -> Config:
    """Where the embedded server is ours, children are told how to reach it."""
    return config.replace(dsn=own_dsn) if config.dsn is None else config


def _look_at_address(
    config: Config, predecessor: Predecessor | None, sockets: Sequence[socket.socket]
) -> None:
    """Find out that we shall be able to listen, and say where if it is not as configured."""
    if predecessor is not None:
        for name in ("host", "port", "unix_socket"):
            if predecessor.settings.get(name) != str(getattr(config, name)):
                _changed(OPTIONS[name].flag)
    elif sockets:
        told = ", ".join(dict.fromkeys(map(listener.shown, sockets)))
        logger.info("sockets of the service manager instead of --host and --port: %s", told)
    else:
        _try_address(config)


def _changed(flag: str) -> None:
    logger.warning("upgrade: %s has changed, which takes a restart; it stays as it was", flag)


def _postgres(config: Config, predecessor: Predecessor | None) -> PostgresOwner:
    """Whoever owns the embedded PostgreSQL: that of the old master, or a new one."""
    if predecessor is not None and "postgres" in predecessor.services:
        owner = PostgresOwner.inherited(predecessor.services["postgres"])
        if owner.data_dir != config.data_dir.absolute():
            _changed(OPTIONS["data_dir"].flag)
        return owner
    owner = PostgresOwner(config.data_dir)
    owner.start()
    return owner


def _try_address(config: Config) -> None:
    """Take the address and let it go: a port in use is told before a database has been started."""
    if config.unix_socket is not None:
        listener.open_unix(config.unix_socket, slots=1, backlog=0).close()
    else:
        listener.open_tcp(config.host, config.port, slots=1, backlog=0).close()


def _allow_many_files() -> None:
    """Each connection is a file; the soft limit is 1024 only for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        # A hard limit above fs.nr_open cannot be set even to itself; what we have must do.
        pass


def _prepare_journal(config: Config) -> None:
    """Each worker will need it; told here, and once. Behind the embedded server, which makes its parent."""
    if config.journal == "off":
        return
    try:
        prepare_directory(config.journal_path)
    except OSError as error:
        raise DataDirError(
            f"The journal cannot be kept in {config.journal_path}: {error.strerror}. Name a directory on"
            " a local disk with --journal-dir, or do without by --journal off."
        ) from error


def _prepare_or_do_without(config: Config, demonstration: Demonstration) -> tuple[bool, Examples]:
    """Whether the database is prepared, and what there is to try."""
    try:
        return True, _prepare(config, demonstration)
    except DatabaseUnavailable as error:
        if not session.may_come(error):
            raise
        snapshot = Shelf(config.data_dir, logger.warning).read()
        if snapshot is None:
            raise
        changed = float(snapshot.mark or 0)
        logger.warning(
            "%s Serving without it: zones from version %d of the catalog, changed last at %s. Events wait"
            " in the journal, and /ad?id= is answered as --ad-fallback says. Schema and partitions are"
            " seen to when it can be reached.",
            error,
            snapshot.version,
            time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(changed)),
        )
        return False, Examples()


def _prepare(config: Config, demonstration: Demonstration) -> Examples:
    """Schema, partitions, what is to be shown; and what there is to try."""
    assert config.dsn is not None, "given, or that of the embedded server"
    migrate(config.dsn, report=_report, wait_s=0)
    prepared = partitions.prepare(config.dsn, config.log_table)
    if prepared.postponed:
        _report(f"--log-table {config.log_table} has to wait for a session that uses request_log")
    example = variants.sample(config.dsn, 1)
    if not example and demonstration.variants:
        with Progress(sys.stderr, "demo variants") as progress:
            variants.generate(config.dsn, demonstration.variants, progress=progress)
        example = variants.sample(config.dsn, 1)
    if demonstration.catalog:
        _load_demo_catalog(config.dsn)
    zone, has_demo = zones.example(config.dsn)
    return Examples(example[0] if example else None, zone, has_demo)


def _load_demo_catalog(dsn: str) -> None:
    """Into a catalog that nobody has ever changed."""
    from prefork_ads.cli.demo import load_into_empty  # noqa: PLC0415 - mostly there is nothing to load

    if told := load_into_empty(dsn):
        _report(told)


def _show(text: str) -> None:
    """To people, also with a log file. No more is it waited for than a line of the log: we serve by now."""
    with suppress(OSError), closing(LogSink()) as sink:
        sink.add(f"{text}\n".encode(errors="backslashreplace"))


def _report(message: str) -> None:
    logger.info("%s", message)
