"""What the tables hold of decisions that were made, and what a decision would be made of now.

Decisions and the states that they refer to are lines of the log. The ids are version 7 uuids, so they tell
when a line was written, and a few minutes of one day are all that is read.

Must not know: how a decision is made, or made again.
"""

from datetime import datetime
from typing import Any

import psycopg2.extensions

from prefork_ads.db.queries import query
from prefork_ads.errors import DecisionNotFound
from prefork_ads.events.ad_records import Decision, State, decided_ms

Connection = psycopg2.extensions.connection
Rows = dict[str, dict[int, dict[str, Any]]]


def catalog(conn: Connection, version: int | None = None) -> tuple[int, Rows]:
    """The catalog of a version, or the newest."""
    if version is None:
        [(version, _)] = _rows(conn, "catalog_version", wanted=None)
    found: Rows = {}
    for relation, row_id, content in _rows(conn, "catalog_rows", version=version):
        found.setdefault(relation, {})[row_id] = content
    assert version is not None
    return version, found


def decision(conn: Connection, line_id: str) -> tuple[datetime, Decision]:
    """The line of a decision, and when it was made."""
    for time, line in _rows(conn, "explain_decision", id=line_id, at_s=decided_ms(line_id) / 1000):
        return time, line
    made = datetime.fromtimestamp(decided_ms(line_id) / 1000).astimezone()
    raise DecisionNotFound(
        f"The log has no decision {line_id} (its id says {made:%Y-%m-%d %H:%M:%S %Z}). Its line may not be"
        " shipped yet (`prefork-ads journal status`), or its day may have been removed."
    )


def page(conn: Connection, line_id: str, time: datetime, line: Decision) -> list[Decision]:
    """The decisions for all places of its page, in their order."""
    places = line.get("places", 1)
    if places == 1:
        return [line]
    found = _rows(
        conn,
        "explain_page",
        time=time,
        places=places,
        state=line.get("state"),
        version=line.get("version"),
    )
    ids = [other for other, _ in found]
    # Two pages of one moment follow each other.
    first = ids.index(line_id) // places * places
    lines = [other for _, other in found[first : first + places]]
    if len(lines) < places:
        raise DecisionNotFound(f"The log has {len(lines)} of the {places} places of this page.")
    return lines


def states(conn: Connection, line_id: str | None) -> list[State]:
    """The state lines from a worker's last full one up to this one, in their order."""
    if line_id is None:
        return []
    known: dict[str, State] = dict(_rows(conn, "explain_states", at_s=decided_ms(line_id) / 1000))
    chain: list[State] = []
    wanted: str | None = line_id
    while wanted is not None:
        if wanted not in known:
            raise DecisionNotFound(f"The log has no state {wanted}, by which this was decided.")
        state = known.pop(wanted)
        chain.append(state)
        if state.get("full"):
            return chain[::-1]
        wanted = state.get("after")
    raise DecisionNotFound(f"The log has no full state before {line_id}.")


def delivered(conn: Connection, at_s: float) -> dict[int, tuple[int, int]]:
    """By campaign with a goal: what it has had in all, and on its day."""
    return {row[0]: (row[1], row[2]) for row in _rows(conn, "explain_budgets", at_s=at_s)}


def person(conn: Connection, uid: str) -> tuple[Any, ...] | None:
    """What is known of a user, as workers look it up."""
    with conn.cursor() as cursor:
        cursor.execute(query("person_prepare"))
    found = _rows(conn, "person_lookup", keys=f"{{{uid}}}")
    return found[0] if found else None


def _rows(conn: Connection, name: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with conn.cursor() as cursor:
        cursor.execute(query(name), parameters)
        return cursor.fetchall()
