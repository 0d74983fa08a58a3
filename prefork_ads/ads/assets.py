"""What browsers are given as it is: the tag, the demo page and its pictures.

All of it is read once, at the start, into a dictionary: what is not in there does not exist, and no request
can name a file. Each has an ETag made of its content, so that a browser that has it is told so (304).

Must not know: what is in them.
"""

import hashlib
from collections.abc import Iterator
from importlib.resources import files
from typing import Final, NamedTuple

from prefork_ads import web
from prefork_ads.http.message import IF_NONE_MATCH, Answers, Request
from prefork_ads.http.router import Routes

# How long a browser keeps the tag without asking: a new one is everywhere after that.
TAG_AGE_S: Final = 3600
PAGE_AGE_S: Final = 60
PICTURE_AGE_S: Final = 3600

_JAVASCRIPT: Final = b"text/javascript; charset=utf-8"
_HTML: Final = b"text/html; charset=utf-8"
_SVG: Final = b"image/svg+xml"
# A picture is no page: whatever stands in one, no script in it runs for whoever opens it by itself.
_PICTURES_ONLY: Final = (
    b"Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n"
)


class _Asset(NamedTuple):
    body: bytes
    content_type: bytes
    etag: bytes
    extra: bytes


class Assets:
    """The handlers."""

    __slots__ = ("_answers", "_assets")

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._assets = {
            b"/tag.js": _asset(_wrapped("ad.js", "tag.js"), _JAVASCRIPT, TAG_AGE_S),
            b"/view.js": _asset(_wrapped("ad.js", "view.js"), _JAVASCRIPT, TAG_AGE_S),
            b"/demo": _asset(web.text("demo.html").encode(), _HTML, PAGE_AGE_S),
            **dict(_pictures()),
        }

    def routes(self) -> Routes:
        """Pictures are no routes of their own, for there may be hundreds."""
        return {
            **{path: {b"GET": self.asset} for path in (b"/tag.js", b"/view.js", b"/demo")},
            b"/demo/*": {b"GET": self.asset},
        }

    def asset(self, request: Request) -> bytes:
        found = self._assets.get(request.path)
        if found is None:
            return self._answers.error(404, "There is no such file.")
        known = request.fields[IF_NONE_MATCH]
        if known is not None and (found.etag in known or known.strip() == b"*"):
            return b"HTTP/1.1 304 Not Modified\r\nDate: %b\r\n%b\r\n" % (
                self._answers.date,
                found.extra,
            )
        return self._answers.full(200, found.body, found.content_type, found.extra)


def _asset(body: bytes, content_type: bytes, age_s: int, extra: bytes = b"") -> _Asset:
    etag = b'"%b"' % hashlib.blake2b(body, digest_size=9).hexdigest().encode()
    return _Asset(
        body,
        content_type,
        etag,
        b"ETag: %b\r\nCache-Control: public, max-age=%d\r\nAccess-Control-Allow-Origin: *\r\n"
        b"Cross-Origin-Resource-Policy: cross-origin\r\nX-Content-Type-Options: nosniff\r\n%b"
        % (etag, age_s, extra),
    )


def _wrapped(*names: str) -> bytes:
    """Scripts as one function, so that nothing of theirs is the page's."""
    inside = "\n".join(map(web.script, names))
    return f"(function () {{\n'use strict';\n{inside}\n}})();\n".encode()


def _pictures() -> Iterator[tuple[bytes, _Asset]]:
    for file in (files("prefork_ads") / "demo").iterdir():
        if file.name.endswith(".svg"):
            body = file.read_bytes()
            yield f"/demo/{file.name}".encode(), _asset(body, _SVG, PICTURE_AGE_S, _PICTURES_ONLY)
