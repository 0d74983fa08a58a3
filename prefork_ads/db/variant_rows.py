"""One imported variant: from a CSV record or a JSON object to a checked line of COPY text.

Everything PostgreSQL would refuse is refused here, with a reason that a person can act on and for
this line alone: COPY and the CHECKs of the table would refuse a whole batch. Pure.

Must not know: files, connections.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

COLUMNS: Final = (
    "id",
    "advertiser_id",
    "campaign_id",
    "width",
    "height",
    "title",
    "image_url",
    "click_url",
)
# The largest value of each integer column; the smallest is 1.
INTEGERS: Final = {
    "advertiser_id": 2**31 - 1,
    "campaign_id": 2**31 - 1,
    "width": 2**15 - 1,
    "height": 2**15 - 1,
}
# Octets, as the table's CHECKs count them.
TEXTS: Final = {"title": 1000, "image_url": 4000, "click_url": 4000}

_UUID = re.compile(
    r"[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{4}\1[0-9a-fA-F]{12}"
)
_DIGITS = re.compile(r"[0-9]{1,12}", re.ASCII)
_WEB = re.compile(r"https?://[^/?#\s]")
_COPY_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


class BadLine(ValueError):
    """A line that is refused; the message is the reason."""


def copy_line(fields: Mapping[str, Any], number: int) -> str:
    """The line of COPY text for one variant, its line number first; raises BadLine."""
    values = [str(number), _uuid(fields["id"])]
    values += [_integer(name, fields[name], most) for name, most in INTEGERS.items()]
    values += [_text(name, fields[name], most) for name, most in TEXTS.items()]
    return "\t".join(values) + "\n"


def order_of(header: Sequence[str]) -> list[str]:
    """Check a CSV header: each column once, in any order; raises BadLine."""
    names = [name.strip().lower() for name in header]
    if sorted(names) != sorted(COLUMNS):
        missing = [name for name in COLUMNS if name not in names]
        unknown = [name for name in names if name not in COLUMNS]
        what = [f"without {', '.join(missing)}"] if missing else []
        what += [f"with the unknown {', '.join(map(repr, unknown[:5]))}"] if unknown else []
        raise BadLine(
            f"the header is {' and '.join(what) or 'naming a column twice'}; "
            f"it must name these columns: {','.join(COLUMNS)}"
        )
    return names


def fields_of_record(record: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Name the values of a CSV record; raises BadLine when there are too few or too many."""
    if len(record) != len(names):
        raise BadLine(f"{len(record)} values where the header has {len(names)} columns")
    return dict(zip(names, record, strict=True))


def fields_of_object(value: object) -> dict[str, Any]:
    """Check that a JSON value is an object with our columns; raises BadLine."""
    if not isinstance(value, dict):
        raise BadLine("not a JSON object")
    if value.keys() != set(COLUMNS):
        for name in COLUMNS:
            if name not in value:
                raise BadLine(f"{name} is missing")
        unknown = next(name for name in value if name not in COLUMNS)
        raise BadLine(f"{unknown[:40]!r} is not a column")
    return value


def _uuid(value: object) -> str:
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise BadLine("id is not a uuid")
    return value


def _integer(name: str, value: object, most: int) -> str:
    number = value
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        number = int(value)
    # bool is an int to Python, and true is not a width.
    if not isinstance(number, int) or isinstance(number, bool):
        raise BadLine(f"{name} is not a whole number")
    if not 1 <= number <= most:
        raise BadLine(f"{name} is not between 1 and {most}")
    return str(number)


def _text(name: str, value: object, most: int) -> str:
    if not isinstance(value, str):
        raise BadLine(f"{name} is not a text")
    try:
        octets = len(value.encode())
    except UnicodeEncodeError:
        raise BadLine(f"{name} is not valid UTF-8") from None
    if not 1 <= octets <= most:
        raise BadLine(f"{name} is empty" if octets == 0 else f"{name} is longer than {most} bytes")
    if "\0" in value:
        raise BadLine(f"{name} holds a NUL character")
    if name != "title" and not _WEB.match(value):
        raise BadLine(f"{name} does not begin with http:// or https:// and a host")
    return value.translate(_COPY_ESCAPES)
