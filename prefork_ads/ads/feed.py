"""How the catalog comes into a worker: an errand that follows its versions, and a task that compiles.

Every `every_s`, and when a notification hurries it, the errand asks which version is the newest. If it is
not ours it asks for what we lack, which is the changes since ours, or everything (`catalog_news` says when).
The task makes a catalog of it in slices of SLICE_S, between which the loop serves, and puts it in the place
of the old one whole.

- A version is followed by its number and its mark, the moment of its change: after a fail-over that has lost
  some versions their numbers are given again, and a host may be pointed to another database.
- The rows are kept: a change comes as rows, and what it is a part of is compiled from all of them. They are
  never altered in place, so whoever writes them to the disk in a thread can take its time.
- A catalog that cannot be compiled is a bug. It is reported, counted, and not tried again before the next
  change; what was served is served.
- Before the first answer of PostgreSQL there may be a snapshot on the disk (`load`), from which a worker
  starts: what it lacks is usually nothing.
- A compilation makes some hundred thousand objects that live long. Left to the garbage collector they are
  looked at again and again, all at once, which stops the loop: so it is held off meanwhile, and what was made
  is then put out of its sight.

Must not know: connections, SQL, files, who serves from it.
"""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import orjson

from prefork_ads.ads.catalog import Catalog, Rows, compile_catalog
from prefork_ads.ads.current import Current
from prefork_ads.metrics import Cells, Counter, Gauge

# How long the loop may be kept from serving at a time.
SLICE_S: Final = 0.002
# Who lacks more rows than that compiles everything anew.
MOST_CHANGES: Final = 5000
# What the statement that fetches a whole catalog may take.
LIMIT_S: Final = 10.0

T = TypeVar("T")
Row = tuple[Any, ...]
Steps = Generator[None, None, T]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rows of a catalog."""

    version: int
    mark: str | None
    rows: Rows = field(repr=False)

    @property
    def stamp(self) -> tuple[int, str | None]:
        return self.version, self.mark


NOTHING: Final = Snapshot(-1, None, {})
RELATIONS: Final = ("advertiser", "site", "zone", "segment", "campaign", "creative")


class CatalogFeed:
    """The errand, and in `run` the task that compiles."""

    limit_s: Final = LIMIT_S

    def __init__(
        self,
        current: Current,
        *,
        every_s: float,
        counters: Cells,
        gauges: Cells,
        report: Callable[[str], None],
        load: Callable[[], Awaitable[Snapshot | None]],
        keep: Callable[[Snapshot], None],
    ) -> None:
        """`load` gives what the disk has; `keep` is told of each catalog that comes from PostgreSQL."""
        self.every_s = every_s
        # Set by whoever runs the errand: ask soon.
        self.hurry: Callable[[], None] = lambda: None
        self._current = current
        self._counters = counters
        self._gauges = gauges
        self._report = report
        self._load = load
        self._keep = keep
        self._snapshot = NOTHING
        # The newest that we have heard of, if it is not ours; and the one that could not be compiled.
        self._lacks = False
        self._hopeless: tuple[int, str | None] | None = None
        # Until the disk was looked at, and while something is compiled, nothing is asked.
        self._busy = True
        self._asked_at = 0.0
        self._checked_at = time.monotonic()
        self._news: asyncio.Future[list[Row]] | None = None
        # What is served was the newest at some time since the start.
        self.caught_up = asyncio.Event()
        # The disk was looked at; and PostgreSQL was asked, and what it said is served, or cannot be.
        self.has_looked = asyncio.Event()
        self.has_asked = asyncio.Event()

    # -- the errand --------------------------------------------------------------------------------

    def ask(self) -> tuple[str, Mapping[str, Any]] | None:
        if self._busy:
            return None
        self._asked_at = time.monotonic()
        if not self._lacks:
            return "catalog_state", {}
        have = self._snapshot
        return "catalog_news", {"after": have.version, "mark": have.mark, "most": MOST_CHANGES}

    def answered(self, rows: list[Row]) -> None:
        if not rows:
            # A database that is being restored, say.
            self._report("catalog: PostgreSQL knows of no version: catalog_state has no row")
            self.failed()
            return
        if self._lacks:
            self._lacks = False
            self._busy = True
            if self._news is not None and not self._news.done():
                self._news.set_result(rows)
            return
        newest = rows[0][:2]
        if newest == self._snapshot.stamp:
            self._checked()
        elif newest != self._hopeless:
            self._lacks = True
            self.hurry()

    def failed(self) -> None:
        """It is asked again, and its answer says where things stand."""
        self.has_asked.set()

    def tend(self, now: float) -> None:
        """A few times a second: gauges."""
        self._gauges[Gauge.CATALOG_CHECKED_MILLISECONDS] = int((now - self._checked_at) * 1000)

    def _checked(self) -> None:
        self._checked_at = self._asked_at
        self.caught_up.set()
        self.has_asked.set()

    # -- the task ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Compile what comes, until cancelled."""
        loaded = await self._load()
        if loaded is not None:
            await self._serve_from(_whole(loaded), anew=True)
        self.has_looked.set()
        while True:
            self._news = asyncio.get_running_loop().create_future()
            self._busy = False
            self.hurry()
            rows = await self._news
            version, mark, whole, _ = rows[0]
            have = NOTHING if whole else self._snapshot
            if await self._serve_from(_newer(have, self._current.catalog, rows), anew=whole):
                self._checked()
                self._keep(self._snapshot)
            else:
                self._hopeless = version, mark
                self.has_asked.set()

    async def _serve_from(self, steps: Steps[tuple[Snapshot, Catalog]], *, anew: bool) -> bool:
        """Compile and put in place. False: it cannot be done."""
        try:
            snapshot, catalog = await (self._anew(steps) if anew else self._in_slices(steps))
            self._current.replace(catalog)
        except Exception as error:  # noqa: BLE001 - whatever it is, what was served can still be served
            self._counters[Counter.CATALOGS_FAILED] += 1
            self._report(f"catalog: it cannot be served: {type(error).__name__}: {error}")
            return False
        self._snapshot = snapshot
        self._counters[Counter.CATALOGS_LOADED] += 1
        self._gauges[Gauge.CATALOG_VERSION] = snapshot.version
        self._gauges[Gauge.CAMPAIGNS] = len(catalog.entries)
        self._gauges[Gauge.CAMPAIGNS_REFUSED] = len(catalog.refused)
        return True

    async def _anew(self, steps: Steps[T]) -> T:
        """In slices, with the garbage collector held off, and what was made out of its sight."""
        gc.disable()
        try:
            return await self._in_slices(steps)
        finally:
            gc.freeze()
            gc.enable()

    async def _in_slices(self, steps: Steps[T]) -> T:
        began = time.perf_counter()
        while True:
            try:
                next(steps)
            except StopIteration as end:
                result: T = end.value
                return result
            # A step takes about half a slice.
            if time.perf_counter() - began >= SLICE_S / 2:
                await asyncio.sleep(0)
                began = time.perf_counter()


def _whole(snapshot: Snapshot) -> Steps[tuple[Snapshot, Catalog]]:
    for relation in RELATIONS:
        snapshot.rows.setdefault(relation, {})
    catalog = yield from compile_catalog(snapshot.rows, snapshot.version)
    return snapshot, catalog


def _newer(
    have: Snapshot, catalog: Catalog | None, rows: Sequence[Row]
) -> Steps[tuple[Snapshot, Catalog]]:
    """What we have (nothing, if everything comes), with what came."""
    changed: list[tuple[str, int]] = []
    merged: Rows = {relation: dict(of) for relation, of in have.rows.items()}
    version, mark = rows[0][:2]
    for *_, piece in rows:
        if piece is None:
            continue
        for relation, number, content in orjson.loads(piece):
            of = merged.setdefault(relation, {})
            if content is None:
                of.pop(number, None)
            else:
                of[number] = content
            changed.append((relation, number))
        yield
    snapshot = Snapshot(version, mark, merged)
    if catalog is None or have is NOTHING:
        return (yield from _whole(snapshot))
    return snapshot, (yield from catalog.patched(merged, changed, version))
