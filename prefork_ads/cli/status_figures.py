"""What two looks at a scoreboard say about a server: its figures, and what is wrong with it.

A board may be that of an older or newer version than this program, so cells are found by the names that
the server itself has written beside them, and what is not there counts as zero.

Must not know: where a board comes from, how figures are shown.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from prefork_ads.process.scoreboard import Scoreboard, Seat, State

# How long events may wait for PostgreSQL before somebody should look.
OLDEST_EVENT_S = 60.0
# A seat's deadline is far ahead while its loop runs; a moment past it is the master's time to act.
_LATE_S = 1.0
# A ready worker beats four times a second, also one that has more to do than it can (`crew` has the figures).
# The keeper and whoever starts or leaves may be silent for longer and be well: for them the deadline counts.
SILENT_S = 2.0

_AD_STATUSES = {
    "found": 200,
    "unknown": 204,
    "redirected": 302,
    "malformed": 400,
    "no_zone": 404,
    "unavailable": 503,
}
_LOG_STATUSES = {"accepted": 204, "malformed": 400, "unavailable": 503}
_TRACK_STATUSES = {str(status): status for status in (200, 204, 302, 400, 403, 404, 410, 503)}
# What was logged of beacons, clicks and conversions, whose requests are counted together.
_TRACKED = ("impressions", "viewables", "clicks", "conversions")


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a board; times are seconds on the monotonic clock, which all processes share."""

    board: Scoreboard
    at_s: float
    # How long each process has run, and the memory it has in use; None for one that is gone.
    ages_s: Mapping[int, float | None]
    memory_bytes: Mapping[int, int]
    # Its master has handed over to another one.
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Histogram:
    """What was observed between two looks."""

    bounds: Sequence[int]
    counts: Sequence[int]
    total: int

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """As Prometheus estimates it: evenly spread within a bucket; the last bound if above it."""
        wanted = share * self.count
        lower, before = 0.0, 0
        for bound, reached in zip(self.bounds, accumulate(self.counts), strict=False):
            if reached >= wanted and reached > before:
                return lower + (bound - lower) * (wanted - before) / (reached - before)
            lower, before = float(bound), reached
        return lower


@dataclass(slots=True)
class Child:
    """One worker, or the keeper."""

    slot: int
    pid: int
    state: str
    generation: int
    up_s: float | None
    memory_bytes: int
    requests_per_s: float = 0.0
    connections: int = 0
    lookups_waiting: int = 0
    log_rows_waiting: int = 0
    journal_bytes: int = 0
    loop_delay_s: float = 0.0
    reader_connections: int = 0
    writer_connections: int = 0
    catalog_version: int = 0
    catalog_age_s: float = 0.0
    campaigns: int = 0
    campaigns_refused: int = 0
    late_s: float = 0.0
    # Since its last sign of life; zero where the board does not tell.
    silent_s: float = 0.0

    @property
    def hangs(self) -> bool:
        is_ready_worker = self.slot >= 0 and self.state == State.READY.name.lower()
        return self.late_s > _LATE_S or (is_ready_worker and self.silent_s >= SILENT_S)

    @property
    def name(self) -> str:
        return "keeper" if self.slot < 0 else f"slot {self.slot}"


@dataclass(slots=True)
class Endpoint:
    """One endpoint since the last look."""

    per_s: float
    total: int
    by_status_per_s: dict[str, float]
    p50_s: float | None
    p99_s: float | None


@dataclass(slots=True)
class Batches:
    """Statements since the last look."""

    per_s: float
    rows_per_s: float
    mean_rows: float
    mean_s: float
    p99_s: float | None
    failures: int


@dataclass(slots=True)
class Server:
    """Everything about one server."""

    version: str
    url: str
    database: str
    data_dir: str
    master_pid: int
    master_alive: bool
    master_memory_bytes: int
    leaving: bool
    up_s: float
    slots: int
    slots_open: int
    slots_crash_looping: int
    workers: list[Child]
    keeper: Child | None
    endpoints: dict[str, Endpoint]
    # By kind.
    tracked_per_s: dict[str, float]
    refused_per_s: float
    shed_per_s: float
    failed: int
    lookups: Batches
    inserts: Batches
    rows_rejected: int
    journal: dict[str, float]
    respawns: dict[str, int]
    log_lines_dropped: int
    problems: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        return not self.problems


class _Cells:
    """Sums of cells by name: now, and since the look before."""

    def __init__(self, before: Look, now: Look) -> None:
        self._facts = now.board.facts()
        self._now = now.board.totals()
        self._before = before.board.totals()
        self.seconds = max(now.at_s - before.at_s, 1e-9)

    def total(self, name: str) -> int:
        position = self._position("counters", name)
        return 0 if position is None else self._now[position]

    def since(self, name: str) -> int:
        position = self._position("counters", name)
        return 0 if position is None else self._now[position] - self._before[position]

    def per_s(self, name: str) -> float:
        return self.since(name) / self.seconds

    def gauge(self, seat: Seat, name: str) -> int:
        position = self._position("gauges", name)
        return 0 if position is None else seat.gauges[position]

    def histogram(self, name: str) -> Histogram:
        known = self._facts.get("histograms")
        layout = known.get(name) if isinstance(known, dict) else None
        if not layout:
            return Histogram((), (), 0)
        first, *bounds = layout
        end = first + len(bounds) + 1
        grown = [self._now[cell] - self._before[cell] for cell in range(first, end + 1)]
        return Histogram(bounds, grown[:-1], grown[-1])

    def names(self, prefix: str) -> list[str]:
        known = self._facts.get("counters")
        return (
            [name for name in known if name.startswith(prefix)] if isinstance(known, dict) else []
        )

    def _position(self, kind: str, name: str) -> int | None:
        known = self._facts.get(kind)
        found = known.get(name) if isinstance(known, dict) else None
        return found if isinstance(found, int) else None


def figures(before: Look, now: Look) -> Server:
    """What there is to say; rates are those between the two looks."""
    cells = _Cells(before, now)
    board, facts = now.board, now.board.facts()
    children = [_child(seat, cells, before, now) for seat in board.occupied()]
    keepers = [child for child in children if child.slot < 0]
    master_pid = int(facts.get("master_pid") or 0)  # type: ignore[call-overload]
    master_age_s = now.ages_s.get(master_pid)
    server = Server(
        version=_text(facts, "version"),
        url=_text(facts, "url"),
        database=_text(facts, "database"),
        data_dir=_text(facts, "data_dir"),
        master_pid=master_pid,
        master_alive=master_age_s is not None,
        master_memory_bytes=now.memory_bytes.get(master_pid, 0),
        leaving=now.leaving,
        up_s=master_age_s or 0.0,
        slots=board.slots,
        slots_open=board.open_to,
        slots_crash_looping=board.crash_looping,
        workers=sorted(
            (child for child in children if child.slot >= 0),
            key=lambda child: (child.slot, -child.generation, child.pid),
        ),
        keeper=keepers[0] if keepers else None,
        endpoints={
            "ad": _endpoint(cells, "ad", _AD_STATUSES),
            "log": _endpoint(cells, "log", _LOG_STATUSES),
            "track": _endpoint(cells, "track", _TRACK_STATUSES),
        },
        tracked_per_s={kind: cells.per_s(f"{kind}_taken") for kind in _TRACKED},
        refused_per_s=cells.per_s("requests_refused"),
        shed_per_s=cells.per_s("requests_shed"),
        failed=cells.total("requests_failed"),
        lookups=_batches(cells, "lookup_microseconds", "lookup_keys", "lookup_failures"),
        inserts=_batches(cells, "insert_microseconds", "insert_rows", "log_failures"),
        rows_rejected=cells.total("log_rows_rejected"),
        journal=_journal(cells, board.occupied()),
        respawns={
            name.removeprefix("respawns_"): cells.total(name) for name in cells.names("respawns_")
        },
        log_lines_dropped=cells.total("log_lines_dropped"),
    )
    # Who leaves has fewer and fewer of everything, and somebody else serves.
    server.problems = [] if now.leaving else list(_problems(server))
    return server


def _text(facts: Mapping[str, object], name: str) -> str:
    # Printable, whatever somebody called a directory: it goes to a terminal.
    return "".join(c if c.isprintable() else "?" for c in str(facts.get(name) or ""))


def _child(seat: Seat, cells: _Cells, before: Look, now: Look) -> Child:
    requests = [cells._position("counters", n) for n in _request_counters()]
    earlier = before.board.seats
    done = sum(seat.counters[position] for position in requests if position is not None)
    if seat.index < len(earlier):
        counted = earlier[seat.index].counters
        done -= sum(counted[position] for position in requests if position is not None)
    return Child(
        slot=seat.slot,
        pid=seat.pid,
        state=seat.state.name.lower(),
        generation=seat.generation,
        up_s=now.ages_s.get(seat.pid),
        memory_bytes=now.memory_bytes.get(seat.pid) or cells.gauge(seat, "memory_bytes"),
        requests_per_s=done / cells.seconds,
        connections=cells.gauge(seat, "connections_open"),
        lookups_waiting=cells.gauge(seat, "lookups_waiting"),
        log_rows_waiting=cells.gauge(seat, "log_rows_waiting"),
        journal_bytes=cells.gauge(seat, "journal_bytes"),
        loop_delay_s=cells.gauge(seat, "loop_lag_microseconds") / 1e6,
        reader_connections=cells.gauge(seat, "readers_connected"),
        writer_connections=cells.gauge(seat, "writer_connected"),
        catalog_version=cells.gauge(seat, "catalog_version"),
        catalog_age_s=cells.gauge(seat, "catalog_checked_milliseconds") / 1000,
        campaigns=cells.gauge(seat, "campaigns"),
        campaigns_refused=cells.gauge(seat, "campaigns_refused"),
        late_s=max(0.0, now.at_s - seat.deadline),
        silent_s=max(0.0, now.at_s - seat.beaten_at) if seat.beaten_at else 0.0,
    )


def _request_counters() -> Iterable[str]:
    return (
        *(f"ad_{name}" for name in _AD_STATUSES),
        *(f"log_{name}" for name in _LOG_STATUSES),
        *(f"track_{name}" for name in _TRACK_STATUSES),
    )


def _endpoint(cells: _Cells, name: str, statuses: Mapping[str, int]) -> Endpoint:
    waited = cells.histogram(f"{name}_microseconds")
    return Endpoint(
        per_s=sum(cells.per_s(f"{name}_{kind}") for kind in statuses),
        total=sum(cells.total(f"{name}_{kind}") for kind in statuses),
        by_status_per_s={
            str(status): cells.per_s(f"{name}_{kind}") for kind, status in statuses.items()
        },
        p50_s=waited.quantile(0.5) / 1e6 if waited.count else None,
        p99_s=waited.quantile(0.99) / 1e6 if waited.count else None,
    )


def _batches(cells: _Cells, times: str, sizes: str, failures: str) -> Batches:
    took, rows = cells.histogram(times), cells.histogram(sizes)
    return Batches(
        per_s=took.count / cells.seconds,
        rows_per_s=rows.total / cells.seconds,
        mean_rows=rows.mean,
        mean_s=took.mean / 1e6,
        p99_s=took.quantile(0.99) / 1e6 if took.count else None,
        failures=cells.total(failures),
    )


def _journal(cells: _Cells, seats: Iterable[Seat]) -> dict[str, float]:
    living = list(seats)
    oldest_ms = max((cells.gauge(s, "journal_oldest_milliseconds") for s in living), default=0)
    return {
        "bytes": sum(cells.gauge(seat, "journal_bytes") for seat in living),
        "oldest_s": oldest_ms / 1000,
        **{name: cells.total(f"journal_{name}") for name in ("adopted", "torn", "damaged")},
    }


def _problems(server: Server) -> Iterator[str]:
    """What somebody should look at; each is a sentence."""
    if not server.master_alive:
        yield f"The master (pid {server.master_pid}) is gone; its workers finish what they have."
    ready = {child.slot for child in server.workers if child.state == State.READY.name.lower()}
    missing = [str(slot) for slot in range(server.slots) if slot not in ready]
    if missing:
        word = "Slot" if len(missing) == 1 else "Slots"
        yield f"{word} {', '.join(missing)} of {server.slots}: no worker is ready."
    if server.slots_crash_looping:
        yield f"Workers of {server.slots_crash_looping} slots keep dying early; the log says why."
    for child in (*server.workers, *([server.keeper] if server.keeper else [])):
        if child.hangs:
            since = f" for {child.silent_s:.0f} s" if child.silent_s else ""
            yield f"{child.name.capitalize()} (pid {child.pid}): no sign of life{since}."
    serving = [child for child in server.workers if child.slot in ready]
    for role, without in (
        ("writing", [child for child in serving if not child.writer_connections]),
        ("reading", [child for child in serving if not child.reader_connections]),
    ):
        if without:
            yield (
                f"{len(without)} of {len(serving)} workers have no connection to PostgreSQL for"
                f" {role}."
            )
    if server.journal["oldest_s"] > OLDEST_EVENT_S:
        waited = server.journal["oldest_s"]
        yield f"Events have been waiting for PostgreSQL for {waited:.0f} s."
