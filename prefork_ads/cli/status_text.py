"""The figures of a server as text for a terminal of some width.

Must not know: where figures come from.
"""

from collections.abc import Sequence

from prefork_ads.cli.progress import show_time
from prefork_ads.cli.status_figures import Batches, Child, Endpoint, Server

_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_NOTHING = "-"
# What is asked for at several paths.
_SEVERAL = {"track": "tracking"}

# The columns of the table of children, and the width of the terminal from which each has room.
_COLUMNS = (
    ("SLOT", 0),
    ("STATE", 0),
    ("GEN", 0),
    ("PID", 0),
    ("UP", 0),
    ("REQ/S", 0),
    ("CONNS", 0),
    ("LOOKUPS", 0),
    ("EVENTS", 100),
    ("JOURNAL", 100),
    ("DELAY", 0),
    ("MEMORY", 0),
    ("DB", 100),
)
_LEFT_ALIGNED = frozenset({"SLOT", "STATE", "DB"})


def render(server: Server, width: int) -> list[str]:
    """Lines no longer than the width."""
    verdict = "leaving" if server.leaving else "healthy" if server.healthy else "NEEDS ATTENTION"
    lines = [
        _ends(f"prefork-ads {server.version}  {server.url or 'starting'}", verdict, width),
        *_wrapped(_about(server), width),
        "",
        *(f"! {problem}" for problem in server.problems),
        *([""] if server.problems else []),
        *_figures(server, width),
        "",
        *_table(server, width),
    ]
    return [_fitted(line, width) for line in lines]


def _about(server: Server) -> list[str]:
    alive = "" if server.master_alive else " (gone)"
    ready = len({child.slot for child in server.workers if child.state == "ready"})
    return [
        f"master {server.master_pid}{alive}",
        f"up {_time(server.up_s)}",
        f"{ready} of {server.slots} workers ready",
        *([] if server.slots_open == server.slots else [_connected(server.slots_open)]),
        f"database {server.database}",
        f"data {server.data_dir}",
    ]


def _connected(slots: int) -> str:
    return f"{slots} {'gets' if slots == 1 else 'get'} connections"


def _figures(server: Server, width: int) -> list[str]:
    respawns = sum(server.respawns.values())
    causes = [f"{name} {count}" for name, count in server.respawns.items() if count]
    rows: list[tuple[str, list[str]]] = [
        (_SEVERAL.get(name, f"/{name}"), _endpoint(endpoint))
        for name, endpoint in server.endpoints.items()
    ]
    rows += [
        ("tracked", _tracked(server)),
        ("not served", _not_served(server)),
        ("lookups", _batches(server.lookups, "keys", "queries")),
        ("inserts", _batches(server.inserts, "rows", "statements")),
        ("journal", _journal(server)),
        ("catalog", _catalog(server)),
        ("database", _database(server)),
        ("respawns", [_count(respawns), *causes]),
    ]
    if server.rows_rejected:
        rows.append(("rejected", [f"{_count(server.rows_rejected)} events that cannot be stored"]))
    if server.log_lines_dropped:
        rows.append(("log", [f"{_count(server.log_lines_dropped)} lines dropped"]))
    label = max(len(name) for name, _ in rows) + 2
    lines = []
    for name, parts in rows:
        first, *more = _wrapped(parts, width - label)
        lines += [name.ljust(label) + first, *(" " * label + line for line in more)]
    return lines


def _endpoint(endpoint: Endpoint) -> list[str]:
    parts = [f"{_count(endpoint.per_s)}/s"]
    parts += [
        f"{status}: {_count(per_s)}/s"
        for status, per_s in endpoint.by_status_per_s.items()
        if per_s and per_s != endpoint.per_s
    ]
    if endpoint.p50_s is not None and endpoint.p99_s is not None:
        parts.append(f"half in {_short_time(endpoint.p50_s)}, 99% in {_short_time(endpoint.p99_s)}")
    return [*parts, f"{_count(endpoint.total)} in all"]


def _tracked(server: Server) -> list[str]:
    by_kind = server.tracked_per_s
    return [
        f"{_count(sum(by_kind.values()))}/s",
        *(f"{kind} {_count(per_s)}/s" for kind, per_s in by_kind.items() if per_s),
    ]


def _not_served(server: Server) -> list[str]:
    return [
        f"refused {_count(server.refused_per_s)}/s",
        f"shed {_count(server.shed_per_s)}/s",
        f"failed {_count(server.failed)} in all",
    ]


def _batches(batches: Batches, noun: str, in_what: str) -> list[str]:
    parts = [f"{_count(batches.rows_per_s)} {noun}/s"]
    if batches.p99_s is not None:
        parts += [
            f"{_count(batches.per_s)} {in_what}/s of {_count(batches.mean_rows)}",
            f"{_short_time(batches.mean_s)} each, 99% in {_short_time(batches.p99_s)}",
        ]
    return [*parts, *([f"{_count(batches.failures)} failed"] if batches.failures else [])]


def _journal(server: Server) -> list[str]:
    journal = server.journal
    parts = [f"{_bytes(journal['bytes'])} waiting"]
    if journal["oldest_s"] and not journal["bytes"]:
        # With --journal off: what waits has an age, and no bytes here.
        rows = sum(child.log_rows_waiting for child in server.workers)
        parts = [f"{_count(rows)} {'event' if rows == 1 else 'events'} in memory"]
    if journal["oldest_s"]:
        parts.append(f"oldest {_short_time(journal['oldest_s'])}")
    return parts + [
        f"{name} {_count(journal[name])}"
        for name in ("adopted", "torn", "damaged")
        if journal[name]
    ]


def _catalog(server: Server) -> list[str]:
    """What the workers serve from, and how long ago that was the newest for certain."""
    workers = server.workers
    versions = sorted({child.catalog_version for child in workers})
    refused = max((child.campaigns_refused for child in workers), default=0)
    age_s = max((child.catalog_age_s for child in workers), default=0.0)
    return [
        f"version {', '.join(map(str, versions)) or _NOTHING}",
        f"{_count(max((child.campaigns for child in workers), default=0))} campaigns",
        *([f"{_count(refused)} not understood"] if refused else []),
        *([f"checked {_short_time(age_s)} ago"] if age_s else []),
    ]


def _database(server: Server) -> list[str]:
    workers = server.workers
    return [
        f"{sum(bool(child.writer_connections) for child in workers)} of {len(workers)} can write",
        f"{sum(bool(child.reader_connections) for child in workers)} of {len(workers)} can look up",
    ]


def _table(server: Server, width: int) -> list[str]:
    shown = [name for name, from_width in _COLUMNS if width >= from_width]
    rows = [dict(zip(shown, shown, strict=True)), *map(_row, server.workers)]
    if server.keeper is not None:
        rows.append(_row(server.keeper))
    widths = {name: max(len(row[name]) for row in rows) for name in shown}
    return [
        "  ".join(
            row[name].ljust(widths[name])
            if name in _LEFT_ALIGNED
            else row[name].rjust(widths[name])
            for name in shown
        ).rstrip()
        for row in rows
    ]


def _row(child: Child) -> dict[str, str]:
    is_worker = child.slot >= 0
    connected = "r" * bool(child.reader_connections) + "w" * bool(child.writer_connections)

    def of_worker(text: str) -> str:
        return text if is_worker else _NOTHING

    return {
        "SLOT": str(child.slot) if is_worker else "keeper",
        "STATE": "silent" if child.hangs else child.state,
        "GEN": str(child.generation),
        "PID": str(child.pid),
        "UP": _NOTHING if child.up_s is None else _time(child.up_s),
        "REQ/S": of_worker(_count(child.requests_per_s)),
        "CONNS": of_worker(_count(child.connections)),
        "LOOKUPS": of_worker(_count(child.lookups_waiting)),
        "EVENTS": of_worker(_count(child.log_rows_waiting)),
        "JOURNAL": _bytes(child.journal_bytes),
        "DELAY": of_worker(_short_time(child.loop_delay_s)),
        "MEMORY": _bytes(child.memory_bytes),
        "DB": of_worker(connected or _NOTHING),
    }


# Words, numbers and lines.


def _count(value: float) -> str:
    """1,234,567; below ten with one decimal if it has any."""
    if 0 < value < 10 and value != int(value):
        return f"{value:.1f}"
    return f"{round(value):,}"


def _bytes(value: float) -> str:
    number, unit = float(value), 0
    while number >= 1024 and unit < len(_BYTE_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.1f} {_BYTE_UNITS[unit]}" if unit else f"{round(value)} B"


def _time(seconds: float) -> str:
    if seconds < 86_400:
        return show_time(seconds).replace(" ", "")
    return f"{int(seconds // 86_400)}d{int(seconds % 86_400 // 3600):02}h"


def _short_time(seconds: float) -> str:
    if seconds >= 10:
        return _time(seconds)
    return f"{seconds * 1000:.1f}ms" if seconds < 1 else f"{seconds:.1f}s"


def _ends(left: str, right: str, width: int) -> str:
    return left + right.rjust(max(len(right) + 2, width - len(left)))


def _wrapped(parts: Sequence[str], width: int) -> list[str]:
    """Parts with two spaces between them, in as many lines as they need."""
    lines = [""]
    for part in parts:
        joined = f"{lines[-1]}  {part}" if lines[-1] else part
        if lines[-1] and len(joined) > width:
            lines.append(part)
        else:
            lines[-1] = joined
    return lines


def _fitted(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"
