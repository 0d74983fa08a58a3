"""Which core a worker is bound to.

With `auto` slot 0 gets the first core that this process may use, slot 1 the second, and so on, from the
start again when there are more slots than cores. A list is used the same way. The keeper, the master and
the embedded PostgreSQL are never bound.

Without it the scheduler decides, which is better as long as something else wants the cores, too:
PostgreSQL on the same machine above all.

Must not know: fork.
"""

import os

from prefork_ads.errors import ConfigError
from prefork_ads.process.log import logger

# What --cpu-affinity says: no binding, the cores there are, or these.
Choice = str | tuple[int, ...]


def core_of(choice: Choice, slot: int) -> int | None:
    """The core of a slot; None for any."""
    if choice == "none":
        return None
    cores = sorted(os.sched_getaffinity(0)) if isinstance(choice, str) else choice
    return cores[slot % len(cores)]


def bind(core: int) -> None:
    """This process, from now on. A sandbox may forbid it, systemd's `~@resources` for one."""
    try:
        os.sched_setaffinity(0, {core})
    except OSError as error:
        logger.warning("not bound to core %d: %s", core, error.strerror)


def check(choice: Choice) -> None:
    """ConfigError names the cores that are not there for us."""
    if isinstance(choice, str):
        return
    usable = os.sched_getaffinity(0)
    missing = sorted(set(choice) - usable)
    if missing:
        raise ConfigError(
            f"--cpu-affinity names core {', '.join(map(str, missing))}, which this process may not use;"
            f" it may use {', '.join(map(str, sorted(usable)))}."
        )
