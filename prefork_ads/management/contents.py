"""What a creative shows and where a click on it leads, read from a file.

A click must lead to a host that stands in the file: no user in front of it, and macros only behind
it, or whoever fills the macro would choose where people land.

Must not know: which things there are, the database.
"""

import re
from pathlib import Path
from typing import Any, Final

from prefork_ads.management.entry import Entry, json_of, shown
from prefork_ads.management.yaml_tree import Text

MOST_HTML_BYTES: Final = 200_000

_SIZE: Final = re.compile(r"[1-9][0-9]{0,3}x[1-9][0-9]{0,3}")
_REST: Final = r"[^\s\"<>\\\x00-\x1f\x7f-\x9f]*"
_WEB_URL: Final = re.compile(
    r"https?://([^\]\s/?#\"<>\\@%{}:\[\x00-\x1f\x7f-\x9f]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?"
    rf"([/?#]{_REST})?"
)
_OWN_PATH: Final = re.compile(rf"/[^\s/?#\"<>\\\x00-\x1f\x7f-\x9f]{_REST}")

Columns = dict[str, Any]


def creative(entry: Entry, columns: Columns, _zone: str, folder: Path) -> None:
    columns["weight"] = entry.whole("weight", 1, 1000) or 100
    columns["alt"] = entry.text("alt", 1000)
    click = entry.text("click", 4000, required=True)
    if click is not None and not _WEB_URL.fullmatch(click):
        reason = (
            f"{shown(click)} is no address of the web; it begins with https:// and a host that stands"
            " there: without a user, and with macros behind the host only"
        )
        entry.complain(entry.mark_of("click"), "click", reason)
    columns["click_url"] = click or ""
    _content(entry, columns, folder)
    _size(entry, columns)


def is_size(text: str) -> bool:
    return _SIZE.fullmatch(text) is not None


def _content(entry: Entry, columns: Columns, folder: Path) -> None:
    """What is shown: one of html, a file of it, an image, and the members of a native ad."""
    columns["html"] = columns["image_url"] = columns["native"] = None
    given = [n for n in ("html", "html_file", "image", "native") if entry.take(n) is not None]
    if len(given) != 1:
        said = f"; here are {' and '.join(given)}" if given else ""
        entry.complain(
            entry.mark, "", f"needs one of html, html_file, image and native to show{said}"
        )
        columns["format"] = "html"
        return
    if given[0] == "native":
        columns["format"] = "native"
        columns["native"] = _native(entry)
    elif given[0] == "image":
        columns["format"] = "image"
        image = columns["image_url"] = entry.text("image", 4000)
        if image is not None and not (_WEB_URL.fullmatch(image) or _OWN_PATH.fullmatch(image)):
            reason = (
                f"{shown(image)} is neither an address of the web nor a path such as /demo/x.svg"
            )
            entry.complain(entry.mark_of("image"), "image", reason)
    else:
        columns["format"] = "html"
        columns["html"] = (
            entry.text("html", MOST_HTML_BYTES, required=True)
            if given[0] == "html"
            else _file(entry, folder)
        )


def _native(entry: Entry) -> Any:
    node = entry.take("native")
    assert node is not None, "it was given"
    if isinstance(node, Text):
        entry.complain(
            node.mark, "native", f"must have members with names, not be {shown(node.text)}"
        )
        return {}
    value = json_of(node)
    if not isinstance(value, dict):
        entry.complain(node.mark, "native", "must have members with names, not be a list")
        return {}
    if len(repr(value).encode()) > MOST_HTML_BYTES // 2:
        entry.complain(node.mark, "native", f"is longer than {MOST_HTML_BYTES // 2:,} bytes")
    return value


def _file(entry: Entry, folder: Path) -> str | None:
    """HTML from a file beside the catalog."""
    name = entry.text("html_file", 4000)
    if name is None:
        return None
    try:
        with (folder / name).open(encoding="utf-8") as file:
            text = file.read(MOST_HTML_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        entry.complain(entry.mark_of("html_file"), "html_file", f"{name} cannot be read: {reason}")
        return None
    if not text or "\0" in text or len(text.encode()) > MOST_HTML_BYTES:
        reason = f"{name} must have between 1 and {MOST_HTML_BYTES:,} bytes of text"
        entry.complain(entry.mark_of("html_file"), "html_file", reason)
    return text


def _size(entry: Entry, columns: Columns) -> None:
    columns["width"] = columns["height"] = None
    size = entry.scalar("size", "width and height, as 300x250")
    if size is None:
        if columns["format"] != "native":
            entry.complain(entry.mark_of("size"), "size", "is missing; write it as 300x250")
    elif not is_size(size.text):
        reason = f"{shown(size.text)} is no size; write width and height as 300x250"
        entry.complain(size.mark, "size", reason)
    else:
        width, _, height = size.text.partition("x")
        columns["width"], columns["height"] = int(width), int(height)
