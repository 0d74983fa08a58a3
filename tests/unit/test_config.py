"""Settings: where each value comes from, and what is said about a wrong one."""

import dataclasses
import os
import pickle
from pathlib import Path

import pytest

from prefork_ads.config import Config, Source, after_reload, load
from prefork_ads.errors import ConfigError
from prefork_ads.options import GROUPS, OPTIONS


def write(folder: Path, text: str) -> Path:
    path = folder / "ads.toml"
    path.write_text(text)
    return path


def refused(
    flags: dict[str, str | None], environ: dict[str, str] | None = None, file: Path | None = None
) -> str:
    with pytest.raises(ConfigError) as caught:
        load(flags, environ or {}, file)
    return str(caught.value)


# ---- the table


def test_every_field_has_one_option_and_every_option_a_field() -> None:
    """A new option cannot be forgotten on either side."""
    assert list(OPTIONS) == [field.name for field in dataclasses.fields(Config)]
    assert sum(len(group) for group in GROUPS.values()) == len(OPTIONS)


def test_defaults_are_what_the_options_allow() -> None:
    """Each default, shown and read again, is itself."""
    config = Config()
    for name, option in OPTIONS.items():
        value = getattr(config, name)
        if value not in (None, ()):
            assert option.read(option.show(value), option.flag) == value


def test_names_follow_one_rule() -> None:
    option = OPTIONS["read_timeout_s"]
    assert option.flag == "--read-timeout-s"
    assert option.key == "read-timeout-s"
    assert option.env == ("PREFORK_ADS_READ_TIMEOUT_S",)


def test_no_variable_means_two_options() -> None:
    names = [name for option in OPTIONS.values() for name in option.env]
    assert len(names) == len(set(names))


# ---- the record


def test_config_is_frozen_and_survives_pickling() -> None:
    config = Config(port=9000)
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.port = 1  # type: ignore[misc]


def test_replace_changes_a_copy() -> None:
    config = Config()
    assert config.replace(port=9000).port == 9000
    assert config.port == 8080


def test_printing_a_config_shows_no_password() -> None:
    config = Config(dsn="postgresql://u:hunter2@h/d", reader_dsn="host=h password=hunter2")
    assert "hunter2" not in repr(config)


def test_workers_default_to_the_cores_of_this_process() -> None:
    """Not to those of the machine: under taskset or in a cpuset they are fewer."""
    assert Config().workers == len(os.sched_getaffinity(0))


def test_data_dir_of_an_ordinary_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert Config().data_dir == tmp_path / ".local/share/prefork-ads"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    assert Config().data_dir == tmp_path / "share/prefork-ads"
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    assert Config().data_dir == tmp_path / ".local/share/prefork-ads"


def test_data_dir_of_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert Config().data_dir == Path("/var/lib/prefork-ads")


# ---- precedence


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = write(tmp_path, 'port = 1\nworkers = 1\nread-batch = 1\nhost = "::1"\n')
    environ = {"PREFORK_ADS_PORT": "2", "PREFORK_ADS_WORKERS": "2", "PREFORK_ADS_READERS": "2"}
    config, sources = load({"port": "3", "backlog": None}, environ, file)
    assert (config.port, sources["port"]) == (3, Source("flag", "--port"))
    assert (config.workers, sources["workers"]) == (2, Source("environment", "PREFORK_ADS_WORKERS"))
    assert (config.read_batch, sources["read_batch"]) == (1, Source("file", str(file)))
    assert (config.backlog, sources["backlog"]) == (4096, Source("default"))
    assert [str(sources[name]) for name in ("port", "readers", "host", "backlog")] == [
        "flag --port",
        "environment PREFORK_ADS_READERS",
        f"file {file}",
        "default",
    ]


@pytest.mark.parametrize(
    ("field", "platforms", "text", "value"),
    [
        ("port", "PORT", "5000", 5000),
        ("workers", "WEB_CONCURRENCY", "3", 3),
        ("dsn", "DATABASE_URL", "postgres://u@h/d", "postgres://u@h/d"),
    ],
)
def test_variables_of_platforms(field: str, platforms: str, text: str, value: object) -> None:
    config, sources = load({}, {platforms: text})
    assert (getattr(config, field), sources[field].name) == (value, platforms)


def test_our_own_variable_wins_over_the_platforms() -> None:
    config, sources = load({}, {"PORT": "5000", "PREFORK_ADS_PORT": "6000"})
    assert (config.port, sources["port"].name) == (6000, "PREFORK_ADS_PORT")


def test_a_platforms_port_leaves_the_host_alone() -> None:
    """The Procfile says --host 0.0.0.0; a variable must not open a server to the world."""
    assert load({}, {"PORT": "5000"})[0].host == "127.0.0.1"


def test_an_empty_variable_is_not_set() -> None:
    assert load({}, {"PREFORK_ADS_PORT": "", "PORT": "", "DATABASE_URL": ""})[0] == Config()


def test_kubernetes_service_links_are_no_settings() -> None:
    """Beside a Service called prefork-ads every pod gets this variable."""
    environ = {"PREFORK_ADS_PORT": "tcp://10.96.0.1:80", "PORT": "5000"}
    assert load({}, environ)[0].port == 5000


def test_the_file_is_named_by_flag_then_environment_then_caller(tmp_path: Path) -> None:
    for number, name in enumerate(("flag", "env", "caller"), start=1):
        (tmp_path / name).write_text(f"port = {number}\n")
    environ = {"PREFORK_ADS_CONFIG": str(tmp_path / "env")}
    assert load({"config": str(tmp_path / "flag")}, environ)[0].port == 1
    assert load({}, environ, tmp_path / "caller")[0].port == 2
    assert load({}, {}, tmp_path / "caller")[0].port == 3


# ---- the file


def test_every_type_in_a_file(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """
        port = 9000
        write-batch = "20k"
        max-body = "1MiB"
        max_head = 131072
        read-timeout-s = 0.5
        idle-timeout-s = "2m"
        trusted-proxies = ["10.0.0.0/8", "::1"]
        pid-file = "run/ads.pid"
        log-table = "unlogged"
        """,
    )
    config, _ = load({}, {}, file)
    assert config == Config(
        port=9000,
        write_batch=20_000,
        max_body=1 << 20,
        max_head=131072,
        read_timeout_s=0.5,
        idle_timeout_s=120.0,
        trusted_proxies=("10.0.0.0/8", "::1/128"),
        pid_file=Path.cwd() / "run/ads.pid",
        log_table="unlogged",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "prot = 1",
            "unknown key 'prot'; did you mean 'port'? See docs/configuration.md for all of them.",
        ),
        (
            "write_bach = 1",
            "unknown key 'write_bach'; did you mean 'write-batch'?"
            " See docs/configuration.md for all of them.",
        ),
        (
            "[server]\nport = 1",
            "unknown table 'server'; every option is a key at the top of the file, without tables.",
        ),
        ('config = "x"', "unknown key 'config'; one file cannot name another."),
    ],
)
def test_unknown_keys(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path, text)
    assert refused({}, {}, file) == f"{file}: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port = true", "port: a boolean is not a whole number (10000, 10_000 or 10k)."),
        ("port = 80.5", "port: a decimal number is not a whole number (10000, 10_000 or 10k)."),
        ("host = 5", "host: a whole number is not a name."),
        (
            "trusted-proxies = [1]",
            "trusted-proxies: a list is not a comma-separated list of addresses and networks"
            " (10.0.0.0/8,192.0.2.7).",
        ),
        ('port = "eighty"', "port: 'eighty' is not a whole number (10000, 10_000 or 10k)."),
        ("port = -1", "port: '-1' is not a whole number (10000, 10_000 or 10k)."),
        ("port = 70000", "port: '70000' is out of range: 0 to 65535."),
        ("port = 1\n'port' = 2", None),
        (
            "read-batch = 1\nread_batch = 2",
            "read_batch is there twice, with a dash and an underscore.",
        ),
        ("idle-timeout-s = inf", None),
        ("port = ", None),
        ("port = 2026-01-01", None),
    ],
)
def test_wrong_values_in_a_file(tmp_path: Path, text: str, message: str | None) -> None:
    file = write(tmp_path, text)
    said = refused({}, {}, file)
    assert str(file) in said
    if message is not None:
        assert said == f"{file}: {message}"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    said = refused({"config": str(path)})
    assert said == f"The configuration file {path} cannot be read: No such file or directory."


def test_files_that_are_no_toml(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert "is not TOML" in refused({"config": str(tmp_path / "binary")})
    (tmp_path / "huge").write_bytes(b"#" * (1 << 21))
    assert "is larger than 1 MiB" in refused({"config": str(tmp_path / "huge")})
    assert "cannot be read: Is a directory" in refused({"config": str(tmp_path)})


# ---- messages


@pytest.mark.parametrize(
    ("flags", "environ", "message"),
    [
        ({"port": "70000"}, {}, "--port: '70000' is out of range: 0 to 65535."),
        ({"port": "http"}, {}, "--port: 'http' is not a whole number (10000, 10_000 or 10k)."),
        (
            {},
            {"WEB_CONCURRENCY": "0"},
            "environment variable WEB_CONCURRENCY (--workers): '0' is out of range: 1 to 128.",
        ),
        (
            {"read_timeout_s": "5ms"},
            {},
            "--read-timeout-s: '5ms' is out of range: 10ms to 3600s.",
        ),
        (
            {"write_batch_bytes": "1GiB"},
            {},
            "--write-batch-bytes: '1GiB' is out of range: 1KiB to 256MiB.",
        ),
        ({"log_table": "maybe"}, {}, "--log-table: 'maybe' is not logged or unlogged."),
        (
            {"trusted_proxies": "10.0.0.1/8"},
            {},
            "--trusted-proxies: '10.0.0.1/8' is not a comma-separated list of addresses and"
            " networks (10.0.0.0/8,192.0.2.7).",
        ),
        ({"pid_file": ""}, {}, "--pid-file: '' is not a path."),
    ],
)
def test_wrong_values(flags: dict[str, str | None], environ: dict[str, str], message: str) -> None:
    assert refused(flags, environ) == message


def test_a_wrong_dsn_is_not_repeated() -> None:
    said = refused({"dsn": "postgresql://user:pass word@host/db"})
    assert said.startswith("--dsn: this value is not a connection string")
    assert "pass" not in said


# ---- contradictions


@pytest.mark.parametrize(("field", "text"), [("host", "0.0.0.0"), ("port", "80")])
def test_a_unix_socket_excludes_host_and_port(field: str, text: str) -> None:
    said = refused({field: text}, {"PREFORK_ADS_UNIX_SOCKET": "/run/ads.sock"})
    assert said == (
        f"--unix-socket (environment PREFORK_ADS_UNIX_SOCKET) and --{field} (flag --{field})"
        " contradict each other: a server listens on a Unix socket or on a host and port."
        " Leave one of them out."
    )


def test_a_platforms_port_does_not_contradict_a_unix_socket() -> None:
    assert load({"unix_socket": "/run/ads.sock"}, {"PORT": "80"})[0].unix_socket is not None


def test_a_reader_dsn_needs_a_dsn() -> None:
    said = refused({"reader_dsn": "postgresql://replica/ads"})
    assert said.startswith("--reader-dsn (flag --reader-dsn) is given without --dsn")


def test_a_drain_window_fits_in_the_drain() -> None:
    assert refused({"drain_timeout_s": "1"}) == (
        "--drain-window-s (default) is 2s and --drain-timeout-s (flag --drain-timeout-s) is 1s:"
        " workers would be killed while they drain. Lower the first or raise the second."
    )


# ---- reload


def test_a_reload_keeps_what_only_a_restart_can_change() -> None:
    running = Config(port=1, read_batch=1)
    config, needs_restart = after_reload(running, Config(port=2, read_batch=2))
    assert config == Config(port=1, read_batch=2)
    assert needs_restart == ["--port"]
    assert after_reload(running, running) == (running, [])
