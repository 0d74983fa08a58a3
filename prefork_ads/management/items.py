"""The things of a catalog as the database has them, but for ids: they are known and referred to by key.

An item's `columns` are those of its table. A reference stands under the name of what it refers to
(`advertiser`, not `advertiser_id`) and is a key. Moments are datetimes in UTC. So two items are equal when
nothing would change, wherever each came from: a file, the tables, or the catalog of last week.

Must not know: files, SQL.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from prefork_ads.management.complaints import Mark

# In the order in which one may refer to another.
RELATIONS: Final = ("advertiser", "site", "segment", "zone", "campaign", "creative")
# Which column of a relation refers to what.
REFERENCE: Final = {"zone": "site", "campaign": "advertiser", "creative": "campaign"}
MOMENTS: Final = frozenset({"starts_at", "ends_at"})
PLURALS: Final = {relation: f"{relation}s" for relation in RELATIONS}

DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "advertiser": {
        "status": "active", "allow_repeat": False,
        "cap_hour": None, "cap_day": None, "cap_flight": None,
    },
    "site": {"status": "active"},
    "segment": {"status": "active"},
    "zone": {
        "status": "active", "sizes": [], "formats": ["html", "image"],
        "floor_micros": 0, "fallback": "house",
    },
    "campaign": {
        "status": "active", "tier": "standard", "weight": 100, "starts_at": None, "ends_at": None,
        "time_zone": "UTC", "goal_kind": None, "goal_total": None, "goal_daily": None,
        "pacing": "asap", "price_model": "cpm", "price_micros": 0, "cap_hour": None,
        "cap_day": None, "cap_flight": None, "roadblock": False, "targeting": {},
    },
    "creative": {
        "status": "active", "width": None, "height": None, "html": None, "image_url": None,
        "alt": None, "native": None, "weight": 100,
    },
}  # fmt: skip

Name = tuple[str, str]
"""Relation and key."""


@dataclass(slots=True)
class Item:
    """One thing. `columns` without a status: whatever it has in the database stays."""

    relation: str
    key: str
    columns: dict[str, Any]
    mark: Mark = field(default_factory=Mark, compare=False)
    marks: dict[str, Mark] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> Name:
        return self.relation, self.key

    @property
    def path(self) -> str:
        return f"{PLURALS[self.relation]}.{self.key}"

    @property
    def archived(self) -> bool:
        return self.columns.get("status") == "archived"

    @property
    def reference(self) -> Name | None:
        """What this belongs to."""
        relation = REFERENCE.get(self.relation)
        return None if relation is None else (relation, str(self.columns[relation]))

    def mark_of(self, member: str) -> Mark:
        return self.marks.get(member, self.mark)


Items = dict[Name, Item]


def from_rows(rows: Iterable[tuple[str, int, Mapping[str, Any]]]) -> Items:
    """Items from (relation, id, row as to_jsonb gives it)."""
    taken = list(rows)
    keys = {(relation, id_): str(row["key"]) for relation, id_, row in taken}
    items: Items = {}
    for relation, _, row in taken:
        item = from_row(relation, row, keys)
        items[item.name] = item
    place = {relation: number for number, relation in enumerate(RELATIONS)}
    return {name: items[name] for name in sorted(items, key=lambda name: (place[name[0]], name[1]))}


def from_row(relation: str, row: Mapping[str, Any], keys: Mapping[tuple[str, int], str]) -> Item:
    columns = {name: value for name, value in row.items() if name not in ("id", "key")}
    for name in MOMENTS & columns.keys():
        if columns[name] is not None:
            columns[name] = datetime.fromisoformat(columns[name]).astimezone(UTC)
    other = REFERENCE.get(relation)
    if other is not None:
        id_ = columns.pop(f"{other}_id")
        columns[other] = keys.get((other, id_), f"#{id_}")
    return Item(relation, str(row["key"]), columns)


def to_json(item: Item) -> dict[str, Any]:
    """The columns for a statement that takes JSON."""
    return {"key": item.key} | {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in item.columns.items()
    }


def without_archived(items: Items) -> Items:
    """Those that live and belong to what lives."""
    living: Items = {}
    for name, item in items.items():
        if not item.archived and (item.reference is None or item.reference in living):
            living[name] = item
    return living
