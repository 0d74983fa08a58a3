"""Who serves while a successor boots, and whether they can look things up.

Where nobody reaches PostgreSQL a new worker serves without it. But one that cannot, in the place of one
that can, would be a step back: a typo in --reader-dsn, or a PostgreSQL with no connection left, would turn
a server that answers into one that does not, one slot after the other. So a worker that is to replace
others asks here, and asks again for as long as it has no reader of its own: they may lose theirs meanwhile.

What they say stands in their seats. Those of an older master (at an upgrade) are read from outside, as
`prefork-ads status` reads them; what cannot be read tells of nobody.

Must not know: what the new worker does about it.
"""

from collections.abc import Iterable

from prefork_ads.metrics import Gauge
from prefork_ads.process import lookout
from prefork_ads.process.lookout import NotAScoreboard
from prefork_ads.process.scoreboard import Seat, State


def anybody_reads(seats: Iterable[tuple[Seat, int]]) -> bool:
    """Whether one of these workers, seat and pid, has a reader's connection. One that has ended has none."""
    return any(seat.pid == pid and seat.gauges[Gauge.READERS_CONNECTED] > 0 for seat, pid in seats)


def older_server_reads(master_pid: int) -> bool:
    """Whether a worker of this master that serves, and is to go on, has a reader's connection."""
    sighting = lookout.master(master_pid)
    if sighting is None:
        return False
    try:
        board = sighting.look()
    except (OSError, NotAScoreboard):
        return False
    # The gauges of another version may stand in another order.
    gauges = board.facts().get("gauges")
    position = (
        gauges.get(Gauge.READERS_CONNECTED.name.lower()) if isinstance(gauges, dict) else None
    )
    return isinstance(position, int) and any(
        seat.state is State.READY and position < len(seat.gauges) and seat.gauges[position] > 0
        for seat in board.occupied()
    )
