"""Import variants from CSV or JSON lines through COPY: the good lines go in, the bad ones are reported.

Lines are checked one by one, gathered into batches, copied into a temporary table and merged from
there: COPY itself knows neither "update what exists" nor "leave the bad line out". Each batch is a
transaction (with `strict` the whole file is one), and merging is by id, so a broken import is
simply run again.

Memory is bounded by a batch: a line has a length limit, and what is longer is a bad line.

Must not know: the command line; what makes a line good is in `variant_rows`.
"""

import csv
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Literal, Protocol

import orjson
import psycopg2
import psycopg2.extensions

from prefork_ads.db import session, variant_rows
from prefork_ads.db.queries import query
from prefork_ads.db.variant_rows import BadLine
from prefork_ads.errors import ConfigError, ImportRefused

Format = Literal["auto", "csv", "jsonl"]
Progress = Callable[[int, int | None, int], None]

BATCH_ROWS: Final = 20_000
BATCH_BYTES: Final = 8 << 20
# Three texts of 9,000 bytes in all, each at worst six bytes of JSON per byte, fit several times.
LINE_LIMIT_BYTES: Final = 256 << 10
ERRORS_KEPT: Final = 20
CSV_ENDINGS: Final = (".csv",)
JSONL_ENDINGS: Final = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True, slots=True)
class LineError:
    """Why one line was refused."""

    line: int
    reason: str


@dataclass(slots=True)
class ImportReport:
    """What came of an import. `first_errors` holds the first of the refused lines, not all."""

    imported: int = 0
    refused: int = 0
    first_errors: list[LineError] = field(default_factory=list)

    def raise_if_refused(self) -> None:
        """End with the exit status for refused input when any line was refused."""
        if self.refused:
            raise ImportRefused(
                f"{self.refused:,} lines were refused; {self.imported:,} were imported."
            )


def import_file(
    dsn: str,
    path: Path | str,
    format: Format = "auto",
    strict: bool = False,
    rejects: Path | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Import a file ("-" is standard input) and report what was taken and what was not.

    With `strict` one bad line leaves the table as it was; the rest is still checked, so that the
    report names every mistake at once. `rejects` gets each refused line after its number and the
    reason, separated by tabs: `cut -f3-` leaves a file that can be corrected and imported. Raises
    ImportRefused only when the file as a whole cannot be read as what it is said to be.
    """
    report = ImportReport()
    kind = _format_of(path, format)
    with ExitStack() as stack:
        source = stack.enter_context(opened(path))
        total_bytes = size_of(source)
        lines = Lines(source)
        records = _records(lines, kind)
        rejected = stack.enter_context(rejects.open("wb")) if rejects is not None else None
        conn = stack.enter_context(session.connection(dsn))
        if rejected is not None:
            rejected.write(b"line\treason\t" + records.header if records.header else b"")
        merge = _Merge(conn)
        for record in records:
            if record.error is not None:
                _refuse(report, record, rejected)
            elif not (strict and report.refused):
                merge.add(record.copy_line)
            if merge.full:
                report.imported += merge.flush()
                if not strict:
                    conn.commit()
                if progress is not None:
                    progress(lines.bytes_read, total_bytes, report.imported)
        if strict and report.refused:
            conn.rollback()
            report.imported = 0
        else:
            report.imported += merge.flush()
            conn.commit()
        if progress is not None:
            progress(lines.bytes_read, total_bytes, report.imported)
    return report


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the file: a line for COPY, or the reason why not."""

    line: int
    raw: bytes
    copy_line: str = ""
    error: str | None = None


class Records(Protocol):
    """A file's records in order, and the line that any part of it must begin with."""

    header: bytes

    def __iter__(self) -> Iterator[Record]: ...


class Lines:
    """The lines of a file, each of bounded length, counted; keeps those of the current record."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.number = 0
        self.bytes_read = 0
        self.cut = False  # the current line was longer than the limit
        self._raw: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        while line := self._source.readline(LINE_LIMIT_BYTES):
            self.number += 1
            self.bytes_read += len(line)
            if self.number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")  # spreadsheets write a byte order mark
            self.cut = len(line) >= LINE_LIMIT_BYTES and not line.endswith(b"\n")
            if self.cut:
                self._skip_to_end_of_line()
                line += b"\n"
            self._raw.append(line)
            yield line

    def take_raw(self) -> bytes:
        """The lines read since the last call, as they were."""
        raw = b"".join(self._raw)
        self._raw.clear()
        return raw

    def _skip_to_end_of_line(self) -> None:
        while part := self._source.readline(LINE_LIMIT_BYTES):
            self.bytes_read += len(part)
            if part.endswith(b"\n"):
                break


class CsvRecords:
    """CSV with a header line that names the columns in any order."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        # Bytes that are not UTF-8 travel as lone surrogates, to be refused in the field they are
        # in.
        text = (line.decode("utf-8", "surrogateescape") for line in lines)
        self._reader = csv.reader(text, strict=True)
        try:
            self._names = variant_rows.order_of(next(self._reader))
        except StopIteration:
            raise ImportRefused("The file is empty; it must begin with a header line.") from None
        except (BadLine, csv.Error) as error:
            raise ImportRefused(f"Line 1: {error}.") from error
        self.header = lines.take_raw()

    def __iter__(self) -> Iterator[Record]:
        while True:
            line = self._lines.number + 1
            try:
                values = next(self._reader)
                if not values:
                    self._lines.take_raw()
                    continue
                fields = variant_rows.fields_of_record(values, self._names)
                copy_line = variant_rows.copy_line(fields, line)
            except StopIteration:
                return
            except (BadLine, csv.Error) as error:
                yield Record(line, self._lines.take_raw(), error=str(error))
            else:
                yield Record(line, self._lines.take_raw(), copy_line)


class JsonRecords:
    """One JSON object a line, with the columns as its keys."""

    header = b""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def __iter__(self) -> Iterator[Record]:
        for raw in self._lines:
            line = self._lines.number
            self._lines.take_raw()
            if raw.isspace():
                continue
            try:
                if self._lines.cut:
                    raise BadLine(f"longer than {LINE_LIMIT_BYTES >> 10} KiB")
                fields = variant_rows.fields_of_object(orjson.loads(raw))
                yield Record(line, raw, variant_rows.copy_line(fields, line))
            except orjson.JSONDecodeError as error:
                yield Record(line, raw, error=f"not valid JSON: {error}")
            except BadLine as error:
                yield Record(line, raw, error=str(error))


class _Merge:
    """The batch in hand, and how it gets into the table."""

    def __init__(self, conn: psycopg2.extensions.connection) -> None:
        self._conn = conn
        self._batch = io.StringIO()
        self._rows = 0
        with conn.cursor() as cursor:
            cursor.execute(query("variant_stage"))

    @property
    def full(self) -> bool:
        return self._rows >= BATCH_ROWS or self._batch.tell() >= BATCH_BYTES

    def add(self, copy_line: str) -> None:
        self._batch.write(copy_line)
        self._rows += 1

    def flush(self) -> int:
        """Merge the batch in the current transaction; return its number of lines."""
        rows, self._rows = self._rows, 0
        if rows:
            self._batch.seek(0)
            with self._conn.cursor() as cursor:
                cursor.copy_expert(query("variant_stage_copy"), self._batch)
                cursor.execute(query("variant_stage_merge"))
                cursor.execute("TRUNCATE variant_stage")
            self._batch = io.StringIO()
        return rows


def _refuse(report: ImportReport, record: Record, rejected: IO[bytes] | None) -> None:
    report.refused += 1
    if len(report.first_errors) < ERRORS_KEPT:
        report.first_errors.append(LineError(record.line, record.error or ""))
    if rejected is not None:
        rejected.write(f"{record.line}\t{record.error}\t".encode("utf-8", "replace") + record.raw)


def _records(lines: Lines, format: Literal["csv", "jsonl"]) -> Records:
    return CsvRecords(lines) if format == "csv" else JsonRecords(lines)


def _format_of(path: Path | str, format: Format) -> Literal["csv", "jsonl"]:
    if format != "auto":
        return format
    ending = Path(path).suffix.lower()
    if ending in CSV_ENDINGS:
        return "csv"
    if ending in JSONL_ENDINGS:
        return "jsonl"
    raise ConfigError(f"The format of {path} cannot be told from its name: say csv or jsonl.")


@contextmanager
def opened(path: Path | str) -> Iterator[IO[bytes]]:
    """The file, or standard input for "-"; what cannot be opened is told as a ConfigError."""
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    try:
        source = Path(path).open("rb")  # noqa: SIM115 - only opening is explained here
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    with source:
        yield source


def size_of(source: IO[bytes]) -> int | None:
    """The size of a file, None of a pipe or a terminal."""
    try:
        return os.fstat(source.fileno()).st_size or None
    except (OSError, io.UnsupportedOperation):
        return None
