"""Catalogs for tests, by SQL: many campaigns at once, or a few that differ in what a test is about."""

from tests.conftest import Database


def fill(database: Database, campaigns: int) -> None:
    """One zone, `home`, and so many campaigns for Germany with a creative each, as one change.

    A client without a place, which is every one without --geoip, is shown none of them.
    """
    database.execute(
        "INSERT INTO advertiser (key, name) VALUES ('acme', 'Acme');"
        " INSERT INTO site (key, name, domain) VALUES ('news', 'News', 'news.example');"
        " INSERT INTO zone (key, site_id, name, sizes)"
        " SELECT 'home', id, 'Home', '{300x250}' FROM site;"
        " INSERT INTO campaign (key, advertiser_id, name, targeting)"
        " SELECT 'c' || n, a.id, 'Campaign ' || n, '{\"geo\": {\"include\": [\"DE\"]}}'"
        f" FROM advertiser AS a, generate_series(1, {campaigns}) AS n;"
        " INSERT INTO creative (key, campaign_id, name, format, width, height, image_url, click_url)"
        " SELECT 'cr' || c.id, c.id, 'Creative', 'image', 300, 250, 'https://cdn.example/1.png',"
        " 'https://shop.example/' FROM campaign AS c"
    )


def add_for_everybody(database: Database, *keys: str, status: str = "active") -> None:
    """Campaigns that everybody may be shown, as one change; after `fill`."""
    database.execute(
        "WITH made AS ("
        " INSERT INTO campaign (key, advertiser_id, name, status)"
        " SELECT made.key, advertiser.id, 'For everybody', %s FROM advertiser, unnest(%s) AS made (key)"
        " RETURNING id, key)"
        " INSERT INTO creative (key, campaign_id, name, format, width, height, image_url, click_url)"
        " SELECT key || '-creative', id, 'Creative', 'image', 300, 250, 'https://cdn.example/1.png',"
        " 'https://shop.example/' FROM made",
        status,
        list(keys),
    )
