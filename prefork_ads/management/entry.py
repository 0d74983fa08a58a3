"""One mapping of a file, read member by member: each of the type it should be, or a complaint with its place.

A reader never raises for what the file says. It complains, gives the default and goes on, so that one look
at a file finds all that is wrong with it. `close` complains of members that nobody asked for.

Must not know: what the members mean.
"""

import math
import re
from collections.abc import Collection
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from prefork_ads.management.complaints import Complaints, Mark, meant
from prefork_ads.management.yaml_tree import Listing, Members, Node, Text

WORDS_FOR: Final = {
    "true": True,
    "yes": True,
    "on": True,
    "false": False,
    "no": False,
    "off": False,
}
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,3}(?:[_,]?[0-9]{3})*|[+-]?[0-9]{1,18}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,20}")
_FLOAT: Final = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?")


# How those look that one is tempted to write as a single value.
_LIKE: Final = {
    "goal": ", as {total: 1000}",
    "price": ", as {cpm: 4.50}",
    "caps": ", as {day: 5}",
}


class Entry:
    """The members of one mapping. Ask for each by its name, then `close`."""

    def __init__(self, node: Node, path: str, complaints: Complaints) -> None:
        self.mark = node.mark
        self.path = path
        self.complaints = complaints
        self.marks: dict[str, Mark] = {}
        self._asked: set[str] = set()
        self._entries: dict[str, tuple[Mark, Node]] = {}
        # There were members to read.
        self.sound = True
        if isinstance(node, Members):
            self._entries = node.entries
        elif not (isinstance(node, Text) and node.empty):
            self.sound = False
            like = _LIKE.get(path.rpartition(".")[2], "")
            self.complain(
                node.mark, "", f"must have members with names{like}, not be {describe(node)}"
            )

    def complain(self, mark: Mark, name: str, reason: str) -> None:
        self.complaints.add(mark, ".".join(part for part in (self.path, name) if part), reason)

    def mark_of(self, name: str) -> Mark:
        """Where the member's value stands, or else the whole entry."""
        return self.marks.get(name, self.mark)

    def take(self, name: str) -> Node | None:
        """The member; None when it is not there or says nothing."""
        self._asked.add(name)
        found = self._entries.get(name)
        if found is None:
            return None
        self.marks[name] = found[1].mark
        return None if isinstance(found[1], Text) and found[1].empty else found[1]

    def close(self) -> None:
        for name, (mark, _) in self._entries.items():
            if name not in self._asked:
                self.complain(mark, name, f"is not known here{meant(name, self._asked)}")

    def names(self) -> list[tuple[str, Mark, Node]]:
        """All members, where any name may stand."""
        self._asked.update(self._entries)
        return [(name, mark, node) for name, (mark, node) in self._entries.items()]

    def inner(self, name: str) -> "Entry | None":
        """A member that is a mapping itself."""
        node = self.take(name)
        return None if node is None else Entry(node, f"{self.path}.{name}", self.complaints)

    # Types.

    def scalar(self, name: str, what: str) -> Text | None:
        node = self.take(name)
        if node is None or isinstance(node, Text):
            return node
        self.complain(node.mark, name, f"must be {what}, not {describe(node)}")
        return None

    def line(self, name: str, most_bytes: int, *, required: bool = False) -> str | None:
        """Text of one line with something to see in it."""
        text = self.text(name, most_bytes, required=required)
        if text is not None and (_CONTROL.search(text) or not text.strip()):
            reason = "must be one line of text with something to see in it"
            self.complain(self.mark_of(name), name, reason)
            return None
        return text

    def text(self, name: str, most_bytes: int, *, required: bool = False) -> str | None:
        node = self.scalar(name, "text")
        if node is None:
            if required and name not in self.marks:
                self.complain(self.mark, name, "is missing")
            elif required:
                self.complain(self.mark_of(name), name, "is empty")
            return None
        size = len(node.text.encode())
        if size > most_bytes or "\0" in node.text:
            self.complain(
                node.mark, name, f"has {size:,} bytes; at most {most_bytes:,} are allowed"
            )
            return None
        return node.text

    def word(self, name: str, choices: Collection[str], default: str) -> str:
        node = self.scalar(name, f"one of {', '.join(choices)}")
        if node is None or node.text in choices:
            return default if node is None else node.text
        near = meant(node.text, choices) or f"; there are {', '.join(choices)}"
        self.complain(node.mark, name, f"{node.text!r} is not known{near}")
        return default

    def whole(self, name: str, low: int, high: int) -> int | None:
        node = self.scalar(name, "a whole number")
        if node is None:
            return None
        number = whole_of(node)
        if number is None or not low <= number <= high:
            wanted = f"a whole number from {low:,} to {high:,}"
            self.complain(node.mark, name, f"{shown(node.text)} is not {wanted}")
            return None
        return number

    def flag(self, name: str) -> bool:
        node = self.scalar(name, "true or false")
        if node is None:
            return False
        if node.plain and node.text.lower() in WORDS_FOR:
            return WORDS_FOR[node.text.lower()]
        self.complain(node.mark, name, f"{shown(node.text)} is not true or false")
        return False

    def micros(self, name: str) -> int | None:
        """An amount of money in millionths."""
        node = self.scalar(name, "an amount such as 4.50")
        if node is None:
            return None
        try:
            amount = Decimal(node.text) * 1_000_000
        except InvalidOperation:
            amount = Decimal("NaN")
        if not amount.is_finite() or not 0 <= amount <= 10**12 or amount % 1:
            wanted = "an amount from 0 to 1000000 with at most six decimals, such as 4.50"
            self.complain(node.mark, name, f"{shown(node.text)} is not {wanted}")
            return None
        return int(amount)

    def texts(self, name: str) -> list[Text]:
        """A list of scalars; one alone may stand without being a list."""
        node = self.take(name)
        if node is None:
            return []
        items = node.items if isinstance(node, Listing) else [node]
        for item in items:
            if not isinstance(item, Text):
                self.complain(item.mark, name, f"must be words, not {describe(item)}")
        return [item for item in items if isinstance(item, Text)]


def whole_of(node: Text) -> int | None:
    if not node.plain or not _WHOLE.fullmatch(node.text):
        return None
    return int(node.text.replace("_", "").replace(",", ""))


def json_of(node: Node) -> Any:
    """What YAML's own rules make of a node: text, numbers, true, false, null, lists and mappings."""
    if isinstance(node, Listing):
        return [json_of(item) for item in node.items]
    if isinstance(node, Members):
        return {name: json_of(value) for name, (_, value) in node.entries.items()}
    return _value_of(node)


def _value_of(node: Text) -> Any:
    if node.empty:
        return None
    return plain_value(node.text) if node.plain else node.text


def plain_value(text: str) -> Any:
    """What text stands for that has no quotation marks, and is not empty."""
    if text in ("true", "false"):
        return text == "true"
    if _INTEGER.fullmatch(text) and -(2**63) <= int(text) < 2**64:
        return int(text)
    # What no double can hold stays text: JSON would have to call it null.
    number = float(text) if _FLOAT.fullmatch(text) else math.inf
    return number if math.isfinite(number) else text


def describe(node: Node) -> str:
    if isinstance(node, Listing):
        return "a list"
    return "a mapping" if isinstance(node, Members) else shown(node.text) if node.text else "empty"


def shown(text: str) -> str:
    """Somebody's text in a message: short, and on one line."""
    quoted = repr(text)
    return quoted if len(quoted) <= 60 else f"{quoted[:58]}…{quoted[-1]}"
