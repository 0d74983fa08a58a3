"""Pages with ads in a real Chromium: what a person would see, and what the tables say then.

With PREFORK_ADS_TEST_SCREENSHOT=docs/demo.png the picture of the documentation is taken, too.
"""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.conftest import Database
from tests.support import wait_until
from tests.system.browser import USER_AGENT, Browser, why_missing
from tests.system.harness import Server
from tests.system.test_cli import run

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(bool(why_missing()), reason=why_missing()),
]

ZONES: Final = (
    *("home-top", "home-side", "article-inline", "article-side", "article-native", "footer"),
    *("mobile-banner", "trail-top", "trail-native", "trail-side"),
)

# What is in each place: zone, state, whether an ad can be seen in it.
SHOWN: Final = """
    return [...document.querySelectorAll('[data-zone]')].map(place => {
        const ad = place.querySelector('iframe, img');
        const seen = ad && ad.offsetWidth > 0 && (ad.tagName === 'IFRAME' || ad.naturalWidth > 0);
        return [place.dataset.zone, place.dataset.adState, Boolean(seen)];
    })
"""
TO_THE_MIDDLE: Final = (
    "document.querySelector(`[data-zone=${arguments[0]}]`).scrollIntoView({block: 'center'})"
)
# The panel's dots of a zone.
DOTS: Final = """
    const line = [...document.querySelectorAll('.panel li')].find(
        line => line.firstChild.textContent === arguments[0]);
    return [...line.querySelectorAll('i')].map(dot => dot.className);
"""
SUMS: Final = "return [...document.querySelectorAll('.sums b')].map(sum => Number(sum.textContent))"

# A publisher's page on another origin. One place is far below, one comes later, one is no zone at all.
PAGE: Final = """<!doctype html><title>A page</title>
<script async src="{ads}/tag.js"></script>
<script>
    window.preforkAds = {{templates: {{mine(ad, place) {{
        const link = document.createElement('a');
        link.href = ad.urls.click; link.textContent = 'mine: ' + ad.content.title;
        return link;
    }}}}}};
</script>
<div data-zone="home-side" data-sizes="300x250"></div>
<div data-zone="no-such-zone"></div>
<div data-zone="article-native" data-template="mine"></div>
<div style="height: 5000px"></div>
<div data-zone="footer" data-sizes="728x90"></div>
"""

# The same without the tag.
PLAIN_PAGE: Final = """<!doctype html><title>A page</title>
<iframe width="300" height="600" src="{ads}/ad?zone=home-side&size=300x600&format=html"></iframe>
<script src="{ads}/ad?zone=footer&size=728x90&format=js"></script>
<img src="{ads}/ad?zone=picture&format=image">
"""


class Shop(BaseHTTPRequestHandler):
    """Where clicks lead, and a publisher's page."""

    page = ""

    def do_GET(self) -> None:
        body = (self.page if self.path == "/page" else "<title>The shop</title>").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *_: Any) -> None:
        """Nobody wants to know."""


@contextmanager
def shop() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fill(database: Database, shop_url: str) -> None:
    """The demo catalog, whose clicks lead where a test can follow."""
    loaded = run("demo", "load", "--dsn", database.dsn)
    assert loaded.returncode == 0, loaded.stderr
    database.execute(
        "UPDATE creative SET click_url = %s || '/landing/' || key || '?d={decision}'", shop_url
    )


def counted(database: Database, kind: str) -> dict[str, str]:
    """Decision to creative of all events of a kind that are billed."""
    found = database.fetch(
        "SELECT decision, key FROM ad_event JOIN creative ON creative.id = creative_id"
        " WHERE kind = %s AND filtered IS NULL",
        kind,
    )
    return {decision.replace("-", ""): key for decision, key in found}


def follow(browser: Browser, zone: str) -> tuple[str, str]:
    """Click the ad of a zone as a person does; the path and the decision of where that leads."""
    [here] = browser.windows()
    browser.run(TO_THE_MIDDLE, zone)
    place = f"[data-zone={zone}]"
    if browser.run("return Boolean(document.querySelector(arguments[0]))", f"{place} iframe"):
        browser.into(browser.find(f"{place} iframe"))
        browser.click(browser.find("a"))
    else:
        browser.click(browser.find(f"{place} a"))
    others = wait_until(lambda: [one for one in browser.windows() if one != here], "a window")
    browser.switch(others[0])
    wait_until(lambda: "/landing/" in browser.url(), "the landing page")
    url = urlsplit(browser.url())
    browser.close_window()
    browser.switch(here)
    return url.path, parse_qs(url.query)["d"][0]


def see(browser: Browser, zone: str) -> None:
    """Scroll there, unless it was seen while another one was looked at, and look for long enough."""
    if "viewable" not in browser.run(DOTS, zone):
        browser.run(TO_THE_MIDDLE, zone)
        wait_until(lambda: "viewable" in browser.run(DOTS, zone), f"{zone} to be seen", 20.0)


def wait_for_state(browser: Browser, zone: str, state: str) -> None:
    """Of a place on the page."""
    wait_until(lambda: states(browser).get(zone) == state, f"{zone}: {state}")


def states(browser: Browser) -> dict[str, str]:
    return {zone: state for zone, state, _ in browser.run(SHOWN)}


def test_the_demo_page_works(database: Database) -> None:
    """Every zone shows an ad; what is seen and clicked is counted, once, and leads to the right page."""
    with shop() as shop_url:
        fill(database, shop_url)
        with Server(dsn=database.dsn, workers=2) as server, Browser(1440, 1500) as browser:
            browser.open(f"{server.url}/demo")
            for zone in ZONES:
                see(browser, zone)
            assert browser.run(SUMS) == [10, 10, 10, 0]
            shown = browser.run(SHOWN)
            assert sorted(shown) == sorted([zone, "filled", True] for zone in ZONES)
            landings = [
                follow(browser, zone) for zone in ("home-top", "article-native", "mobile-banner")
            ]
            wait_until(lambda: len(counted(database, "click")) == 3, "the clicks in the table")
            impressions = wait_until(
                lambda: _all_of(counted(database, "impression"), 10), "the impressions in the table"
            )
            assert counted(database, "viewable") == impressions
            clicks = counted(database, "click")
            assert {decision: f"/landing/{key}" for decision, key in clicks.items()} == {
                decision: path for path, decision in landings
            }
            assert clicks.items() <= impressions.items()
            take_picture(browser)


def test_a_publisher_s_page_works(database: Database) -> None:
    """On a site of its own: lazy, later, with a template; a wrong zone and nobody's consent break nothing."""
    with shop() as shop_url:
        fill(database, shop_url)
        with Server(dsn=database.dsn, workers=1) as server, Browser(1000, 700) as browser:
            Shop.page = PAGE.format(ads=server.url)
            browser.open(f"{shop_url}/page")
            wait_for_state(browser, "article-native", "filled")
            wait_for_state(browser, "home-side", "filled")
            wait_for_state(browser, "no-such-zone", "failed")
            # Far below: not asked for until somebody comes near.
            assert states(browser)["footer"] == "waiting"
            browser.run(TO_THE_MIDDLE, "footer")
            wait_for_state(browser, "footer", "filled")
            browser.run("window.scrollTo(0, 0)")
            browser.run(
                "const place = document.createElement('div'); place.dataset.zone = 'article-side';"
                " document.body.prepend(place)"
            )
            wait_for_state(browser, "article-side", "filled")
            text = browser.run(
                "return document.querySelector('[data-zone=article-native]').textContent"
            )
            assert text.startswith("mine: ")
            # Nobody said that an id may be kept.
            assert browser.run("return localStorage.length") == 0
            wait_until(lambda: len(counted(database, "impression")) == 4, "the impressions")
    [(people,)] = database.fetch("SELECT count(uid) FROM ad_event")
    assert people == 0


def test_the_formats_without_a_tag_work(database: Database) -> None:
    """A document in a frame, a script, an image: each shows an ad, and counts itself."""
    with shop() as shop_url:
        fill(database, shop_url)
        database.execute(
            "INSERT INTO zone (key, site_id, name, sizes, formats)"
            " SELECT 'picture', id, 'Picture', '{300x250}', '{image}' FROM site WHERE key = 'lantern'"
        )
        with Server(dsn=database.dsn, workers=1) as server, Browser(1000, 900) as browser:
            wait_until(lambda: _status(f"{server.url}/ad?zone=picture") == 200, "the catalog")
            Shop.page = PLAIN_PAGE.format(ads=server.url)
            browser.open(f"{shop_url}/page")
            width = "return document.querySelector('body > img').naturalWidth"
            wait_until(lambda: browser.run(width) == 300, "the picture")
            # Where the script stands, in front of it: a frame or a link.
            tag = (
                "return document.querySelector('script').previousElementSibling.firstChild.tagName"
            )
            assert browser.run(tag) in ("IFRAME", "A")
            wait_until(
                lambda: _zones(database, "impression") == ["footer", "home-side", "picture"],
                "three",
            )
            # A picture alone cannot tell whether it was seen.
            wait_until(
                lambda: _zones(database, "viewable") == ["footer", "home-side"], "what was seen"
            )
            browser.into(browser.find("iframe"))
            browser.click(browser.find("a"))
            wait_until(lambda: _zones(database, "click") == ["home-side"], "the click")


def _zones(database: Database, kind: str) -> list[str]:
    found = database.fetch(
        "SELECT key FROM ad_event JOIN zone ON zone.id = zone_id WHERE kind = %s ORDER BY key", kind
    )
    return [key for (key,) in found]


def _status(url: str) -> int:
    asked = urllib.request.Request(url, headers={"User-Agent": USER_AGENT})
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def take_picture(browser: Browser) -> None:
    """For the documentation, once nothing moves any more: frames are painted by processes of their own."""
    if path := os.environ.get("PREFORK_ADS_TEST_SCREENSHOT"):
        browser.resize(1440, 1180)
        browser.run("window.scrollTo(0, 0)")
        taken = [b"", browser.screenshot()]
        while len(taken) < 20 or len(set(taken[-10:])) > 1:
            taken.append(browser.screenshot())
        Path(path).write_bytes(taken[-1])


def _all_of(found: dict[str, str], number: int) -> dict[str, str]:
    return found if len(found) == number else {}
