"""No password is ever shown, whatever the connection string looks like."""

from urllib.parse import quote

import psycopg2.extensions
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from prefork_ads.dsn import UNREADABLE, parse_dsn, redact_dsn


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://ads:secret@db:5432/ads", "postgresql://ads:***@db:5432/ads"),
        ("postgres://ads@db/ads", "postgres://ads@db/ads"),
        ("postgresql://", "postgresql://"),
        ("postgresql:///ads?host=/run/pg", "postgresql:///ads?host=/run/pg"),
        ("postgresql://a:b@h1:1,h2:2/d", "postgresql://a:***@h1:1,h2:2/d"),
        ("postgresql://[::1]:5432/d", "postgresql://[::1]:5432/d"),
        (
            "postgresql://h/d?password=x&sslmode=require",
            "postgresql://h/d?password=***&sslmode=require",
        ),
        ("postgresql://h/d?sslpassword=x", "postgresql://h/d?sslpassword=***"),
        ("postgresql://h/d?pass%77ord=x", "postgresql://h/d?pass%77ord=***"),
        ("host=db password=secret dbname=ads", "host=db password=*** dbname=ads"),
        ("host=db password = 'se cr''et'", UNREADABLE),
        (r"host=db password='it\'s' user=a", "host=db password=*** user=a"),
        (r"password=a\ b user=a", "password=*** user=a"),
        # Not understood, so not shown: what a stray character cuts off may be half a password.
        ("postgresql://u:p@ss/word@h/d", UNREADABLE),
        ("postgresql://u:p@ss@h/d", UNREADABLE),
        ("postgresql://u:p?w@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:p#w@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:p/w@h/d", UNREADABLE),
        ("host=db password=se'cret", UNREADABLE),
        ("postgresql://ads:secret/ads", UNREADABLE),
        ("postgresql://ads:100%@h/d", UNREADABLE),
        ("postgresql://ads:a%00b@h/d", UNREADABLE),
        ("secret", UNREADABLE),
        ("", UNREADABLE),
    ],
)
def test_what_is_shown(dsn: str, shown: str) -> None:
    assert redact_dsn(dsn) == shown


# Long enough that finding it by chance in the rest of a string means nothing.
_PASSWORDS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=8)


@given(_PASSWORDS)
def test_a_password_in_keyword_form_is_hidden(password: str) -> None:
    dsn = psycopg2.extensions.make_dsn(host="db", password=password, dbname="ads")
    assume(password not in "host=db password=*** dbname=ads")
    assert redact_dsn(dsn) == "host=db password=*** dbname=ads"


@given(_PASSWORDS)
def test_a_quoted_password_in_a_url_is_hidden(password: str) -> None:
    dsn = f"postgresql://ads:{quote(password, safe='')}@db/ads"
    assert redact_dsn(dsn) == "postgresql://ads:***@db/ads"


@given(_PASSWORDS)
def test_a_raw_password_in_a_url_is_hidden(password: str) -> None:
    """Not a valid URL, and what people write all the same."""
    shown = redact_dsn(f"postgresql://ads:{password}@db/ads")
    pieces = [piece for piece in password.split() if len(piece) >= 8]
    assert shown in (UNREADABLE, "postgresql://ads:***@db/ads")
    assert not any(piece in shown for piece in pieces)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_dsn(text)
    except ValueError:
        assert redact_dsn(text.strip()) == UNREADABLE


@given(_PASSWORDS)
@example("%80")
def test_libpq_has_nothing_to_complain_about(password: str) -> None:
    """Its messages quote what they do not like, so we refuse a DSN before libpq would."""
    dsn = f"postgresql://ads:{password}@db/ads"
    try:
        accepted = parse_dsn(dsn)
    except ValueError:
        return
    psycopg2.extensions.parse_dsn(accepted)
