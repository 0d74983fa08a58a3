"""The commands as people run them: real processes, real databases, real signals."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import Database
from tests.support import unmeasured, wait_until
from tests.system.harness import ROOT, Server

COLUMNS = "id,advertiser_id,campaign_id,width,height,title,image_url,click_url"
GOOD = "1,2,300,250,A title,https://img.example/a.png,https://click.example/a"
FIRST_ID = "018f0000-0000-7000-8000-000000000001"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prefork_ads", *arguments]


def environment(**more: str) -> dict[str, str]:
    """This process's own, without what would configure the command."""
    ours = {"PORT", "WEB_CONCURRENCY", "DATABASE_URL"}
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ours and not name.startswith("PREFORK_ADS_")
    }
    return {**inherited, "PYTHONPATH": str(ROOT), **more}


def run(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env=environment(**variables),
        timeout=100,
    )


def get(url: str) -> tuple[int, bytes]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.status, answer.read()


# ---- serving


def test_a_start_says_what_it_does_and_what_to_try() -> None:
    """Bare, without any database: address, database, workers, and URLs that work, also for a browser."""
    with Server("--demo-variants", "500", "--demo-catalog") as server:
        text = "\n".join(server.lines())
        assert re.search(r"prefork-ads \S+: 2 workers, database embedded PostgreSQL in ", text)
        assert re.search(rf"listening on {server.url} \(2 slots\)", text)
        demo = server.wait_for_line(r"In a browser: (.*/demo)$")
        tries = [line for line in server.lines() if line.startswith("  curl ")]
        urls = [re.sub(r"^  curl (-A Mozilla )?|'", "", line) for line in tries]
        assert [url.removeprefix(server.url).partition("?")[0] for url in urls] == [
            "/",
            "/log",
            "/ad",
            "/ad",
        ]
        (index, log, ad, zone) = (get(url) for url in urls)
        assert json.loads(index[1])["name"] == "prefork-ads"
        assert log == (204, b"")
        assert ad[0] == 200
        assert json.loads(ad[1])["id"] == urls[2].partition("id=")[2]
        assert json.loads(zone[1])["zone"] == "home-side"
        assert get(demo[1])[0] == 200


def test_serve_is_the_same_as_nothing(database: Database) -> None:
    with Server("serve", dsn=database.dsn) as server:
        server.wait_for_line(r"curl -i '.*/ad\?id=00000000-")  # the table is empty
        assert get(f"{server.url}/healthz")[0] == 200


def test_no_title_and_no_line_shows_a_password(database: Database) -> None:
    dsn = f"{database.dsn} sslpassword=hunter2"
    with Server(dsn=dsn) as server:
        wait_until(
            lambda: all("--dsn" not in title for title in server.processes().values()),
            "titles in place of arguments",
        )
        assert not any("hunter2" in title for title in server.processes().values())
        assert not any("hunter2" in line for line in server.lines())
        assert any("sslpassword=***" in line for line in server.lines())


def test_a_port_in_use_is_told_before_a_database_is_made() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, Server() as other:
        port = taken.getsockname()[1]
        data = other.folder / "second"
        done = run("--port", str(port), "--data-dir", str(data))
        assert done.returncode == 71
        assert f"prefork-ads: error: Port {port} on 127.0.0.1 is in use" in done.stderr
        assert not data.exists()


def test_a_server_on_a_unix_socket(tmp_path: Path, database: Database) -> None:
    path = tmp_path / "ads.sock"
    process = subprocess.Popen(
        command("--unix-socket", str(path), "--workers", "1"),
        stderr=subprocess.PIPE,
        text=True,
        env=environment(PREFORK_ADS_DSN=database.dsn),
    )
    assert process.stderr is not None
    said = ""
    while "/ad?id=" not in said:
        said += (line := process.stderr.readline())
        assert line, said
    assert f"curl --unix-socket '{path}' http://localhost/\n" in said
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=45)
    assert process.returncode == 0
    assert not path.exists()


def test_ctrl_c_while_starting_leaves_nothing() -> None:
    """In the middle of making a database."""
    server = Server()
    server.start()
    server.wait_for_line("creating a database in")
    server.signal(signal.SIGINT)
    assert server.wait() in (0, 130)
    server.assert_nothing_runs()
    assert not any("Traceback" in line for line in server.lines())


def test_a_reload_reads_the_file_again(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "ads.toml"
    file.write_text("read-batch = 5\n")
    with Server("--config", str(file), dsn=database.dsn) as server:
        seen = len(server.lines())
        file.write_text("read-bach = 6\n")
        server.signal(signal.SIGHUP)
        server.wait_for_line("refused, .* unknown key 'read-bach'; did you mean", since=seen)
        file.write_text("read-batch = 6\nbacklog = 5\n")
        server.signal(signal.SIGHUP)
        server.wait_for_line("--backlog has changed, which takes a restart", since=seen)
        server.wait_for_line("reload: done", since=seen)


def test_a_reload_does_not_take_the_embedded_database_for_a_change() -> None:
    with Server() as server:
        server.signal(signal.SIGHUP)
        server.wait_for_line("reload: done")
        assert server.count("takes a restart") == 0


# ---- migrate


def test_migrate_and_again(empty_database: Database) -> None:
    first = run("migrate", "--dsn", empty_database.dsn)
    assert (first.returncode, first.stderr.count("applied ")) == (0, first.stderr.count("\n"))
    again = run("migrate", PREFORK_ADS_DSN=empty_database.dsn)
    assert again.returncode == 0
    assert again.stdout.endswith("(nothing to do).\n")


# ---- variants


def test_generate_then_sample(empty_database: Database) -> None:
    """Also as the very first thing one does with a database."""
    made = run("variants", "generate", "1k", "--dsn", empty_database.dsn)
    assert made.returncode == 0, made.stderr
    assert made.stdout == "1,000 rows were generated; ad_variant has 1,000 generated rows.\n"
    assert "100%  1,000 of 1,000 rows" in made.stderr
    again = run("variants", "generate", "1_000", "--dsn", empty_database.dsn)
    assert again.stdout.startswith("0 rows were generated;")
    ids = run("variants", "sample", "5", "--dsn", empty_database.dsn).stdout.split()
    assert len(set(ids)) == 5
    found = empty_database.fetch("SELECT count(*) FROM ad_variant WHERE id = ANY(%s::uuid[])", ids)
    assert found == [(5,)]


def test_ctrl_c_while_generating_keeps_what_is_there(database: Database) -> None:
    process = subprocess.Popen(
        command("variants", "generate", "1G", "--dsn", database.dsn),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=unmeasured(environment()),
    )
    wait_until(
        lambda: database.fetch("SELECT done > 0 FROM variant_generation") == [(True,)],
        "a chunk of rows",
        timeout_s=60,
    )
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "of 1,000,000,000 rows. They are kept, and the same command goes on from there." in said
    assert "Traceback" not in said
    ((done,),) = database.fetch("SELECT done FROM variant_generation")
    assert database.fetch("SELECT count(*) FROM ad_variant") == [(done,)]


def test_sample_makes_no_tables(empty_database: Database) -> None:
    done = run("variants", "sample", "1", "--dsn", empty_database.dsn)
    assert done.returncode == 70
    assert "lacks migrations: run `prefork-ads migrate` first." in done.stderr
    assert empty_database.fetch("SELECT to_regclass('ad_variant')") == [(None,)]


def test_import_names_bad_lines_and_keeps_good_ones(database: Database, tmp_path: Path) -> None:
    source, rejects = tmp_path / "ads.csv", tmp_path / "rejected.csv"
    source.write_text(f"{COLUMNS}\n{FIRST_ID},{GOOD}\nnot-an-id,{GOOD}\n")
    arguments = ["variants", "import", str(source), "--dsn", database.dsn]
    done = run(*arguments, "--rejects", str(rejects))
    assert done.returncode == 65
    assert "line 3: " in done.stderr
    assert "prefork-ads: error: 1 lines were refused; 1 were imported." in done.stderr
    assert f"not-an-id,{GOOD}" in rejects.read_text()
    assert FIRST_ID not in rejects.read_text()
    assert database.fetch("SELECT id::text FROM ad_variant") == [(FIRST_ID,)]
    done = run(*arguments, "--rejects", str(tmp_path / "no" / "where"))
    assert done.returncode == 2
    assert "--rejects: " in done.stderr


def test_import_names_the_first_bad_lines_only(database: Database, tmp_path: Path) -> None:
    source = tmp_path / "ads.jsonl"
    source.write_text("{}\n" * 30)
    done = run("variants", "import", str(source), "--dsn", database.dsn)
    assert done.returncode == 65
    assert "line 20: " in done.stderr
    assert "line 21: " not in done.stderr
    assert "… and 10 lines more." in done.stderr


def test_strict_import_takes_all_or_nothing(database: Database) -> None:
    text = f"{COLUMNS}\n{FIRST_ID},{GOOD}\nnot-an-id,{GOOD}\n"
    arguments = ["variants", "import", "-", "--format", "csv", "--dsn", database.dsn]
    assert run(*arguments, "--strict", stdin=text).returncode == 65
    assert database.fetch("SELECT count(*) FROM ad_variant") == [(0,)]
    done = run(*arguments, "--strict", stdin=f"{COLUMNS}\n{FIRST_ID},{GOOD}\n")
    assert (done.returncode, done.stdout) == (0, "1 rows were imported.\n")


def test_ctrl_c_while_importing_keeps_whole_batches(database: Database) -> None:
    process = subprocess.Popen(
        command("variants", "import", "-", "--format", "csv", "--dsn", database.dsn),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=unmeasured(environment()),
    )
    assert process.stdin is not None
    assert process.stderr is not None
    rows = (f"{FIRST_ID[:-6]}{number:06},{GOOD}\n" for number in range(25_000))
    process.stdin.write(f"{COLUMNS}\n{''.join(rows)}")
    process.stdin.flush()  # and more is to come, for all that anybody knows
    assert process.stderr.readline().rstrip().endswith("  20,000 rows")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Stopped. Kept are 20,000 rows; the same command may be repeated." in said
    assert database.fetch("SELECT count(*) FROM ad_variant") == [(20_000,)]


@pytest.mark.parametrize("place", ["in front", "behind"])
def test_a_command_shows_no_password_in_ps(database: Database, place: str) -> None:
    """An import may take long; this one until its input ends."""
    secret = ["--dsn", f"{database.dsn} sslpassword=hunter2"]
    words = ["variants", "import", "-", "--format", "csv"]
    with subprocess.Popen(
        command(*([*secret, *words] if place == "in front" else [*words, *secret])),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        shown = Path(f"/proc/{process.pid}/cmdline")
        wait_until(
            lambda: shown.read_bytes().startswith(b"prefork-ads variants import"),
            "a title in place of the arguments",
        )
        assert b"hunter2" not in shown.read_bytes()
        said, _ = process.communicate(f"{COLUMNS}\n{FIRST_ID},{GOOD}\n", timeout=60)
    assert (process.returncode, said) == (0, "1 rows were imported.\n")


def test_a_right_that_is_missing_is_no_traceback(database: Database) -> None:
    read_only = f"{database.dsn} options='-c default_transaction_read_only=on'"
    done = run("variants", "generate", "10", "--dsn", read_only)
    assert done.returncode == 70
    assert done.stderr.startswith("prefork-ads: error: PostgreSQL refused: cannot execute")
    assert done.stderr.count("\n") == 1


def test_commands_join_a_running_server() -> None:
    """And leave its PostgreSQL running."""
    with Server() as server:
        data = str(server.folder / "data")
        assert run("variants", "generate", "100", "--data-dir", data).returncode == 0
        ids = run("variants", "sample", "1", "--data-dir", data).stdout.split()
        status, body = get(f"{server.url}/ad?id={ids[0]}")
        assert (status, json.loads(body)["id"]) == (200, ids[0])
        checked = run("check", "--data-dir", data, "--port", str(server.port))
        assert checked.returncode == 71
        assert "The embedded PostgreSQL of" in checked.stdout
        assert f"Port {server.port} on 127.0.0.1 is in use" in checked.stdout


def test_commands_start_a_database_for_their_own_time() -> None:
    with Server() as server:
        data = server.folder / "data"
        server.stop()
        assert run("variants", "generate", "100", "--data-dir", str(data)).returncode == 0
        ids = run("variants", "sample", "200", "--data-dir", str(data)).stdout.split()
        assert len(ids) == 100
        assert not (data / "postgres" / "postmaster.pid").exists()
