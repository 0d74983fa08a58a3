"""Requests for ads in zones: `GET /ad?zone=…` for one zone, `POST /ad` for a page's.

    read → look up the person, if there is a uid → decide → a line for each place → answer

Nothing waits on the way but the lookup of the person, which is batched like that of `/ad?id`. There is no
task and no future, only a callback.

What is ready goes the rest of the way together: first all of them are decided, then all get their lines, then
all their answers. *Measured*: one after the other, each from decision to answer, takes 46 µs a request; 32
together 34, eight 38. It is the same work, but a processor holds the code of one step in its first cache and
not that of all three. Meanwhile PostgreSQL has the next batch of people already.

Who does not want to be known (see `privacy`) has no uid from the first step on, in nothing that is stored
either; and nobody looks up what a program has seen.

A request that cannot be meant, or that asks for a zone that there is not, is logged like an `/ad?id` that is
malformed. What is asked while there is no catalog, or when the log takes nothing, is answered with 503.

The price of it all is in `scripts/bench`, whose contender `zone` asks here for people among 10,000 campaigns.

Must not know: transports, SQL, what decides.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest
from typing import Final

from prefork_ads.ads import formats
from prefork_ads.ads.asking import Asked, Malformed, asked_by_json, asked_by_query
from prefork_ads.ads.budget import Budget
from prefork_ads.ads.caps import Caps
from prefork_ads.ads.clients import Client
from prefork_ads.ads.current import Current
from prefork_ads.ads.deciding import Decided, Deciding
from prefork_ads.ads.decision_log import DecisionLog
from prefork_ads.ads.endpoints import UNAVAILABLE, AppendLine, Found, LookUp, Unavailable
from prefork_ads.ads.formats import Page, Placed
from prefork_ads.ads.meter import Meter
from prefork_ads.ads.pixel import FOR_ANY_PAGE
from prefork_ads.ads.sender import Sender
from prefork_ads.ads.tokens import Keyring
from prefork_ads.events.event import EventClock
from prefork_ads.events.parameters import MalformedBody, Parameters, add_json, parse_query, to_json
from prefork_ads.http.message import REFERER, X_EXPLAIN_KEY, Answers, Request
from prefork_ads.metrics import Cells, Counter

# Of those that nothing is looked up for so many go together. The others are answered where they are read:
# whoever watches over the length of a round (`http.overload`) sees answers, not what waits here.
_TOGETHER: Final = 64
# Of those that were looked up together: in an overload they are thousands, and others want the loop, too.
_AT_ONCE: Final = 256

# By the status in the first line of an answer.
_COUNTED: Final = {
    b"200": int(Counter.AD_FOUND),
    b"204": int(Counter.AD_UNKNOWN),
    b"302": int(Counter.AD_REDIRECTED),
}
_FAILED: Final = {
    400: int(Counter.AD_MALFORMED),
    404: int(Counter.AD_NO_ZONE),
    503: int(Counter.AD_UNAVAILABLE),
}
_PREFLIGHT: Final = (
    b"Allow: GET, HEAD, OPTIONS, POST\r\n"
    b"Access-Control-Allow-Methods: GET, POST\r\n"
    b"Access-Control-Allow-Headers: Content-Type, X-Explain-Key\r\n"
    b"Access-Control-Max-Age: 86400\r\n"
)
_RETRY: Final = b"Retry-After: 1\r\n"

Read = Callable[..., Asked]


@dataclass(slots=True)
class _Case:
    """A request on its way."""

    request: Request
    parameters: Parameters
    asked: Asked
    client: Client
    since_ns: int
    found: Found = UNAVAILABLE
    """The person's row; UNAVAILABLE: the person is not known."""
    decided: Decided | None = None
    placed: list[Placed] | None = None
    answer: bytes | None = None


class Serving:
    """The handlers of `/ad` for zones; `Endpoints` routes to them."""

    __slots__ = (
        "_answers",
        "_append_line",
        "_base_url",
        "_call_soon",
        "_clock",
        "_counters",
        "_current",
        "_deciding",
        "_explain_key",
        "_keyring",
        "_late",
        "_log",
        "_look_up_person",
        "_meter",
        "_ready",
        "_report",
        "_sender",
        "_steps",
    )

    def __init__(
        self,
        answers: Answers,
        clock: EventClock,
        append_line: AppendLine,
        look_up_person: LookUp,
        current: Current,
        budget: Budget,
        caps: Caps,
        keyring: Keyring,
        sender: Sender,
        base_url: Callable[[Request], str],
        counters: Cells,
        meter: Meter,
        call_soon: Callable[[Callable[[], None]], object],
        *,
        report: Callable[[str, Exception], None],
        explain_key: str | None = None,
    ) -> None:
        """`look_up_person` delivers a uid's row of `person_lookup`; `base_url` is what links begin with.

        `call_soon` is the loop's; `report` is told of what should not happen: which request, and the error.
        """
        self._answers = answers
        self._clock = clock
        self._append_line = append_line
        self._look_up_person = look_up_person
        self._current = current
        self._deciding = Deciding(current, budget, caps, sender, clock)
        self._log = DecisionLog(append_line, keyring, sender, counters)
        self._keyring = keyring
        self._sender = sender
        self._base_url = base_url
        self._counters = counters
        self._meter = meter
        self._report = report
        self._late = meter.late.append
        self._explain_key = explain_key.encode() if explain_key else None
        self._call_soon = call_soon
        self._ready: list[_Case] = []
        self._steps = (self._decide, self._log_it, self._write)

    # -- handlers ----------------------------------------------------------------------------------

    def get(self, request: Request, parameters: Parameters, since_ns: int) -> bytes | None:
        """The ads for one zone."""
        return self._serve(request, parameters, asked_by_query, since_ns)

    def post(self, request: Request) -> bytes | None:
        """The ads for the places of a page."""
        since_ns = self._meter.began_ns or self._meter.since_ns()
        parameters = parse_query(request.query)
        try:
            # Whatever its Content-Type says: a page that says text/plain saves its browser a preflight.
            add_json(parameters, request.body)
            # What is nested too deep could not be logged.
            to_json(parameters)
        except MalformedBody as error:
            return self._error(400, str(error), since_ns)
        return self._serve(request, parameters, asked_by_json, since_ns)

    def options(self, _: Request) -> bytes:
        """A page of any site may ask for ads; there are no cookies or the like to be careful with."""
        return b"HTTP/1.1 204 No Content\r\nDate: %b\r\n%b%b\r\n" % (
            self._answers.date,
            _PREFLIGHT,
            FOR_ANY_PAGE,
        )

    # -- the way -----------------------------------------------------------------------------------

    def _serve(
        self, request: Request, parameters: Parameters, read: Read, since_ns: int
    ) -> bytes | None:
        sender = self._sender
        with_uid = True
        if sender.refuses_id(request, parameters):
            with_uid = False
            parameters.pop("uid", None)
        try:
            asked = read(parameters, request.fields[REFERER], with_uid=with_uid)
        except Malformed as error:
            return self._not_served(request, parameters, 400, str(error), since_ns)
        serving = self._current.serving
        if serving is None or not self._keyring.ready:
            return self._error(503, "There is no catalog yet.", since_ns)
        for zone, _, _ in asked.places:
            if zone not in serving[0].zones:
                return self._no_zone(request, parameters, zone, since_ns)
        client = sender.client(request)
        case = _Case(request, parameters, asked, client, since_ns)
        if client.bot:
            asked.uid = ""
        if asked.uid:

            def deliver(found: Found) -> None:
                case.found = found
                self._is_ready(case)

            if self._look_up_person(asked.uid, deliver):
                return None
        if len(self._ready) < _TOGETHER:
            self._is_ready(case)
            return None
        for step in self._steps:
            if case.answer is None:
                step(case)
        return case.answer

    def _is_ready(self, case: _Case) -> None:
        ready = self._ready
        if not ready:
            self._call_soon(self._answer_all)
        ready.append(case)

    def _answer_all(self) -> None:
        cases, self._ready = self._ready[:_AT_ONCE], self._ready[_AT_ONCE:]
        if self._ready:
            self._call_soon(self._answer_all)
        for step in self._steps:
            for case in cases:
                if case.answer is None:
                    try:
                        step(case)
                    except Exception as error:  # noqa: BLE001 - the edge, as in the protocol: nobody waits for ever
                        case.answer = self._failed(case.request, error)
        for case in cases:
            assert case.answer is not None, "the last step makes one"
            try:
                case.request.respond(case.answer)
            except Exception as error:  # noqa: BLE001 - the others are to be answered
                self._failed(case.request, error)

    def _failed(self, request: Request, error: Exception) -> bytes:
        self._report(f"{request.method!r} {request.path!r}", error)
        return self._answers.error(500, "The server failed on this request.", FOR_ANY_PAGE)

    def _decide(self, case: _Case) -> None:
        if case.asked.uid and isinstance(case.found, Unavailable):
            self._counters[Counter.AD_FALLBACKS] += 1
        request, asked = case.request, case.asked
        case.decided = self._deciding.decide(
            request, asked, case.client, case.found, tell=self._may_be_told(request)
        )
        if case.decided is None:
            # The catalog was replaced while PostgreSQL was asked.
            zone = asked.places[0][0]
            case.answer = self._no_zone(request, case.parameters, zone, case.since_ns)

    def _log_it(self, case: _Case) -> None:
        assert case.decided is not None, "it was decided before"
        placed = self._log.keep(case.request, case.parameters, case.asked, case.decided)
        case.placed = placed
        if len(placed) < len(case.decided.places):
            self._deciding.take_back(case.decided, len(placed))
            message = "The log cannot take this request now."
            case.answer = self._error(503, message, case.since_ns)

    def _write(self, case: _Case) -> None:
        asked, decided, placed = case.asked, case.decided, case.placed
        assert decided is not None, "it was decided before"
        assert placed is not None, "it was logged before"
        if decided.told is not None:
            for one, explanation in zip(placed, decided.told, strict=True):
                one.explanation = explanation
        page = Page(self._base_url(case.request), asked.page, decided.facts.at_s)
        case.answer = answer = formats.answer(
            self._answers, asked.format, placed, page, several=asked.several
        )
        self._counters[_COUNTED[answer[9:12]]] += 1
        self._late(case.since_ns)

    def _may_be_told(self, request: Request) -> bool:
        said, key = request.fields[X_EXPLAIN_KEY], self._explain_key
        return said is not None and key is not None and compare_digest(said.strip(), key)

    # -- no ads ------------------------------------------------------------------------------------

    def _no_zone(self, request: Request, parameters: Parameters, zone: str, since_ns: int) -> bytes:
        message = f"The catalog has no zone {zone[:100]!r}."
        return self._not_served(request, parameters, 404, message, since_ns)

    def _not_served(
        self, request: Request, parameters: Parameters, status: int, message: str, since_ns: int
    ) -> bytes:
        """A request that is logged, and is not one for a decision."""
        sender = self._sender
        line = sender.line(
            self._clock.stamp(), b"ad", to_json(parameters), request, sender.address(request)
        )
        if not self._append_line(line):
            return self._error(503, "The log cannot take this request now.", since_ns)
        return self._error(status, message, since_ns)

    def _error(self, status: int, message: str, since_ns: int) -> bytes:
        self._late(since_ns)
        self._counters[_FAILED[status]] += 1
        extra = _RETRY + FOR_ANY_PAGE if status == 503 else FOR_ANY_PAGE
        return self._answers.error(status, message, extra)
