"""Loading queries by name."""

import pytest

from prefork_ads.db.queries import query, without_leading_comment


def test_a_query_comes_without_its_comment_and_is_read_once() -> None:
    assert query("migration_applied").startswith("SELECT name, checksum")
    assert query("migration_applied") is query("migration_applied")


def test_an_unknown_name_says_which() -> None:
    with pytest.raises(FileNotFoundError, match=r"no_such\.sql"):
        query("no_such")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("-- why\n-- more\n\nSELECT 1 -- one\n", "SELECT 1 -- one"),
        ("SELECT 1\n-- two\n , 2\n", "SELECT 1\n-- two\n , 2"),
        ("-- nothing else\n", ""),
    ],
)
def test_only_the_leading_comment_goes(text: str, left: str) -> None:
    assert without_leading_comment(text) == left
