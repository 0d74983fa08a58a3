"""The event line: one line, eight fields, in COPY's text format, so that nothing can break out of it."""

import json
from datetime import UTC, datetime
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_ads.events.event import EventClock, header_field, line
from prefork_ads.events.parameters import parse_query, to_json
from prefork_ads.events.uuid7 import WAITS_MS, Uuid7

STAMP: Final = b"2023-11-14 22:13:20.123+00\t018bcfe5687b7fff8000000000000000"

# "COPY … text format" in PostgreSQL's manual: these, and any other character stands for itself.
_BACKSLASH: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def copy_row(line_of_copy: bytes) -> list[str | None]:
    """A line as COPY FROM reads it. Octal and hexadecimal escapes are not ours; they are refused."""
    text = line_of_copy.decode()
    assert not set("\n\r\0") & set(text)
    row: list[str | None] = []
    for field in text.split("\t"):
        if field == "\\N":
            row.append(None)
            continue
        value, characters = "", iter(field)
        for character in characters:
            if character == "\\":
                escaped = next(characters)
                assert escaped not in "01234567x."
                value += _BACKSLASH.get(escaped, escaped)
            else:
                value += character
        row.append(value)
    return row


# What the parser lets through as a header's value.
header = st.binary().map(
    lambda raw: bytes(byte for byte in raw if byte == 9 or (byte >= 32 and byte != 127))
)


@given(header)
def test_header_fields(value: bytes) -> None:
    assert copy_row(header_field(value)) == [value.strip(b" \t").decode(errors="replace")]


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (None, None),
        (b"", ""),
        (b"N", "N"),
        (b"\\N", "\\N"),
        (b"\\\\N", "\\\\N"),
        (b"\\", "\\"),
        (b"\\.", "\\."),
        (b"\\n\\r\\x41\\101", "\\n\\r\\x41\\101"),
        (b"caf\xc3\xa9", "café"),
        (b"caf\xe9", "caf\ufffd"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        (b"\xf0\x9f\x98\x80", "😀"),
        (b"\xf0\x9f\x98", "\ufffd"),
        (b"a\\tb\tc", "a\\tb\tc"),
        (b" \ta \tb \t", "a \tb"),
        (b" ", ""),
        (b"x" * 8192, "x" * 8192),
        # White space and line ends of Unicode are no line ends of COPY.
        ("a\u2028b\u0085c\u00a0".encode(), "a\u2028b\u0085c\u00a0"),
    ],
)
def test_header_field(value: bytes | None, stored: str | None) -> None:
    assert copy_row(header_field(value)) == [stored]


@given(
    # The parser lets no NUL through.
    query=st.binary().map(lambda raw: raw.replace(b"\0", b"")),
    user_agent=st.none() | header,
    referer=st.none() | header,
    address=st.sampled_from(["", "192.0.2.1", "2001:db8::1"]),
    language=st.none() | header,
)
def test_a_line_is_its_eight_fields(
    query: bytes,
    user_agent: bytes | None,
    referer: bytes | None,
    address: str,
    language: bytes | None,
) -> None:
    parameters = parse_query(query)
    row = copy_row(line(STAMP, b"log", to_json(parameters), user_agent, referer, address, language))
    time, id_, endpoint, params, *rest = row
    assert f"{time}\t{id_}".encode() == STAMP
    assert endpoint == "log"
    assert params is not None
    assert json.loads(params) == parameters
    decoded = [
        None if value is None else value.strip(b" \t").decode(errors="replace")
        for value in (user_agent, referer, language)
    ]
    assert rest == [decoded[0], decoded[1], address or None, decoded[2]]


@given(st.binary())
def test_parameters_know_one_escape_only(query: bytes) -> None:
    """What the insert relies on when it undoes them by one replace()."""
    params = to_json(parse_query(query))
    field = line(STAMP, b"log", params, None, None, "", None).split(b"\t")[3]
    assert field.replace(b"\\\\", b"\\") == params
    assert field.replace(b"\\\\", b"").count(b"\\") == 0


# -- the clock -------------------------------------------------------------------------------------


class Clock:
    def __init__(self, nanoseconds: int) -> None:
        self.nanoseconds = nanoseconds

    def __call__(self) -> int:
        return self.nanoseconds


def stamped(clock: EventClock) -> tuple[datetime, str]:
    time, id_ = clock.stamp().decode().split("\t")
    return datetime.strptime(time, "%Y-%m-%d %H:%M:%S.%f+00").replace(tzinfo=UTC), id_


@given(st.lists(st.integers(0, 4_000_000_000_000), min_size=1, max_size=20))
def test_time_and_id_are_of_the_same_moment(moments: list[int]) -> None:
    clock = Clock(0)
    events = EventClock(Uuid7(), clock)
    latest = -1
    for milliseconds in moments:
        clock.nanoseconds = milliseconds * 1_000_000 + 999_999
        time, id_ = stamped(events)
        assert round(time.timestamp() * 1000) == milliseconds
        # A clock that was ahead by more is believed when it is put right.
        latest = milliseconds if latest - milliseconds > WAITS_MS else max(latest, milliseconds)
        assert int(id_[:12], 16) == latest


def test_a_stamp_as_it_stands_in_the_line() -> None:
    time, id_ = EventClock(Uuid7(), Clock(1_700_000_000_007_000_000)).stamp().split(b"\t")
    assert time == b"2023-11-14 22:13:20.007+00"
    assert id_.startswith(b"018bcfe568077")


def test_the_real_clock() -> None:
    time, _ = stamped(EventClock(Uuid7()))
    assert abs((datetime.now(UTC) - time).total_seconds()) < 60
