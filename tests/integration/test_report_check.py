"""The proof: the rollup equals its events, and where it does not that is found, named and an exit status."""

import datetime
from pathlib import Path
from typing import Any, Final

import psycopg2.errors
import pytest
from click.testing import CliRunner

from prefork_ads.cli import cli
from prefork_ads.errors import ReportDiffers
from prefork_ads.report import check as check_module
from prefork_ads.report.check import check
from tests.conftest import Database
from tests.integration.report_bed import CATALOG, fill
from tests.integration.test_report import DAYS, two_users

NOON: Final = datetime.datetime(2026, 10, 24, 12, tzinfo=datetime.UTC)


@pytest.fixture
def catalog(database: Database) -> Database:
    database.execute(CATALOG)
    fill(database, two_users())
    # Its damage is done to the base.
    database.execute("SELECT rollup_fold(1000)")
    return database


def test_what_was_ingested_is_proved_day_by_day(catalog: Database) -> None:
    seen: list[tuple[int, int | None]] = []
    last = DAYS[1] + datetime.timedelta(days=1)
    proof = check(catalog.dsn, DAYS[0], last, progress=lambda n, of, _: seen.append((n, of)))
    assert (proof.rows, proof.differing) == (4, 0)
    assert seen == [(1, 2), (2, 2)]
    proof.raise_if_it_differs()
    assert "4 rows of the rollup equal" in proof.summary


def test_without_bounds_all_that_is_kept_is_compared(catalog: Database) -> None:
    assert check(catalog.dsn).rows == 4


def test_a_period_ends_where_there_can_be_nothing_any_more(catalog: Database) -> None:
    """The days up to the end of the calendar are not looked at one by one."""
    days: set[int | None] = set()
    proof = check(
        catalog.dsn,
        DAYS[0],
        datetime.datetime(9999, 1, 1, tzinfo=datetime.UTC),
        progress=lambda n, of, _: days.add(of),
    )
    assert proof.rows == 4
    assert max(of or 0 for of in days) < 400


def test_each_difference_is_named(catalog: Database) -> None:
    """A figure that is off, a row too many, a row too few."""
    catalog.execute(
        "UPDATE rollup_base SET clicks = clicks + 2 WHERE campaign_id = 1 AND hour < '2026-10-25'"
    )
    catalog.execute(
        "INSERT INTO rollup_base VALUES ('2026-10-25 03:00+00', 2, 0, 0, 'AT', '', false, 5)"
    )
    catalog.execute("DELETE FROM rollup_base WHERE campaign_id = 2 AND hour > '2026-10-25'")
    proof = check(catalog.dsn)
    assert [str(one) for one in proof.differences] == [
        "2026-10-24T12:00+00:00 zone_id=1 campaign_id=1 creative_id=2 country= device= filtered=False:"
        " clicks 2 instead of 0",
        "2026-10-25T03:00+00:00 zone_id=2 campaign_id=0 creative_id=0 country=AT device= filtered=False:"
        " requests 5 instead of 0",
        "2026-10-25T12:00+00:00 zone_id=1 campaign_id=2 creative_id=4 country= device= filtered=False:"
        " requests 0 instead of 1, fills 0 instead of 1, impressions 0 instead of 1",
    ]
    with pytest.raises(ReportDiffers, match="3 rows of the rollup"):
        proof.raise_if_it_differs()


def test_a_lost_decision_is_found(catalog: Database) -> None:
    catalog.execute("DELETE FROM request_log WHERE endpoint = 'decision' AND time < '2026-10-25'")
    assert check(catalog.dsn).differing == 2


def test_only_whole_hours_that_are_asked_for_are_compared(catalog: Database) -> None:
    catalog.execute("UPDATE rollup_base SET clicks = 9 WHERE hour = '2026-10-24 12:00+00'")
    for first, last, wrong in ((11, 12, 0), (12, 13, 2), (13, 14, 0)):
        starts, ends = NOON.replace(hour=first), NOON.replace(hour=last)
        assert check(catalog.dsn, starts, ends).differing == wrong
    half = datetime.datetime.fromisoformat("2026-10-24T17:45")
    assert check(catalog.dsn, half, half, "Asia/Kolkata").differing == 2, "17:45 there is 12:15"


def test_forgotten_days_are_told_and_not_called_wrong(catalog: Database) -> None:
    """Their events are gone by retention, their sums stay."""
    catalog.execute("SELECT request_log_drop_before('2026-10-25')")
    proof = check(catalog.dsn)
    assert (proof.rows, proof.differing, proof.forgotten) == (2, 0, 1)
    assert "1 older hours were not compared" in next(iter(proof.notes))


def test_retention_waits_for_a_proof_under_way(
    catalog: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was said to be kept would be gone when it is compared, and be called wrong."""
    days = check_module._days
    refused = []

    def forgotten_now(*bounds: datetime.datetime) -> Any:
        for table in ("request_log", "ad_event"):
            try:
                catalog.execute(f"SELECT {table}_drop_before('2026-10-25')")
            except psycopg2.errors.LockNotAvailable:
                refused.append(table)
        return days(*bounds)

    monkeypatch.setattr(check_module, "_days", forgotten_now)
    assert check(catalog.dsn).differing == 0
    assert refused == ["request_log", "ad_event"]


def test_a_database_without_ads_is_right(database: Database) -> None:
    assert check(database.dsn).differing == 0


# ---- the command


def test_the_command_proves_and_reports(catalog: Database, tmp_path: Path) -> None:
    """Through the command line, from its words to its exit status."""
    run = CliRunner()
    database = ["--dsn", catalog.dsn]
    done = run.invoke(
        cli, ["report", "--check", "--from", "2026-10-24", "--to", "2026-10-25", *database]
    )
    assert done.exit_code == 0, done.output
    assert "4 rows of the rollup equal what they are sums of." in done.output
    done = run.invoke(cli, ["report", "--by", "campaign", "--measures", "impressions", *database])
    assert "Σ all                     6" in done.output
    page = tmp_path / "report.html"
    done = run.invoke(
        cli, ["report", "--by", "day", "--format", "html", "--output", str(page), *database]
    )
    assert done.exit_code == 0, done.output
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    done = run.invoke(cli, ["report", "restate", "--from", "2026-10-24", "--dry-run", *database])
    assert "0 lines would change in 2 days." in done.output
    catalog.execute("UPDATE rollup_base SET clicks = 9")
    done = run.invoke(cli, ["report", "--check", *database])
    assert isinstance(done.exception, ReportDiffers)
    assert done.exception.exit_code == 65


def test_a_file_that_cannot_be_written_is_told(catalog: Database) -> None:
    done = CliRunner().invoke(cli, ["report", "--output", "/nowhere/x", "--dsn", catalog.dsn])
    assert "cannot be written" in str(done.exception)


def test_a_lost_event_is_found(catalog: Database) -> None:
    catalog.execute("DELETE FROM ad_event WHERE campaign_id = 2 AND decided_at < '2026-10-25'")
    assert check(catalog.dsn).differing == 1
