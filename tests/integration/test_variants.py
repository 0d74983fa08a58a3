"""Variants: generating that can be stopped, importing that tells what is wrong, even samples."""

import io
import json
import threading
import uuid
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from prefork_ads.db import variant_rows, variants
from prefork_ads.errors import ConfigError, DatabaseUnavailable, ImportRefused, SchemaError
from tests.conftest import Database

HEADER = "id,advertiser_id,campaign_id,width,height,title,image_url,click_url"
ID = "01890000-0000-7000-8000-00000000000"


def csv_line(n: int, title: str = "a title", **_: object) -> str:
    return f"{ID}{n},1,2,300,250,{title},https://example.org/i.png,https://example.org/c"


def variant(n: int, **other: object) -> dict[str, object]:
    return {
        "id": f"{ID}{n}",
        "advertiser_id": 1,
        "campaign_id": 2,
        "width": 300,
        "height": 250,
        "title": "a title",
        "image_url": "https://example.org/i.png",
        "click_url": "https://example.org/c",
    } | other


def count(database: Database) -> int:
    rows: int = database.fetch("SELECT count(*) FROM ad_variant")[0][0]
    return rows


# Generating


def test_generated_ids_are_version_7_and_grow(database: Database) -> None:
    assert variants.generate(database.dsn, 10_000, chunk=3000) == 10_000
    ids = [i for (i,) in database.fetch('SELECT id FROM ad_variant ORDER BY click_url COLLATE "C"')]
    assert all(uuid.UUID(i).version == 7 for i in ids)
    assert all(uuid.UUID(i).variant == uuid.RFC_4122 for i in ids)
    by_number = database.fetch(
        """SELECT bool_and(id > previous) FROM (
             SELECT id, lag(id) OVER (ORDER BY substring(image_url FROM '\\d+')::int) AS previous
               FROM ad_variant) AS pairs"""
    )
    assert by_number == [(True,)]


def test_a_row_is_a_function_of_its_number(database: Database) -> None:
    """Another chunk size, another run, another machine: the same rows."""
    variants.generate(database.dsn, 5000, chunk=700)
    digest = "SELECT md5(string_agg(v::text, '|' ORDER BY id)) FROM ad_variant AS v"
    first = database.fetch(digest)
    database.execute("TRUNCATE ad_variant")
    variants.generate(database.dsn, 5000, chunk=5000)
    assert database.fetch(digest) == first


def test_a_stopped_run_goes_on_where_it_was(database: Database) -> None:
    class Stop(Exception):
        pass

    def stop_half_way(done: int, total: int) -> None:
        if done >= 3000:
            raise Stop

    with pytest.raises(Stop):
        variants.generate(database.dsn, 10_000, chunk=1000, progress=stop_half_way)
    assert count(database) == 3000
    steps: list[tuple[int, int]] = []
    made = variants.generate(
        database.dsn, 10_000, chunk=4000, progress=lambda done, total: steps.append((done, total))
    )
    assert made == 7000
    assert steps == [(7000, 10_000), (10_000, 10_000)]
    assert count(database) == 10_000


def test_a_lost_connection_loses_the_chunk_in_hand_only(database: Database) -> None:
    def cut(done: int, total: int) -> None:
        if done == 2000:
            database.execute(
                """SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
            )

    with pytest.raises(DatabaseUnavailable):
        variants.generate(database.dsn, 5000, chunk=1000, progress=cut)
    assert count(database) == 2000
    assert variants.generate(database.dsn, 5000, chunk=1000) == 3000


def test_the_total_is_a_total(database: Database) -> None:
    variants.generate(database.dsn, 2000)
    assert variants.generate(database.dsn, 2000) == 0
    assert variants.generate(database.dsn, 500) == 0
    assert variants.generate(database.dsn, 2500) == 500
    assert variants.generate(database.dsn, 0) == 0
    assert count(database) == 2500


def test_an_emptied_table_is_filled_again(database: Database) -> None:
    variants.generate(database.dsn, 2000)
    database.execute("TRUNCATE ad_variant")
    assert variants.generate(database.dsn, 2000) == 2000


def test_two_runs_at_once_share_the_work(database: Database) -> None:
    made: list[int] = []
    runs = [
        threading.Thread(
            target=lambda: made.append(variants.generate(database.dsn, 20_000, chunk=500))
        )
        for _ in range(3)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert sum(made) == 20_000 == count(database)


@pytest.mark.parametrize("total", [-1, 10**12])
def test_a_mistaken_total_is_refused(database: Database, total: int) -> None:
    with pytest.raises(ConfigError, match="not a number of rows"):
        variants.generate(database.dsn, total)


def test_an_unmigrated_database_is_told(empty_database: Database) -> None:
    with pytest.raises(SchemaError, match="prefork-ads migrate"):
        variants.generate(empty_database.dsn, 10)


# Sampling


def test_a_sample_of_a_small_table(database: Database) -> None:
    assert variants.sample(database.dsn, 3) == []
    variants.generate(database.dsn, 1000)
    ids = variants.sample(database.dsn, 100)
    assert len(set(ids)) == 100
    found = database.fetch("SELECT count(*) FROM ad_variant WHERE id = ANY (%s::uuid[])", ids)
    assert found == [(100,)]
    assert len(set(variants.sample(database.dsn, 5000))) == 1000, "all there are"
    assert variants.sample(database.dsn, 10) != variants.sample(database.dsn, 10)


def test_a_sample_of_a_larger_table_is_even(database: Database) -> None:
    """Drawn by place: every part of the table gets its share, and no page more than its own."""
    variants.generate(database.dsn, 100_000)
    ids = variants.sample(database.dsn, 8000)
    assert len(set(ids)) == 8000
    numbers = database.fetch(
        """SELECT substring(image_url FROM '\\d+')::int FROM ad_variant
            WHERE id = ANY (%s::uuid[])""",
        ids,
    )
    tenths = Counter((n - 1) // 10_000 for (n,) in numbers)
    # 800 expected in each; five standard deviations are about 135.
    assert all(abs(tenths[tenth] - 800) < 135 for tenth in range(10)), tenths
    assert len(numbers) == 8000
    firsts = [variants.sample(database.dsn, 50)[0] for _ in range(8)]
    assert len(set(firsts)) > 1


def test_the_estimate_is_about_right(database: Database) -> None:
    assert variants.estimate(database.dsn) == 0
    variants.generate(database.dsn, 20_000)
    assert abs(variants.estimate(database.dsn) - 20_000) < 1000


def test_a_mistaken_sample_is_refused(database: Database) -> None:
    with pytest.raises(ConfigError, match="not a number of ids"):
        variants.sample(database.dsn, -1)


# Importing


def test_csv_with_everything_a_spreadsheet_does(database: Database, tmp_path: Path) -> None:
    """A byte order mark, CRLF, quotes, commas and line breaks in quotes, another order."""
    file = tmp_path / "ads.csv"
    file.write_bytes(
        b"\xef\xbb\xbfTitle,id,advertiser_id,campaign_id,width,height,image_url,click_url\r\n"
        + f'"say ""hi"", then\r\nleave",{ID}1,1,2,300,250,https://a.example/,https://b.example/\r\n'
        f"\r\n\\n \\t é 🎈,{ID}2,1,2,300,250,https://a.example/,https://b.example/\r\n".encode()
    )
    report = variants.import_file(database.dsn, file)
    assert (report.imported, report.refused) == (2, 0)
    assert database.fetch("SELECT title FROM ad_variant ORDER BY id") == [
        ('say "hi", then\r\nleave',),
        ("\\n \\t é 🎈",),
    ]


def test_json_lines(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "ads.jsonl"
    titles = ["plain", "tab\tnewline\nreturn\rbackslash\\", "\\N", "é 🎈 \u2028"]
    lines = [json.dumps(variant(n, title=title)) for n, title in enumerate(titles)]
    file.write_text("\n".join(lines), encoding="utf-8")
    assert variants.import_file(database.dsn, file).imported == 4
    assert [t for (t,) in database.fetch("SELECT title FROM ad_variant ORDER BY id")] == titles


def test_standard_input(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "piped"
    file.write_text(f"{HEADER}\n{csv_line(1)}\n")
    steps: list[tuple[int, int | None, int]] = []
    with file.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        variants.import_file(
            database.dsn, "-", format="csv", progress=lambda *step: steps.append(step)
        )
        with pytest.raises(ConfigError, match="say csv or jsonl"):
            variants.import_file(database.dsn, "-")
    assert steps[-1][2] == count(database) == 1


def test_an_id_that_is_there_gets_the_new_values(database: Database, tmp_path: Path) -> None:
    """Also when one file names it twice: the later line wins."""
    file = tmp_path / "ads.csv"
    file.write_text(f"{HEADER}\n{csv_line(1, 'old')}\n{csv_line(2, 'same')}\n")
    variants.import_file(database.dsn, file)
    before = database.fetch("SELECT xmin::text FROM ad_variant WHERE title = 'same'")
    file.write_text(f"{HEADER}\n{csv_line(1, 'x')}\n{csv_line(2, 'same')}\n{csv_line(1, 'new')}\n")
    assert variants.import_file(database.dsn, file).imported == 3
    assert database.fetch("SELECT title FROM ad_variant ORDER BY id") == [("new",), ("same",)]
    after = database.fetch("SELECT xmin::text FROM ad_variant WHERE title = 'same'")
    assert after == before, "a row that does not change is not written"


def test_bad_lines_are_named_and_the_good_ones_taken(database: Database, tmp_path: Path) -> None:
    file, rejects = tmp_path / "ads.csv", tmp_path / "rejects"
    bad = csv_line(3).replace("300", "a lot")
    short = f"{ID}4,1,2"
    file.write_text("\n".join([HEADER, csv_line(1), bad, csv_line(2), short]) + "\n")
    report = variants.import_file(database.dsn, file, rejects=rejects)
    assert (report.imported, report.refused) == (2, 2)
    assert [(e.line, e.reason) for e in report.first_errors] == [
        (3, "width is not a whole number"),
        (5, "3 values where the header has 8 columns"),
    ]
    assert count(database) == 2
    assert rejects.read_text() == (
        f"line\treason\t{HEADER}\n3\twidth is not a whole number\t{bad}\n"
        f"5\t3 values where the header has 8 columns\t{short}\n"
    )
    with pytest.raises(ImportRefused, match="2 lines were refused; 2 were imported"):
        report.raise_if_refused()


def test_strict_takes_all_or_nothing(database: Database, tmp_path: Path) -> None:
    """And still names every mistake, so that one round of correcting is enough."""
    file = tmp_path / "ads.jsonl"
    good = [json.dumps(variant(n % 10, id=str(uuid.UUID(int=n)))) for n in range(25_000)]
    lines = [*good, "{}", *good[:10], "[]"]
    file.write_text("\n".join(lines) + "\n")
    report = variants.import_file(database.dsn, file, strict=True)
    assert (report.imported, report.refused) == (0, 2)
    assert [e.line for e in report.first_errors] == [25_001, 25_012]
    assert count(database) == 0
    file.write_text("\n".join(good) + "\n")
    assert variants.import_file(database.dsn, file, strict=True).imported == 25_000
    assert count(database) == 25_000


def test_only_the_first_errors_are_kept_but_all_are_counted(
    database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "ads.jsonl"
    file.write_text("nonsense\n" * 500)
    report = variants.import_file(database.dsn, file)
    assert (report.refused, len(report.first_errors)) == (500, 20)


def test_progress_reaches_the_end(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "ads.jsonl"
    lines = [json.dumps(variant(0, id=str(uuid.UUID(int=n)))) + "\n" for n in range(45_000)]
    file.write_text("".join(lines))
    steps: list[tuple[int, int | None, int]] = []
    variants.import_file(database.dsn, file, progress=lambda *step: steps.append(step))
    assert [rows for _, _, rows in steps] == [20_000, 40_000, 45_000]
    assert steps[-1][:2] == (file.stat().st_size, file.stat().st_size)


def test_a_broken_import_is_run_again(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "ads.jsonl"
    lines = [json.dumps(variant(0, id=str(uuid.UUID(int=n)))) + "\n" for n in range(45_000)]
    file.write_text("".join(lines))

    def cut(*_: object) -> None:
        database.execute(
            """SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()"""
        )

    with pytest.raises(DatabaseUnavailable):
        variants.import_file(database.dsn, file, progress=cut)
    assert count(database) == 20_000
    assert variants.import_file(database.dsn, file).imported == 45_000
    assert count(database) == 45_000


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "", "The file is empty"),
        ("a.csv", "id,title\n", "the header is without advertiser_id"),
        ("a.csv", f"{HEADER},colour\n", "with the unknown 'colour'"),
        ("a.csv", HEADER.replace("width", "title") + "\n", "without width"),
        ("a.csv", f"{HEADER},title\n", "naming a column twice"),
    ],
)
def test_a_file_that_is_not_what_it_should_be(
    database: Database, tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ImportRefused, match=said):
        variants.import_file(database.dsn, tmp_path / name)


def test_a_file_that_cannot_be_read(database: Database, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        variants.import_file(database.dsn, tmp_path / "none.csv")
    (tmp_path / "ads.xml").touch()
    with pytest.raises(ConfigError, match="say csv or jsonl"):
        variants.import_file(database.dsn, tmp_path / "ads.xml")


def test_constraints_and_checks_of_an_import_agree(database: Database) -> None:
    """What the import lets pass, the table takes: at each limit."""
    url = "https://e.example/"
    limits = {
        "advertiser_id": 2**31 - 1,
        "campaign_id": 2**31 - 1,
        "width": 2**15 - 1,
        "height": 2**15 - 1,
        "title": "é" * 500,
        "image_url": url + "x" * (4000 - len(url)),
        "click_url": url + "é" * ((4000 - len(url)) // 2),
    }
    line = variant_rows.copy_line(variant(1, **limits), 1)
    with closing(database.connect()) as conn, conn.cursor() as cursor:
        cursor.copy_expert("COPY ad_variant FROM STDIN", io.StringIO(line.partition("\t")[2]))
        cursor.execute("SELECT row_to_json(v)::text FROM ad_variant AS v")
        row = cursor.fetchone()
    assert row is not None
    assert json.loads(row[0]) == variant(1, **limits)
