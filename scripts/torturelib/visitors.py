"""What visitors of a page do: they are shown an ad, see it, perhaps look at it, perhaps click.

A visit is a decision and what becomes of it, one question after the other on one connection. Beacons are
told twice now and then, as browsers and networks do, which must not count twice. Some visitors are known by
an id, so that what belongs to a person is looked up, and one campaign may be shown to each thrice only.

The catalog has one campaign with a goal that a run of minutes reaches: whatever dies, it must not get more.

Must not know: connections, the truth's file.
"""

import json
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

GOAL = 2_000
CAP = 3
USERS = 200
ZONES = ("torture-top", "torture-side")
SIZE = "300x250"

# What a visit consists of besides its decision: endpoint, the link's name in the answer, how likely it is,
# and how likely it is told again.
_EVENTS = (
    ("impression", "impression", 0.9, 0.2),
    ("viewable", "viewable", 0.6, 0.2),
    ("click", "click", 0.2, 0.1),
)

DECISION = "decision"
ENDPOINTS = (DECISION, *(endpoint for endpoint, *_ in _EVENTS))

CATALOG = f"""
INSERT INTO advertiser (key, name, allow_repeat, cap_day) VALUES
    ('one', 'One', true, NULL), ('two', 'Two', true, NULL), ('thrice', 'Thrice', true, {CAP});
INSERT INTO site (key, name, domain) VALUES ('torture', 'Torture', 'torture.example');
INSERT INTO zone (key, site_id, name, sizes)
SELECT z.key, s.id, z.key, '{{{SIZE}}}'
  FROM site AS s, unnest(ARRAY['{ZONES[0]}', '{ZONES[1]}']) AS z (key);
INSERT INTO campaign (key, advertiser_id, name, tier, weight, goal_kind, goal_total, price_micros)
SELECT c.key, a.id, c.key, c.tier, c.weight, c.goal_kind, c.goal_total, 2500000
  FROM advertiser AS a
  JOIN (VALUES ('one', 'goal', 'guaranteed', 100, 'impressions', {GOAL}),
               ('one', 'plain', 'standard', 300, NULL, NULL),
               ('two', 'other', 'standard', 100, NULL, NULL),
               ('thrice', 'capped', 'standard', 600, NULL, NULL))
       AS c (advertiser, key, tier, weight, goal_kind, goal_total) ON c.advertiser = a.key;
INSERT INTO creative (key, campaign_id, name, format, width, height, html, click_url)
SELECT key, id, name, 'html', 300, 250, '<p>' || name || '</p>', 'https://' || key || '.example/'
  FROM campaign;
"""


@dataclass(slots=True)
class Visit:
    """One visitor's page: what is to be asked next is found out by the answers."""

    source: random.Random
    decision: str = ""
    """Its id, 32 hex digits, once an ad was shown."""
    campaign: str = ""
    _links: dict[str, str] = field(default_factory=dict)

    def question(self, users: list[str]) -> tuple[str, str]:
        """Path and the first part of the query."""
        known = f"uid={self.source.choice(users)}&" if self.source.random() < 0.5 else ""
        return "ad", f"zone={self.source.choice(ZONES)}&{known}"

    def take(self, status: int, body: bytes) -> bool:
        """The answer; whether it was a right one. Every page has an ad here: nothing fits is wrong."""
        if status != 200:
            return False
        try:
            shown = json.loads(body)
            self.decision = shown["decision"].replace("-", "")
            self.campaign = shown["campaign"]
            self._links = {name: _path(shown["urls"][name]) for _, name, *_ in _EVENTS}
        except (ValueError, KeyError, TypeError):
            return False
        return uuid.UUID(hex=self.decision).version == 7

    def events(self) -> Iterator[tuple[str, str]]:
        """Endpoint and path of each beacon."""
        for endpoint, name, likely, again in _EVENTS:
            if self.source.random() < likely:
                yield endpoint, self._links[name]
                if self.source.random() < again:
                    yield endpoint, self._links[name]


def right(endpoint: str, status: int) -> bool:
    """Whether a beacon is answered like this when all is well."""
    return status == 302 if endpoint == "click" else status in (200, 204)


def users(source: random.Random) -> list[str]:
    return [str(uuid.UUID(int=source.getrandbits(128), version=4)) for _ in range(USERS)]


def _path(url: str) -> str:
    return "/".join(url.split("/")[3:])
