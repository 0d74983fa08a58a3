"""Faults of the server's own processes, and what an operator asks of them."""

import signal

from torturelib import processes
from torturelib.errors import NotRecovered, Unsupported
from torturelib.faults import IN_HAND, NO_LOOKUP, NOT_THERE, NOTHING, Fault

# Generous: a busy machine is no fault of the server.
NOTICED_LIMIT_S = 60.0
RELOAD_LIMIT_S = 180.0


class _OneWorker(Fault):
    """Something befalls one worker, and another takes its place."""

    inner = True
    signal: signal.Signals

    def begin(self) -> None:
        pids = self.parts.program.worker_pids()
        if not pids:
            raise NotRecovered("there is no worker to signal")
        self.victim = pids[self.pick_of(len(pids))]
        self.did = f"{self.signal.name} to worker pid={self.victim}"
        processes.kill(self.victim, self.signal)

    def end(self) -> None:
        program = self.parts.program
        self.parts.waiter.until(
            lambda: self.victim not in program.worker_pids(),
            f"the end of worker pid={self.victim}",
            NOTICED_LIMIT_S,
        )


class WorkerKill(_OneWorker):
    name = "worker-kill"
    about = "a worker gets SIGKILL"
    may_cost = IN_HAND
    signal = signal.SIGKILL


class WorkerHang(_OneWorker):
    name = "worker-hang"
    about = "a worker gets SIGSTOP, and in the end SIGKILL from the master"
    may_cost = IN_HAND
    signal = signal.SIGSTOP


class WorkerTerm(_OneWorker):
    name = "worker-term"
    about = "a worker gets SIGTERM and is replaced"
    may_cost = NOTHING
    signal = signal.SIGTERM


class AllWorkersKill(Fault):
    name = "workers-kill"
    about = "all workers get SIGKILL at once"
    may_cost = IN_HAND
    inner = True

    def begin(self) -> None:
        self.victims = self.parts.program.worker_pids()
        self.did = f"SIGKILL to workers {self.victims}"
        for victim in self.victims:
            processes.kill(victim)

    def end(self) -> None:
        program = self.parts.program
        self.parts.waiter.until(
            lambda: not set(self.victims) & set(program.worker_pids()),
            "the end of the workers",
            NOTICED_LIMIT_S,
        )


class WorkersKillAgain(Fault):
    name = "workers-kill-again"
    about = "all workers get SIGKILL, and their successors too, three times"
    may_cost = IN_HAND
    hold_s = (0.05, 1.0)

    def begin(self) -> None:
        program = self.parts.program
        for _ in range(3):
            victims = program.worker_pids()
            for victim in victims:
                processes.kill(victim)
            # Successors are young when they are hit: some boot, some adopt what was left.
            self.parts.waiter.until(
                lambda dead=frozenset(victims): set(program.worker_pids()) - dead,  # type: ignore[misc]
                "the next worker",
                NOTICED_LIMIT_S,
            )
            self.parts.waiter.pause(self.pick * 0.3)

    def end(self) -> None:
        """The bed waits for all workers."""


class KeeperKill(Fault):
    name = "keeper-kill"
    about = "the keeper gets SIGKILL, perhaps while it ships what others left"
    may_cost = NOTHING
    inner = True

    def begin(self) -> None:
        self.victim = self.parts.program.keeper_pid()
        self.did = f"SIGKILL to keeper pid={self.victim}"
        if self.victim is not None:
            processes.kill(self.victim)

    def end(self) -> None:
        program = self.parts.program
        self.parts.waiter.until(
            lambda: program.keeper_pid() not in (None, self.victim),
            "another keeper",
            NOTICED_LIMIT_S,
        )


class Reload(Fault):
    name = "reload"
    about = "HUP to the master: all workers are replaced"
    may_cost = NOTHING
    inner = True

    def begin(self) -> None:
        self.mark = self.parts.program.mark()
        self.parts.program.signal_master(signal.SIGHUP)

    def end(self) -> None:
        said = self.parts.program.wait_for_line(
            r"reload: (done|given up|refused).*", self.mark, RELOAD_LIMIT_S
        )
        if said[1] != "done":
            raise NotRecovered(said[0])


class Upgrade(Fault):
    name = "upgrade"
    about = "USR2 to the master: another master takes over"
    may_cost = NOTHING

    def begin(self) -> None:
        program = self.parts.program
        self.mark = program.mark()
        self.old = program.master
        program.signal_master(signal.SIGUSR2)

    def end(self) -> None:
        program = self.parts.program
        _refuse_unused(self, signal.SIGUSR2)
        # Both: until the new one has seen the old one's end, it takes no other order.
        self.parts.waiter.until(
            lambda: self.old not in program.masters() and program.master is not None,
            "a new master, and the end of the old one",
            RELOAD_LIMIT_S,
        )
        program.wait_for_line(r"upgrade: done", self.mark, RELOAD_LIMIT_S)
        self.did = f"master pid={self.old} → pid={program.master}"


class Scale(Fault):
    name = "scale"
    about = "TTIN, and after a while TTOU: one worker more, one less"
    may_cost = NOTHING
    hold_s = (0.1, 2.0)

    def begin(self) -> None:
        self.mark = self.parts.program.mark()
        self.parts.program.signal_master(signal.SIGTTIN)
        _refuse_unused(self, signal.SIGTTIN)
        self._wait_for(self.parts.program.workers + 1)

    def end(self) -> None:
        self.parts.program.signal_master(signal.SIGTTOU)
        self._wait_for(self.parts.program.workers)

    def _wait_for(self, workers: int) -> None:
        program = self.parts.program
        self.parts.waiter.until(
            lambda: len(program.worker_pids()) == workers, f"{workers} workers", RELOAD_LIMIT_S
        )


class MasterKill(Fault):
    name = "master-kill"
    about = "the master gets SIGKILL and is started again"
    may_cost = IN_HAND | NOT_THERE
    inner = True

    def begin(self) -> None:
        self.victim = self.parts.program.master
        self.did = f"SIGKILL to master pid={self.victim}"
        self.parts.program.signal_master(signal.SIGKILL)

    def end(self) -> None:
        program = self.parts.program
        self.parts.waiter.until(
            lambda: self.victim not in program.masters(), "the master's end", NOTICED_LIMIT_S
        )
        program.start()


class MasterTerm(Fault):
    name = "master-term"
    about = "the master gets SIGTERM, ends, and is started again"
    may_cost = NOT_THERE
    inner = True

    def begin(self) -> None:
        self.parts.program.signal_master(signal.SIGTERM)

    def end(self) -> None:
        status = self.parts.program.wait_for_end()
        self.did = f"ended with status {status}"
        self.parts.program.start()


class MasterStopNow(Fault):
    name = "master-stop-now"
    about = "the master gets SIGTERM twice and is started again"
    may_cost = IN_HAND | NOT_THERE
    inner = True

    def begin(self) -> None:
        program = self.parts.program
        mark = program.mark()
        program.signal_master(signal.SIGTERM)
        # Two signals of one number that wait at the same time are one.
        program.wait_for_line(r"SIGTERM: draining", mark, NOTICED_LIMIT_S)
        if program.master is not None:
            program.signal_master(signal.SIGTERM)

    def end(self) -> None:
        status = self.parts.program.wait_for_end()
        self.did = f"ended with status {status}"
        self.parts.program.start()


class EverythingKill(Fault):
    name = "everything-kill"
    about = "kill -9 of the whole server and of all of PostgreSQL, at once"
    may_cost = IN_HAND | NOT_THERE | NO_LOOKUP

    def begin(self) -> None:
        self.parts.program.kill_session()
        self.parts.postgres.signal(signal.SIGKILL, all_processes=True)

    def end(self) -> None:
        self.parts.postgres.wait_for_end()
        self.parts.postgres.start()
        self.parts.program.start()


def _refuse_unused(fault: "Upgrade | Scale", number: signal.Signals) -> None:
    """A program that does not know the signal says so; one that does never says this."""
    program = fault.parts.program
    answered = program.wait_for_line(
        rf"{number.name} is not used|worker slot=\d+ pid=\d+ started|upgrade",
        fault.mark,
        NOTICED_LIMIT_S,
    )
    if "not used" in answered[0]:
        raise Unsupported(f"{number.name} is not used by this server")
