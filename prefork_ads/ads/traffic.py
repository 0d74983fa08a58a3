"""When the traffic comes: the curve of a day that each campaign's pacing follows.

An errand asks now and then for the requests of the last week by hour, which a keeper keeps up to date (see
`traffic_refresh`). A campaign that is bound to sites follows the curve of those, all others that of all.
Without a week's history there is what there is of it, and at first a day is taken to be the same all through.

Must not know: what is spread along the curve.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from prefork_ads.ads.pacing import UNIFORM, Curve, curve_of
from prefork_ads.ads.records import Campaign, Unreadable, time_zone

# Sets of sites with a curve of their own.
MOST: Final = 500

_Hours = Sequence[tuple[int, int]]


class TrafficFeed:
    """The errand, and what it was told."""

    every_s: Final = 60.0

    def __init__(self) -> None:
        self._all: _Hours = ()
        self._bound: dict[int, _Hours] = {}
        self._curves: dict[tuple[int, str], Curve] = {}

    def ask(self) -> tuple[str, Mapping[str, Any]] | None:
        return "traffic_curve", {"most": MOST}

    def answered(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self._bound.clear()
        self._curves.clear()
        for campaigns, hours, requests in rows:
            traffic = tuple(zip(hours or (), requests or (), strict=True))
            if campaigns is None:
                self._all = traffic
            elif traffic:
                self._bound.update(dict.fromkeys(campaigns, traffic))

    def failed(self) -> None:
        """What was told last is good enough."""

    def curve(self, campaign: Campaign) -> Curve:
        """What share of a day's traffic each hour has, by the clocks of the campaign's time zone."""
        return self.curve_for(campaign.id, campaign.time_zone)

    def curve_for(self, campaign_id: int, zone: str) -> Curve:
        """The same for who has no more of the campaign than this."""
        traffic = self._bound.get(campaign_id, self._all)
        key = id(traffic), zone
        curve = self._curves.get(key)
        if curve is None:
            try:
                curve = curve_of(traffic, time_zone(zone))
            except Unreadable:
                curve = UNIFORM
            self._curves[key] = curve
        return curve
