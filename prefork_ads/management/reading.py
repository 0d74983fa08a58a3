"""A catalog's files, read into items: what stands in each, and everything that is wrong with it by itself.

What things refer to is looked at later, in `linking`, when it is known what else there is. The form is
described in docs/catalog.md.

Must not know: the database.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from prefork_ads.errors import ConfigError
from prefork_ads.management import yaml_tree
from prefork_ads.management.complaints import Complaints, Mark
from prefork_ads.management.entry import Entry
from prefork_ads.management.items import DEFAULTS, PLURALS, REFERENCE, Item, Items
from prefork_ads.management.members import COLUMNS
from prefork_ads.management.yaml_tree import Members, Node, Text

STATUSES: Final = dict.fromkeys(
    ("advertiser", "site", "zone", "creative"), ("active", "paused", "archived")
) | {
    "segment": ("active", "archived"),
    "campaign": ("draft", "active", "paused", "archived"),
}
# Whose members may stand inside of what they belong to.
NESTED: Final = {"site": "zone", "campaign": "creative"}

_KEY: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


def read_files(paths: Sequence[str], complaints: Complaints) -> Items:
    """The items of all files together ("-" is standard input)."""
    items: Items = {}
    for path in paths:
        read_text(_text_of(path), "standard input" if path == "-" else path, items, complaints)
    return items


def read_text(text: str, file: str, items: Items, complaints: Complaints) -> None:
    """Read one file's text into `items`."""
    root = yaml_tree.read(text, file, complaints)
    if root is not None:
        read_tree(root, file, items, complaints)


def read_tree(root: Node, file: str, items: Items, complaints: Complaints) -> None:
    """Read a tree into `items`; what it refers to by name lies beside `file`."""
    if not isinstance(root, Members):
        if not (isinstance(root, Text) and root.empty):
            complaints.add(root.mark, "", "a catalog has members such as campaigns, zones, sites")
        return
    _Reader(file, items, complaints).read(root)


def _text_of(path: str) -> str:
    """A file's text. Bounded, so that a wrong name (a disk, a log) does not fill the memory."""
    try:
        if path == "-":
            data = sys.stdin.buffer.read(yaml_tree.MOST_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(yaml_tree.MOST_BYTES + 1)
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}:{line}: a catalog must be UTF-8, and this line is not."
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error


class _Reader:
    """One file."""

    def __init__(self, file: str, items: Items, complaints: Complaints) -> None:
        self._folder = Path(file).parent
        self._items = items
        self._complaints = complaints
        self._time_zone = "UTC"

    def read(self, root: Members) -> None:
        top = Entry(root, "", self._complaints)
        zone = top.scalar("time_zone", "a name such as Europe/Berlin")
        if zone is not None:
            self._time_zone = zone.text
        for relation, plural in PLURALS.items():
            node = top.take(plural)
            if node is not None:
                self._things(relation, node, plural)
        top.close()

    def _things(
        self, relation: str, node: Node, path: str, inside: tuple[str, str] | None = None
    ) -> None:
        if not isinstance(node, Members):
            reason = f"must have a member for each {relation}, named by its key"
            self._complaints.add(node.mark, path, reason)
            return
        for key, (mark, value) in node.entries.items():
            if _KEY.fullmatch(key):
                self._thing(relation, key, mark, value, inside)
            else:
                reason = (
                    f"{key!r} is no key; one is made of small letters, digits, '-', '_' and '.', begins"
                    " with a letter or digit and has at most 100 of them"
                )
                self._complaints.add(mark, path, reason)

    def _thing(
        self, relation: str, key: str, mark: Mark, node: Node, inside: tuple[str, str] | None
    ) -> None:
        path = f"{PLURALS[relation]}.{key}"
        if isinstance(node, Text) and not node.empty and relation in ("segment", "advertiser"):
            # `runners: People who run` says no more than a name.
            node = Members(node.mark, {"name": (node.mark, node)})
        entry = Entry(node, path, self._complaints)
        entry.mark = mark
        columns: dict[str, Any] = {"name": entry.line("name", 400) or key}
        self._reference(relation, entry, columns, inside)
        if entry.take("status") is not None:
            columns["status"] = entry.word("status", STATUSES[relation], "active")
        COLUMNS[relation](entry, columns, self._time_zone, self._folder)
        nested = NESTED.get(relation)
        children = entry.take(PLURALS[nested]) if nested else None
        entry.close()
        filled = {n: v for n, v in DEFAULTS[relation].items() if n != "status"} | columns
        self._add(Item(relation, key, filled, mark, dict(entry.marks)))
        if nested and children is not None:
            self._things(nested, children, f"{path}.{PLURALS[nested]}", (relation, key))

    def _reference(
        self,
        relation: str,
        entry: Entry,
        columns: dict[str, Any],
        inside: tuple[str, str] | None,
    ) -> None:
        other = REFERENCE.get(relation)
        if other is None:
            return
        if inside is not None:
            columns[other] = inside[1]
        else:
            columns[other] = entry.text(other, 100, required=True) or ""

    def _add(self, item: Item) -> None:
        first = self._items.setdefault(item.name, item)
        if first is not item:
            self._complaints.add(item.mark, item.path, f"is there already, at {first.mark}")
