"""The settings of a server, checked once: flag over environment over file over default.

`Config` is the frozen record that the whole program is handed; `load` makes it and says of each
value where it came from. What the options are called, allow and mean is in `options`.

Must not know: any other module but `errors` and `options`; no I/O but reading the TOML file.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from prefork_ads.errors import ConfigError
from prefork_ads.options import OPTIONS, Option

# A mistaken path to something large must not be read into memory.
MAX_FILE_BYTES = 1 << 20


def _usable_cores() -> int:
    """The cores this process may use: under taskset or in a cpuset fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _default_data_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/prefork-ads")
    # The specification tells to ignore a relative XDG_DATA_HOME.
    base = os.environ.get("XDG_DATA_HOME", "")
    share = Path(base) if base.startswith("/") else Path.home() / ".local/share"
    return share / "prefork-ads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings, with their defaults. Printing one shows no connection string."""

    # Listening
    host: str = "127.0.0.1"
    port: int = 8080
    unix_socket: Path | None = None
    backlog: int = 4096
    trusted_proxies: tuple[str, ...] = ()
    metrics_from: tuple[str, ...] = ("127.0.0.0/8", "::1/128")

    # Processes
    workers: int = field(default_factory=_usable_cores)
    pid_file: Path | None = None
    log_format: Literal["text", "json"] = "text"
    log_file: Path | None = None
    cpu_affinity: str | tuple[int, ...] = "none"
    max_requests: int = 0
    max_worker_age_s: float = 0.0
    max_worker_memory: int = 0
    max_jitter: float = 0.2

    # Database
    dsn: str | None = field(default=None, repr=False)
    reader_dsn: str | None = field(default=None, repr=False)
    data_dir: Path = field(default_factory=_default_data_dir)
    log_table: Literal["logged", "unlogged"] = "logged"
    retention_days: int = 30

    # Reading
    readers: int = 1
    read_batch: int = 2_000
    read_queue: int = 10_000
    read_timeout_s: float = 2.0
    ad_fallback: Literal["unavailable", "empty"] = "unavailable"

    # Writing
    write_batch: int = 2_000
    write_batch_bytes: int = 1 << 20
    write_interval_s: float = 0.25
    write_queue: int = 200_000
    write_queue_bytes: int = 256 << 20

    # Journal
    journal: Literal["on", "off"] = "on"
    journal_dir: Path | None = None
    journal_sync: Literal["none", "interval", "always"] = "none"
    journal_sync_interval_s: float = 1.0
    journal_segment_bytes: int = 16 << 20
    journal_max_bytes: int = 8 << 30

    # Ads
    geoip: Path | None = None
    public_url: str | None = None
    catalog_poll_s: float = 0.5
    impression_window_s: float = 900.0
    click_window_s: float = 604_800.0
    view_attribution_s: float = 86_400.0
    click_attribution_s: float = 2_592_000.0
    max_events_per_address: int = 600
    addresses: Literal["truncated", "full"] = "truncated"
    explain_key: str | None = field(default=None, repr=False)

    # Limits
    max_url: int = 16 << 10
    max_head: int = 64 << 10
    max_body: int = 64 << 10
    max_connections: int = 20_000

    # Time limits
    head_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 75.0
    send_timeout_s: float = 30.0
    drain_window_s: float = 2.0
    drain_timeout_s: float = 30.0
    worker_timeout_s: float = 30.0
    boot_timeout_s: float = 60.0

    # Configuration
    config: Path | None = None

    @property
    def journal_path(self) -> Path:
        """Where the journal's segments lie."""
        return self.journal_dir or self.data_dir / "journal"

    def replace(self, **changes: Any) -> "Config":
        """A copy with some values changed, which are taken as they are."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value came from."""

    kind: Literal["flag", "environment", "file", "default"]
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


DEFAULT = Source("default")


def load(
    flags: Mapping[str, str | None], environ: Mapping[str, str], file: Path | None = None
) -> tuple[Config, dict[str, Source]]:
    """The settings, and for each field where its value came from.

    `flags` has the text that was given for a field, None where nothing was. `file` is read when
    neither a flag nor the environment names one.
    """
    given: dict[str, tuple[Any, Source]] = {}
    for option in OPTIONS.values():
        text = flags.get(option.field)
        if text is not None:
            given[option.field] = option.read(text, option.flag), Source("flag", option.flag)
        elif (found := _from_environment(option, environ)) is not None:
            name, text = found
            where = f"environment variable {name} ({option.flag})"
            given[option.field] = option.read(text, where), Source("environment", name)
    path = given["config"][0] if "config" in given else file
    if path is not None:
        for name, value in _from_file(path).items():
            given.setdefault(name, (value, Source("file", str(path))))
    sources = {name: given[name][1] if name in given else DEFAULT for name in OPTIONS}
    config = Config(**{name: value for name, (value, _) in given.items()})
    _check_contradictions(config, sources)
    return config, sources


def _from_environment(option: Option, environ: Mapping[str, str]) -> tuple[str, str] | None:
    for name in option.env:
        text = environ.get(name, "")
        # Compose files and unit files set variables to nothing to mean that they are not set. And
        # Kubernetes tells the pods beside a Service called prefork-ads about it with
        # PREFORK_ADS_PORT=tcp://10.96.0.1:80, which is no setting of ours.
        if text and not (option.field == "port" and "://" in text):
            return name, text
    return None


def _from_file(path: Path) -> dict[str, Any]:
    by_key = {option.key: option for option in OPTIONS.values() if option.in_file}
    found: dict[str, Any] = {}
    for written, value in _read_toml(path).items():
        key = written.replace("_", "-")
        option = by_key.get(key)
        if option is None:
            raise ConfigError(_unknown_key(path, written, value, list(by_key)))
        if option.field in found:
            raise ConfigError(f"{path}: {written} is there twice, with a dash and an underscore.")
        found[option.field] = _from_toml(option, value, f"{path}: {written}")
    return found


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError(f"The configuration file {path} is larger than 1 MiB.")
        return tomllib.loads(content.decode())
    except OSError as error:
        raise ConfigError(
            f"The configuration file {path} cannot be read: {error.strerror}."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration file {path} is not TOML: {error}.") from error


def _unknown_key(path: Path, written: str, value: Any, known: list[str]) -> str:
    what = f"{path}: unknown {'table' if isinstance(value, dict) else 'key'} {written!r}"
    if isinstance(value, dict):
        return f"{what}; every option is a key at the top of the file, without tables."
    if written.replace("_", "-") == "config":
        return f"{what}; one file cannot name another."
    near = difflib.get_close_matches(written.replace("_", "-"), known, n=1, cutoff=0)
    return f"{what}; did you mean {near[0]!r}? See docs/configuration.md for all of them."


def _from_toml(option: Option, value: Any, where: str) -> Any:
    """A value of the file goes through the same parser as a flag, so both allow the same."""
    # bool is an int in Python, and `port = true` must not become port 1.
    fits = isinstance(value, option.kind.toml_types) and not isinstance(value, bool)
    if isinstance(value, list):
        fits = fits and all(isinstance(item, str) for item in value)
    if not fits:
        kind = type(value).__name__
        raise ConfigError(f"{where}: a {_TOML_NAMES.get(kind, kind)} is not {option.kind.accepts}.")
    return option.read(",".join(value) if isinstance(value, list) else str(value), where)


_TOML_NAMES = {
    "str": "string",
    "int": "whole number",
    "float": "decimal number",
    "bool": "boolean",
    "list": "list",
    "dict": "table",
}


def _check_contradictions(config: Config, sources: Mapping[str, Source]) -> None:
    """Settings that are fine alone and make no sense together."""

    def named(name: str) -> str:
        return f"{OPTIONS[name].flag} ({sources[name]})"

    if config.unix_socket is not None:
        for name in ("host", "port"):
            # PORT is a platform's announcement, not the operator's wish; it cannot contradict.
            by_platform = sources[name].name in OPTIONS[name].also_env
            if sources[name] != DEFAULT and not by_platform:
                raise ConfigError(
                    f"{named('unix_socket')} and {named(name)} contradict each other: a server"
                    " listens on a Unix socket or on a host and port. Leave one of them out."
                )
    if config.reader_dsn is not None and config.dsn is None:
        raise ConfigError(
            f"{named('reader_dsn')} is given without --dsn: ads would be looked up in one database"
            " and requests logged to the embedded one. Give --dsn as well."
        )
    if config.drain_window_s > config.drain_timeout_s:
        window, timeout = (
            f"{named(name)} is {OPTIONS[name].show(getattr(config, name))}"
            for name in ("drain_window_s", "drain_timeout_s")
        )
        raise ConfigError(
            f"{window} and {timeout}: workers would be killed while they drain. Lower the first or"
            " raise the second."
        )


def after_reload(running: Config, loaded: Config) -> tuple[Config, list[str]]:
    """What a reload makes of newly loaded settings, and the flags whose change needs a restart."""
    kept = {
        option.field: getattr(running, option.field)
        for option in OPTIONS.values()
        if not option.on_reload and getattr(running, option.field) != getattr(loaded, option.field)
    }
    return loaded.replace(**kept), [OPTIONS[name].flag for name in kept]
