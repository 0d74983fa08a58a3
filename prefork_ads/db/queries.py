"""Named queries: `sql/queries/NAME.sql` as a string, without its leading comment.

SQL is kept in files of its own, where it can be read, formatted and reviewed without the program;
the comment that opens each file says what the query is for. That comment is cut off here because
the hot statements are sent to the server thousands of times a second, and the server has no use
for it.

Files are read once per process, so a loop may ask for the same name again.

Must not know: connections, parameters, or what any query means.
"""

from functools import cache
from importlib.resources import files


@cache
def query(name: str) -> str:
    """The text of `sql/queries/<name>.sql`, leading comment and surrounding space removed."""
    text = (files("prefork_ads.sql") / "queries" / f"{name}.sql").read_text(encoding="utf-8")
    return without_leading_comment(text)


def without_leading_comment(text: str) -> str:
    """Cut the `--` lines and empty lines before the first statement; later comments stay."""
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if _is_sql(line)), len(lines))
    return "\n".join(lines[first:]).strip()


def _is_sql(line: str) -> bool:
    stripped = line.strip()
    return bool(stripped) and not stripped.startswith("--")
