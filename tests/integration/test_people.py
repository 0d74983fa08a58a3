"""What is kept of a user: segments put and taken, files of them, and everything forgotten."""

import uuid
from pathlib import Path
from typing import Final

import orjson
import pytest
from click.testing import CliRunner

from prefork_ads.ads.tokens import Key, Keyring, Token
from prefork_ads.cli import cli
from prefork_ads.db.variant_import import LineError
from prefork_ads.errors import ConfigError, ImportRefused
from prefork_ads.management import people
from prefork_ads.management.segment_import import import_file
from tests.conftest import Database
from tests.integration.report_bed import CATALOG, differences, fill
from tests.integration.test_report import UIDS, two_users

ANNA: Final = uuid.UUID(UIDS[0])
BEN: Final = uuid.UUID(UIDS[1])


@pytest.fixture
def catalog(database: Database) -> Database:
    database.execute(CATALOG)
    return database


# ---- forgetting


def everything(database: Database) -> str:
    """All that is kept, as one text."""
    tables = (
        "request_log",
        "request_log_rejected",
        "ad_event",
        "conversion",
        "user_segment",
        "user_frequency",
        "rollup_hour",
    )
    return "\n".join(
        str(row) for table in tables for row in database.fetch(f"SELECT t::text FROM {table} AS t")
    ).lower()


def test_a_forgotten_user_is_nowhere_any_more(catalog: Database) -> None:
    """However the id was written and wherever: as ours, as a parameter, in an address, in a bad line."""
    fill(catalog, two_users())
    people.add_to_segment(catalog.dsn, ANNA, "cyclists")
    people.add_to_segment(catalog.dsn, BEN, "cyclists")
    catalog.execute(
        "INSERT INTO user_frequency (uid, kind, id, hour, day, hour_count, day_count, count)"
        " VALUES (%s, 'c', 1, now(), current_date, 1, 1, 1)",
        str(ANNA),
    )
    upper = str(ANNA).upper()
    catalog.execute(
        "INSERT INTO request_log (time, id, endpoint, params, referer) VALUES"
        " ('2026-10-24 10:00+00', gen_random_uuid(), 'log', %s, %s)",
        orjson.dumps({"user": upper, f"k{ANNA.hex}": [ANNA.hex]}).decode(),
        f"https://x.example/?u={upper}",
    )
    catalog.execute(
        "INSERT INTO request_log_rejected (line, reason) VALUES (%s, 'bad')", f"a {ANNA.hex} b"
    )
    before = everything(catalog)
    assert ANNA.hex in before
    done = people.forget(catalog.dsn, ANNA)
    assert (done.segments, done.frequencies, done.events, done.rejected) == (1, 1, 4, 1)
    assert done.requests == 4 + 4 + 1, "decisions, impressions, and what the client said himself"
    after = everything(catalog)
    assert ANNA.hex not in after
    assert str(ANNA) not in after
    assert after.count(BEN.hex) == before.count(BEN.hex)
    assert after.count(str(BEN)) == before.count(str(BEN))


def test_what_was_counted_stays_counted(catalog: Database) -> None:
    """As nobody's: the sums are those of before, and still those of their events."""
    fill(catalog, two_users())
    sums = catalog.fetch("SELECT * FROM rollup_hour ORDER BY 1, 2, 3")
    people.forget(catalog.dsn, ANNA)
    assert catalog.fetch("SELECT * FROM rollup_hour ORDER BY 1, 2, 3") == sums
    assert differences(catalog) == []
    assert people.forget(catalog.dsn, ANNA).anything is False, "a second time there is nothing"


def test_the_rest_of_a_line_stays_as_it_was(catalog: Database) -> None:
    fill(catalog, two_users())
    told = "SELECT params -> 'decision' FROM request_log WHERE endpoint = 'decision' ORDER BY id"
    before = [one for (one,) in catalog.fetch(told)]
    people.forget(catalog.dsn, ANNA)
    after = [one for (one,) in catalog.fetch(told)]
    for old, new in zip(before, after, strict=True):
        assert new == {k: v for k, v in old.items() if k != "uid" or v == BEN.hex}


def test_an_id_of_digits_leaves_numbers_numbers(catalog: Database) -> None:
    """It may be a number in somebody's JSON, and `forgotten` is none."""
    digits = uuid.UUID("1" * 32)
    catalog.execute("SELECT request_log_ensure('2026-10-24', '2026-10-24')")
    catalog.execute(
        "INSERT INTO request_log (time, id, endpoint, params) VALUES"
        " ('2026-10-24 10:00+00', gen_random_uuid(), 'log', %s)",
        f'{{"n": {digits.hex}, "t": "{digits}"}}',
    )
    assert people.forget(catalog.dsn, digits).requests == 1
    assert catalog.fetch("SELECT params FROM request_log") == [({"n": 1, "t": "1"},)]


def test_tokens_that_carry_the_id_are_spoilt(catalog: Database) -> None:
    """One stands in the address of the page that its click led to, and others may read it."""
    keys = Keyring([Key(1, b"k" * 32, True)])
    tokens = [
        keys.sign(Token(b"d" * 16, 1, 2, 3, 1500000, "cpm", "DE", "mobile", user.bytes, False))
        for user in (ANNA, BEN)
    ]
    catalog.execute("SELECT request_log_ensure('2026-10-24', '2026-10-24')")
    for token in tokens:
        catalog.execute(
            "INSERT INTO request_log (time, id, endpoint, params, referer) VALUES"
            " ('2026-10-24 10:00+00', gen_random_uuid(), 'conversion', %s, %s)",
            orjson.dumps({"request": {"click": token}}).decode(),
            f"https://shop.example/?t={token}",
        )
    assert people.forget(catalog.dsn, ANNA).requests == 1
    said = everything(catalog)
    assert tokens[0].lower() not in said
    assert said.count(tokens[1].lower()) == 2


def test_each_day_is_told_while_it_lasts(catalog: Database) -> None:
    fill(catalog, two_users())
    seen: list[tuple[int, int | None]] = []
    people.forget(catalog.dsn, ANNA, lambda n, of, _: seen.append((n, of)))
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize("text", ["", "anna", "1234", "z" * 32, str(uuid.UUID(int=1)) + "0", "%"])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no user's id"):
        people.read_uid(text)


def test_an_id_may_be_written_in_both_ways() -> None:
    assert people.read_uid(ANNA.hex.upper()) == people.read_uid(str(ANNA)) == ANNA


# ---- segments


def test_segments_are_put_and_taken(catalog: Database) -> None:
    assert people.add_to_segment(catalog.dsn, ANNA, "skiers")
    assert people.add_to_segment(catalog.dsn, ANNA, "cyclists")
    assert not people.add_to_segment(catalog.dsn, ANNA, "cyclists"), "already in it"
    assert people.segments_of(catalog.dsn, ANNA) == ["cyclists", "skiers"]
    assert people.remove_from_segment(catalog.dsn, ANNA, "cyclists")
    assert not people.remove_from_segment(catalog.dsn, ANNA, "cyclists")
    assert people.segments_of(catalog.dsn, ANNA) == ["skiers"]
    assert people.segments_of(catalog.dsn, BEN) == []
    with pytest.raises(ConfigError, match="did you mean cyclists"):
        people.add_to_segment(catalog.dsn, ANNA, "cyclist")


def test_a_file_of_segments(catalog: Database, tmp_path: Path) -> None:
    """With everything a spreadsheet does; a line that is there already changes nothing."""
    file = tmp_path / "segments.csv"
    file.write_bytes(
        b"\xef\xbb\xbfSegment,UID\r\n"
        + f'cyclists,{ANNA}\r\n"skiers","{ANNA.hex.upper()}"\r\n\r\ncyclists,{BEN}\r\n'
        f"cyclists,{BEN}\r\n".encode()
    )
    for _ in range(2):
        report = import_file(catalog.dsn, file)
        assert (report.imported, report.refused) == (4, 0)
        assert catalog.fetch("SELECT count(*) FROM user_segment") == [(3,)]


def test_bad_lines_are_named_and_the_good_ones_taken(catalog: Database, tmp_path: Path) -> None:
    file = tmp_path / "segments.csv"
    lines = [
        "uid,segment",
        f"{ANNA},cyclists",
        "anna,cyclists",
        f"{BEN},cylists",
        f"{BEN}",
        f'{BEN},"cyc',
        f"{BEN},skiers",
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    report = import_file(catalog.dsn, file)
    assert (report.imported, report.refused) == (2, 4)
    assert report.first_errors == [
        LineError(3, "'anna' is no user's id: that is a UUID, 32 hexadecimal digits"),
        LineError(4, "there is no segment 'cylists' in the catalog (did you mean cyclists?)"),
        LineError(5, "1 values instead of 2"),
        LineError(6, "unexpected end of data"),
    ]
    with pytest.raises(ImportRefused, match="4 lines were refused; 2 were imported"):
        report.raise_if_refused()


@pytest.mark.parametrize("text", ["", "user,segment\n", "uid\n", "uid,segment,more\n"])
def test_a_file_that_is_something_else_is_refused(
    catalog: Database, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "segments.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ImportRefused, match="uid,segment"):
        import_file(catalog.dsn, file)


def test_batches_are_kept_one_by_one(
    catalog: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stopped half way has what was told as imported."""
    monkeypatch.setattr("prefork_ads.management.segment_import.BATCH_ROWS", 10)
    file = tmp_path / "segments.csv"
    users = [uuid.UUID(int=n) for n in range(1, 36)]
    file.write_text("uid,segment\n" + "".join(f"{user},skiers\n" for user in users), "utf-8")
    seen: list[tuple[int, int]] = []

    def stop_half_way(_: int, __: int | None, imported: int) -> None:
        seen.append((imported, catalog.fetch("SELECT count(*) FROM user_segment")[0][0]))
        if imported == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_file(catalog.dsn, file, stop_half_way)
    assert seen == [(10, 10), (20, 20)]
    assert import_file(catalog.dsn, file).imported == 35


# ---- the commands


def test_the_commands(catalog: Database) -> None:
    """From words to answers, the warning about what may still come included."""

    def run(*words: str, stdin: str = "") -> str:
        done = CliRunner().invoke(cli, ["user", *words, "--dsn", catalog.dsn], input=stdin)
        assert done.exit_code == 0, done.output
        return done.output

    fill(catalog, two_users())
    assert run("segment", "add", ANNA.hex, "cyclists") == f"{ANNA} is now in cyclists.\n"
    assert run("segment", "add", str(ANNA), "cyclists") == f"{ANNA} is already in cyclists.\n"
    assert run("segment", "list", str(ANNA)) == "cyclists\n"
    assert run("segment", "remove", str(BEN), "cyclists") == f"{BEN} was not in cyclists.\n"
    said = run("segment", "import", "-", stdin=f"uid,segment\n{BEN},cyclists\n")
    assert said.endswith("1 line was imported.\n")
    said = run("forget", str(ANNA))
    assert f"Forgotten: {ANNA}." in said
    assert "deleted: 1 segment, 0 frequencies" in said
    assert "now nobody's: 4 events, 0 conversions, 8 lines of the log" in said
    assert "have not shipped yet" in said
    assert f"Nothing was known of {ANNA}." in run("forget", str(ANNA))
