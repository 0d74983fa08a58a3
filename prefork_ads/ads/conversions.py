"""What an ad was for: an order, a registration, a download. Told by the advertiser's own page or server.

    GET, POST /conv?advertiser=KEY&order=ID[&value=12.34][&uid=UUID][&click=TOKEN]

The order is the advertiser's own number of it, so that a page that is loaded twice tells of one order. A
conversion is attributed to the click whose token it brings (macro `{token}` of the landing page's address),
or else to what its uid saw or clicked, when it is written into the table.

- Money is exact: the value is read as a decimal, never as a binary fraction. More digits than a millionth has
  are refused, for rounding somebody's money is not ours to do.
- Advertisers' servers call by programs, many from one address, so neither makes a conversion doubtful. One
  that follows from a filtered decision is.
- Privacy is the person's: `Sec-GPC`, `DNT` and a missing consent keep the uid out, as everywhere.

Must not know: transports, SQL, how conversions are attributed.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import orjson

from prefork_ads.ads.answered import counted
from prefork_ads.ads.asking import UUID, without
from prefork_ads.ads.catalog import Catalog
from prefork_ads.ads.current import Current
from prefork_ads.ads.pixel import NEVER_KEPT, Pixel
from prefork_ads.ads.sender import Sender
from prefork_ads.ads.tokens import Keyring, Token, TokenExpired, TokenRefused
from prefork_ads.events.ad_records import CONVERSION, Conversion, conversion_params
from prefork_ads.events.event import EventClock
from prefork_ads.events.parameters import (
    MalformedBody,
    Parameters,
    add_form,
    add_json,
    parse_query,
)
from prefork_ads.http.message import CONTENT_TYPE, Answers, Request
from prefork_ads.http.router import Routes
from prefork_ads.metrics import Cells, Counter

MAX_ORDER_BYTES: Final = 200
OF_FILTERED: Final = "decision"

# At most a billion; in bigint, millions of these can be summed.
_MONEY: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_MICROS: Final = 6
_WHOLE: Final = re.compile(r"-?[0-9]+")
# A number with more of them is no amount.
_MOST_DIGITS: Final = 40


class Refused(Exception):
    """This is no conversion; the message says why, to whoever wrote the call."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Conversions:
    """The handler of `/conv`."""

    __slots__ = (
        "_answers",
        "_append_line",
        "_clock",
        "_counters",
        "_current",
        "_keyring",
        "_pixel",
        "_sender",
    )

    def __init__(
        self,
        answers: Answers,
        clock: EventClock,
        append_line: Callable[[bytes], bool],
        current: Current,
        keyring: Keyring,
        sender: Sender,
        counters: Cells,
    ) -> None:
        self._answers = answers
        self._clock = clock
        self._append_line = append_line
        self._current = current
        self._keyring = keyring
        self._sender = sender
        self._counters = counters
        self._pixel = Pixel(answers)
        # Of the catalog that they were read from.

    def routes(self) -> Routes:
        routes = {b"/conv": {b"GET": self.conversion, b"POST": self.conversion}}
        return counted(routes, self._counters)

    def conversion(self, request: Request) -> bytes:
        """A dot, or 204 for POST, once the conversion is in the log."""
        catalog = self._current.catalog
        if catalog is None:
            self._counters[Counter.TRACKING_UNAVAILABLE] += 1
            return self._answers.unavailable("There is no catalog yet.")
        try:
            parameters = _parameters(request)
            conversion = self._conversion(request, parameters, catalog)
            # A token may hold a uid; what it says is in the record, if it may be.
            names = ("click",) if "uid" in conversion else ("click", "uid")
            params_json = conversion_params(without(parameters, *names), conversion)
        except MalformedBody as error:
            self._counters[Counter.TRACKING_MALFORMED] += 1
            return self._answers.error(400, str(error), NEVER_KEPT)
        except Refused as refusal:
            self._counters[_REASONS[refusal.status]] += 1
            return self._answers.error(refusal.status, str(refusal), NEVER_KEPT)
        if request.method != b"HEAD":
            address = self._sender.address(request)
            stamp = self._clock.stamp()
            if not self._append_line(
                self._sender.line(stamp, CONVERSION, params_json, request, address)
            ):
                self._counters[Counter.TRACKING_UNAVAILABLE] += 1
                return self._answers.unavailable("The log cannot take this request now.")
            self._counters[Counter.CONVERSIONS_TAKEN] += 1
        return self._pixel.answer(request)

    def _conversion(self, request: Request, parameters: Parameters, catalog: Catalog) -> Conversion:
        key = parameters.get("advertiser")
        if not isinstance(key, str) or not key:
            raise Refused(400, "Say whose it is: advertiser= and one key of the catalog.")
        advertiser = catalog.advertisers.get(key)
        if advertiser is None:
            raise Refused(404, "There is no advertiser with this key.")
        conversion: Conversion = {"advertiser": advertiser, "order": _order(parameters)}
        if value := _micros(parameters.get("value")):
            conversion["value"] = value
        token = self._click(parameters.get("click"), advertiser, catalog)
        uid = _uid(parameters.get("uid"))
        if token is not None:
            conversion["decision"] = token.decision.hex()
            uid = uid or (token.uid.hex() if token.uid is not None else "")
            if token.filtered:
                conversion["filtered"] = OF_FILTERED
        if uid and not self._sender.refuses_id(request, parameters):
            conversion["uid"] = uid
        return conversion

    def _click(self, text: Any, advertiser: int, catalog: Catalog) -> Token | None:
        """The click that is told of. Its age is judged where conversions are attributed."""
        if text is None or text == "":
            return None
        if not isinstance(text, str):
            raise Refused(400, "click is one token.")
        try:
            token = self._keyring.read(text.encode(errors="replace"))
        except TokenExpired as refusal:
            raise Refused(410, str(refusal)) from None
        except TokenRefused as refusal:
            raise Refused(403, str(refusal)) from None
        campaign = catalog.campaigns.get(token.campaign)
        if campaign is not None and campaign.advertiser_id != advertiser:
            raise Refused(403, "This click was on an ad of another advertiser.")
        return token


_REASONS: Final = {
    400: Counter.TRACKING_MALFORMED,
    403: Counter.TRACKING_ALTERED,
    404: Counter.TRACKING_UNKNOWN,
    410: Counter.TRACKING_EXPIRED,
}


def _parameters(request: Request) -> Parameters:
    """Of query and body. Raises MalformedBody."""
    parameters = parse_query(request.query)
    if request.body:
        content_type = request.fields[CONTENT_TYPE] or b""
        media_type = content_type.partition(b";")[0].strip().lower()
        if media_type == b"application/json":
            add_json(parameters, request.body)
        elif media_type == b"application/x-www-form-urlencoded":
            add_form(parameters, request.body)
        else:
            raise MalformedBody(
                "The Content-Type must be application/json or application/x-www-form-urlencoded."
            )
    return parameters


def _order(parameters: Parameters) -> str:
    order = _unwrapped(parameters.get("order"))
    if isinstance(order, int) and not isinstance(order, bool):
        order = str(order)
    if not isinstance(order, str) or not order.strip():
        raise Refused(400, "Say which order it is: order= and its number, or any text of your own.")
    order = order.strip()
    if len(order.encode(errors="replace")) > MAX_ORDER_BYTES or _CONTROL.search(order):
        raise Refused(
            400, f"An order has at most {MAX_ORDER_BYTES} bytes, and no control characters."
        )
    if "\N{REPLACEMENT CHARACTER}" in order:
        # What is no text is replaced, and two orders would be one.
        raise Refused(400, "An order is text in UTF-8.")
    return order


def _micros(value: Any) -> int:
    """Exactly, or refused."""
    if isinstance(value, orjson.Fragment):
        digits = _written(value)
        value = format(Decimal(digits), "f") if len(digits) <= _MOST_DIGITS else digits
    if value is None or value == "":
        return 0
    # A number of JSON is a double with the fewest digits that mean it, which are those that were written.
    text = format(Decimal(repr(value)), "f") if type(value) in (int, float) else value
    if not isinstance(text, str) or _MONEY.fullmatch(text) is None:
        raise Refused(
            400, "A value is an amount such as 12.34: below a billion, with at most six decimals."
        )
    return int(Decimal(text).scaleb(_MICROS))


def _unwrapped(value: Any) -> Any:
    """A whole number of a body in which some number (or what looks like one) has many digits."""
    if isinstance(value, orjson.Fragment) and _WHOLE.fullmatch(text := _written(value)):
        return text
    return value


def _written(number: orjson.Fragment) -> str:
    return orjson.dumps(number).decode()


def _uid(value: Any) -> str:
    """32 hex digits, "" for none."""
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or UUID.fullmatch(value) is None:
        raise Refused(400, "A uid is one UUID.")
    return value.replace("-", "").lower()
