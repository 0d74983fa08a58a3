"""What to send to PostgreSQL next, and what its answers mean: a batch of event lines, counted once.

Only decisions: a `Shipment` hands out statements and is told what became of them. A worker's writer
carries them out on its asynchronous connection, `adoption` on a synchronous one for the events that
dead workers have left; both do the same because both ask here.

**Once.** A segment is a stream of bytes with a name nobody else uses, and the ledger
(`journal_segment`) says how many of them are in the table. The statement that inserts a batch also moves
the ledger from the batch's first byte to its last, in one transaction, and inserts nothing unless the
ledger stood where the batch begins. So a batch whose outcome is unknown is simply sent again, and of two
who send the same bytes one counts. The statement's last result is where the ledger stands now.

**The ledger is the truth**, also when it stands behind us: after a fail-over to a replica that lags, or
in a restored backup, rows and ledger were lost together. Whoever has the bytes still goes back to them.
A ledger that claims more than there ever was (or less than is left) is broken: nobody can say then what
is in the table, and a person has to look.

A ledger row is made by a statement of its own and never by the one that inserts. Both may still be under way
on connections we have given up. So the row of a segment that is done stays for CLOSED_FOR, at its end: then
there is none to make, and no batch that begins there.

**What PostgreSQL refuses.** A line that cannot become a row would stop all behind it. So half as many lines
are taken from the same place until it is one, that one is kept in `request_log_rejected`, and the rest goes
on in batches that grow again.

**Ads.** What lines say about ads is added up here (`ad_lines`) and goes with them: the statement of a batch
that has such lines ends with `ad_ingest`, which counts events once and keeps the sums, in the same
transaction. What it refuses is looked for like a line that cannot become a row. Batches of several writers
may stand in each other's way there; PostgreSQL then undoes one of them, and that is sent again as it is.

**How.** A living worker's batch is taken by COPY (`log_copy`, see `copy_in`), a dead one's by an INSERT of
one text parameter (`log_insert`), which any connection can do. Lines have the form that COPY reads; the
INSERT undoes the same escapes.

*Measured* (PostgreSQL 18, lines of 290 bytes, one connection; median of 3): rows/s, processor time per
row of this process and of the backend, by rows in an INSERT:

      500    72,000    2.6 µs   10.3 µs
    2,000    86,000    2.1 µs    9.3 µs
   10,000    86,000    1.7 µs    9.4 µs

So 2,000 rows are enough: such a statement keeps the loop from serving for 2 ms, and one of 10,000 for up to
15 ms. By COPY the backend takes half of it and this process a fifth: nothing is decoded or quoted.

With ads, by COPY (decisions of 700 bytes, 2,000 rows, nearly each another row of the rollup): a decision
takes the backend 15 µs, of which 14 are the COPY of such a line, and this process 10, of which 3 are. What
is added to `rollup_delta` the keeper folds, see `partitions`. (While the machine was busier, the COPY took
27 µs of 28; and 45 when each batch updated the rollup itself.)

Must not know: connections, files, what the lines mean beyond the day they begin with and what `ad_lines`
makes of them.
"""

import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from prefork_ads.events.ad_lines import Ads, BadRecord, add_up
from prefork_ads.events.lines import Batch
from prefork_ads.events.segments import stream_of

# How long a ledger row is kept that nothing moves. A file that could be older than this and has no row
# may have been shipped already, and is not shipped at all; the month between is for clocks that differ.
FORGOTTEN_AFTER: Final = timedelta(days=400)
TOO_OLD_WITHOUT_ROW: Final = timedelta(days=370)
# And how long the row of a segment that is done: longer than any statement about it can be under way.
CLOSED_FOR: Final = timedelta(days=1)

# What a connection needs, whatever its server or somebody's DSN says: lines are handed over as UTF-8,
# and our statements have literals with a backslash.
TEXT_SETTINGS: Final = "SET client_encoding = 'UTF8'; SET standard_conforming_strings = on"

# "no partition of relation found for row" comes as a check violation.
_NO_PARTITION: Final = "23514"
# Cardinality, data, constraint and a limit of the program: what a line itself can cause.
_DATA_ERRORS: Final = ("21", "22", "23", "54")
# Somebody else's transaction was in the way (serialization failure, deadlock): the same may go well now.
_AGAIN: Final = ("40001", "40P01")
_MOST_AGAIN: Final = 20
_DAY: Final = re.compile(rb"^\d{4}-\d\d-\d\d(?= )", re.MULTILINE)


class LedgerBroken(Exception):
    """The ledger contradicts the file: nobody can say any more what is in the table."""


class LedgerMoved(Exception):
    """The ledger does not stand where our statement would have put it, so that took no effect."""

    def __init__(self, segment: str, position: int | None) -> None:
        super().__init__(f"the ledger of {segment} stands at {position}")
        self.position = position


class Text:
    """UTF-8 bytes as the text parameter of a statement, without a detour over str.

    psycopg2 asks for the literal. The bytes must not hold a NUL; the connection has `TEXT_SETTINGS`.
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __conform__(self, protocol: object) -> "Text":
        return self

    def getquoted(self) -> bytes:
        return b"'" + self._data.replace(b"'", b"''") + b"'"


@dataclass(frozen=True, slots=True)
class Statement:
    """A query's name with its parameters: one string, one transaction."""

    name: str
    parameters: Mapping[str, Any]
    # What the COPY in it takes, if there is one.
    lines: bytes | None = None


@dataclass(frozen=True, slots=True)
class Attribution:
    """How long after a click, and after an impression, a conversion is put down to it."""

    click_s: float = 2_592_000.0
    view_s: float = 86_400.0

    def parameters(self) -> dict[str, timedelta]:
        """As statements want it."""
        return {
            "click_window": timedelta(seconds=self.click_s),
            "view_window": timedelta(seconds=self.view_s),
        }


class Pace:
    """How many lines the next batch may have: fewer while one of them is being looked for."""

    __slots__ = ("_max_rows", "rows")

    def __init__(self, max_rows: int) -> None:
        self._max_rows = self.rows = max_rows

    def narrow(self, rows: int) -> None:
        self.rows = max(1, rows // 2)

    def widen(self) -> None:
        """The bad line is behind us, or still ahead: larger batches either way."""
        self.rows = min(self.rows * 2, self._max_rows)


class Shipment:
    """One batch on its way. Ask `next`, carry it out, say what became of it; until `next` is None.

    Then either it has `counted`, or PostgreSQL refused it and a smaller one is to be taken. Made by
    `prepare`.
    """

    def __init__(
        self,
        batch: Batch,
        pace: Pace,
        *,
        ads: Ads | BadRecord | None,
        by_copy: bool = False,
        attribution: Attribution | None = None,
    ) -> None:
        self._batch = batch
        self._by_copy = by_copy
        self._pace = pace
        self._ads = None if isinstance(ads, BadRecord) else ads
        self._attribution = attribution or Attribution()
        self._times_again = 0
        self._days: list[bytes] = []
        self._made_days = False
        self._given_up = False
        self.counted = False
        # Why the only line of the batch became no row.
        self.rejected = ""
        if b"\0" in batch.data:
            # No statement can hold it, so nobody needs to be asked.
            self._narrow("it has a NUL")
        elif isinstance(ads, BadRecord):
            self._narrow(str(ads))

    def next(self) -> Statement | None:
        """What to do now; None when there is nothing more to do."""
        batch = self._batch
        if self.counted or self._given_up:
            return None
        if self._days:
            day = self._days[0].decode()
            # Day by day: a clock that jumped while we gathered must not ask for fifty years of days.
            return Statement("request_log_ensure", {"first_day": day, "last_day": day})
        move = {"segment": batch.segment, "before": batch.before, "after": batch.after}
        if not batch.data:
            return Statement("log_skip", move)
        text = batch.data[:-1]
        if self.rejected:
            # As bytes: psycopg2 would encode a str by what the DSN says, and may not be able to.
            line = text.decode(errors="replace").replace("\0", "\ufffd").encode()
            reason = self.rejected.encode(errors="replace")
            return Statement("log_reject", {**move, "line": Text(line), "reason": Text(reason)})
        parameters = {**move, **self._about_ads()}
        suffix = "_ads" if self._ads else ""
        if self._by_copy:
            return Statement("log_copy" + suffix, parameters, batch.data)
        return Statement("log_insert" + suffix, {**parameters, "lines": Text(text)})

    def _about_ads(self) -> dict[str, Any]:
        """The parameters of ad_ingest."""
        ads = self._ads
        if ads is None:
            return {}
        return {
            "holder": stream_of(self._batch.segment),
            **{name: Text(getattr(ads, name).encode()) for name in Ads.__slots__},
            **self._attribution.parameters(),
        }

    def answered(self, rows: Sequence[Sequence[Any]]) -> None:
        """The statement was carried out, with this last result.

        Raises LedgerMoved when the ledger stands elsewhere; then this shipment is over.
        """
        if self._days:
            del self._days[0]
            return
        position: int | None = rows[0][0] if rows else None
        if position != self._batch.after:
            raise LedgerMoved(self._batch.segment, position)
        self.counted = True
        self._pace.widen()

    def refused(self, sqlstate: str, reason: str) -> bool:
        """PostgreSQL refused the statement. False: not because of the lines, so nothing can be done."""
        if sqlstate in _AGAIN and self._times_again < _MOST_AGAIN:
            self._times_again += 1
            return True
        if sqlstate[:2] not in _DATA_ERRORS or self.rejected:
            return False
        if self._days:
            # Looks like a day and is none; the line that begins so will be refused by itself.
            del self._days[0]
        elif sqlstate == _NO_PARTITION and not self._made_days:
            self._made_days = True
            self._days = sorted(set(_DAY.findall(self._batch.data)))
        else:
            self._narrow(reason)
        return True

    def _narrow(self, reason: str) -> None:
        """A line of it cannot become a row: take fewer, or give the line up."""
        if self._batch.rows > 1:
            self._pace.narrow(self._batch.rows)
            self._given_up = True
        else:
            self.rejected = reason


def prepare(
    batch: Batch, pace: Pace, *, by_copy: bool = False, attribution: Attribution | None = None
) -> Generator[None, None, Shipment]:
    """A batch's shipment, made in steps of a millisecond, between which it yields."""
    ads: Ads | BadRecord | None
    try:
        ads = yield from add_up(batch.data)
    except BadRecord as error:
        ads = error
    return Shipment(batch, pace, ads=ads, by_copy=by_copy, attribution=attribution)
