"""A catalog of two advertisers in a real server's database, and a browser's requests to it."""

import json
from typing import Any, Final

from tests.conftest import Database
from tests.support import wait_until
from tests.system.harness import Server
from tests.system.wire import ask, message
from tests.unit.http_bed import Answer
from tests.unit.tracking_bed import BROWSER

SHOP: Final = "https://shop.example/landing?c={campaign}&t={token}"

_CATALOG: Final = """
    INSERT INTO advertiser (key, name) VALUES ('acme', 'Acme'), ('bolt', 'Bolt');
    INSERT INTO site (key, name, domain) VALUES ('news', 'News', 'news.example');
    INSERT INTO zone (key, site_id, name, sizes) SELECT 'home-top', id, 'Top', '{300x250}' FROM site;
    INSERT INTO campaign (key, advertiser_id, name, price_micros)
    SELECT 'spring', id, 'Spring', 2500000 FROM advertiser WHERE key = 'acme';
    INSERT INTO creative (key, campaign_id, name, format, width, height, image_url, click_url)
    SELECT 'spring-box', id, 'Box', 'image', 300, 250, '/demo/acme.svg', %s FROM campaign
"""


def fill_catalog(database: Database) -> None:
    """One campaign with one picture, for one zone."""
    database.execute(_CATALOG, SHOP)


def get(server: Server, path: str, *headers: bytes) -> Answer:
    """As a browser asks."""
    return ask(server.port, message(path, f"User-Agent: {BROWSER}".encode(), *headers))


def an_ad(server: Server, path: str = "/ad?zone=home-top") -> dict[str, Any]:
    """What the server decides, once it has the catalog."""
    answer = wait_until(lambda: _if_ok(get(server, path)), "an ad")
    assert answer is not None
    found: dict[str, Any] = json.loads(answer.body)
    return found


def path_of(url: str) -> str:
    """The path of one of the server's own URLs."""
    return "/" + url.split("/", 3)[3]


def _if_ok(answer: Answer) -> Answer | None:
    return answer if answer.status == 200 else None
