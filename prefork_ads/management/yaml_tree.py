"""YAML text as a tree in which every node knows its line and column, and nothing is guessed.

The parser's events are put together here instead of by yaml.safe_load, for four reasons. A loaded value
has lost its place in the file. It has been guessed at: `NO` is false there and not Norway, `1_000` a number.
A key that stands twice is silently the last one. And an alias costs nothing to write and everything to
follow: nine lines can be a billion nodes. So a scalar stays the text that it is until somebody who knows
what it should be reads it, and depth, size and what aliases stand for are bounded while reading.

Tags (`!!python/object`) are refused: no object is ever made of what a file says.

Measured (two cores that others used too): 10,000 campaigns with a creative each, 11 MB and 380,000 nodes, in
8 s; another 3 s make items of them.

Must not know: what a catalog is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from prefork_ads.management.complaints import Complaints, Mark

MOST_BYTES: Final = 32 << 20
MOST_NODES: Final = 2_000_000
MOST_DEPTH: Final = 40

# libyaml where the package was built with it: about eight times as fast.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# What libyaml says of brackets beyond its own limit, 1,000 since 0.2.6. It looks so far ahead, to see whether
# a key begins there, that it meets that before we see the first bracket.
_TOO_DEEP: Final = "exceeded maximum nesting depth"
_NESTED: Final = f"is nested more than {MOST_DEPTH} deep"


@dataclass(slots=True)
class Text:
    """A scalar. `plain`: without quotation marks, so that it may be a number, a date or nothing."""

    mark: Mark
    text: str
    plain: bool = True
    size: int = 1

    @property
    def empty(self) -> bool:
        return self.plain and self.text in ("", "~", "null")


@dataclass(slots=True)
class Listing:
    mark: Mark
    items: list["Node"] = field(default_factory=list)
    size: int = 1


@dataclass(slots=True)
class Members:
    """Names with values, in their order. A name that stands twice was complained of."""

    mark: Mark
    entries: dict[str, tuple[Mark, "Node"]] = field(default_factory=dict)
    size: int = 1


Node = Text | Listing | Members


class _Unreadable(Exception):
    """What makes the rest of the file meaningless."""

    def __init__(self, mark: Mark, reason: str) -> None:
        super().__init__(reason)
        self.mark, self.reason = mark, reason


def read(text: str, file: str, complaints: Complaints) -> Node | None:
    """The one document of a text; None when there is none, or it cannot be read."""
    if len(text) > MOST_BYTES:
        complaints.add(Mark(file), "", f"is longer than {MOST_BYTES >> 20} MiB")
        complaints.incomplete = True
        return None
    try:
        return _Builder(file, complaints).build(text)
    except _Unreadable as error:
        complaints.add(error.mark, "", error.reason)
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        mark = Mark(file, at.line + 1, at.column + 1) if at is not None else Mark(file)
        complaints.add(mark, "", _said_by(error, text, mark))
    except yaml.YAMLError as error:
        reason = getattr(error, "reason", None) or str(error).split("\n", 1)[0]
        complaints.add(_mark_of(error, text, file), "", f"is not YAML: {reason}")
    complaints.incomplete = True
    return None


def _said_by(error: yaml.MarkedYAMLError, text: str, mark: Mark) -> str:
    if error.problem == _TOO_DEEP:
        return _NESTED
    context = error.context
    if context and error.context_mark is not None:
        context = f"{context} from line {error.context_mark.line + 1}"
    said = ", ".join(part for part in (context, error.problem) if part)
    return f"is not YAML: {said}{_hint(text, mark)}"


def _hint(text: str, mark: Mark) -> str:
    """The one mistake that YAML's own message hides."""
    lines = text.splitlines()
    if 0 < mark.line <= len(lines) and "\t" in lines[mark.line - 1][: mark.column]:
        return " (there is a tab; indent with spaces)"
    return ""


def _mark_of(error: yaml.YAMLError, text: str, file: str) -> Mark:
    """Where a character is that YAML does not allow."""
    position = getattr(error, "position", None)
    if position is None:
        return Mark(file)
    before = text[:position]
    return Mark(file, before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1)


class _Builder:
    """Puts nodes together with a stack of its own, so that depth costs no frames."""

    def __init__(self, file: str, complaints: Complaints) -> None:
        self._file = file
        self._complaints = complaints
        self._anchors: dict[str, Node] = {}
        self._stack: list[Listing | Members] = []
        # The name that waits for its value, of each mapping in the stack.
        self._names: list[Text | None] = []
        self._open_anchors: list[str | None] = []
        self._root: Node | None = None
        self._nodes = 0
        self._documents = 0

    def build(self, text: str) -> Node | None:
        for event in self._events(text):
            mark = Mark(self._file, event.start_mark.line + 1, event.start_mark.column + 1)
            if isinstance(event, yaml.ScalarEvent):
                self._refuse_tag(event, mark)
                plain = event.style is None or event.style == ""
                self._place(self._known(event, Text(mark, event.value, plain)))
            elif isinstance(event, yaml.SequenceStartEvent):
                self._open(event, Listing(mark))
            elif isinstance(event, yaml.MappingStartEvent):
                self._open(event, Members(mark))
            elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
                self._close()
            elif isinstance(event, yaml.AliasEvent):
                self._place(self._aliased(str(event.anchor), mark))
            elif isinstance(event, yaml.DocumentStartEvent):
                self._documents += 1
                if self._documents > 1:
                    raise _Unreadable(
                        mark, "a second document begins here; put it into another file"
                    )
        return self._root

    def _events(self, text: str) -> Iterator[Any]:
        return iter(yaml.parse(text, Loader=_LOADER))

    def _open(self, event: Any, node: Listing | Members) -> None:
        self._refuse_tag(event, node.mark)
        if len(self._stack) >= MOST_DEPTH:
            raise _Unreadable(node.mark, _NESTED)
        self._count(1, node.mark)
        self._stack.append(node)
        self._names.append(None)
        # Only at its end has a node its size, and until then an alias to it would be a circle.
        if event.anchor is not None:
            self._anchors.pop(event.anchor, None)
        self._open_anchors.append(event.anchor)

    def _close(self) -> None:
        node = self._stack.pop()
        self._names.pop()
        children: Iterator[Node] = (
            iter(node.items)
            if isinstance(node, Listing)
            else (value for _, value in node.entries.values())
        )
        node.size = 1 + sum(child.size for child in children)
        anchor = self._open_anchors.pop()
        if anchor is not None:
            self._anchors[anchor] = node
        self._place(node)

    def _known(self, event: Any, node: Text) -> Text:
        self._count(1, node.mark)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _aliased(self, anchor: str, mark: Mark) -> Node:
        node = self._anchors.get(anchor)
        if node is None:
            raise _Unreadable(mark, f"*{anchor} stands for nothing that is finished above it")
        self._count(node.size, mark)
        return node

    def _count(self, nodes: int, mark: Mark) -> None:
        self._nodes += nodes
        if self._nodes > MOST_NODES:
            raise _Unreadable(mark, f"here are more than {MOST_NODES:,} values, aliases followed")

    def _refuse_tag(self, event: Any, mark: Mark) -> None:
        if event.tag is not None:
            self._complaints.add(mark, "", f"tags are not taken, and here is {event.tag}")

    def _place(self, node: Node) -> None:
        """Where it belongs: the root, a list, a name, or the value of the name before it."""
        if not self._stack:
            self._root = node
            return
        around = self._stack[-1]
        if isinstance(around, Listing):
            around.items.append(node)
            return
        name = self._names[-1]
        if name is None:
            if not isinstance(node, Text):
                raise _Unreadable(node.mark, "a name must be a word, not a list or a mapping")
            self._names[-1] = node
            return
        self._names[-1] = None
        self._enter(around, name, node)

    def _enter(self, around: Members, name: Text, node: Node) -> None:
        if name.text == "<<" and name.plain:
            self._complaints.add(
                name.mark, "<<", "merging is not taken; an alias for a whole value is"
            )
            return
        first = around.entries.get(name.text)
        if first is not None:
            at = f"line {first[0].line}"
            self._complaints.add(name.mark, name.text, f"stands here twice, first in {at}")
            return
        around.entries[name.text] = (name.mark, node)
