"""What the server answers: a request in, an answer out, its event line on the way.

Every well-formed request to `/ad` and `/log` is logged, whatever it is answered; what the protocol
refuses (not HTTP, too large, too slow) and a body that is not what its Content-Type says is not. When
the log cannot take a line the answer is 503 and nothing is promised: 200 and 204 mean that the event is
logged. (A 503 of `/ad` may be logged, too: when it was the lookup that failed.)

Must not know: transports, SQL, which process it runs in.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import orjson

from prefork_ads.ads.asking import UUID, dashed
from prefork_ads.ads.meter import Meter
from prefork_ads.ads.privacy import refuses_id, whole
from prefork_ads.events.event import EventClock, line
from prefork_ads.events.parameters import (
    MalformedBody,
    Parameters,
    add,
    add_form,
    add_json,
    parse_query,
    to_json,
)
from prefork_ads.http.message import (
    ACCEPT_LANGUAGE,
    CONTENT_TYPE,
    DNT,
    REFERER,
    SEC_GPC,
    USER_AGENT,
    X_FORWARDED_FOR,
    Answers,
    Request,
)
from prefork_ads.http.router import Routes
from prefork_ads.metrics import Cells, Counter

# Plain numbers: looking a member up on its enum costs more than counting does.
_AD_FOUND = int(Counter.AD_FOUND)
_LOG_ACCEPTED = int(Counter.LOG_ACCEPTED)

Row = tuple[object, ...]


class Unavailable:
    """What a lookup delivers when PostgreSQL did not answer in time."""


UNAVAILABLE = Unavailable()

Found = Row | None | Unavailable


# Takes an event line, or says False when it cannot be kept.
AppendLine = Callable[[bytes], bool]

# Delivers the row of a key later, exactly once; or says False when too many wait already.
LookUp = Callable[[str, Callable[[Found], None]], bool]


class Zones(Protocol):
    """Who answers requests for ads in zones."""

    def get(self, request: Request, parameters: Parameters, since_ns: int, /) -> bytes | None:
        """The answer to GET, whose query was read already, or None when it comes later."""

    def post(self, request: Request, /) -> bytes | None:
        """The answer to POST, or None when it comes later."""

    def options(self, request: Request, /) -> bytes:
        """What a browser is told that asks whether a page of another site may POST."""


class Endpoints:
    """The handlers of `/ad` and `/log`."""

    __slots__ = (
        "_address",
        "_answers",
        "_append_line",
        "_clock",
        "_counters",
        "_empty_on_trouble",
        "_late",
        "_logged",
        "_look_up",
        "_meter",
        "_zones",
    )

    def __init__(
        self,
        answers: Answers,
        clock: EventClock,
        append_line: AppendLine,
        look_up: LookUp,
        counters: Cells,
        address: Callable[[str, bytes | None], str],
        meter: Meter,
        *,
        logged: Callable[[str], str] = whole,
        zones: Zones | None = None,
        empty_on_trouble: bool = False,
    ) -> None:
        """`logged`: what is kept of an address. `empty_on_trouble`: without PostgreSQL no ad, not 503."""
        self._answers = answers
        self._clock = clock
        self._append_line = append_line
        self._look_up = look_up
        self._counters = counters
        self._address = address
        self._logged = logged
        self._zones = zones
        self._meter = meter
        self._late = meter.late.append
        self._empty_on_trouble = empty_on_trouble

    def routes(self) -> Routes:
        zones = self._zones
        more = {} if zones is None else {b"POST": zones.post, b"OPTIONS": zones.options}
        return {
            b"/ad": {b"GET": self.ad, **more},
            b"/log": {b"GET": self.log, b"POST": self.log},
        }

    def log(self, request: Request) -> bytes:
        """204 once the request is in the log."""
        try:
            parameters = parse_query(request.query)
            if request.body:
                _add_body(parameters, request)
            is_kept = self._append(b"log", parameters, request)
        except MalformedBody as error:
            self._counters[Counter.LOG_MALFORMED] += 1
            return self._answers.error(400, str(error))
        if not is_kept:
            self._counters[Counter.LOG_UNAVAILABLE] += 1
            return self._answers.unavailable("The log cannot take this request now.")
        self._counters[_LOG_ACCEPTED] += 1
        return self._answers.no_content

    def ad(self, request: Request) -> bytes | None:
        """The row of `ad_variant` with the id asked for, or 204; or the ad for a zone."""
        since_ns = self._meter.began_ns or self._meter.since_ns()
        parameters = parse_query(request.query)
        key = parameters.get("id")
        if key is None and "zone" in parameters and self._zones is not None:
            return self._zones.get(request, parameters, since_ns)
        if not self._append(b"ad", parameters, request):
            self._late(since_ns)
            self._counters[Counter.AD_UNAVAILABLE] += 1
            return self._answers.unavailable("The log cannot take this request now.")
        if not isinstance(key, str) or UUID.fullmatch(key) is None:
            self._late(since_ns)
            self._counters[Counter.AD_MALFORMED] += 1
            return self._answers.error(
                400, "Ask with ?zone= and a zone's key, or with ?id= and one UUID."
            )
        # One spelling for one key: it is what PostgreSQL answers with.
        key = key.lower()
        if len(key) != 36:
            key = dashed(key)

        late = self._late

        def deliver(found: Found) -> None:
            late(since_ns)
            request.respond(self._ad_answer(found))

        if not self._look_up(key, deliver):
            late(since_ns)
            return self._ad_answer(UNAVAILABLE)
        return None

    def _ad_answer(self, found: Found) -> bytes:
        if isinstance(found, tuple):
            self._counters[_AD_FOUND] += 1
            return self._answers.json(_variant(found))
        if found is not None:
            self._counters[Counter.AD_FALLBACKS] += 1
        if found is None or self._empty_on_trouble:
            self._counters[Counter.AD_UNKNOWN] += 1
            return self._answers.no_content
        self._counters[Counter.AD_UNAVAILABLE] += 1
        return self._answers.unavailable("The database does not answer at the moment.")

    def _append(self, endpoint: bytes, parameters: Parameters, request: Request) -> bool:
        """Keep the event's line. Raises MalformedBody."""
        fields = request.fields
        if "uid" in parameters and refuses_id(fields[SEC_GPC], fields[DNT], parameters):
            del parameters["uid"]
        forwarded = fields[X_FORWARDED_FOR]
        peer = request.peer
        return self._append_line(
            line(
                self._clock.stamp(),
                endpoint,
                to_json(parameters),
                fields[USER_AGENT],
                fields[REFERER],
                self._logged(peer if forwarded is None else self._address(peer, forwarded)),
                fields[ACCEPT_LANGUAGE],
            )
        )


def _variant(row: Row) -> bytes:
    """The JSON of a row of `ad_variant_lookup.sql`."""
    # Written out: `dict(zip(…))` takes three times as long.
    key, advertiser_id, campaign_id, width, height, title, image_url, click_url = row
    members = {
        "id": key,
        "advertiser_id": advertiser_id,
        "campaign_id": campaign_id,
        "width": width,
        "height": height,
        "title": title,
        "image_url": image_url,
        "click_url": click_url,
    }
    return orjson.dumps(members, option=orjson.OPT_APPEND_NEWLINE)


def looks_up(request: Request) -> bool:
    """Whether a request to `/ad` is one for a variant, as far as that shows without reading its query."""
    return request.method in (b"GET", b"HEAD") and b"zone=" not in request.query


def _add_body(parameters: Parameters, request: Request) -> None:
    content_type = request.fields[CONTENT_TYPE] or b""
    media_type = content_type.partition(b";")[0].strip().lower()
    if media_type == b"application/x-www-form-urlencoded":
        add_form(parameters, request.body)
    elif media_type == b"application/json" or media_type.endswith(b"+json"):
        add_json(parameters, request.body)
    elif media_type in (b"", b"text/plain"):
        # navigator.sendBeacon(url, string) sends text/plain.
        add(parameters, "body", request.body.decode(errors="replace"))
    else:
        raise MalformedBody(
            "The Content-Type must be application/json, application/x-www-form-urlencoded or"
            " text/plain."
        )


def informative(
    answers: Answers,
    index: Mapping[str, object],
    is_ready: Callable[[], str],
    metrics: Callable[[], bytes],
    may_see_metrics: Callable[[str, bytes | None], bool],
) -> Routes:
    """The endpoints that say something about the server. None of them is logged.

    `is_ready` returns "" or the reason why not. `may_see_metrics` is asked with the peer's address and
    what stands in X-Forwarded-For.
    """
    page = orjson.dumps(index, option=orjson.OPT_INDENT_2) + b"\n"

    def root(_: Request) -> bytes:
        return answers.full(200, page)

    def healthz(_: Request) -> bytes:
        return answers.full(200, b'{"status":"ok"}\n')

    def readyz(_: Request) -> bytes:
        reason = is_ready()
        if reason:
            return answers.unavailable(reason)
        return answers.full(200, b'{"status":"ready"}\n')

    def show_metrics(request: Request) -> bytes:
        if not may_see_metrics(request.peer, request.fields[X_FORWARDED_FOR]):
            return answers.error(403, "--metrics-from does not name your network.")
        return answers.full(200, metrics(), b"text/plain; version=0.0.4; charset=utf-8")

    return {
        b"/": {b"GET": root},
        b"/healthz": {b"GET": healthz},
        b"/readyz": {b"GET": readyz},
        b"/metrics": {b"GET": show_metrics},
    }
