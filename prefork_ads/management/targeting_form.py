"""A campaign's targeting as people write it, turned into the JSON that is kept and served.

The form is that of `ads.targeting`, with a few shorter ways to write the same:

    geo: [DE, AT]                    geo: {include: [DE, AT]}; so for all that has include and exclude
    keywords: running                keywords: {any: [running]}; so for all that has any, all and none
    hours: [{days: mon-fri,          days from one to another, and hours of the clock: from 08:00 up to,
             hours: 08:00-20:00}]    and not at, 20:00, which is the hours 8 to 19

What it means is checked by the same code that will serve it, and its complaints are given their places here.

Must not know: how targeting is evaluated.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from prefork_ads.ads.targeting import DAYS, validate_targeting
from prefork_ads.management.complaints import Complaints, Mark
from prefork_ads.management.entry import json_of, whole_of
from prefork_ads.management.yaml_tree import Listing, Members, Node, Text

SIDES: Final = ("geo", "device", "os", "browser", "language", "site", "page")
TERMS: Final = ("keywords", "segments")

_CLOCK: Final = re.compile(r"([0-9]{1,2}):00-([0-9]{1,2}):00")
_PATH: Final = re.compile(r"([^\s:]+(?:\[\d+\])?): ")


class TargetingForm:
    """Reads one targeting and remembers where each part of it stands."""

    def __init__(self) -> None:
        self.marks: dict[str, Mark] = {}

    def read(self, node: Node) -> Any:
        if not isinstance(node, Members):
            return json_of(node)
        read: dict[str, Any] = {}
        for name, (mark, value) in node.entries.items():
            self.marks[name] = mark
            if name in SIDES:
                read[name] = self._lists(value, name, "include")
            elif name in TERMS:
                read[name] = self._lists(value, name, "any")
            elif name == "values" and isinstance(value, Members):
                read[name] = {}
                for inner, (at, terms) in value.entries.items():
                    self.marks[f"values.{inner}"] = at
                    read[name][inner] = self._lists(terms, f"values.{inner}", "any")
            elif name == "hours":
                read[name] = self._hours(value)
            else:
                read[name] = json_of(value)
        return read

    def _lists(self, node: Node, path: str, usual: str) -> Any:
        """`{include: [a], …}`; a list or a word alone is the usual one of the lists."""
        if not isinstance(node, Members):
            return {usual: self._words(node, f"{path}.{usual}")}
        read = {}
        for name, (mark, value) in node.entries.items():
            self.marks[f"{path}.{name}"] = mark
            read[name] = self._words(value, f"{path}.{name}")
        return read

    def _words(self, node: Node, path: str) -> Any:
        """Text as it stands: `NO` is Norway, and 2024 a value like any other."""
        items = node.items if isinstance(node, Listing) else [node]
        self.marks.setdefault(path, node.mark)
        for index, item in enumerate(items):
            self.marks[f"{path}[{index}]"] = item.mark
        return [item.text if isinstance(item, Text) else json_of(item) for item in items]

    def _hours(self, node: Node) -> Any:
        windows = node.items if isinstance(node, Listing) else [node]
        read = []
        for index, window in enumerate(windows):
            path = f"hours[{index}]"
            self.marks[path] = window.mark
            if not isinstance(window, Members):
                read.append(json_of(window))
                continue
            said: dict[str, Any] = {}
            for name, (mark, value) in window.entries.items():
                self.marks[f"{path}.{name}"] = mark
                said[name] = _spans(value)
            read.append(said)
        return read


def _spans(node: Node) -> list[Any]:
    """Days or hours; spans become what lies in them, and what is neither is left for the check."""
    read: list[Any] = []
    for item in node.items if isinstance(node, Listing) else [node]:
        text = item.text if isinstance(item, Text) else ""
        first, dash, last = text.partition("-")
        clock = _CLOCK.fullmatch(text)
        if dash and first in DAYS and last in DAYS:
            begin, end = DAYS.index(first), DAYS.index(last)
            read += [DAYS[day % 7] for day in range(begin, end + (1 if end >= begin else 8))]
        elif clock is not None and int(clock[1]) < int(clock[2]) <= 24:
            read += range(int(clock[1]), int(clock[2]))
        elif isinstance(item, Text):
            number = whole_of(item)
            read.append(item.text if number is None else number)
        else:
            read.append(json_of(item))
    return list(dict.fromkeys(read)) if all(isinstance(one, (str, int)) for one in read) else read


def check(
    targeting: Any,
    where: tuple[Mark, str],
    marks: Mapping[str, Mark],
    known: tuple[Collection[str], Collection[str]],
    complaints: Complaints,
) -> None:
    """Complain of what whoever serves it would not understand. `known`: keys of segments and sites."""
    mark, path = where
    for problem in validate_targeting(targeting, *known):
        found = _PATH.match(problem)
        inner, reason = (found[1], problem[found.end() :]) if found else ("", problem)
        inner = inner if inner != "targeting" else ""
        complaints.add(
            _nearest(marks, inner, mark), f"{path}.targeting{'.' if inner else ''}{inner}", reason
        )


def _nearest(marks: Mapping[str, Mark], inner: str, whole: Mark) -> Mark:
    """The place of a part, or of the smallest part around it that has one."""
    while inner:
        if inner in marks:
            return marks[inner]
        inner = re.sub(r"(?:\.[^.\[]*|\[\d+\]|^[^.\[]*)$", "", inner)
    return whole
