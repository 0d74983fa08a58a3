"""Changes to single things, through the same reading, the same checks and the same plan as whole files.

A thing is written as a file would say it, the members that are to change are replaced, and the result is
read again. So `weight=2000` is refused in the words a file's line would be, and nothing can be set here that
an export could not say.

Must not know: SQL, the command line's grammar.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from prefork_ads.errors import CatalogRefused
from prefork_ads.management import reading, yaml_tree
from prefork_ads.management.complaints import Complaints, Mark, meant
from prefork_ads.management.difference import Plan, plan
from prefork_ads.management.items import Item, Items
from prefork_ads.management.writing import to_yaml
from prefork_ads.management.yaml_tree import Members, Node, Text

# As the tables call it, or as one would guess.
ALSO_CALLED: Final[Mapping[str, str]] = {
    "goal_kind": "goal.kind",
    "goal_total": "goal.total",
    "goal_daily": "goal.daily",
    "cap_hour": "caps.hour",
    "cap_day": "caps.day",
    "cap_flight": "caps.flight",
    "starts_at": "starts",
    "ends_at": "ends",
    "click_url": "click",
    "image_url": "image",
    "cpm": "price.cpm",
    "cpc": "price.cpc",
    "cpa": "price.cpa",
}
# Of these one stands alone, so a new one takes the place of whichever was there.
_ALTERNATIVES: Final = (("html", "html_file", "image", "native"),)

Assignment = tuple[str, str]


def setting(
    relation: str, keys: Sequence[str], assignments: Iterable[Assignment]
) -> Callable[[Items], Plan]:
    """How to make the plan that sets these members of these things."""
    wanted = list(assignments)

    def make(before: Items) -> Plan:
        complaints = Complaints()
        items = {}
        for key in dict.fromkeys(keys):
            item = changed(find(before, relation, key), wanted, complaints)
            if item is not None:
                items[item.name] = item
        made = plan(items, before, prune=False, complaints=complaints)
        # Nobody said that this is all there should be.
        made.left.clear()
        return made

    return make


def find(items: Items, relation: str, key: str) -> Item:
    """The thing of this key, or a word on what is near."""
    item = items.get((relation, key))
    if item is None:
        near = meant(key, [k for r, k in items if r == relation])
        raise CatalogRefused(f"There is no {relation} {key!r}{near or '.'}")
    return item


def changed(item: Item, assignments: Iterable[Assignment], complaints: Complaints) -> Item | None:
    """The item with these members; None when it could not be read."""
    tree = yaml_tree.read(to_yaml({item.name: item}), "", complaints)
    assert isinstance(tree, Members), "an export is a mapping"
    ((_, things),) = tree.entries.values()
    assert isinstance(things, Members), "of things"
    members = things.entries[item.key][1]
    assert isinstance(members, Members), "of members"
    for name, value in assignments:
        _assign(members, ALSO_CALLED.get(name, name), value, complaints)
    found: Items = {}
    reading.read_tree(tree, "", found, complaints)
    return found.get(item.name)


def _assign(members: Members, path: str, value: str, complaints: Complaints) -> None:
    node = _node_of(value, path, complaints)
    first, *rest = path.split(".")
    if first == "price":
        members.entries.pop("price", None)
    for group in _ALTERNATIVES:
        if path in group:
            for other in group:
                members.entries.pop(other, None)
    around = members
    for name in [first, *rest][:-1]:
        inner = around.entries.get(name, (None, None))[1]
        if not isinstance(inner, Members):
            inner = Members(Mark())
            around.entries[name] = (Mark(), inner)
        around = inner
    last = [first, *rest][-1]
    if isinstance(node, Text) and node.text == "":
        around.entries.pop(last, None)
        if rest and not around.entries:
            members.entries.pop(first, None)
    else:
        around.entries[last] = (Mark(), node)


def _node_of(value: str, path: str, complaints: Complaints) -> Node:
    """Text as it is; a list or a mapping where it begins as one."""
    if not value.startswith(("[", "{")):
        return Text(Mark(), value)
    inner = Complaints()
    node = yaml_tree.read(value, "", inner)
    for complaint in inner.found:
        complaints.add(Mark(), path, complaint.reason)
    return node if node is not None else Text(Mark(), value)
