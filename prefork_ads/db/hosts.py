"""The servers that a DSN names, one at a time, and which of them will do.

libpq walks through several hosts by itself, but not for us: asynchronously it changes its socket without
a word, so that a loop goes deaf when the first host refuses, and it lets one host that swallows packets
use up the time of all. So each attempt gets a DSN with one host, and we judge the server's role, by
libpq's own words for it (`target_session_attrs`).

The writer and everything synchronous need a server that takes writes, whatever the DSN says: a standby
can only refuse them. A reader takes any, unless the DSN wants something else of it. A standby that
lags is good enough for it: `ad_variant` changes rarely, and an ad that is not there yet is an unknown
one for as long.

Must not know: connections, loops.
"""

import os
import random
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

import psycopg2
import psycopg2.extensions

from prefork_ads.errors import ConfigError

# What libpq takes from the environment where the DSN is silent, as far as choosing a host goes.
_ENVIRONMENT = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
}
# One value for each host, separated by commas.
_PER_HOST = ("host", "hostaddr", "port")


class Wanted(StrEnum):
    """What a server has to be; the words are libpq's."""

    ANY = "any"
    READ_WRITE = "read-write"
    READ_ONLY = "read-only"
    PRIMARY = "primary"
    STANDBY = "standby"
    PREFER_STANDBY = "prefer-standby"


class State(NamedTuple):
    """What a server says about itself."""

    standby: bool
    read_only: bool


Parameters = Mapping[str, str]


class Servers(NamedTuple):
    """The servers of a DSN in the order in which they are to be tried."""

    wanted: Wanted
    hosts: list[dict[str, str]]
    """The DSN's parameters once per host; what chose among hosts is taken out."""


def servers(dsn: str, *, writes: bool) -> Servers:
    """Take a DSN apart. Raises ConfigError."""
    parameters = parse(dsn)
    if "service" not in parameters:
        for name, variable in _ENVIRONMENT.items():
            if variable in os.environ:
                parameters.setdefault(name, os.environ[variable])
    wanted = Wanted.READ_WRITE
    asked_for = parameters.pop("target_session_attrs", Wanted.ANY)
    if not writes:
        try:
            wanted = Wanted(asked_for)
        except ValueError:
            raise ConfigError(
                f"The DSN cannot be understood: target_session_attrs is {asked_for!r}. It may be"
                f" {', '.join(Wanted)}."
            ) from None
    shuffled = parameters.pop("load_balance_hosts", "") == "random"
    hosts = _one_by_one(parameters)
    if shuffled:
        random.shuffle(hosts)
    return Servers(wanted, hosts)


def parse(dsn: str) -> dict[str, str]:
    """The parameters of a DSN in either form. Raises ConfigError."""
    try:
        return {name: str(value) for name, value in psycopg2.extensions.parse_dsn(dsn).items()}
    except psycopg2.ProgrammingError as error:
        reason = (str(error).strip().splitlines() or ["?"])[0]
        raise ConfigError(
            f"The DSN cannot be understood: {reason}. Write it as "
            "postgresql://user@host:5432/name or as host=… dbname=… user=…."
        ) from error


def _one_by_one(parameters: Parameters) -> list[dict[str, str]]:
    lists = {name: parameters.get(name, "").split(",") for name in _PER_HOST}
    count = max(len(lists["host"]), len(lists["hostaddr"]))
    # One port is for all hosts; and whoever gives addresses need not give names.
    for name, values in lists.items():
        if len(values) == 1 and (name == "port" or not values[0]):
            lists[name] = values * count
        elif len(values) != count:
            raise ConfigError(
                f"The DSN cannot be understood: {count} hosts and {len(values)} values of {name}."
            )
    # Explicitly any: else libpq would look into the environment for it.
    common = {**parameters, "target_session_attrs": Wanted.ANY.value}
    each = [common | {name: v[index] for name, v in lists.items()} for index in range(count)]
    return [{name: value for name, value in one.items() if value} for one in each]


def refusal(wanted: Wanted, state: State) -> str:
    """Why a server in this state will not do; empty when it does."""
    if wanted is Wanted.READ_WRITE and (state.standby or state.read_only):
        return "it is a standby" if state.standby else "it takes no writes"
    if wanted is Wanted.READ_ONLY and not (state.standby or state.read_only):
        return "it takes writes"
    if wanted is Wanted.PRIMARY and state.standby:
        return "it is a standby"
    if wanted in (Wanted.STANDBY, Wanted.PREFER_STANDBY) and not state.standby:
        return "it is a primary"
    return ""


def where(parameters: Parameters) -> str:
    """A host as people name it."""
    host = parameters.get("host") or parameters.get("hostaddr") or "the default host"
    port = parameters.get("port")
    return f"{host} port {port}" if port else host
