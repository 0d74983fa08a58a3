"""What was decided, as whoever asked wants it: JSON, a document for a frame, a picture, a script.

| format | is |
|---|---|
| `json` | all there is to know, for a page's own script and for `/tag.js`; of several places `{"ads": […]}` |
| `html` | a complete document: the ad, a picture that counts it, a script that says when it was seen |
| `image` | 302 to `/i/TOKEN/image`, and from there to the picture: who does not follow has not seen it |
| `js` | a script that puts the ad where it stands itself |

Nothing fits: 204, for a script an empty one, of several places an element without `creative`.

- What an advertiser wrote is put into a frame without an origin: `sandbox` in the document's policy here, in
  the tag's frames there. So it can read nothing of the page around it, and nothing of ours.
- A document's own script comes by its address, since an inline one would need the permission of the page's
  policy.
- HTML without `{click_url}` in it is one link as a whole: no click is lost because an author forgot it.

*Measured* (Python 3.11), without signing the token: JSON of one ad 3 µs, a document 8, an image 1.

Must not know: how anything was decided, requests.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import orjson

from prefork_ads import web
from prefork_ads.ads import macros
from prefork_ads.ads.facts import Choice
from prefork_ads.ads.pixel import FOR_ANY_PAGE, NEVER_KEPT
from prefork_ads.ads.records import Creative, Zone
from prefork_ads.http.message import JSON_TYPE, Answers

_HEADERS: Final = NEVER_KEPT + FOR_ANY_PAGE
# Scripts and new windows, and no origin.
_SANDBOX: Final = (
    b"Content-Security-Policy: sandbox allow-scripts allow-popups allow-popups-to-escape-sandbox"
    b" allow-top-navigation-by-user-activation\r\n"
)
_HTML: Final = b"text/html; charset=utf-8"
_JAVASCRIPT: Final = b"text/javascript; charset=utf-8"


@dataclass(slots=True)
class Placed:
    """One place of the page and what goes into it."""

    zone: Zone
    choice: Choice | None
    decision: str
    """The decision's id, 32 hex digits."""
    token: str = ""
    """Signed; of a place that stays empty there is none."""
    explanation: Any = None
    """What whoever has the key is told: in JSON, under `explanation`."""


@dataclass(slots=True)
class Page:
    """What all places of a request have in common."""

    base: str
    """What our links begin with, without a slash at its end."""
    page: str = ""
    """Host and path of the page that the ads are for."""
    at_s: float = 0.0
    """Seconds since 1970."""


def answer(
    answers: Answers,
    format: str,
    placed: Sequence[Placed],
    page: Page,
    *,
    several: bool = False,
    extra: bytes = b"",
) -> bytes:
    """A whole answer. `several`: it was a list that was asked for. `extra` is further header lines."""
    if several:
        body = orjson.dumps({"ads": [as_json(one, page) for one in placed]})
        return answers.full(200, body + b"\n", JSON_TYPE, _HEADERS + extra)
    [one] = placed
    return _WAYS[format](answers, one, page, extra)


def nothing(answers: Answers, extra: bytes = b"") -> bytes:
    """No ad, for a page of any site."""
    return b"HTTP/1.1 204 No Content\r\nDate: %b\r\n%b%b\r\n" % (answers.date, _HEADERS, extra)


def as_json(placed: Placed, page: Page) -> dict[str, Any]:
    """The documented members (docs/tags.md)."""
    found: dict[str, Any] = {"decision": placed.decision, "zone": placed.zone.key}
    choice = placed.choice
    if choice is not None:
        creative = choice.creative
        found["campaign"] = choice.campaign.key
        found["creative"] = creative.key
        found["format"] = creative.format
        found["width"] = creative.width
        found["height"] = creative.height
        found["content"] = _content(placed, choice, page)
        found["urls"] = _urls(page.base, placed.token)
    if placed.explanation is not None:
        found["explanation"] = placed.explanation
    return found


def document(placed: Placed, choice: Choice, page: Page) -> bytes:
    """A complete document for a frame."""
    urls = {name: macros.escaped(url) for name, url in _urls(page.base, placed.token).items()}
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Advertisement</title>'
        '<base target="_blank"><style>html,body{margin:0;overflow:hidden}img{border:0}</style></head>'
        f"<body>{_markup(placed, choice, page)}"
        f'<img src="{urls["impression"]}" width="1" height="1" alt="" style="position:absolute;left:0;top:0">'
        f'<script src="{macros.escaped(page.base)}/view.js" data-view="{urls["viewable"]}"></script>'
        "</body></html>\n"
    ).encode(errors="replace")


# -- the four ways ---------------------------------------------------------------------------------


def _json(answers: Answers, placed: Placed, page: Page, extra: bytes) -> bytes:
    if placed.choice is None and placed.explanation is None:
        return nothing(answers, extra)
    body = orjson.dumps(as_json(placed, page), option=orjson.OPT_APPEND_NEWLINE)
    head = _json_head(answers.date)
    return b"%b%bContent-Length: %d\r\n\r\n%b" % (head, extra, len(body), body)


@lru_cache(maxsize=2)
def _json_head(date: bytes) -> bytes:
    """All but the length: what a second's answers have in common."""
    return b"HTTP/1.1 200 OK\r\nDate: %b\r\nContent-Type: %b\r\n%b" % (date, JSON_TYPE, _HEADERS)


def _document(answers: Answers, placed: Placed, page: Page, extra: bytes) -> bytes:
    if placed.choice is None:
        return nothing(answers, extra)
    body = document(placed, placed.choice, page)
    return answers.full(200, body, _HTML, _HEADERS + _SANDBOX + extra)


def _image(answers: Answers, placed: Placed, page: Page, extra: bytes) -> bytes:
    # Who asks for a picture decides among pictures; without one there would be nowhere to lead to.
    if placed.choice is None or not placed.choice.creative.image_url:
        return nothing(answers, extra)
    location = f"Location: {page.base}/i/{placed.token}/image\r\n".encode()
    return answers.full(302, b"", b"text/plain", location + _HEADERS + extra)


def _script(answers: Answers, placed: Placed, page: Page, extra: bytes) -> bytes:
    if placed.choice is None:
        body = b"// There is no ad.\n"
    else:
        body = b"(function () {\n'use strict';\n%b\n%b%b%b" % (
            web.script("ad.js").encode(),
            b"var here = document.currentScript, place = make('div', {});\n"
            b"here.parentNode.insertBefore(place, here);\nshow(place, ",
            orjson.dumps(as_json(placed, page)),
            b");\n})();\n",
        )
    return answers.full(200, body, _JAVASCRIPT, _HEADERS + extra)


_WAYS: Final[Mapping[str, Callable[[Answers, Placed, Page, bytes], bytes]]] = {
    "json": _json,
    "html": _document,
    "image": _image,
    "js": _script,
}


# -- parts -----------------------------------------------------------------------------------------


def _urls(base: str, token: str) -> dict[str, str]:
    return {
        "impression": f"{base}/i/{token}",
        "viewable": f"{base}/v/{token}",
        "click": f"{base}/c/{token}",
    }


def _content(placed: Placed, choice: Choice, page: Page) -> Mapping[str, Any]:
    creative = choice.creative
    if creative.format == "html":
        return {"html": _html(placed, choice, page)}
    if creative.format == "image":
        return {"image_url": _picture(creative, page), "alt": creative.alt or ""}
    return creative.native or {}


def _picture(creative: Creative, page: Page) -> str:
    """One of our own begins with a slash."""
    url = creative.image_url or ""
    return page.base + url if url.startswith("/") else url


def _markup(placed: Placed, choice: Choice, page: Page) -> str:
    creative = choice.creative
    if creative.format == "html":
        return _html(placed, choice, page)
    if creative.format == "image":
        picture, alt = macros.escaped(_picture(creative, page)), macros.escaped(creative.alt or "")
        size = f'width="{creative.width}" height="{creative.height}"'
        return _link(f'<img src="{picture}" {size} alt="{alt}">', placed, page)
    texts = creative.native or {}
    shown = [str(texts[part]) for part in ("sponsor", "title", "text", "cta") if texts.get(part)]
    return _link("<br>".join(map(macros.escaped, shown)), placed, page)


def _html(placed: Placed, choice: Choice, page: Page) -> str:
    template = choice.creative.html or ""
    # The author's own text, which is the same each time: with a token in it, it would be taken apart anew.
    html = template
    if "{" in template:
        html = macros.in_html(template, _values(placed, choice, page))
    return html if macros.has(template, "click_url") else _link(html, placed, page)


def _link(inside: str, placed: Placed, page: Page) -> str:
    click = macros.escaped(_urls(page.base, placed.token)["click"])
    return f'<a href="{click}" target="_blank" rel="noopener sponsored">{inside}</a>'


def _values(placed: Placed, choice: Choice, page: Page) -> Mapping[str, str]:
    zone, campaign = placed.zone, choice.campaign
    wants_random = macros.has(choice.creative.html or "", "random")
    return {
        "decision": placed.decision,
        "campaign": campaign.key,
        "creative": choice.creative.key,
        "zone": zone.key,
        "site": zone.site_key,
        "advertiser": campaign.advertiser_key,
        "page": page.page,
        "timestamp": str(int(page.at_s)),
        # The kernel is asked for it: 2 µs (measured).
        "random": macros.random_digits() if wants_random else "",
        "token": placed.token,
        "click_url": _urls(page.base, placed.token)["click"],
        "base": page.base,
    }
