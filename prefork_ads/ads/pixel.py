"""What a beacon is answered with: a picture of one transparent dot, or nothing at all.

Neither may be kept by anybody: a beacon that a cache answers is an event that nobody counts. Pages of other
sites may load both, also those that ask their parts for permission (Cross-Origin-Resource-Policy).

Rendered once a second, with the Date.

Must not know: what the beacon was for.
"""

from typing import Final

from prefork_ads.http.message import Answers, Request

NEVER_KEPT: Final = (
    b"Cache-Control: no-store, no-cache, must-revalidate, max-age=0\r\n"
    b"Pragma: no-cache\r\n"
    b"Expires: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
)
FOR_ANY_PAGE: Final = (
    b"Access-Control-Allow-Origin: *\r\nCross-Origin-Resource-Policy: cross-origin\r\n"
)

GIF: Final = (
    b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\x04\x01\0\0\0\0"
    b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"
)


class Pixel:
    """The answers of this second."""

    __slots__ = ("_answers", "_date", "_dot", "_nothing")

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._date = b""
        self._dot = self._nothing = b""

    def answer(self, request: Request) -> bytes:
        """A dot for whoever asks for a picture, 204 for sendBeacon."""
        if self._date is not self._answers.date:
            self._render()
        return self._nothing if request.method == b"POST" else self._dot

    def _render(self) -> None:
        self._date = self._answers.date
        self._dot = self._answers.full(200, GIF, b"image/gif", NEVER_KEPT + FOR_ANY_PAGE)
        self._nothing = b"HTTP/1.1 204 No Content\r\nDate: %b\r\n%b%b\r\n" % (
            self._date,
            NEVER_KEPT,
            FOR_ANY_PAGE,
        )
