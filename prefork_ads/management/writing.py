"""Items as YAML: what `reading` makes the same items of again.

Members that have their default value are left out, but for the status, which a reader would otherwise leave
as it finds it. Creatives stand inside their campaigns.

Must not know: the database, where the text goes.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import yaml

from prefork_ads.management.entry import plain_value
from prefork_ads.management.items import DEFAULTS, PLURALS, Item, Items
from prefork_ads.management.moments import read_zone, show_end, show_start

_DUMPER: Final = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_WIDTH: Final = 100


class Plain(str):
    """Text that needs no quotation marks, whatever YAML would take it for."""

    __slots__ = ()


def members_of(item: Item, *, whole: bool = False) -> dict[str, Any]:
    """What a file says of an item. `whole`: also what has its default value."""
    columns = item.columns
    said: dict[str, Any] = {}

    def say(member: str, column: str, value: Any = None) -> None:
        if whole or columns[column] != DEFAULTS[item.relation].get(column):
            said[member] = columns[column] if value is None else value

    if columns["name"] != item.key or whole:
        said["name"] = columns["name"]
    if "status" in columns:
        said["status"] = columns["status"]
    _MEMBERS[item.relation](columns, said, say)
    return said


def to_yaml(items: Items, heading: Iterable[str] = ()) -> str:
    """All items as one document; `heading` becomes comments at its top."""
    document: dict[str, dict[str, Any]] = {}
    for (relation, key), item in items.items():
        members = members_of(item)
        if relation == "creative":
            of = document.get("campaigns", {}).get(item.columns["campaign"])
            if of is not None:
                members.pop("campaign")
                of.setdefault("creatives", {})[key] = members
                continue
        document.setdefault(PLURALS[relation], {})[key] = members
    comments = "".join(f"# {line}\n" for line in heading)
    return comments + (dump(document) if document else "")


def dump(document: Any) -> str:
    text: str = yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH
    )
    return text


class _Dumper(_DUMPER):  # type: ignore[misc, valid-type]
    def ignore_aliases(self, data: Any) -> bool:
        """The same list in two places is written twice: people edit one of them."""
        return True


def _represent_plain(dumper: Any, text: Plain) -> Any:
    tag = dumper.resolve(yaml.ScalarNode, str(text), (True, False))
    return dumper.represent_scalar(tag, str(text))


def _represent_text(dumper: Any, text: str) -> Any:
    style = "|" if "\n" in text and "\r" not in text else None
    # PyYAML leaves quotation marks off where YAML 1.1 sees no number: 1e3 and 08 are some to our reader.
    if not isinstance(plain_value(text), str):
        style = "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_list(dumper: Any, items: list[Any]) -> Any:
    """Words side by side, all else below each other."""
    flow = all(isinstance(item, (str, int)) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flow)


def _represent_mapping(dumper: Any, members: dict[str, Any]) -> Any:
    flow = 0 < len(members) <= 3 and all(isinstance(v, (Plain, int)) for v in members.values())
    return dumper.represent_mapping("tag:yaml.org,2002:map", members.items(), flow_style=flow)


_Dumper.add_representer(Plain, _represent_plain)
_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(dict, _represent_mapping)


# Of each relation.

Columns = Mapping[str, Any]


def _advertiser(columns: Columns, said: dict[str, Any], say: Any) -> None:
    say("allow_repeat", "allow_repeat")
    _caps(columns, said)


def _site(columns: Columns, said: dict[str, Any], _say: Any) -> None:
    said["domain"] = columns["domain"]


def _segment(_columns: Columns, _said: dict[str, Any], _say: Any) -> None:
    """Nothing but name and status."""


def _zone(columns: Columns, said: dict[str, Any], say: Any) -> None:
    said["site"] = columns["site"]
    say("sizes", "sizes")
    say("formats", "formats")
    say("floor", "floor_micros", money(columns["floor_micros"]))
    say("fallback", "fallback")


def _campaign(columns: Columns, said: dict[str, Any], say: Any) -> None:
    said["advertiser"] = columns["advertiser"]
    say("tier", "tier")
    say("weight", "weight")
    zone = read_zone(columns["time_zone"])
    starts: datetime | None = columns["starts_at"]
    ends: datetime | None = columns["ends_at"]
    if starts is not None:
        said["starts"] = Plain(show_start(starts, zone))
    if ends is not None:
        said["ends"] = Plain(show_end(ends, zone))
    # Said always: a file that these are pasted into may have another one for all.
    said["time_zone"] = columns["time_zone"]
    goal = {
        name: columns[f"goal_{name}"]
        for name in ("kind", "total", "daily")
        if columns[f"goal_{name}"] is not None
    }
    if goal:
        said["goal"] = {**goal, "kind": Plain(goal["kind"])}
    say("pacing", "pacing")
    if columns["price_micros"] or columns["price_model"] != "cpm":
        said["price"] = {columns["price_model"]: money(columns["price_micros"])}
    _caps(columns, said)
    say("roadblock", "roadblock")
    if columns["targeting"] != {}:
        said["targeting"] = columns["targeting"]


def _creative(columns: Columns, said: dict[str, Any], say: Any) -> None:
    said["campaign"] = columns["campaign"]
    if columns["width"] is not None:
        said["size"] = f"{columns['width']}x{columns['height']}"
    said["click"] = columns["click_url"]
    say("weight", "weight")
    for member, column in (
        ("alt", "alt"),
        ("image", "image_url"),
        ("native", "native"),
        ("html", "html"),
    ):
        if columns[column] is not None:
            said[member] = columns[column]


def _caps(columns: Columns, said: dict[str, Any]) -> None:
    caps = {
        name: columns[f"cap_{name}"]
        for name in ("hour", "day", "flight")
        if columns[f"cap_{name}"] is not None
    }
    if caps:
        said["caps"] = caps


_MEMBERS: Final = {
    "advertiser": _advertiser,
    "site": _site,
    "segment": _segment,
    "zone": _zone,
    "campaign": _campaign,
    "creative": _creative,
}


def money(micros: int) -> Plain:
    """4500000 is 4.50; what needs more decimals has them."""
    amount = Decimal(micros) / 1_000_000
    if micros % 10_000 == 0:
        return Plain(f"{amount:.2f}")
    return Plain(f"{amount:.6f}".rstrip("0"))
