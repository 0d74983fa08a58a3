"""What a request says, as one JSON object: query string, form body, JSON body.

A name that comes once has a string; a name that comes again has a list of all its values in order, so
nothing a client sent is dropped. The members of a JSON body that is an object join the same object; any
other JSON value stands under "body". (Of a name that comes twice in one JSON object the last counts,
as everywhere.)

PostgreSQL's jsonb cannot hold U+0000 (and no JSON can hold what is not Unicode): both become U+FFFD,
the replacement character, where anybody can see that something was replaced. Numbers keep all their
digits, for jsonb has decimals of any length where orjson has doubles; one that even PostgreSQL could
not hold becomes a string. Everything else is kept.

Percent-decoding follows the URL standard's form encoding ("+" is a space).

Must not know: HTTP, SQL, events.
"""

import json
import re
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson

REPLACEMENT = "\ufffd"

# As numbers, for the reason given in `event`.
PERCENT, PLUS = b"%+"

# What a double may not hold to the last digit: orjson would round it, or refuse it as infinite. May match
# inside a string, which costs time and nothing else.
_LONG_NUMBER = re.compile(rb"[0-9]{19}|(?=[0-9]{0,18}\.)[0-9.]{17}|[0-9][eE][+-]?[0-9]{3}")

# PostgreSQL's numeric takes 131,072 digits before the point and 16,383 behind it. Nobody counts that
# far, and a number of a few bytes that takes pages to print is an attack.
_MAX_DIGITS = 1000

_NOT_UNICODE_OR_NUL = re.compile("[\0\ud800-\udfff]")

# orjson writes 254 levels. Whoever puts the parameters into an object of his own must find room for it, so
# a body has some levels less. One with fewer brackets than that cannot have so many levels.
_ROOM_LEVELS = 4
_SHALLOW_BRACKETS = 200

Parameters = dict[str, Any]


class MalformedBody(ValueError):
    """A body that is not what its Content-Type says; the message says what is wrong."""


def parse_query(query: bytes) -> Parameters:
    """The names and values of a query string or form body. Never fails: any bytes are parameters."""
    parameters: Parameters = {}
    if PERCENT in query or PLUS in query or not query.isascii():
        _add_pairs(parameters, query)
        return parameters
    # No NUL among them: the parser lets none through.
    for pair in query.decode().split("&"):
        name, _, value = pair.partition("=")
        if name in parameters and pair:
            add(parameters, name, value)
        elif pair:
            parameters[name] = value
    return parameters


def add_form(parameters: Parameters, body: bytes) -> None:
    """Add an application/x-www-form-urlencoded body."""
    if body:
        _add_pairs(parameters, body)


def add_json(parameters: Parameters, body: bytes) -> None:
    """Add a JSON body. Raises MalformedBody."""
    value = _load(body)
    if not isinstance(value, dict):
        add(parameters, "body", value)
        return
    for name, member in value.items():
        add(parameters, name, member)


def to_json(parameters: Parameters) -> bytes:
    """The JSON text, fit for jsonb. Raises MalformedBody when a body is nested too deep."""
    try:
        text = orjson.dumps(parameters)
    except orjson.JSONEncodeError:
        raise MalformedBody("The body is nested too deep.") from None
    if text.find(b"\\u0000") >= 0:
        # Perhaps only an escaped backslash before "u0000"; cleaning the values is right either way.
        text = orjson.dumps(_storable(parameters))
    return text


def _load(body: bytes) -> Any:
    value = _load_any(body)
    if body.count(b"[") + body.count(b"{") > _SHALLOW_BRACKETS:
        _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    for _ in range(_ROOM_LEVELS):
        value = [value]
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        raise MalformedBody("The body is nested too deep.") from None


def _load_any(body: bytes) -> Any:
    if _LONG_NUMBER.search(body) is None:
        try:
            return orjson.loads(body)
        except orjson.JSONDecodeError:
            # Half a surrogate pair, say, which is JSON all the same.
            return _load_exactly(body)
    return _load_exactly(body)


def _load_exactly(body: bytes) -> Any:
    """By the standard library: ten times slower, and told what to do with everything."""
    try:
        value = json.loads(
            body.decode("utf-8-sig", errors="replace"),
            parse_int=_number,
            parse_float=_number,
            parse_constant=_no_number,
        )
        return _storable(value)
    except RecursionError:
        raise MalformedBody("The body is nested too deep.") from None
    except ValueError as error:
        raise MalformedBody(f"The body is not JSON: {error}.") from None


def _number(text: str) -> orjson.Fragment | str:
    digits, _, exponent = text.lower().partition("e")
    # The length first: int() refuses thousands of digits, which is another error than ours.
    if len(digits) > _MAX_DIGITS or len(exponent) > 6 or abs(int(exponent or 0)) > _MAX_DIGITS:
        return text
    return orjson.Fragment(text)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _add_pairs(parameters: Parameters, query: bytes) -> None:
    for pair in query.split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            add(parameters, _decode(name), _decode(value))


def _decode(raw: bytes) -> str:
    text = unquote_to_bytes(raw.replace(b"+", b" ")).decode(errors="replace")
    # Here and not at the end, where two names could become one.
    return text.replace("\0", REPLACEMENT)


def add(parameters: Parameters, name: str, value: Any) -> None:
    """Add one value; a name that is there already gets a list."""
    if name not in parameters:
        parameters[name] = value
        return
    present = parameters[name]
    if isinstance(present, _Repeated):
        present.append(value)
    else:
        parameters[name] = _Repeated((present, value))


class _Repeated(list[Any]):
    """Values of one repeated name; a type of its own, so that a JSON body's list is not mistaken for it."""


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return _NOT_UNICODE_OR_NUL.sub(REPLACEMENT, value)
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {_storable(name): _storable(item) for name, item in value.items()}
    return value
