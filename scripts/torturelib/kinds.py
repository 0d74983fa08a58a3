"""The list of all kinds of fault; a new one is a class and a line here."""

from collections.abc import Mapping

from torturelib import faults_of_database as database
from torturelib import faults_of_disk as disk
from torturelib import faults_of_processes as server
from torturelib.faults import Fault

ALL: tuple[type[Fault], ...] = (
    server.WorkerKill,
    server.WorkerHang,
    server.WorkerTerm,
    server.AllWorkersKill,
    server.WorkersKillAgain,
    server.KeeperKill,
    server.Reload,
    server.Upgrade,
    server.Scale,
    server.MasterKill,
    server.MasterTerm,
    server.MasterStopNow,
    server.EverythingKill,
    database.PostgresKill,
    database.PostgresFast,
    database.PostgresImmediate,
    database.BackendsTerminated,
    database.BackendKill,
    database.NetworkCut,
    database.NetworkRefuse,
    database.NetworkStall,
    database.NetworkMute,
    database.NetworkLate,
    database.TableLocked,
    database.TableRenamed,
    disk.JournalDiskFull,
)

BY_NAME: Mapping[str, type[Fault]] = {kind.name: kind for kind in ALL}
