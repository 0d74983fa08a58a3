"""The tables behind a run: the ads that are looked up, the logs that are counted.

One server serves all contenders. It is the project's embedded one on .bench/pg, unless --dsn names another;
the ads are made and sampled by prefork-ads's own commands. Logs are emptied before each measurement and at
the end, so that counting stays quick and a run leaves no gigabytes behind.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg2
import psycopg2.extensions

from benchlib.catalogs import Catalogs
from benchlib.checking import LogCount
from benchlib.contenders import LogTable
from benchlib.environment import BenchEnvironment
from benchlib.errors import BenchError
from benchlib.plan import Workload
from prefork_ads.db.embedded import EmbeddedPostgres
from prefork_ads.errors import PreforkAdsError

SAMPLE_IDS = 100_000
# How far apart the clocks of wrk and a contender may see the same moment.
CLOCK_S = 0.1

# A request's number is <run><thread>-<1, 2, 3 ...> (load.lua). wrk makes the first request of a run once more
# without sending it, so numbers may begin at 2; those of the probes have none.
COUNT = """
WITH entry AS (
    SELECT {time} AS time, {id} AS id, {complete} AS complete, {params} ->> 'no' AS number
    FROM {name} WHERE {endpoint} = ANY (%(endpoints)s)
), numbered AS (
    SELECT time, max(time) OVER (PARTITION BY left(number, 1)) AS run_end,
        split_part(number, '-', 2)::bigint - lag(split_part(number, '-', 2)::bigint)
            OVER (PARTITION BY split_part(number, '-', 1) ORDER BY split_part(number, '-', 2)::bigint) AS step
    FROM entry WHERE number IS NOT NULL
)
SELECT totals.*, gaps.* FROM
    (SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE complete) FROM entry) AS totals,
    (SELECT
        coalesce(sum(step - 1) FILTER (
            WHERE step > 1 AND time < run_end - make_interval(secs => %(guard_s)s)
        ), 0)::int,
        count(*) FILTER (WHERE step = 0)
    FROM numbered) AS gaps
"""


def connection_uri(dsn: str) -> str:
    """The one form that libpq, asyncpg and pgx all read, sockets included."""
    if dsn.startswith(("postgresql://", "postgres://")):
        return dsn
    parameters = psycopg2.extensions.parse_dsn(dsn)
    user = quote(parameters.pop("user", ""), safe="")
    password = parameters.pop("password", None)
    if password is not None:
        user += ":" + quote(password, safe="")
    name = quote(parameters.pop("dbname", ""), safe="")
    return f"postgresql://{user}{'@' if user else ''}/{name}?{urlencode(parameters)}"


@contextlib.contextmanager
def database(environment: BenchEnvironment, dsn: str | None) -> Iterator["Database"]:
    if dsn is not None:
        yield Database(environment, connection_uri(dsn))
        return
    server = EmbeddedPostgres(environment.directory / "pg")
    try:
        server.start()
    except PreforkAdsError as error:
        raise BenchError(str(error)) from error
    try:
        yield Database(environment, connection_uri(server.dsn))
    finally:
        server.stop()


class Database:
    def __init__(self, environment: BenchEnvironment, dsn: str) -> None:
        self.dsn = dsn
        self._environment = environment
        try:
            self._connection = psycopg2.connect(dsn)
        except psycopg2.OperationalError as error:
            raise BenchError(f"cannot connect to the database: {error}") from error
        self._connection.autocommit = True
        with self._connection.cursor() as cursor:
            # Counting sorts up to two million numbers.
            cursor.execute("SET work_mem = '512MB'")

    def _row(self, sql: str, parameters: Sequence[object] = ()) -> tuple[object, ...]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            row = cursor.fetchone()
        assert row is not None
        return row

    def _number(self, sql: str) -> int:
        (number,) = self._row(sql)
        assert isinstance(number, int)
        return number

    def _exists(self, table: str) -> bool:
        return self._row("SELECT to_regclass(%s) IS NOT NULL", (table,)) == (True,)

    @property
    def catalogs(self) -> Catalogs:
        return Catalogs(self._connection)

    @property
    def version(self) -> str:
        return str(self._row("SELECT version()")[0])

    # The ads.

    def prepare_ads(self, rows: int) -> int:
        """Makes sure there are at least this many, and says how many there are."""
        self._prefork_ads("migrate")
        have = self._number("SELECT count(*) FROM ad_variant")
        if have < rows:
            print(f"building ad_variant: {rows:,} rows, once …", file=sys.stderr)
            self._prefork_ads("variants", "generate", str(rows))
            have = self._number("SELECT count(*) FROM ad_variant")
        if have < rows:
            raise BenchError(f"ad_variant has {have:,} rows after variants generate {rows:,}")
        return have

    def sample_ids(self, path: Path) -> list[str]:
        """Existing ids at random, to a file that wrk reads."""
        path.write_text(
            self._prefork_ads("variants", "sample", str(SAMPLE_IDS)).stdout, encoding="ascii"
        )
        ids = path.read_text(encoding="ascii").split()
        if not ids:
            raise BenchError("prefork-ads variants sample printed no ids")
        return ids

    def ads(self, ids: Sequence[str]) -> dict[str, dict[str, object]]:
        """The rows of these ids, as JSON should show them."""
        with self._connection.cursor() as cursor:
            cursor.execute(
                "SELECT id::text, row_to_json(ad_variant) FROM ad_variant WHERE id = ANY (%s::uuid[])",
                (list(ids),),
            )
            return dict(cursor.fetchall())

    def _prefork_ads(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self._environment.prefork_ads), *arguments, "--dsn", self.dsn]
        # Its progress bar goes to our stderr.
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise BenchError(f"this failed: {' '.join(command)}")
        return done

    # The logs.

    def empty(self, table: LogTable) -> None:
        """Emptied, and the database left with nothing to catch up on."""
        with self._connection.cursor() as cursor:
            if self._exists(table.name):
                cursor.execute(f"TRUNCATE {table.name}")
            cursor.execute("CHECKPOINT")

    def count(self, table: LogTable, workload: Workload, guard_s: float) -> LogCount:
        """What is there of this workload; gaps younger than guard_s may be requests left in flight."""
        endpoints = [table.called] if table.called else [workload.value, f"/{workload.value}"]
        with self._connection.cursor() as cursor:
            cursor.execute(
                COUNT.format(**asdict(table)),
                {"endpoints": endpoints, "guard_s": guard_s + CLOCK_S},
            )
            row = cursor.fetchone()
        assert row is not None
        return LogCount(*row)
