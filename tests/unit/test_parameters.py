"""What a request says becomes one JSON object that jsonb takes, whatever the bytes are."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_ads.events.parameters import (
    MalformedBody,
    Parameters,
    add,
    add_form,
    add_json,
    parse_query,
    to_json,
)

# Values of JSON as a client may send them.
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def checked(parameters: Parameters) -> Any:
    """The JSON as PostgreSQL would read it: strict, no U+0000, nothing that a line could break at."""
    text = to_json(parameters).decode()
    assert not set("\t\n\r\0") & set(text)
    value = json.loads(text, parse_float=Decimal)
    assert isinstance(value, dict)
    assert all(_is_storable(part) for part in strings_in(value))
    return value


def strings_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings_in(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from strings_in(item)


def _is_storable(text: str) -> bool:
    return "\0" not in text and text.encode().decode() == text


def from_query(query: bytes) -> Any:
    return checked(parse_query(query))


def from_json(body: bytes, query: bytes = b"") -> Any:
    parameters = parse_query(query)
    add_json(parameters, body)
    return checked(parameters)


# -- queries and forms -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", {}),
        (b"a=1", {"a": "1"}),
        (b"a=1&b=2", {"a": "1", "b": "2"}),
        (b"a", {"a": ""}),
        (b"a=", {"a": ""}),
        (b"=a", {"": "a"}),
        (b"&&a=1&&", {"a": "1"}),
        (b"a=b=c", {"a": "b=c"}),
        (b"a=1&a=2&a=3", {"a": ["1", "2", "3"]}),
        (b"a=1&b=x&a=1", {"a": ["1", "1"], "b": "x"}),
        (b"a+b=c+d", {"a b": "c d"}),
        (b"a=1%2B1", {"a": "1+1"}),
        (b"a=%26%3D", {"a": "&="}),
        (b"%61=1&a=2", {"a": ["1", "2"]}),
        (b"a=%C3%A9%F0%9F%98%80", {"a": "é😀"}),
        (b"a=%FF%C3", {"a": "\ufffd\ufffd"}),
        (b"a=%ED%A0%80", {"a": "\ufffd\ufffd\ufffd"}),
        (b"a=%00b", {"a": "\ufffdb"}),
        (b"a%00=1", {"a\ufffd": "1"}),
        (b"a%00=1&a%EF%BF%BD=2", {"a\ufffd": ["1", "2"]}),
        (b"a=%5Cu0000", {"a": "\\u0000"}),
        (b"a=%09%0A%0D%1F%7F", {"a": "\t\n\r\x1f\x7f"}),
        (b"a=%", {"a": "%"}),
        (b"a=%4", {"a": "%4"}),
        (b"a=%zz%u0041", {"a": "%zz%u0041"}),
        (b"a='\"\\--;", {"a": "'\"\\--;"}),
        (b"a=" + b"x" * 8192, {"a": "x" * 8192}),
        (b"a;b=1;c", {"a;b": "1;c"}),
        (b"a[]=1&a[]=2", {"a[]": ["1", "2"]}),
        (b"__proto__=1", {"__proto__": "1"}),
    ],
)
def test_query(query: bytes, expected: object) -> None:
    assert from_query(query) == expected


@given(st.binary())
def test_any_bytes_are_a_query(query: bytes) -> None:
    from_query(query)
    parameters = parse_query(b"a=0")
    add_form(parameters, query)
    checked(parameters)


@given(st.lists(st.tuples(st.text(), st.text())))
def test_nothing_is_dropped(pairs: list[tuple[str, str]]) -> None:
    def encoded(text: str) -> str:
        return "".join(f"%{byte:02x}" for byte in text.encode(errors="surrogatepass"))

    query = "&".join(f"{encoded(name)}={encoded(value)}" for name, value in pairs).encode()
    values = from_query(query)
    count = sum(len(value) if isinstance(value, list) else 1 for value in values.values())
    assert count == len(pairs)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "1", "%41", "+"]))))
def test_a_form_is_read_as_a_query_is(pairs: list[tuple[str, str]]) -> None:
    text = "&".join(f"{name}={value}" for name, value in pairs).encode()
    parameters: Parameters = {}
    add_form(parameters, text)
    assert parameters == parse_query(text)


def test_a_form_joins_the_query() -> None:
    parameters = parse_query(b"a=1&b=2")
    add_form(parameters, b"b=3&c=4")
    assert checked(parameters) == {"a": "1", "b": ["2", "3"], "c": "4"}
    add_form(parameters, b"")
    assert checked(parameters) == {"a": "1", "b": ["2", "3"], "c": "4"}


def test_a_form_may_hold_any_byte_as_it_is() -> None:
    parameters: Parameters = {}
    add_form(parameters, b"a\0=b\xff\n\t&a\xef\xbf\xbd=c")
    assert checked(parameters) == {"a\ufffd": ["b\ufffd\n\t", "c"]}


# -- JSON ------------------------------------------------------------------------------------------


@given(st.dictionaries(st.text(), json_values))
def test_an_object_joins_the_parameters(value: dict[str, object]) -> None:
    body = json.dumps(value).encode()
    stored = from_json(body)
    # Compared as text, where 1 and 1.0 and True differ; NUL and halves of pairs are replaced.
    expected = json.loads(_replaced(json.dumps(value, ensure_ascii=False)), parse_float=Decimal)
    assert stored == expected


def _replaced(text: str) -> str:
    # "\\u0000" in JSON of a NUL; an escaped backslash before u0000 would be two.
    parts = text.split("\\\\")
    text = "\\\\".join(part.replace("\\u0000", "\ufffd") for part in parts)
    return "".join("\ufffd" if 0xD800 <= ord(c) <= 0xDFFF else c for c in text)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", {}),
        (b'{"a":1,"b":[1,{"c":null}]}', {"a": 1, "b": [1, {"c": None}]}),
        (b"[1,2]", {"body": [1, 2]}),
        (b'"text"', {"body": "text"}),
        (b"null", {"body": None}),
        (b" \r\n\t{ }\n", {}),
        (b"\xef\xbb\xbf{}", {}),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'{"a":"\\u0000"}', {"a": "\ufffd"}),
        (b'{"\\u0000":{"\\u0000":["\\u0000"]}}', {"\ufffd": {"\ufffd": ["\ufffd"]}}),
        (b'{"a":"\\\\u0000"}', {"a": "\\u0000"}),
        (b'{"a":"\\ud800"}', {"a": "\ufffd"}),
        (b'{"a\\udc00":["\\ud800x"]}', {"a\ufffd": ["\ufffdx"]}),
        (b'{"a":"\\ud83d\\ude00"}', {"a": "😀"}),
        (b'{"a":"\xff"}', {"a": "\ufffd"}),
        (b'{"a":"\\t\\n\\r\\u001f"}', {"a": "\t\n\r\x1f"}),
        ('{"a":"é😀\u2028"}'.encode(), {"a": "é😀\u2028"}),
    ],
)
def test_json(body: bytes, expected: object) -> None:
    assert from_json(body) == expected


@pytest.mark.parametrize(
    "number",
    [
        "0",
        "-0.0",
        "12.10",
        "9007199254740993",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775809",
        "123456789012345678901234567890",
        "0.1000000000000000055511151231257827",
        "3.14159265358979323846264338327950288",
        "1234567890.12345678901",
        "1e400",
        "-1E-400",
        "1e+1000",
        "9" * 999,
        "1e5",
        "0." + "0" * 990 + "1",
    ],
)
def test_numbers_keep_their_digits(number: str) -> None:
    for body in (f'{{"a":{number}}}', f'{{"a":[{number},"x"]}}'):
        stored = from_json(body.encode())["a"]
        value = stored[0] if isinstance(stored, list) else stored
        assert not isinstance(value, str)
        assert Decimal(value) == Decimal(number)


@pytest.mark.parametrize("number", ["1e1001", "1e-1001", "1e" + "9" * 50, "9" * 5000, "1e99999999"])
def test_numbers_past_all_sense_become_strings(number: str) -> None:
    assert from_json(f'{{"a":{number}}}'.encode()) == {"a": number}


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_any_number(number: Decimal) -> None:
    stored = from_json(f"[{number}]".encode())["body"][0]
    assert Decimal(stored) == number


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{'a':1}",
        b"{a:1}",
        b"[1,]",
        b"01",
        b"+1",
        b"1.",
        b".5",
        b"0x10",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b'{"a":1}x',
        b'"a\tb"',
        b'"a\0b"',
        b'"\\x41"',
        b"\xff",
        b"\xfe\xff\x00{\x00}",
        b"tru",
        b"1" * 20 + b"x",
    ],
)
def test_what_is_no_json(body: bytes) -> None:
    with pytest.raises(MalformedBody, match=r"^The body is not JSON: .*\.$"):
        add_json({}, body)


@given(st.binary() | st.text().map(str.encode) | json_values.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_json_or_refused(body: bytes) -> None:
    parameters: Parameters = {}
    try:
        add_json(parameters, body)
    except MalformedBody:
        return
    checked(parameters)


@pytest.mark.parametrize("levels", [300, 1000, 1024, 1025, 3000, 30_000])
@pytest.mark.parametrize("filling", [b"", b"1e999", b'"\\u0000"', b'"\\ud800"'])
@pytest.mark.parametrize("braces", [(b"[", b"]"), (b'{"a":', b"}")], ids=["lists", "objects"])
def test_what_is_nested_too_deep(braces: tuple[bytes, bytes], filling: bytes, levels: int) -> None:
    if braces[0] != b"[" and not filling:
        filling = b"1"
    body = braces[0] * levels + filling + braces[1] * levels
    with pytest.raises(MalformedBody, match=r"^The body is nested too deep\.$"):
        from_json(body)


@pytest.mark.parametrize("filling", [b"1", b"1e999", b'"\\u0000"', b'"\\ud800"'])
def test_what_is_nested_deep_enough_for_anybody(filling: bytes) -> None:
    from_json(b"[" * 240 + filling + b"]" * 240)


@pytest.mark.parametrize("levels", range(230, 256))
@pytest.mark.parametrize("name", [b"", b"a"], ids=["a list", "a member that was in the query, too"])
def test_what_is_taken_fits_into_the_object_of_whoever_logs_it(name: bytes, levels: int) -> None:
    """A decision's line holds the request one level deeper; found out there it would be too late."""
    value = b"[" * levels + b"]" * levels
    parameters: Parameters = parse_query(b"a=1")
    try:
        add_json(parameters, b'{"a":%b}' % value if name else value)
    except MalformedBody:
        assert levels > 240
    else:
        to_json({"request": parameters})


def test_json_joins_the_query() -> None:
    assert from_json(b'{"a":2,"b":[3]}', b"a=1&b=x&b=y&c=z") == {
        "a": ["1", 2],
        "b": ["x", "y", [3]],
        "c": "z",
    }


def test_a_list_in_a_body_is_one_value() -> None:
    parameters: Parameters = {}
    add_json(parameters, b'{"a":[1,2]}')
    add(parameters, "a", "3")
    assert checked(parameters) == {"a": [[1, 2], "3"]}


def test_a_body_that_is_no_object_joins_a_parameter_of_that_name() -> None:
    assert from_json(b"[1]", b"body=x") == {"body": ["x", [1]]}
