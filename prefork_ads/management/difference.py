"""What would have to change for the catalog to be as somebody wants it, and how that is told to a person.

Must not know: SQL, terminals.
"""

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from prefork_ads.management import linking
from prefork_ads.management.complaints import Complaint, Complaints, Mark
from prefork_ads.management.items import RELATIONS, Item, Items, Name
from prefork_ads.management.writing import members_of

Kind = Literal["add", "change", "archive"]

MOST_SHOWN_BYTES: Final = 60


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that becomes another, or begins to be."""

    item: Item
    before: Item | None

    @property
    def kind(self) -> Kind:
        if self.before is None:
            return "add"
        return "archive" if self.item.archived and not self.before.archived else "change"


@dataclass(slots=True)
class Plan:
    """The changes in the order in which they can be made, and what a person should know besides."""

    changes: list[Change]
    unchanged: int
    # Not in the files; --prune would archive them.
    left: list[Name] = field(default_factory=list)
    warnings: list[Complaint] = field(default_factory=list)

    @property
    def archived(self) -> int:
        return sum(change.kind == "archive" for change in self.changes)


def plan(wanted: Items, before: Items, *, prune: bool, complaints: Complaints) -> Plan:
    """How to get from one to the other. Complaints of all stages are raised together."""
    said = {name: _with_status(item, before.get(name)) for name, item in wanted.items()}
    left = [name for name, item in before.items() if name not in said and not item.archived]
    pruned = {name: _archived(before[name]) for name in left} if prune else {}
    after: Items = {**before, **said, **pruned}
    linking.check(after, before, said.values(), complaints)
    complaints.raise_if_any()
    changes: list[Change] = []
    unchanged = 0
    for item in sorted((said | pruned).values(), key=lambda item: RELATIONS.index(item.relation)):
        old = before.get(item.name)
        if old is not None and old.columns == item.columns:
            unchanged += 1
        else:
            changes.append(Change(item, old))
    return Plan(changes, unchanged, [] if prune else left, complaints.warnings)


def _with_status(item: Item, old: Item | None) -> Item:
    """A file that is silent about the status does not resume what somebody has paused by hand."""
    if "status" in item.columns:
        return item
    keeps = old is not None and not old.archived
    status = old.columns["status"] if old is not None and keeps else "active"
    return replace(item, columns={**item.columns, "status": status})


def _archived(item: Item) -> Item:
    gone = copy(item)
    gone.columns = {**item.columns, "status": "archived"}
    gone.mark = Mark()
    return gone


# Telling.


def describe(change: Change) -> Iterator[tuple[str, str]]:
    """Lines for a person, each with what kind it is of: its first character is the sign."""
    item, old = change.item, change.before
    title = f"{item.relation} {item.key}"
    if old is None:
        yield "add", f"+ {title}{_in_short(item)}"
        return
    if change.kind == "archive":
        yield "archive", f"- {title}"
    else:
        yield "change", f"~ {title}"
    was, becomes = (_flat(members_of(one, whole=True)) for one in (old, item))
    if change.kind == "archive":
        was.pop("status", None)
        becomes.pop("status", None)
    for path in dict.fromkeys([*was, *becomes]):
        one, other = was.get(path), becomes.get(path)
        if one != other:
            yield "detail", f"    {path}: {_lists(one, other)}"


def _in_short(item: Item) -> str:
    columns = item.columns
    words = {
        "zone": lambda: f" on {columns['site']}, {', '.join(columns['sizes']) or 'native'}",
        "campaign": lambda: f" of {columns['advertiser']}, {columns['tier']}",
        "creative": lambda: f" of {columns['campaign']}, {columns['format']}",
    }
    more = words[item.relation]() if item.relation in words else ""
    status = "" if columns["status"] == "active" else f", {columns['status']}"
    return f" {columns['name']!r}{more}{status}"


def _flat(members: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in members.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[f"{before}{name}"] = value
    return flat


def _lists(one: Any, other: Any) -> str:
    """Of lists, what came and what went; of all else, what it was and what it is."""
    if isinstance(one, list) and isinstance(other, list):
        came = [f"+{_show(item)}" for item in other if item not in one]
        went = [f"-{_show(item)}" for item in one if item not in other]
        if came or went:
            parts = [*went, *came]
            shown = parts[:8]
            return " ".join([*shown, f"… {len(parts) - 8} more"] if len(parts) > 8 else shown)
    return f"{_show(one)} → {_show(other)}"


def _show(value: Any) -> str:
    if value is None:
        return "(none)"
    text = value if isinstance(value, str) else str(value)
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    if len(text) > MOST_SHOWN_BYTES:
        return f"{text[: MOST_SHOWN_BYTES - 20]}… ({len(text.encode()):,} bytes)"
    return text
