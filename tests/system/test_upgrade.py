"""The real server replaced under load by SIGUSR2: no request fails, no row is lost, PostgreSQL stays."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.support import wait_until
from tests.system.clients import PATIENT_DRAIN, Clients
from tests.system.lineage import Lineage, parent

LOGGED = "SELECT count(*) FROM request_log WHERE params->>'source' = %s"
COMMAND = Path(sys.executable).with_name("prefork-ads")


class Installed(Lineage):
    """Started by its command, as it is installed in the environment of the tests."""

    def __init__(self, *arguments: str, dsn: str | None = None) -> None:
        super().__init__(*arguments, dsn=dsn)
        self._command[:3] = [str(COMMAND)]


def logged(database: Database) -> int:
    return int(database.fetch(LOGGED, "lifecycle")[0][0])


def upgrade_under_load(server: Lineage, times: int) -> int:
    """Upgrade again and again with clients of both kinds; how many requests were answered."""
    per_request, keep_alive = (Clients(server.port, keep_alive=kept) for kept in (False, True))
    with per_request.running(6), keep_alive.running(6):
        for _ in range(times):
            for clients in (per_request, keep_alive):
                clients.wait_for_more(200)
            server.upgrade()
        for clients in (per_request, keep_alive):
            clients.wait_for_more(200)
    for clients in (per_request, keep_alive):
        assert clients.failures == []
        assert clients.outcomes["not connected"] == 0
    return per_request.answered + keep_alive.answered


@pytest.mark.timeout(300)
def test_five_upgrades_under_load_fail_no_request(database: Database) -> None:
    with Lineage(*PATIENT_DRAIN, dsn=database.dsn) as server:
        answered = upgrade_under_load(server, 5)
        server.end()
        assert logged(database) == answered
        assert server.count("Traceback") == 0


@pytest.mark.timeout(300)
def test_the_installed_command_is_upgraded_as_well(database: Database) -> None:
    with Installed(*PATIENT_DRAIN, dsn=database.dsn) as server:
        answered = upgrade_under_load(server, 2)
        server.end()
        assert logged(database) == answered


@pytest.mark.timeout(300)
def test_the_embedded_database_runs_on_through_upgrades() -> None:
    with Lineage(*PATIENT_DRAIN) as server:
        postgres = postmaster(server)
        answered = upgrade_under_load(server, 3)
        assert postmaster(server) == postgres
        assert answered
        server.end()
        assert server.count("Traceback") == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("whom", ["new, in its boot", "old, before", "old, while it drains"])
def test_a_master_killed_in_an_upgrade_fails_no_request(database: Database, whom: str) -> None:
    """Its workers answer what they have begun, and leave alone what the other one's serve on."""
    with Lineage(*PATIENT_DRAIN, dsn=database.dsn) as server:
        old = server.pid
        clients = [Clients(server.port, keep_alive=kept) for kept in (False, True)]
        with clients[0].running(6), clients[1].running(6):
            for each in clients:
                each.wait_for_more(200)
            new = server.begin_upgrade()
            if whom.startswith("new"):
                server.wait_for_line(rf"master\[{new}\] worker slot=0 pid=\d+ ready", timeout_s=60)
                os.kill(new, signal.SIGKILL)
                server.wait_for_line(r"this one (stays as it is|takes the server back)")
            elif whom.endswith("drains"):
                server.wait_for_line(rf"master\[{new}\] upgrade: takes over", timeout_s=60)
                os.kill(old, signal.SIGKILL)
            else:
                os.kill(old, signal.SIGKILL)
                server.wait_for_line(rf"upgrade: master pid={old} is dead", timeout_s=60)
                server.wait_for_line(rf"master\[{new}\] ready: ", timeout_s=60)
            for each in clients:
                each.wait_for_more(500)
        for each in clients:
            assert each.failures == []
            assert each.outcomes["not connected"] == 0
        server.end()
        assert logged(database) == sum(each.answered for each in clients)


def test_the_embedded_database_ends_with_the_last_master() -> None:
    """Also if all of them are killed, and the first one's owner of it is nobody's child any more."""
    with Lineage() as server:
        server.upgrade()
        os.kill(server.master, signal.SIGKILL)
        wait_until(lambda: not server.running, "the end of the master")
        server.assert_nothing_runs()


@pytest.mark.parametrize("whom", ["owner", "postmaster"])
def test_an_embedded_database_that_dies_after_an_upgrade_is_started_again(whom: str) -> None:
    """The new master has forked neither of them."""
    with Lineage() as server:
        server.upgrade()
        postgres, mark = postmaster(server), len(server.lines())
        os.kill(postgres if whom == "postmaster" else parent(postgres), signal.SIGKILL)
        server.wait_for_line(r"service postgres pid=\d+ started again", since=mark, timeout_s=60)
        clients = Clients(server.port, keep_alive=False)
        with clients.running(1):
            clients.wait_for_more(10)
        assert postmaster(server) != postgres
        server.end()


def postmaster(server: Lineage) -> int:
    return int((server.folder / "data/postgres/postmaster.pid").read_text().split()[0])
