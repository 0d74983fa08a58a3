"""Faults of PostgreSQL and of the way to it. /log goes on in all of them: that is promised."""

import signal

import psycopg2
import psycopg2.extensions

from torturelib.faults import NO_LOOKUP, NOTHING, Fault

LOCK_LIMIT_S = 60.0
AWAY = "request_log_away"


class _PostgresEnds(Fault):
    """PostgreSQL ends, stays away for a while, and is started again."""

    may_cost = NO_LOOKUP
    hold_s = (0.0, 4.0)
    outer = True

    def end(self) -> None:
        self.parts.postgres.wait_for_end()
        self.parts.postgres.start()


class PostgresKill(_PostgresEnds):
    name = "postgres-kill"
    about = "PostgreSQL gets kill -9: its postmaster alone, or all its processes"

    def begin(self) -> None:
        everything = self.pick < 0.5
        self.did = "all processes" if everything else "the postmaster alone"
        self.parts.postgres.signal(signal.SIGKILL, all_processes=everything)


class PostgresFast(_PostgresEnds):
    name = "postgres-fast"
    about = "PostgreSQL is stopped fast (SIGINT) and started again"

    def begin(self) -> None:
        self.parts.postgres.signal(signal.SIGINT)


class PostgresImmediate(_PostgresEnds):
    name = "postgres-immediate"
    about = "PostgreSQL is stopped at once (SIGQUIT) and recovers when it is started"

    def begin(self) -> None:
        self.parts.postgres.signal(signal.SIGQUIT)


class BackendsTerminated(Fault):
    name = "backends-terminated"
    about = "every connection to PostgreSQL is ended by pg_terminate_backend"
    may_cost = NO_LOOKUP
    outer = True

    def begin(self) -> None:
        rows = self.parts.postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        self.did = f"{len(rows)} backends"

    def end(self) -> None:
        """Nothing has to be mended."""


class BackendKill(Fault):
    name = "backend-kill"
    about = "one backend gets SIGKILL, so PostgreSQL ends all and recovers"
    may_cost = NO_LOOKUP
    outer = True

    def begin(self) -> None:
        rows = self.parts.postgres.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY pid"
        )
        pid = rows[self.pick_of(len(rows))][0] if rows else None
        self.did = f"backend pid={pid}"
        if pid is not None:
            self.parts.postgres.signal_backend(pid)

    def end(self) -> None:
        self.parts.postgres.wait_until_answers()


class _Network(Fault):
    may_cost = NO_LOOKUP
    hold_s = (0.2, 6.0)
    outer = True

    def end(self) -> None:
        self.parts.network.open()


class NetworkCut(_Network):
    name = "network-cut"
    about = "connections to PostgreSQL are cut; new ones work at once"
    hold_s = (0.0, 0.5)

    def begin(self) -> None:
        self.parts.network.cut()


class NetworkRefuse(_Network):
    name = "network-refuse"
    about = "connections to PostgreSQL are cut and new ones refused"

    def begin(self) -> None:
        self.parts.network.refuse()


class NetworkStall(_Network):
    name = "network-stall"
    about = "packets to and from PostgreSQL are lost for a while, then come late"

    def begin(self) -> None:
        self.parts.network.stall()


class NetworkMute(_Network):
    name = "network-mute"
    about = "what PostgreSQL answers is lost: outcomes are unknown"

    def begin(self) -> None:
        self.parts.network.mute()


class NetworkLate(_Network):
    name = "network-late"
    about = "what cut connections sent reaches PostgreSQL seconds after it was sent again"

    def begin(self) -> None:
        rows = self.pick < 0.7
        self.did = "rows come late" if rows else "statements come late"
        self.parts.network.later() if rows else self.parts.network.late()


class TableLocked(Fault):
    name = "table-locked"
    about = "somebody holds request_log in ACCESS EXCLUSIVE mode"
    may_cost = NOTHING
    hold_s = (0.5, 8.0)
    outer = True

    def begin(self) -> None:
        self._holder = self.parts.postgres.lock_holder(
            "LOCK TABLE request_log IN ACCESS EXCLUSIVE MODE"
        )

    def end(self) -> None:
        try:
            self._holder.close()
        except psycopg2.Error:
            pass


class TableRenamed(Fault):
    name = "table-renamed"
    about = "request_log is renamed away, and back"
    may_cost = NOTHING
    hold_s = (0.5, 6.0)
    outer = True

    def begin(self) -> None:
        self.parts.postgres.execute(f"ALTER TABLE request_log RENAME TO {AWAY}")

    def end(self) -> None:
        self.parts.postgres.execute(f"ALTER TABLE {AWAY} RENAME TO request_log")
