"""Which servers a DSN names, in which order, and which of them will do."""

import pytest

from prefork_ads.db.hosts import State, Wanted, refusal, servers, where
from prefork_ads.errors import ConfigError

PRIMARY, STANDBY, FENCED = State(False, False), State(True, True), State(False, True)


@pytest.fixture(autouse=True)
def _nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "HOSTADDR", "PORT", "TARGETSESSIONATTRS", "LOADBALANCEHOSTS"):
        monkeypatch.delenv(f"PG{name}", raising=False)


def names(dsn: str) -> list[str]:
    return [where(parameters) for parameters in servers(dsn, writes=True).hosts]


@pytest.mark.parametrize(
    ("dsn", "named"),
    [
        ("dbname=ads", ["the default host"]),
        ("host=a,b,c dbname=ads", ["a", "b", "c"]),
        ("host=a,b port=1,2", ["a port 1", "b port 2"]),
        ("host=a,b port=7", ["a port 7", "b port 7"]),
        ("postgresql://u@a:1,b,[::1]:3/ads", ["a port 1", "b", "::1 port 3"]),
        ("host=/run/one,/run/two", ["/run/one", "/run/two"]),
        ("hostaddr=10.0.0.1,10.0.0.2", ["10.0.0.1", "10.0.0.2"]),
    ],
)
def test_hosts_come_one_by_one(dsn: str, named: list[str]) -> None:
    assert names(dsn) == named


def test_each_host_keeps_what_is_for_all_and_is_not_judged_by_libpq() -> None:
    dsn = "host=a,b hostaddr=1.1.1.1,2.2.2.2 user=u dbname=ads target_session_attrs=read-write"
    common = {"user": "u", "dbname": "ads", "target_session_attrs": "any"}
    assert servers(dsn, writes=True).hosts == [
        {"host": "a", "hostaddr": "1.1.1.1", **common},
        {"host": "b", "hostaddr": "2.2.2.2", **common},
    ]


def test_the_environment_counts_where_the_dsn_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "x,y")
    monkeypatch.setenv("PGPORT", "9")
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "standby")
    assert names("dbname=ads") == ["x port 9", "y port 9"]
    assert names("host=a") == ["a port 9"]
    assert servers("host=a", writes=False).wanted is Wanted.STANDBY


def test_hosts_can_be_shuffled() -> None:
    dsn = "host=a,b,c,d,e,f load_balance_hosts=random"
    assert len({tuple(names(dsn)) for _ in range(50)}) > 1
    assert sorted(names(dsn)) == list("abcdef")


def test_who_writes_needs_a_server_that_takes_writes_whatever_the_dsn_says() -> None:
    for dsn in ("host=a", "host=a target_session_attrs=prefer-standby"):
        assert servers(dsn, writes=True).wanted is Wanted.READ_WRITE
    assert servers("host=a", writes=False).wanted is Wanted.ANY


@pytest.mark.parametrize(
    ("dsn", "reason"),
    [
        ("host=a,b,c port=1,2", "3 hosts and 2 values of port"),
        ("host=a,b hostaddr=1.1.1.1", "2 hosts and 1 values of hostaddr"),
        ("host=a target_session_attrs=leader", "target_session_attrs is 'leader'"),
        ("host=a nonsense=1", "nonsense"),
    ],
)
def test_what_makes_no_sense_is_a_wrong_setting(dsn: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        servers(dsn, writes=False)


@pytest.mark.parametrize(
    ("wanted", "accepted"),
    [
        (Wanted.ANY, {PRIMARY, STANDBY, FENCED}),
        (Wanted.READ_WRITE, {PRIMARY}),
        (Wanted.READ_ONLY, {STANDBY, FENCED}),
        (Wanted.PRIMARY, {PRIMARY, FENCED}),
        (Wanted.STANDBY, {STANDBY}),
        (Wanted.PREFER_STANDBY, {STANDBY}),
    ],
)
def test_the_words_mean_what_they_mean_to_libpq(wanted: Wanted, accepted: set[State]) -> None:
    assert {state for state in (PRIMARY, STANDBY, FENCED) if not refusal(wanted, state)} == accepted
