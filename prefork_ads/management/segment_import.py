"""Users into segments from CSV through COPY: the good lines go in, the bad ones are named.

The file has a header, `uid,segment` in any order; a line is a user's id and the key of a segment that the
catalog has. Lines are gathered into batches, each a transaction, and who is in a segment already stays in
it: an import that was stopped is simply repeated.

Must not know: the command line.
"""

import csv
import io
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import psycopg2.extensions

from prefork_ads.db import session
from prefork_ads.db.queries import query
from prefork_ads.db.variant_import import (
    ERRORS_KEPT,
    ImportReport,
    LineError,
    Lines,
    opened,
    size_of,
)
from prefork_ads.errors import ConfigError, ImportRefused
from prefork_ads.management.people import no_such_segment, read_uid, segment_ids

Progress = Callable[[int, int | None, int], None]

BATCH_ROWS: Final = 50_000
COLUMNS: Final = ("uid", "segment")


class BadLine(ValueError):
    """Why a line cannot be taken."""


def import_file(dsn: str, path: Path | str, progress: Progress | None = None) -> ImportReport:
    """Import a file ("-" is standard input) and report what was taken and what was not.

    `imported` counts good lines, also those that changed nothing. Raises ImportRefused only when the file
    as a whole is not what it should be.
    """
    report = ImportReport()
    with ExitStack() as stack:
        source = stack.enter_context(opened(path))
        total_bytes = size_of(source)
        lines = Lines(source)
        records = _records(lines)
        order = _order(records)
        conn = stack.enter_context(session.connection(dsn))
        known = segment_ids(conn)
        with conn.cursor() as cursor:
            cursor.execute(query("user_segment_stage"))
        batch: list[str] = []

        def flush() -> None:
            _merge(conn, batch)
            report.imported += len(batch)
            batch.clear()
            if progress is not None:
                progress(lines.bytes_read, total_bytes, report.imported)

        for number, values in records:
            try:
                if isinstance(values, BadLine):
                    raise values
                batch.append(_copy_line(values, order, known))
            except BadLine as error:
                report.refused += 1
                if len(report.first_errors) < ERRORS_KEPT:
                    report.first_errors.append(LineError(number, str(error)))
            if len(batch) >= BATCH_ROWS:
                flush()
        flush()
    return report


def _records(lines: Lines) -> Iterator[tuple[int, list[str] | BadLine]]:
    """Number and values of each line that is not empty. Neither column can hold a line break."""
    for raw in lines:
        lines.take_raw()
        text = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not text.strip():
            continue
        try:
            yield lines.number, next(csv.reader([text], strict=True))
        except csv.Error as error:
            yield lines.number, BadLine(str(error))


def _order(records: Iterator[tuple[int, list[str] | BadLine]]) -> dict[str, int]:
    """Where each column stands, by the header."""
    _, header = next(records, (1, None))
    if header is None:
        raise ImportRefused("The file is empty; it must begin with a header line: uid,segment.")
    names = [] if isinstance(header, BadLine) else [name.strip().lower() for name in header]
    if sorted(names) != sorted(COLUMNS):
        raise ImportRefused(f"Line 1: the header must be {','.join(COLUMNS)}.")
    return {name: names.index(name) for name in COLUMNS}


def _copy_line(values: list[str], order: Mapping[str, int], known: Mapping[str, int]) -> str:
    if len(values) != len(COLUMNS):
        raise BadLine(f"{len(values)} values instead of {len(COLUMNS)}")
    uid, key = values[order["uid"]].strip(), values[order["segment"]].strip()
    try:
        user: uuid.UUID = read_uid(uid[:100])
    except ConfigError as error:
        raise BadLine(str(error).rstrip(".")) from None
    if key not in known:
        raise BadLine(no_such_segment(key[:100], known))
    return f"{user}\t{known[key]}\n"


def _merge(conn: psycopg2.extensions.connection, batch: list[str]) -> None:
    with conn, conn.cursor() as cursor:
        cursor.copy_expert(query("user_segment_stage_copy"), io.StringIO("".join(batch)))
        cursor.execute(query("user_segment_stage_merge"))
        cursor.execute("TRUNCATE user_segment_stage")
