"""What becomes of an ad: seen, seen for long enough, clicked. Each by a link with a signed token.

    GET, POST /i/TOKEN          impression: a picture of one dot, or 204 for sendBeacon
    GET       /i/TOKEN/image    the same, and on to the creative's picture (of `format=image`)
    GET, POST /v/TOKEN          half of it was in sight for a second
    GET       /c/TOKEN          click: on to where the creative leads

- All that is counted stands in the token. A replayed beacon is logged like the first and counts once: the
  decision's id and the kind of event are a key of the table.
- A click leads where the creative of the catalog leads, and nowhere else: no part of the request can name a
  place. The creative may have been paused or archived meanwhile, for the person has its ad on the screen.
- A genuine click that comes after its time is led on and not counted. A beacon that comes too late is
  refused.
- What is known not to be a person's is logged with the reason and not billed: programs, by their own account;
  more events from one address than people can make; and what follows from a decision that was such.
- HEAD asks and does nothing: scanners of links send it, and would take the place of the person's own click.
- The line is in the log before the answer. When the log cannot take it the answer is 503, for a click too.

*Measured* (Python 3.11): 15 µs an impression with its line, 32 µs a click whose URL has five macros; 6 µs to
refuse what was altered.

Must not know: transports, SQL, how anything was decided.
"""

import time
from collections.abc import Callable
from typing import Final

from prefork_ads.ads import macros
from prefork_ads.ads.answered import counted
from prefork_ads.ads.asking import page_of
from prefork_ads.ads.catalog import Catalog, Creative
from prefork_ads.ads.current import Current
from prefork_ads.ads.pixel import NEVER_KEPT, Pixel
from prefork_ads.ads.sender import Sender
from prefork_ads.ads.tokens import Keyring, Token, TokenExpired, TokenRefused
from prefork_ads.events.ad_records import CLICK, IMPRESSION, VIEWABLE, AdEvent, event_params
from prefork_ads.events.event import EventClock
from prefork_ads.events.parameters import parse_query
from prefork_ads.http.message import REFERER, Answers, Request
from prefork_ads.http.router import Routes
from prefork_ads.metrics import Cells, Counter

OVER_RATE: Final = "rate"
OF_FILTERED: Final = "decision"

# Clocks of hosts differ. A decision that is further ahead was made by nobody of ours.
_AHEAD_S: Final = 300.0

_TAKEN: Final = {
    IMPRESSION: int(Counter.IMPRESSIONS_TAKEN),
    VIEWABLE: int(Counter.VIEWABLES_TAKEN),
    CLICK: int(Counter.CLICKS_TAKEN),
}

AppendLine = Callable[[bytes], bool]


class Tracking:
    """The handlers of `/i/`, `/v/` and `/c/`."""

    __slots__ = (
        "_answers",
        "_append_line",
        "_click_window_s",
        "_clock",
        "_counters",
        "_current",
        "_impression_window_s",
        "_keyring",
        "_now_s",
        "_pixel",
        "_sender",
    )

    def __init__(
        self,
        answers: Answers,
        clock: EventClock,
        append_line: AppendLine,
        current: Current,
        keyring: Keyring,
        sender: Sender,
        counters: Cells,
        *,
        impression_window_s: float,
        click_window_s: float,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._answers = answers
        self._clock = clock
        self._append_line = append_line
        self._current = current
        self._keyring = keyring
        self._sender = sender
        self._counters = counters
        self._impression_window_s = impression_window_s
        self._click_window_s = click_window_s
        self._now_s = now_s
        self._pixel = Pixel(answers)

    def routes(self) -> Routes:
        routes = {
            b"/i/*": {b"GET": self.impression, b"POST": self.impression},
            b"/v/*": {b"GET": self.viewable, b"POST": self.viewable},
            b"/c/*": {b"GET": self.click},
        }
        return counted(routes, self._counters)

    # -- handlers ----------------------------------------------------------------------------------

    def impression(self, request: Request) -> bytes:
        """The ad is on the screen of a person."""
        text, _, rest = request.path[3:].partition(b"/")
        if rest not in (b"", b"image"):
            self._counters[Counter.TRACKING_MALFORMED] += 1
            return self._answers.error(404, "Behind a token there is nothing but /image.")
        if not rest:
            return self._beacon(request, text, IMPRESSION)
        return self._picture(request, text)

    def viewable(self, request: Request) -> bytes:
        """Half of it was in sight for a second."""
        return self._beacon(request, request.path[3:], VIEWABLE)

    def click(self, request: Request) -> bytes:
        """On to where the creative leads."""
        try:
            token, late = self._read(request.path[3:], self._click_window_s)
        except TokenRefused as refusal:
            return self._refused(refusal)
        catalog = self._current.catalog
        creative = catalog.creatives.get(token.creative) if catalog is not None else None
        if catalog is None or creative is None:
            return self._unknown(catalog)
        if late:
            self._counters[Counter.CLICKS_LATE] += 1
        elif not self._log(request, token, CLICK):
            return self._unavailable()
        return self._on_to(self._landing_page(request, token, catalog, creative))

    # -- parts -------------------------------------------------------------------------------------

    def _beacon(self, request: Request, text: bytes, kind: bytes) -> bytes:
        try:
            token, late = self._read(text, self._impression_window_s)
        except TokenRefused as refusal:
            return self._refused(refusal)
        if late:
            return self._late()
        if not self._log(request, token, kind):
            return self._unavailable()
        return self._pixel.answer(request)

    def _picture(self, request: Request, text: bytes) -> bytes:
        """An impression of a picture that nobody but a browser asks for."""
        try:
            token, late = self._read(text, self._impression_window_s)
        except TokenRefused as refusal:
            return self._refused(refusal)
        if late:
            return self._late()
        catalog = self._current.catalog
        creative = catalog.creatives.get(token.creative) if catalog is not None else None
        if creative is None or not creative.image_url:
            return self._unknown(catalog)
        if not self._log(request, token, IMPRESSION):
            return self._unavailable()
        return self._on_to(macros.in_url(creative.image_url, {}))

    def _read(self, text: bytes, window_s: float) -> tuple[Token, bool]:
        """What was signed, and whether it comes too late. Raises TokenRefused."""
        token = self._keyring.read(text)
        age_s = self._now_s() - token.decided_s
        if age_s < -_AHEAD_S:
            raise TokenRefused("This token is of a time that has not come.")
        return token, age_s > window_s

    def _log(self, request: Request, token: Token, kind: bytes) -> bool:
        if request.method == b"HEAD":
            return True
        sender = self._sender
        parameters = parse_query(request.query)
        address = sender.address(request)
        event: AdEvent = {
            "decision": token.decision.hex(),
            "zone": token.zone,
            "campaign": token.campaign,
            "creative": token.creative,
            "model": token.model,  # type: ignore[typeddict-item]  # one that a keyring signs
        }
        if token.price_micros:
            event["price"] = token.price_micros
        if token.country:
            event["country"] = token.country
        if token.device:
            event["device"] = token.device
        if sender.refuses_id(request, parameters):
            parameters.pop("uid", None)
        elif token.uid is not None:
            event["uid"] = token.uid.hex()
        # Asked in any case, for it counts. What was seen for longer is judged as its impression was a second
        # before: else an address with too many would have more of these than of those.
        too_many = not sender.takes_event(address, counts=kind is not VIEWABLE)
        if bot := sender.client(request).bot:
            event["filtered"] = f"bot: {bot}"
        elif token.filtered:
            event["filtered"] = OF_FILTERED
        elif too_many:
            event["filtered"] = OVER_RATE
        stamp = self._clock.stamp()
        if not self._append_line(
            sender.line(stamp, kind, event_params(parameters, event), request, address)
        ):
            return False
        self._counters[_TAKEN[kind]] += 1
        return True

    def _landing_page(
        self, request: Request, token: Token, catalog: Catalog, creative: Creative
    ) -> str:
        if "{" not in creative.click_url:
            return macros.in_url(creative.click_url, {})
        campaign = catalog.campaigns.get(token.campaign)
        zone = catalog.zones_by_id.get(token.zone)
        referer = request.fields[REFERER]
        values = {
            "decision": token.decision.hex(),
            # What is archived by now has its number left.
            "campaign": campaign.key if campaign is not None else str(token.campaign),
            "advertiser": campaign.advertiser_key if campaign is not None else "",
            "creative": creative.key,
            "zone": zone.key if zone is not None else str(token.zone),
            "site": zone.site_key if zone is not None else "",
            "page": page_of(referer.decode(errors="replace")) if referer else "",
            "timestamp": str(int(self._now_s())),
            "random": macros.random_digits(),
            "token": request.path[3:].decode(),
        }
        return macros.in_url(creative.click_url, values)

    # -- answers -----------------------------------------------------------------------------------

    def _on_to(self, url: str) -> bytes:
        location = b"Location: " + url.encode() + b"\r\n"
        return self._answers.full(302, b"", b"text/plain", location + NEVER_KEPT)

    def _refused(self, refusal: TokenRefused) -> bytes:
        if isinstance(refusal, TokenExpired):
            self._counters[Counter.TRACKING_EXPIRED] += 1
            return self._answers.error(410, str(refusal), NEVER_KEPT)
        self._counters[Counter.TRACKING_ALTERED] += 1
        return self._answers.error(403, str(refusal), NEVER_KEPT)

    def _late(self) -> bytes:
        return self._refused(TokenExpired("This comes too long after its ad."))

    def _unknown(self, catalog: Catalog | None) -> bytes:
        if catalog is None:
            self._counters[Counter.TRACKING_UNAVAILABLE] += 1
            return self._answers.unavailable("There is no catalog yet.")
        self._counters[Counter.TRACKING_UNKNOWN] += 1
        return self._answers.error(404, "There is no such creative.", NEVER_KEPT)

    def _unavailable(self) -> bytes:
        self._counters[Counter.TRACKING_UNAVAILABLE] += 1
        return self._answers.unavailable("The log cannot take this request now.")
