"""The moment of the fork: what a child must shed before it runs its entry point.

Signals are blocked from before the fork until the child has dropped the master's handlers. Else a
signal to a child that has just been born runs the inherited handler, which writes to the inherited
wake-up descriptor, and the *master* believes it was told to stop.

The kernel sends a child SIGTERM when its master dies, so it drains and nothing is left running even
after kill -9; `survivors` has what becomes of a child that does not hear it. The request does not survive
exec or a change of user, and has no effect on a parent that is dead already, hence the look at getppid
afterwards. "Parent" is the forking thread: the master has only one.

Must not know: slots, respawning, what the entry point does.
"""

import ctypes
import gc
import os
import random
import signal
import traceback
from collections.abc import Callable

from setproctitle import setproctitle

from prefork_ads.errors import PreforkAdsError
from prefork_ads.process import log, streams
from prefork_ads.process.context import ChildContext, EntryPoint

_PR_SET_PDEATHSIG = 1

# A child meets these by default: whoever it is may install something better.
_DEFAULT = (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD)
# Meant for the master. Ctrl-C and the end of a terminal reach the whole process group, and a child
# that obeyed them would leave before the master has drained it.
_IGNORED = (
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
)

# Looked up before the fork: loading a library in a fresh child is needless work.
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def freeze_memory() -> None:
    """Before forking: what exists now is shared with the children for as long as nobody writes to it.

    The garbage collector writes into every object it visits; frozen ones it leaves alone.
    """
    gc.collect()
    gc.freeze()


def spawn(
    role: str, context: ChildContext, entry_point: EntryPoint, shed: Callable[[], None]
) -> int:
    """Fork and run the entry point in the child; returns the child's pid in the master.

    `shed` runs first in the child: it closes what belongs to the master or to other children.
    """
    streams.flush()
    before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _run(role, context, entry_point, shed, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _run(
    role: str,
    context: ChildContext,
    entry_point: EntryPoint,
    shed: Callable[[], None],
    mask: set[int | signal.Signals],
) -> None:
    """The child's whole life; never returns into the master's frames below."""
    status = 1
    try:
        _become_child(role, context, shed)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if not context.orphaned:
            status = entry_point(context)
    except PreforkAdsError as error:
        log.logger.error("%s", error)
        status = error.exit_code
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - the last frame of this process: say why and leave
        log.logger.error("failed\n%s", traceback.format_exc().rstrip())
    finally:
        # Whatever fails here: what came back from this would be a second master.
        try:
            log.finish()
            streams.flush()
        finally:
            os._exit(status)


def _become_child(role: str, context: ChildContext, shed: Callable[[], None]) -> None:
    signal.set_wakeup_fd(-1)
    for number in _DEFAULT:
        signal.signal(number, signal.SIG_DFL)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    log.configure(role.replace(" ", "-"))
    setproctitle(f"prefork-ads: {role}")
    shed()
    context.seat.pid = os.getpid()
    # Siblings that share one state would draw the same "random" numbers.
    random.seed()
