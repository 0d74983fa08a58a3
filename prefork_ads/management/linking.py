"""What a catalog's things say of each other: that what they refer to is there, and that ads can be shown.

Looked at is the catalog as it would be afterwards: what is in the database, with the files laid over it.

Must not know: files, SQL, how anything came to be.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime

from prefork_ads.management import targeting_form
from prefork_ads.management.complaints import Complaints, meant
from prefork_ads.management.items import Item, Items, Name

Changed = Iterable[Item]


def check(after: Items, before: Items, said: Changed, complaints: Complaints) -> None:
    """Complain of what does not fit together. `said`: the items that somebody asked for.

    What is in the database already and stays as it is can only be warned of.
    """
    wanted = {item.name: item for item in said}
    has_creative = {
        item.columns["campaign"]
        for (relation, _), item in after.items()
        if relation == "creative" and not item.archived
    }
    for item in wanted.values():
        same = item.name in before and before[item.name].columns == item.columns
        tell = complaints.warn if same else complaints.add
        _check_reference(item, after, before, wanted.keys(), complaints)
        runs = item.relation == "campaign" and item.columns["status"] == "active"
        if runs and item.key not in has_creative:
            reason = (
                "has no creative, so there is nothing to show; give it one under creatives, or the"
                " status draft"
            )
            tell(item.mark, item.path, reason)
    _check_targeting(after, before, list(wanted.values()), complaints)
    for item in wanted.values():
        campaign = after.get(item.reference or ("", "")) if item.relation == "creative" else None
        runs = campaign is not None and campaign.columns["status"] == "active"
        if campaign is not None and runs and item.archived and campaign.key not in has_creative:
            complaints.warn(item.mark, campaign.path, "has no creative any more")
    _warn(after, list(wanted.values()), complaints)


def _check_reference(
    item: Item, after: Items, before: Items, said: Collection[Name], complaints: Complaints
) -> None:
    other = item.reference
    if other is None or not other[1]:
        return
    relation, key = other
    mark, path = item.mark_of(relation), f"{item.path}.{relation}"
    there = after.get(other)
    if there is None:
        near = meant(key, [k for r, k in after if r == relation])
        complaints.add(mark, path, f"there is no {relation} {key!r}{near}")
        return
    if there.archived and not item.archived:
        if other in said or before[other].archived:
            complaints.warn(mark, path, f"{relation} {key!r} is archived")
        else:
            reason = f"{relation} {key!r} is not in the files, so --prune would archive it"
            complaints.add(mark, path, reason)
    old = before.get(item.name)
    if old is not None and old.reference != other:
        was = old.columns[relation]
        reason = (
            f"cannot change from {was!r} to {key!r}: what was counted for it would come to mean"
            f" another; give the {item.relation} another key"
        )
        complaints.add(mark, path, reason)


def _check_targeting(
    after: Items, before: Items, wanted: list[Item], complaints: Complaints
) -> None:
    known = _living_keys(after, "segment"), _living_keys(after, "site")
    lost = (_living_keys(before, "segment") - known[0]) | (_living_keys(before, "site") - known[1])
    # Somebody else's campaign may aim at what is archived here.
    looked_at = {item.name: item for item in (after.values() if lost else wanted)}
    for item in looked_at.values():
        if item.relation == "campaign" and not item.archived and item.columns["targeting"] != {}:
            marks = {
                path.removeprefix("targeting."): mark
                for path, mark in item.marks.items()
                if path.startswith("targeting.")
            }
            where = item.mark_of("targeting"), item.path
            targeting_form.check(item.columns["targeting"], where, marks, known, complaints)


def _living_keys(items: Mapping[tuple[str, str], Item], relation: str) -> set[str]:
    return {key for (r, key), item in items.items() if r == relation and not item.archived}


def _warn(after: Items, wanted: list[Item], complaints: Complaints) -> None:
    """What is allowed and hardly meant."""
    zones = [item.columns for (r, _), item in after.items() if r == "zone" and not item.archived]
    sizes = {(f, s) for zone in zones for f in zone["formats"] for s in zone["sizes"]}
    natives = any("native" in zone["formats"] for zone in zones)
    now = datetime.now(UTC)
    for item in wanted:
        columns = item.columns
        if item.archived:
            continue
        if item.relation == "creative":
            size = f"{columns['width']}x{columns['height']}"
            form = columns["format"]
            if not ((form, size) in sizes or (form == "native" and natives)):
                mark = item.mark_of("size")
                complaints.warn(mark, item.path, f"fits no zone: none takes {form} of {size}")
        elif item.relation == "campaign":
            if columns["ends_at"] is not None and columns["ends_at"] <= now:
                complaints.warn(item.mark_of("ends"), item.path, "is over already")
            if columns["tier"] == "guaranteed" and columns["goal_kind"] is None:
                complaints.warn(item.mark_of("tier"), item.path, "is guaranteed and has no goal")
