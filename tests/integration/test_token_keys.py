"""Keys of tokens in PostgreSQL: the first one makes itself, and changing them refuses nobody."""

import threading
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest

from prefork_ads.ads.tokens import Key, Keyring, Token, TokenExpired
from prefork_ads.db import token_keys
from prefork_ads.db.queries import query
from prefork_ads.errors import ConfigError
from tests.conftest import Database
from tests.system.test_cli import run

TOKEN = Token(bytes(16), 1, 2, 3, 4, "cpm")


def keys(database: Database) -> list[Key]:
    """What a worker is told."""
    return [
        Key(number, None if secret is None else bytes(secret), signs)
        for number, secret, signs in database.fetch(query("token_keys"))
    ]


def let_pass(database: Database, **time: int) -> None:
    """As if everything had happened that much earlier."""
    database.execute(
        "UPDATE token_key SET created_at = created_at - %s, retired_at = retired_at - %s",
        timedelta(**time),
        timedelta(**time),
    )


def test_whoever_is_first_makes_the_first_key(database: Database) -> None:
    """Twenty workers that start together agree on one."""
    together = threading.Barrier(20)
    found: list[list[Key]] = []

    def work() -> None:
        together.wait()
        found.append(keys(database))

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all(one == found[0] for one in found)
    [key] = found[0]
    assert (key.id, key.signs) == (0, True)
    assert key.secret is not None
    assert len(key.secret) == 32


def test_a_rotation_refuses_no_token(database: Database) -> None:
    """At each moment what one worker signs another one reads that has heard of the keys a minute ago."""
    let_pass(database, hours=1)
    before = keys(database)
    let_pass(database, hours=1)
    assert token_keys.rotate(database.dsn, 3600) == 1
    during = keys(database)
    assert [(key.id, key.signs) for key in during] == [(0, True), (1, False)]
    assert Keyring(before).read(Keyring(during).sign(TOKEN).encode()) == TOKEN
    let_pass(database, seconds=61)
    after = keys(database)
    assert [(key.id, key.signs) for key in after] == [(0, False), (1, True)]
    assert Keyring(during).read(Keyring(after).sign(TOKEN).encode()) == TOKEN
    assert Keyring(after).read(Keyring(before).sign(TOKEN).encode()) == TOKEN
    let_pass(database, hours=1)
    last = keys(database)
    assert last[0] == Key(0, None, False)
    with pytest.raises(TokenExpired):
        Keyring(last).read(Keyring(before).sign(TOKEN).encode())


def test_a_key_that_was_seen_is_refused_at_once(database: Database) -> None:
    """Then the new one signs without waiting for its minute."""
    [old] = keys(database)
    token_keys.rotate(database.dsn, 0)
    assert [(key.id, key.secret is None, key.signs) for key in keys(database)] == [
        (0, True, False),
        (1, False, True),
    ]
    assert old.secret is not None


def test_two_rotations_within_a_minute_sign_with_the_oldest(database: Database) -> None:
    """The one that everybody knows."""
    keys(database)
    let_pass(database, hours=1)
    token_keys.rotate(database.dsn, 3600)
    token_keys.rotate(database.dsn, 3600)
    assert [(key.id, key.signs) for key in keys(database)] == [(0, True), (1, False), (2, False)]
    let_pass(database, seconds=61)
    assert [(key.id, key.signs) for key in keys(database)] == [(0, False), (1, False), (2, True)]


def test_without_any_key_left_a_new_one_makes_itself(database: Database) -> None:
    keys(database)
    token_keys.retire(database.dsn, 0, 0)
    assert [(key.id, key.signs) for key in keys(database)] == [(0, False), (1, True)]


def test_numbers_come_round(database: Database) -> None:
    """After 255 comes 0 again, if its key was retired; a key that is in use is never replaced."""
    keys(database)
    database.execute("UPDATE token_key SET id = 255")
    assert token_keys.rotate(database.dsn, 0) == 0
    database.execute(
        "INSERT INTO token_key (id, secret, created_at) VALUES (1, %s, now() - interval '9 days')",
        bytes(32),
    )
    with pytest.raises(psycopg2.errors.UniqueViolation):
        token_keys.rotate(database.dsn, 0)


def test_a_key_that_was_retired_stays_so(database: Database) -> None:
    """Somebody has seen it: no later call may have its tokens taken again."""
    keys(database)
    token_keys.retire(database.dsn, 0, 3600)
    token_keys.retire(database.dsn, 0, 0)
    with pytest.raises(ConfigError, match="There is no key 0, or it was retired"):
        token_keys.retire(database.dsn, 0, 3600)
    assert keys(database)[0] == Key(0, None, False)


def test_a_key_that_there_is_not_cannot_be_retired(database: Database) -> None:
    with pytest.raises(ConfigError, match="no key 9"):
        token_keys.retire(database.dsn, 9, 0)


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(33)])
def test_a_key_of_another_size_is_refused(database: Database, secret: bytes) -> None:
    with pytest.raises(psycopg2.errors.CheckViolation):
        database.execute("INSERT INTO token_key (id, secret) VALUES (0, %s)", secret)


def test_a_serving_role_needs_one_right_and_sees_no_secret_by_itself(database: Database) -> None:
    """The function acts with its owner's rights; the table is closed to everybody else."""
    [(table, function)] = database.fetch(
        "SELECT has_table_privilege('public', 'token_key', 'SELECT'),"
        " has_function_privilege('public', 'token_keys()', 'EXECUTE')"
    )
    assert not table
    assert not function


def test_the_commands_show_and_change_them(database: Database) -> None:
    """In words, without a secret."""
    first = run("keys", "list", "--dsn", database.dsn)
    assert first.returncode == 0, first.stderr
    assert first.stdout.endswith("signs\n")
    rotated = run("keys", "rotate", "--dsn", database.dsn, "--keep", "24h")
    assert rotated.stdout == (
        "Key 1 was made. Tokens of the keys before it are taken for 1 day more.\n"
    )
    retired = run("keys", "retire", "0", "--dsn", database.dsn)
    assert retired.stdout == "Tokens of key 0 are refused from now on.\n"
    lines = run("keys", "list", "--dsn", database.dsn).stdout.splitlines()
    assert "retired 20" in lines[0]
    assert lines[1].endswith("  signs")
    [key] = [one for one in token_keys.list_keys(database.dsn) if one.id == 1]
    assert abs(key.created_at - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rotate", "--keep", "soon"), "--keep: 'soon' is not"),
        (("rotate", "--keep", "999999h"), "more than ten years"),
        (("retire", "300"), "300"),
        (("retire", "7"), "There is no key 7"),
    ],
)
def test_a_wrong_call_is_told_and_changes_nothing(
    database: Database, arguments: tuple[str, ...], words: str
) -> None:
    before = keys(database)
    refused = run("keys", *arguments, "--dsn", database.dsn)
    assert refused.returncode == 2
    assert words in refused.stderr
    assert keys(database) == before
