"""The checks of `prefork-ads check`: what would fail, what is doubtful, and the way out of each.

Each check is a function that takes the settings and yields findings. A finding that says FAIL has
the exit status in which serving would end.

Must not know: how findings are shown.
"""

import difflib
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefork_ads.cli.database import database
from prefork_ads.config import Config, Source
from prefork_ads.db import embedded, migrate
from prefork_ads.db.probe import Probe, probe
from prefork_ads.db.session import describe
from prefork_ads.dsn import redact_dsn
from prefork_ads.errors import DatabaseUnavailable, DataDirError, PreforkAdsError, SchemaError
from prefork_ads.options import ENV_PREFIX, OPTIONS
from prefork_ads.process import affinity, listener

# Descriptors of a worker besides connections: listener, database, epoll, log, libraries in use.
_OTHER_DESCRIPTORS = 64
_DEFAULTS = Config()

# The keeper's connection, and one for whoever wants to look in with psql.
_OTHER_DATABASE_CONNECTIONS = 2

_SOMAXCONN = Path("/proc/sys/net/core/somaxconn")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")

_OF_KUBERNETES = re.compile(ENV_PREFIX + "(SERVICE|PORT)_")

Sources = Mapping[str, Source]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    level: Literal["ok", "warn", "FAIL"]
    message: str
    exit_code: int = 0


def ok(check: str, message: str) -> Finding:
    return Finding(check, "ok", message)


def warn(check: str, message: str) -> Finding:
    return Finding(check, "warn", message)


def fail(check: str, error: PreforkAdsError) -> Finding:
    return Finding(check, "FAIL", str(error), error.exit_code)


def run_all(config: Config, sources: Sources) -> Iterator[Finding]:
    """Every check, one after the other; one that fails does not keep the next from running."""
    checks: tuple[tuple[str, Callable[[Config, Sources], Iterator[Finding]]], ...] = (
        ("database", check_database),
        ("reader", check_reader),
        ("journal", check_journal),
        ("address", check_address),
        ("processes", check_processes),
        ("descriptors", check_descriptors),
        ("settings", check_settings),
    )
    for name, check in checks:
        try:
            yield from check(config, sources)
        except PreforkAdsError as error:
            yield fail(name, error)


def check_database(config: Config, sources: Sources) -> Iterator[Finding]:
    """The database of --dsn, or what the embedded one needs; then schema, rights and room in it."""
    if config.dsn is None:
        yield from _embedded(config)
        if not (config.data_dir / "postgres" / "PG_VERSION").exists():
            return  # looking must not create a database
    elif sources["dsn"].kind == "flag" and redact_dsn(config.dsn) != config.dsn:
        yield warn(
            "database",
            "The password in --dsn can be read in ps by everybody on this machine: give it by"
            " PREFORK_ADS_DSN, by the file, or in ~/.pgpass.",
        )
    with database(config) as dsn:
        found = probe(dsn)
        yield ok("database", f"PostgreSQL {found.server} at {describe(dsn)} as {found.role}.")
        yield from _schema(dsn, found)
        yield from _rights(found)
        yield from _connections(config, found)


def _embedded(config: Config) -> Iterator[Finding]:
    binaries = embedded.find_package()
    data_dir = config.data_dir
    if (data_dir / "postgres" / "PG_VERSION").exists():
        yield ok("data dir", f"The embedded PostgreSQL of {binaries} has its data in {data_dir}.")
        return
    parent = next(folder for folder in (data_dir, *data_dir.parents) if folder.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise DataDirError(
            f"{data_dir} cannot be created: {parent} is not writable for this user."
            " Choose another --data-dir."
        )
    free = shutil.disk_usage(parent).free
    if free < embedded.INITDB_NEEDS_BYTES:
        raise DataDirError(
            f"{parent} has {free >> 20} MB free and a new database needs"
            f" {embedded.INITDB_NEEDS_BYTES >> 20} MB. Make room, or choose another --data-dir."
        )
    yield ok("data dir", f"A start will create a database in {data_dir}.")


def _schema(dsn: str, found: Probe) -> Iterator[Finding]:
    state = migrate.refuse_conflicts(migrate.status(dsn))
    if state.current:
        yield ok("schema", f"Up to date: {len(state.applied)} migrations are applied.")
    elif not found.may_create or found.standby:
        raise SchemaError(
            f"Lacks {', '.join(state.pending)}, and {found.role} may not create tables there. Run"
            " `prefork-ads migrate --dsn …` as the role that owns the schema."
        )
    else:
        yield ok("schema", f"A start will apply {', '.join(state.pending)}.")


def _rights(found: Probe) -> Iterator[Finding]:
    if found.standby:
        raise DatabaseUnavailable(
            "The database is a standby, and requests are logged to the primary: give the primary as"
            " --dsn and the standby as --reader-dsn."
        )
    if found.missing_rights:
        raise SchemaError(
            f"The role {found.role} lacks {', '.join(found.missing_rights)}. Grant it;"
            " docs/database.md shows how."
        )
    yield ok("rights", f"{found.role} may look up ads and log requests.")


def _connections(config: Config, found: Probe) -> Iterator[Finding]:
    # A worker has a writer and a steward, and readers for ads by id and as many for people.
    readers = 0 if config.reader_dsn is not None else 2 * config.readers
    a_worker = readers + 2
    wanted = config.workers * a_worker + _OTHER_DATABASE_CONNECTIONS
    free = found.max_connections - found.used_connections
    said = f"{config.workers} workers use {wanted} connections and {free} are free"
    if wanted > free:
        raise DatabaseUnavailable(
            f"{said}. Raise max_connections of PostgreSQL, or lower --workers or --readers."
        )
    if wanted + a_worker > free:
        yield warn("connections", f"{said}: none is left for a worker that a reload starts.")
    else:
        yield ok("connections", f"{said}.")


def check_reader(config: Config, _: Sources) -> Iterator[Finding]:
    """The database of --reader-dsn, when it is another one."""
    if config.reader_dsn is None:
        return
    found = probe(config.reader_dsn, writes=False)
    if not found.may_read_variants:
        lacks = "no table ad_variant" if found.may_read_variants is None else "no SELECT on it"
        raise SchemaError(
            f"{describe(config.reader_dsn)} has {lacks} for {found.role}: ads cannot be looked up."
            " Give a replica of --dsn, or grant SELECT on ad_variant."
        )
    kind = "standby" if found.standby else "PostgreSQL"
    yield ok("reader", f"{kind} {found.server} at {describe(config.reader_dsn)} as {found.role}.")


def check_journal(config: Config, _: Sources) -> Iterator[Finding]:
    """A directory that takes files; looking must not create it."""
    if config.journal == "off":
        yield warn("journal", "--journal off: events are lost with the worker that answered them.")
        return
    folder = config.journal_path
    parent = next(one for one in (folder, *folder.parents) if one.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise DataDirError(
            f"The journal cannot be kept in {folder}: {parent} is not a directory that this user may"
            " write to. Choose another --journal-dir."
        )
    free = shutil.disk_usage(parent).free
    if free < config.journal_max_bytes:
        yield warn(
            "journal",
            f"{folder} has {free >> 20:,} MiB left, less than --journal-max-bytes"
            f" ({OPTIONS['journal_max_bytes'].show(config.journal_max_bytes)}): the disk would be full"
            " first.",
        )
    else:
        yield ok("journal", f"Events wait in {folder}; {free >> 20:,} MiB are free there.")


def check_address(config: Config, _: Sources) -> Iterator[Finding]:
    """Takes it for a moment: the only way to know, without a gap between asking and knowing."""
    if config.unix_socket is not None:
        opened = listener.open_unix(config.unix_socket, slots=1, backlog=0)
    else:
        opened = listener.open_tcp(config.host, config.port, slots=1, backlog=0)
    url = opened.url
    opened.close()
    yield ok("address", "A free port will be taken." if config.port == 0 else f"{url} is free.")
    limit = int(_SOMAXCONN.read_text()) if _SOMAXCONN.exists() else config.backlog
    if limit < config.backlog:
        yield warn(
            "backlog",
            f"--backlog is {config.backlog}, and the kernel cuts it to {limit}:"
            f" sysctl net.core.somaxconn={config.backlog}",
        )


def check_processes(config: Config, _: Sources) -> Iterator[Finding]:
    """Whether the workers have cores to run on."""
    affinity.check(config.cpu_affinity)
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota(_CPU_QUOTA)
    said = f"{config.workers} workers on {cores} cores"
    if config.workers > cores:
        yield warn("processes", f"{said}: more take turns and serve no more. Lower --workers.")
    elif quota is not None and config.workers > quota:
        yield warn(
            "processes",
            f"{said}, of which this container may use {quota:g} at a time. Set --workers to"
            f" {max(1, round(quota))}.",
        )
    else:
        yield ok("processes", f"{said}.")


def cpu_quota(path: Path) -> float | None:
    """The cores' worth of time that a control group allows, as containers have it; None: all."""
    try:
        quota, period = path.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def check_descriptors(config: Config, _: Sources) -> Iterator[Finding]:
    """Each connection is a file descriptor, and so are a few other things."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = config.max_connections + _OTHER_DESCRIPTORS
    if resource.RLIM_INFINITY in (soft, hard) or wanted <= hard:
        yield ok("descriptors", f"{hard} files may be open, {wanted} are wanted.")
    else:
        yield warn(
            "descriptors",
            f"{hard} files may be open and {wanted} are wanted: connections past that are refused."
            " Raise LimitNOFILE= or `ulimit -n`, or lower --max-connections.",
        )


def check_settings(config: Config, _: Sources) -> Iterator[Finding]:
    """Settings that are allowed and probably not meant."""
    known = {name: name for option in OPTIONS.values() for name in option.env}
    # PREFORK_ADS_DATABASE_URL means DATABASE_URL.
    meant = {ENV_PREFIX + name.removeprefix(ENV_PREFIX): name for name in known} | known
    for name in sorted(os.environ):
        # Kubernetes adds variables of its own where a Service is called prefork-ads.
        if name.startswith(ENV_PREFIX) and name not in known and not _OF_KUBERNETES.match(name):
            near = difflib.get_close_matches(name, meant, n=1, cutoff=0)
            yield warn("settings", f"{name} is no setting; did you mean {meant[near[0]]}?")
    if config.log_table == "unlogged":
        yield warn("settings", "--log-table unlogged: a crash of PostgreSQL empties request_log.")
    for smaller, larger in (
        ("read_batch", "read_queue"),
        ("write_batch", "write_queue"),
        ("journal_segment_bytes", "journal_max_bytes"),
        ("max_url", "max_head"),
    ):
        low, high = getattr(config, smaller), getattr(config, larger)
        # What nobody has set is a limit, and no wish.
        if low > high and low != getattr(_DEFAULTS, smaller):
            yield warn(
                "settings",
                f"{OPTIONS[smaller].flag} is {OPTIONS[smaller].show(low)}, which"
                f" {OPTIONS[larger].flag}, {OPTIONS[larger].show(high)}, never lets happen.",
            )
