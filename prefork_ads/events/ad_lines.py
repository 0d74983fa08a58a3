"""What a batch of lines says about ads, added up: decisions by hour, leases used, users seen, events.

The lines become rows of `request_log` as they are. What is derived from them (sums, events that count once)
is derived in the same transaction, by a function of the database. It is told here what to count, since here
the lines are at hand one after the other, and adding them up before sending them saves PostgreSQL a
row a line. `Ads` holds texts: of decisions a line for each column, an array, which PostgreSQL reads in half
the time; of all else lines in the format of COPY.

    decisions     hour, zone, campaign, creative, country, device, filtered; how many
    leased        campaign, day of the lease, minute; how many
    seen          user, campaign, decision, milliseconds: one by one, where caps want it
    events        kind, decision, its milliseconds, received; user, zone, campaign, creative, price, model,
                  country, device, filtered
    conversions   advertiser, order, received, value, user, decision named, filtered

Hours, minutes and milliseconds are counted from 1970.

- Our lines begin at fixed widths (`event.line`): where the endpoint stands need not be searched.
- What a client sent is not looked at: the record is the last member of the params, and a quote inside a JSON
  text is escaped, so its name in quotes behind a comma is found from the right and can be nothing else.
- What counts of a decision stands first in its record, up to the catalog's version. These bytes are cut out
  and counted as they are. Of different ones the three numbers in front are cut out, too, and go to PostgreSQL
  as the digits they are; what follows comes again and again, and is read as JSON once. Whether a lease was
  used and a cap counts stands at the end. Where it is not so, or a backslash is in it, all of the record is
  read.
- A country or device may have KEY_BYTES bytes: an index of the database has to hold it.
- A record that is not one spoils its batch (`BadRecord`): whoever ships takes fewer lines until it is alone.
- It is done in steps of `LINES_A_STEP`, so that an event loop can serve between them.

*Measured* (processor time, on a machine busy with other work): a line of a batch without ads 0.1 µs; a
decision 3.7 µs where few keys come again and again, 4.0 where nearly each has one of its own (4.9 and 5.4
when what was cut out and the records of leases were read as JSON); an event 7 µs, half of it orjson's.

Must not know: SQL, files, what anything is counted for.
"""

import re
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from prefork_ads.events.event import BACKSLASH, TAB
from prefork_ads.events.lines import NEWLINE

LINES_A_STEP: Final = 256

# With what the params of everything about ads begin, see `ad_records`; states are for reading only. A client
# may send the like with any request: then lines are looked at for nothing.
_MARK: Final = b'\t{"request":{'

_ID_AT: Final = len("2026-11-22 10:00:00.000+00\t")
_ID_FIELD: Final = slice(_ID_AT, _ID_AT + 32)
_MADE_MS: Final = slice(_ID_AT, _ID_AT + 12)
_ENDPOINT_AT: Final = _ID_AT + 32 + 1
_DECISION: Final = b"decision\t"
_PARAMS_AT: Final = _ENDPOINT_AT + len(_DECISION)
_OPENS: Final = b',"decision":{'
_ZONE_FIRST: Final = b'"zone":'
_VERSION: Final = b',"version":'
# A lease's day or a user whom it counts for: the last byte of the last member, and what is in there.
_LAST_OF_MORE: Final = b'"e'
_LAST_OF_TRUE: Final = ord("e")
_MORE: Final = re.compile(rb'"(?:leased":"([0-9-]+)"(?:,"caps":true)?|caps":true)\}\}')
_MORE_BYTES: Final = len('"leased":"2026-11-22","caps":true}}')
# What stands first of a decision.
_NUMBERS: Final = re.compile(
    rb'"zone":([0-9]+)(?:,"campaign":([0-9]+),"creative":([0-9]+))?(?=,|\Z)'
)
_USER: Final = re.compile(rb',"uid":"([0-9a-f]{32})"')
_KIND_BYTES: Final = 4
_ID_CHARACTERS: Final = 32

_HOUR_MS: Final = 3_600_000
_MINUTE_MS: Final = 60_000

_NULL: Final = "\\N"
_UNREADABLE: Final = "what it says about an ad cannot be read: {!r}"
KEY_BYTES: Final = 200
_ESCAPES: Final = str.maketrans(
    {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\ufffd"}
)
# Countries, devices and the like: few, and asked for again and again.
_FIELDS: Final[dict[str | None, str]] = {}
_MOST_FIELDS: Final = 10_000


class _Quoted(dict[str, str]):
    """Texts as elements of an array."""

    def __missing__(self, text: str) -> str:
        if len(text.encode()) > KEY_BYTES:
            raise ValueError(f"{text!r} is too long")
        if "\n" in text:
            raise ValueError(f"{text!r} has more than one line")
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        if len(self) >= _MOST_FIELDS:
            self.clear()
        self[text] = quoted = f'"{escaped}"'
        return quoted


_QUOTED: Final = _Quoted()


# Country, device and whether it is filtered.
_Sender = tuple[str, str, bool]


class _Senders(dict[bytes, _Sender | None]):
    """What follows the numbers of decisions, read; None where there is another of these numbers."""

    def __missing__(self, text: bytes) -> _Sender | None:
        record = orjson.loads(b'{"":0' + text + b"}")
        found = _sender(record) if _PLACED.isdisjoint(record) else None
        if len(self) >= _MOST_FIELDS:
            self.clear()
        if len(text) <= _MOST_BYTES_KEPT:
            self[text] = found
        return found


_PLACED: Final = frozenset(("zone", "campaign", "creative"))
_MOST_BYTES_KEPT: Final = 1000
_SENDERS: Final = _Senders()


class BadRecord(Exception):
    """A line about ads that does not say what it must; our bug, or a damaged file."""


@dataclass(frozen=True, slots=True)
class Ads:
    """What a batch says about ads; "" where it says nothing."""

    decisions: str
    leased: str
    seen: str
    events: str
    conversions: str


@dataclass(slots=True)
class _Sums:
    """What was found so far."""

    # The hour, and what counts as it stands in the line.
    cut: list[tuple[int, bytes]] = field(default_factory=list)
    decisions: dict["_Key", int] = field(default_factory=dict)
    # Campaign, day and minute.
    leased: dict[tuple[bytes, bytes, int], int] = field(default_factory=dict)
    seen: list[bytes] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    conversions: list[str] = field(default_factory=list)

    def ads(self) -> Ads | None:
        self._read_cut()
        if not (self.decisions or self.events or self.conversions):
            return None
        leased = [b"%b\t%b\t%d\t%d" % (*lease, count) for lease, count in self.leased.items()]
        return Ads(
            "\n".join(self._columns()),
            b"\n".join(leased).decode(),
            b"\n".join(self.seen).decode(),
            "\n".join(self.events),
            "\n".join(self.conversions),
        )

    def _read_cut(self) -> None:
        decisions, numbers_of = self.decisions, _NUMBERS.match
        for (hour, text), count in Counter(self.cut).items():
            numbers = numbers_of(text)
            sender = None if numbers is None else _SENDERS[text[numbers.end() :]]
            if numbers is None or sender is None:
                key = _key(hour, orjson.loads(b"{" + text + b"}"))
            else:
                zone, campaign, creative = numbers.groups(b"0")
                key = (hour, zone, campaign, creative, *sender)
            decisions[key] = decisions.get(key, 0) + count

    def _columns(self) -> list[str]:
        """The decisions, each column as an array."""
        if not self.decisions:
            return []
        hours, *numbers, countries, devices, filtered = zip(*self.decisions, strict=True)
        return [
            # What a list of numbers looks like, brackets apart.
            f"{{{repr(list(hours))[1:-1]}}}",
            *(f"{{{b','.join(column).decode()}}}" for column in numbers),
            *(f"{{{','.join(map(_QUOTED.__getitem__, names))}}}" for names in (countries, devices)),
            f"{{{','.join(['t' if one else 'f' for one in filtered])}}}",
            f"{{{repr(list(self.decisions.values()))[1:-1]}}}",
        ]


def says_nothing(data: bytes) -> bool:
    """Whether these lines are certainly not about ads."""
    return data.find(_MARK) < 0


def add_up(data: bytes) -> Generator[None, None, Ads | None]:
    """What these whole lines say about ads; None: nothing. Yields now and then. Raises BadRecord."""
    if says_nothing(data):
        return None
    sums = _Sums()
    for number, line in enumerate(data.split(NEWLINE), 1):
        take = _KINDS.get(line[_ENDPOINT_AT : _ENDPOINT_AT + _KIND_BYTES])
        if take is not None:
            try:
                take(sums, line)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise BadRecord(_UNREADABLE.format(error)) from None
        if not number % LINES_A_STEP:
            yield
    try:
        return sums.ads()
    except (AttributeError, TypeError, ValueError) as error:
        raise BadRecord(_UNREADABLE.format(error)) from None


def added_up(data: bytes) -> Ads | None:
    """The same at once."""
    steps = add_up(data)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            ads: Ads | None = end.value
            return ads


def _take_decision(sums: _Sums, line: bytes) -> None:
    if not line.startswith(_DECISION, _ENDPOINT_AT):
        return
    end = line.index(TAB, _PARAMS_AT)
    at = line.rindex(_OPENS, _PARAMS_AT, end) + len(_OPENS)
    ends_at = line.find(_VERSION, at, end)
    made_ms = int(line[_MADE_MS], 16)
    if ends_at < 0 or not line.startswith(_ZONE_FIRST, at) or line.find(BACKSLASH, at, end) >= 0:
        decision = _record(line[_PARAMS_AT:end], _OPENS)
        key = _key(made_ms // _HOUR_MS, decision)
        sums.decisions[key] = sums.decisions.get(key, 0) + 1
    else:
        sums.cut.append((made_ms // _HOUR_MS, line[at:ends_at]))
        last = line[end - 3]
        if last not in _LAST_OF_MORE:
            return
        more = _MORE.search(line, end - _MORE_BYTES, end)
        if more is None:
            return
        caps = last == _LAST_OF_TRUE
        numbers = _NUMBERS.match(line, at, ends_at)
        user = _USER.search(line, ends_at, end) if caps else None
        if numbers is not None and numbers[2] and bool(user) == caps:
            _take_more(sums, line, made_ms, numbers[2], more[1], user and user[1])
            return
        decision = _record(line[_PARAMS_AT:end], _OPENS)
    if "leased" in decision or "caps" in decision:
        _take_more(
            sums,
            line,
            made_ms,
            _digits(decision.get("campaign", 0)),
            _field(decision["leased"]).encode() if "leased" in decision else None,
            _id(decision["uid"]).encode() if "caps" in decision else None,
        )


def _take_more(
    sums: _Sums, line: bytes, made_ms: int, campaign: bytes, day: bytes | None, user: bytes | None
) -> None:
    """A day whose lease was used, a user whom it counts for."""
    if day is not None:
        lease = campaign, day, made_ms // _MINUTE_MS
        sums.leased[lease] = sums.leased.get(lease, 0) + 1
    if user is not None:
        sums.seen.append(b"%b\t%b\t%b\t%d" % (user, campaign, line[_ID_FIELD], made_ms))


# Hour; zone, campaign and creative as their digits; country, device, filtered.
_Key = tuple[int, bytes, bytes, bytes, str, str, bool]


def _key(hour: int, decision: dict[str, Any]) -> _Key:
    """What the rollup tells apart."""
    get = decision.get
    return (
        hour,
        _digits(decision["zone"]),
        _digits(get("campaign", 0)),
        _digits(get("creative", 0)),
        *_sender(decision),
    )


def _sender(decision: dict[str, Any]) -> _Sender:
    return decision.get("country", ""), decision.get("device", ""), "filtered" in decision


def _digits(number: int) -> bytes:
    return f"{number:d}".encode()


def _take_event(sums: _Sums, line: bytes) -> None:
    time, _, endpoint, params, _ = line.split(b"\t", 4)
    kind = _EVENTS.get(endpoint)
    if kind is None:
        return
    event = _record(params, b',"event":{')
    get = event.get
    decision = event["decision"]
    sums.events.append(
        f"{kind}\t{_id(decision)}\t{int(decision[:12], 16):d}\t{time.decode()}"
        f"\t{_id(get('uid'))}\t{event['zone']:d}\t{event['campaign']:d}\t{event['creative']:d}"
        f"\t{get('price', 0):d}\t{_field(get('model', 'cpm'))}\t{_field(get('country', ''))}"
        f"\t{_field(get('device', ''))}\t{_field(get('filtered'))}"
    )


def _take_conversion(sums: _Sums, line: bytes) -> None:
    time, _, endpoint, params, _ = line.split(b"\t", 4)
    if endpoint != b"conversion":
        return
    conversion = _record(params, b',"conversion":{')
    get = conversion.get
    sums.conversions.append(
        f"{conversion['advertiser']:d}\t{_escaped(conversion['order'])}\t{time.decode()}"
        f"\t{get('value', 0):d}\t{_id(get('uid'))}\t{_id(get('decision'))}"
        f"\t{_field(get('filtered'))}"
    )


_EVENTS: Final = {b"impression": "impression", b"viewable": "viewable", b"click": "click"}
_KINDS: Final[dict[bytes, Callable[[_Sums, bytes], None]]] = {
    b"deci": _take_decision,
    b"impr": _take_event,
    b"view": _take_event,
    b"clic": _take_event,
    b"conv": _take_conversion,
}


def _record(params: bytes, name: bytes) -> dict[str, Any]:
    """The member of this name (with what is before and behind it), the last of the params."""
    start = params.rindex(name) + len(name) - 1
    text = params[start:-1]
    if BACKSLASH in text:
        text = text.replace(b"\\\\", b"\\")
    record: dict[str, Any] = orjson.loads(text)
    return record


def _id(value: str | None) -> str:
    if value is None:
        return _NULL
    if len(value) != _ID_CHARACTERS or not value.isalnum():
        raise ValueError(f"{value!r} is no id")
    return value


def _field(text: str | None) -> str:
    """One field of a line of COPY."""
    kept = _FIELDS.get(text)
    if kept is None:
        kept = _NULL if text is None else _escaped(text)
        if len(_FIELDS) >= _MOST_FIELDS:
            _FIELDS.clear()
        _FIELDS[text] = kept
    return kept


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)
