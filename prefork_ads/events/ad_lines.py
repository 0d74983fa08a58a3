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
  and counted as they are, and only different ones are read as JSON. Whether a lease was used and a cap counts
  stands at the end. Where it is not so, or a backslash is in it, all of the record is read.
- A country or device may have KEY_BYTES bytes: an index of the database has to hold it.
- A record that is not one spoils its batch (`BadRecord`): whoever ships takes fewer lines until it is alone.
- It is done in steps of `LINES_A_STEP`, so that an event loop can serve between them.

*Measured* (processor time, on a machine busy with other work): a line of a batch without ads 0.1 µs; a
decision 3.9 µs where few keys come again and again, 6.1 where nearly each has one of its own (6.8 and 7.4
when all of the record was read); an event 7 µs, half of it orjson's.

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
_MORE: Final = re.compile(rb'"(?:leased":"[0-9-]+"(?:,"caps":true)?|caps":true)\}\}')
_MORE_BYTES: Final = len('"leased":"2026-11-22","caps":true}}')
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
    decisions: dict[tuple[Any, ...], int] = field(default_factory=dict)
    leased: dict[tuple[int, str, int], int] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    conversions: list[str] = field(default_factory=list)

    def ads(self) -> Ads | None:
        self._read_cut()
        if not (self.decisions or self.events or self.conversions):
            return None
        leased = [
            f"{campaign:d}\t{_field(day)}\t{minute:d}\t{count:d}"
            for (campaign, day, minute), count in self.leased.items()
        ]
        texts = (self._columns(), leased, self.seen, self.events, self.conversions)
        return Ads(*("\n".join(lines) for lines in texts))

    def _read_cut(self) -> None:
        cut = Counter(self.cut)
        if cut:
            # All at once: as many calls would take as long as reading does.
            texts = b"[{" + b"},{".join([text for _, text in cut]) + b"}]"
            for decision, (hour, text) in zip(orjson.loads(texts), cut, strict=True):
                key = _key(hour, decision)
                self.decisions[key] = self.decisions.get(key, 0) + cut[hour, text]

    def _columns(self) -> list[str]:
        """The decisions, each column as an array."""
        if not self.decisions:
            return []
        *numbers, countries, devices, filtered = zip(*self.decisions, strict=True)
        return [
            # What a list of numbers looks like, brackets apart. PostgreSQL refuses what is no number.
            *(f"{{{repr(column)[1:-1]}}}" for column in map(list, numbers)),
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
        if line[end - 3] not in _LAST_OF_MORE or not _MORE.search(line, end - _MORE_BYTES, end):
            return
        decision = _record(line[_PARAMS_AT:end], _OPENS)
    campaign = decision.get("campaign", 0)
    if "leased" in decision:
        lease = (campaign, decision["leased"], made_ms // _MINUTE_MS)
        sums.leased[lease] = sums.leased.get(lease, 0) + 1
    if "caps" in decision:
        sums.seen.append(
            f"{_id(decision['uid'])}\t{campaign:d}\t{line[_ID_FIELD].decode()}\t{made_ms:d}"
        )


def _key(hour: int, decision: dict[str, Any]) -> tuple[Any, ...]:
    """What the rollup tells apart."""
    get = decision.get
    return (
        hour,
        decision["zone"],
        get("campaign", 0),
        get("creative", 0),
        get("country", ""),
        get("device", ""),
        "filtered" in decision,
    )


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
