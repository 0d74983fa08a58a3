"""Connection strings as far as people see them: which form is meant, and no password ever.

libpq does the real parsing. This module reads just enough of both forms (URL and keyword=value) to
show one without what is secret, and what it does not plainly understand it does not show at all: an
unreadable DSN often has a password with an unescaped character in it.

Must not know: any other module but `values`.
"""

import re
from urllib.parse import unquote_to_bytes

from prefork_ads.values import Kind

HIDDEN = "***"
UNREADABLE = "a connection string that cannot be shown"

_SECRET_KEYS = frozenset(
    {"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"}
)
# The port must be a number: in `postgresql://ads:secret/ads` the host was forgotten.
_HOST = r"(?:\[[^\]@/?#\s]*\]|[^@/?#\s:,\[\]]*)(?::\d*)?"
_URL = re.compile(
    r"(?P<scheme>postgres(?:ql)?://)"
    r"(?:(?P<user>[^:@/?#\s]*)(?P<password>:[^@/\s]*)?@)?"
    rf"(?P<hosts>{_HOST}(?:,{_HOST})*)"
    r"(?P<path>/[^@/?#\s]*)?"
    r"(?:\?(?P<query>[^@#\s]*))?",
)
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")

# A value is bare or in single quotes; a backslash takes the next character as it is in both.
_PAIR = re.compile(
    r"\s*(?P<key>[a-z_]+)\s*=\s*(?P<value>'(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)(?=\s|\Z)", re.DOTALL
)


def redact_dsn(dsn: str) -> str:
    """The DSN with `***` for its passwords; use it wherever a DSN is shown."""
    if dsn.startswith(("postgresql://", "postgres://")):
        return _redact_url(dsn)
    pairs = _pairs(dsn)
    if pairs is None:
        return UNREADABLE
    return " ".join(f"{key}={HIDDEN if key in _SECRET_KEYS else value}" for key, value in pairs)


def _redact_url(dsn: str) -> str:
    match = _URL.fullmatch(dsn)
    # libpq refuses such a percent sign and quotes the whole password in its message.
    if match is None or _BAD_PERCENT.search(dsn) or not _is_text(dsn):
        return UNREADABLE
    shown = match["scheme"]
    if match["user"] is not None:
        shown += match["user"] + (f":{HIDDEN}" if match["password"] else "") + "@"
    shown += match["hosts"] + (match["path"] or "")
    if match["query"]:
        shown += "?" + "&".join(_redact_parameter(part) for part in match["query"].split("&"))
    return shown


def _is_text(dsn: str) -> bool:
    """Whether its percent signs stand for UTF-8, which psycopg2 takes for granted."""
    try:
        unquote_to_bytes(dsn).decode()
    except UnicodeError:
        return False
    return True


def _redact_parameter(part: str) -> str:
    key, _, _ = part.partition("=")
    # A percent sign in a name could spell `password`; nobody needs one there.
    return f"{key}={HIDDEN}" if key.lower() in _SECRET_KEYS or "%" in key else part


def _pairs(dsn: str) -> list[tuple[str, str]] | None:
    """The keyword form's keys and values as written, or None when it is not of that form."""
    found, position, text = [], 0, dsn.rstrip()
    while position < len(text):
        match = _PAIR.match(text, position)
        if match is None:
            return None
        found.append((match["key"], match["value"]))
        position = match.end()
    return found or None


def parse_dsn(text: str) -> str:
    """The DSN unchanged, when it is of one of the two forms."""
    stripped = text.strip()
    if redact_dsn(stripped) == UNREADABLE:
        raise ValueError
    return stripped


DSN = Kind(
    "DSN",
    "a connection string (postgresql://user@host:5432/name or 'host=… user=… dbname=…'; special"
    " characters in a URL are percent-encoded)",
    parse_dsn,
    redact_dsn,
)
