"""The table of options: one entry for each field of `Config`, from which everything else follows.

The command line and its help, the reading of the environment and of the TOML file, what
`prefork-ads check` prints and the table in docs/configuration.md are all made from it. A new option
is a field of `Config` with its default and one entry here.

Must not know: any other module but `errors`, `values` and `dsn`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prefork_ads.dsn import DSN
from prefork_ads.errors import ConfigError
from prefork_ads.values import (
    CORES,
    COUNT,
    DIRECTORY,
    DURATION,
    NETWORKS,
    PATH,
    SHARE,
    SIZE,
    TEXT,
    WEB_ADDRESS,
    Kind,
    one_of,
)

ENV_PREFIX = "PREFORK_ADS_"


@dataclass(frozen=True, slots=True)
class Option:
    """Everything about one field of `Config` but its value."""

    field: str
    kind: Kind
    allowed: tuple[float, float] | None
    """Smallest and largest value, where the kind has an order."""
    help: str
    also_env: tuple[str, ...] = ()
    """Variables that platforms set; the PREFORK_ADS_ one wins over them."""
    default_text: str | None = None
    """What to call the default where it is None or depends on the machine."""
    secret: bool = False
    """May hold a password: never shown as it is, not even in an error message."""
    on_reload: bool = True
    """A reload (SIGHUP) takes a new value; False: only a restart does."""
    in_file: bool = True

    @property
    def flag(self) -> str:
        return "--" + self.key

    @property
    def key(self) -> str:
        """The key in the TOML file: the flag without its dashes in front."""
        return self.field.replace("_", "-")

    @property
    def env(self) -> tuple[str, ...]:
        return (ENV_PREFIX + self.field.upper(), *self.also_env)

    def show(self, value: Any) -> str:
        """The value as one would type it, or `unset`."""
        return "unset" if value is None or value == () else self.kind.show(value)

    def allowed_text(self) -> str:
        """The range in words; empty when there is none."""
        if self.allowed is None:
            return ""
        return f"{self.show(self.allowed[0])} to {self.show(self.allowed[1])}"

    def read(self, text: str, where: str) -> Any:
        """The value that the text stands for; ConfigError says where it was and what is allowed."""
        shown = "this value" if self.secret else repr(text)
        try:
            value = self.kind.parse(text)
        except ValueError:
            raise ConfigError(f"{where}: {shown} is not {self.kind.accepts}.") from None
        if self.allowed is not None and not self.allowed[0] <= value <= self.allowed[1]:
            raise ConfigError(f"{where}: {shown} is out of range: {self.allowed_text()}.")
        return value


LISTENING = (
    Option(
        "host",
        TEXT,
        None,
        "Address to listen on. 0.0.0.0 is every IPv4 address of the machine, :: every address.",
        on_reload=False,
    ),
    Option(
        "port",
        COUNT,
        (0, 65535),
        "TCP port to listen on. 0 takes a free one and prints it.",
        also_env=("PORT",),
        on_reload=False,
    ),
    Option(
        "unix_socket",
        PATH,
        None,
        "Listen on this Unix socket instead of on host and port.",
        default_text="host and port",
        on_reload=False,
    ),
    Option(
        "backlog",
        COUNT,
        (1, 65535),
        "Connections that may wait in the kernel for each worker; net.core.somaxconn caps it.",
        on_reload=False,
    ),
    Option(
        "trusted_proxies",
        NETWORKS,
        None,
        "Proxies whose X-Forwarded-For is believed for the address that is logged.",
        default_text="none",
    ),
    Option(
        "metrics_from",
        NETWORKS,
        None,
        "Networks that /metrics is shown to; others get 403. 0.0.0.0/0,::/0 is everybody.",
    ),
)

PROCESSES = (
    Option(
        "workers",
        COUNT,
        (1, 128),
        "Worker processes, each with its own event loop and database connections.",
        also_env=("WEB_CONCURRENCY",),
        default_text="the cores this process may use",
        on_reload=False,
    ),
    Option(
        "pid_file",
        PATH,
        None,
        "Write the master's process id to this file.",
        default_text="none",
        on_reload=False,
    ),
    Option(
        "log_format",
        one_of("text", "json"),
        None,
        "How the server's own log is written: lines to read, or one JSON object a line.",
        on_reload=False,
    ),
    Option(
        "log_file",
        PATH,
        None,
        "Write the server's own log to this file; one that is moved away is made anew.",
        default_text="standard error",
        on_reload=False,
    ),
    Option(
        "cpu_affinity",
        CORES,
        None,
        "Bind each worker to a core: auto takes those there are in turn, a list those it names. Best"
        " left alone while PostgreSQL runs on the same machine.",
    ),
    Option(
        "max_requests",
        COUNT,
        (0, 10**12),
        "Replace a worker that has answered this many requests, to /ad, to /log or of tracking; 0 never. Its"
        " successor is ready before it leaves, and never are two replaced at once.",
    ),
    Option(
        "max_worker_age_s",
        DURATION,
        (0, 365 * 86400),
        "Replace a worker that has lived this long; 0 never.",
    ),
    Option(
        "max_worker_memory",
        SIZE,
        (0, 1 << 40),
        "Replace a worker whose resident memory has reached this, pages shared with others included;"
        " 0 never.",
    ),
    Option(
        "max_jitter",
        SHARE,
        (0, 0.9),
        "How much sooner than at --max-requests and --max-worker-age-s a worker may be replaced, so that"
        " workers started together do not all go together.",
    ),
)

DATABASE = (
    Option(
        "dsn",
        DSN,
        None,
        "PostgreSQL to use: postgresql://user@host:5432/name or 'host=… dbname=…'. Without it a"
        " PostgreSQL of its own runs in the data directory. Others on this machine can read flags"
        " in ps: put a password in the environment, in the file or in ~/.pgpass.",
        also_env=("DATABASE_URL",),
        default_text="embedded PostgreSQL",
        secret=True,
        on_reload=False,
    ),
    Option(
        "reader_dsn",
        DSN,
        None,
        "PostgreSQL to look ads up in, such as a replica.",
        default_text="the same as --dsn",
        secret=True,
    ),
    Option(
        "data_dir",
        DIRECTORY,
        None,
        "Where the embedded PostgreSQL keeps its data; the journal is there, too, unless --journal-dir"
        " names another place.",
        default_text="/var/lib/prefork-ads for root, else ~/.local/share/prefork-ads",
        on_reload=False,
    ),
    Option(
        "log_table",
        one_of("logged", "unlogged"),
        None,
        "How request_log is stored. An unlogged table is written to disk once instead of twice,"
        " but a crash of PostgreSQL empties it and replicas do not have it.",
        on_reload=False,
    ),
    Option(
        "retention_days",
        COUNT,
        (0, 36500),
        "Days of request_log to keep; older days are dropped. 0 keeps everything.",
    ),
)

READING = (
    Option("readers", COUNT, (1, 64), "Connections for lookups in each worker."),
    Option(
        "read_batch",
        COUNT,
        (1, 10_000),
        "Lookups that may share one query, at most. 1 is one query for each request.",
    ),
    Option(
        "read_queue",
        COUNT,
        (1, 10_000_000),
        "Lookups that may wait in each worker; past it requests get 503 at once.",
    ),
    Option(
        "read_timeout_s",
        DURATION,
        (0.01, 3600),
        "Longest time that /ad waits for PostgreSQL before it gives the answer of --ad-fallback.",
    ),
    Option(
        "ad_fallback",
        one_of("unavailable", "empty"),
        None,
        "What /ad answers while PostgreSQL does not: unavailable is 503, which balancers and monitors"
        " understand; empty is 204, no ad, for pages that treat errors badly.",
    ),
)

WRITING = (
    Option("write_batch", COUNT, (1, 1_000_000), "Rows of request_log in one statement at most."),
    Option(
        "write_batch_bytes", SIZE, (1 << 10, 256 << 20), "Bytes of rows in one statement at most."
    ),
    Option(
        "write_interval_s",
        DURATION,
        (0.001, 3600),
        "Longest time that a row waits for its batch to fill.",
    ),
    Option(
        "write_queue",
        COUNT,
        (1, 100_000_000),
        "Rows that each worker holds in memory with --journal off while PostgreSQL is slow or away;"
        " past it requests get 503.",
    ),
    Option(
        "write_queue_bytes",
        SIZE,
        (64 << 10, 64 << 30),
        "The same limit in bytes; whichever is reached first counts.",
    ),
)

JOURNAL = (
    Option(
        "journal",
        one_of("on", "off"),
        None,
        "Write each event to a file before its request is answered. With off it waits in memory for"
        " PostgreSQL and is lost with its worker.",
        on_reload=False,
    ),
    Option(
        "journal_dir",
        DIRECTORY,
        None,
        "Where these files are, on a local disk. Several servers of one database may share it.",
        default_text="journal in --data-dir",
        on_reload=False,
    ),
    Option(
        "journal_sync",
        one_of("none", "interval", "always"),
        None,
        "When events are forced to the disk. They survive the death of every process in any case; a"
        " loss of power may take the last half minute with none, the last interval with interval, and"
        " nothing with always: then answers wait for the disk.",
    ),
    Option(
        "journal_sync_interval_s",
        DURATION,
        (0.01, 3600),
        "How often, with --journal-sync interval.",
    ),
    Option(
        "journal_segment_bytes",
        SIZE,
        (64 << 10, 1 << 30),
        "Size at which a worker begins the next file.",
    ),
    Option(
        "journal_max_bytes",
        SIZE,
        (1 << 20, 16 << 40),
        "Events that all workers together keep while PostgreSQL is slow or away; past it requests"
        " get 503.",
    ),
)

ADS = (
    Option(
        "geoip",
        PATH,
        None,
        "Database in MaxMind's format (.mmdb) that tells the country, region and city of an address.",
        default_text="none: nobody's place is known",
    ),
    Option(
        "public_url",
        WEB_ADDRESS,
        None,
        "What the links in ads begin with, such as https://ads.example.org.",
        default_text="the scheme and host that the request was sent to",
    ),
    Option(
        "catalog_poll_s",
        DURATION,
        (0.05, 60),
        "How often a worker asks for changes of the catalog that it was not told of.",
    ),
    Option(
        "impression_window_s",
        DURATION,
        (1, 86_400),
        "Time in which an impression may follow its decision; past it the beacon is refused.",
    ),
    Option(
        "click_window_s",
        DURATION,
        (1, 2_592_000),
        "Time in which a click may follow its decision and count; later ones are led on all the same.",
    ),
    Option(
        "view_attribution_s",
        DURATION,
        (0, 31_536_000),
        "Time in which a conversion is attributed to an impression.",
    ),
    Option(
        "click_attribution_s",
        DURATION,
        (0, 31_536_000),
        "Time in which a conversion is attributed to a click.",
    ),
    Option(
        "max_events_per_address",
        COUNT,
        (1, 1_000_000),
        "Impressions and clicks a minute and worker from one address; more are kept and not billed.",
    ),
    Option(
        "addresses",
        one_of("truncated", "full"),
        None,
        "What is logged of a client's address: its network (/24, in IPv6 /48), or all of it.",
    ),
    Option(
        "explain_key",
        TEXT,
        None,
        "Who sends it in X-Explain-Key is told with an ad why it was chosen and the others were not.",
        default_text="nobody is told",
        secret=True,
    ),
)

LIMITS = (
    Option("max_url", SIZE, (64, 1 << 20), "Longest URL; past it 414."),
    Option(
        "max_head", SIZE, (256, 16 << 20), "Largest request line with its headers; past it 431."
    ),
    Option("max_body", SIZE, (0, 64 << 20), "Largest body of a request; past it 413."),
    Option("max_connections", COUNT, (1, 1_000_000), "Open connections of each worker."),
)

TIME_LIMITS = (
    Option("head_timeout_s", DURATION, (0.1, 3600), "Time for a client to send a request's head."),
    Option("body_timeout_s", DURATION, (0.1, 3600), "Time for a client to send a request's body."),
    Option("idle_timeout_s", DURATION, (0.1, 86400), "Time that a connection may be idle."),
    Option("send_timeout_s", DURATION, (0.1, 3600), "Time that a client may take no answers."),
    Option(
        "drain_window_s",
        DURATION,
        (0, 3600),
        "Time in which a stopping worker answers one more request on each open connection.",
    ),
    Option(
        "drain_timeout_s", DURATION, (0.1, 3600), "Time after which a stopping worker is killed."
    ),
    Option(
        "worker_timeout_s",
        DURATION,
        (1, 3600),
        "A worker without a sign of life for this long is killed and replaced.",
    ),
    Option("boot_timeout_s", DURATION, (1, 3600), "Time for a new worker to become ready."),
)

CONFIGURATION = (
    Option(
        "config",
        PATH,
        None,
        "TOML file with options; its keys are the flags without the dashes in front.",
        default_text="none",
        on_reload=False,
        in_file=False,
    ),
)

GROUPS: Mapping[str, tuple[Option, ...]] = {
    "Listening": LISTENING,
    "Processes": PROCESSES,
    "Database": DATABASE,
    "Reading": READING,
    "Writing": WRITING,
    "Journal": JOURNAL,
    "Ads": ADS,
    "Limits": LIMITS,
    "Time limits": TIME_LIMITS,
    "Configuration": CONFIGURATION,
}

OPTIONS: Mapping[str, Option] = {
    option.field: option for group in GROUPS.values() for option in group
}
