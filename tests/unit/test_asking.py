"""What a request for ads asks for: both forms become the same, nonsense is refused, nothing raises."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_ads.ads.asking import (
    MAX_PAGE_BYTES,
    MAX_PLACES,
    Asked,
    Malformed,
    asked_by_json,
    asked_by_query,
    page_of,
)
from prefork_ads.events.parameters import MalformedBody, Parameters, add_json, parse_query

UID = "0190163d-8694-739b-aea5-966c26f8ad91"


def by_query(query: str, referer: bytes | None = None, *, with_uid: bool = True) -> Asked:
    return asked_by_query(parse_query(query.encode()), referer, with_uid=with_uid)


def by_json(body: Any, referer: bytes | None = None, *, with_uid: bool = True) -> Asked:
    parameters: Parameters = {}
    add_json(parameters, body if isinstance(body, bytes) else json.dumps(body).encode())
    return asked_by_json(parameters, referer, with_uid=with_uid)


def test_the_least_that_can_be_asked() -> None:
    assert by_query("zone=home") == Asked(
        places=[("home", (), 1)],
        uid="",
        page="",
        keywords=frozenset(),
        values=frozenset(),
        format="json",
        several=False,
    )


def test_both_forms_ask_the_same() -> None:
    query = by_query(
        "zone=home&n=2&size=300x250,300x600&uid="
        + UID.upper().replace("-", "")
        + "&kw=Sport,%20tennis,,"
        "&k.section=Sports&k.tag=x&k.tag=y&page=https://News.Example/a/B?c%23d&format=json&other=1"
    )
    body = by_json(
        {
            "places": [{"zone": "home", "sizes": ["300x250", "300x600"], "n": 2}],
            "uid": UID,
            "page": "https://News.Example/a/B?c#d",
            "keywords": ["Sport", " tennis", ""],
            "values": {"section": "Sports", "tag": ["x", "y"]},
            "format": "json",
            "other": [1],
        }
    )
    assert query == body
    assert query == Asked(
        places=[("home", ("300x250", "300x600"), 2)],
        uid=UID,
        page="news.example/a/B",
        keywords=frozenset({"sport", "tennis"}),
        values=frozenset({("section", "Sports"), ("tag", "x"), ("tag", "y")}),
        format="json",
        several=True,
    )


def test_a_uid_that_may_not_be_used_is_not_even_read() -> None:
    """Neither used nor complained about."""
    assert by_query(f"zone=home&uid={UID}", with_uid=False).uid == ""
    assert by_query("zone=home&uid=nonsense", with_uid=False).uid == ""
    assert by_json({"places": [{"zone": "home"}], "uid": 7}, with_uid=False).uid == ""


def test_an_empty_uid_is_none() -> None:
    """Which a page's macro becomes for a person who has none."""
    assert by_query("zone=home&uid=").uid == ""
    assert by_json({"places": [{"zone": "home"}], "uid": None}).uid == ""


def test_numbers_of_a_body_that_has_a_long_one() -> None:
    """They are kept to the last digit then, as texts of JSON."""
    body = b'{"places": [{"zone": "home", "n": 2}], "session": 12345678901234567890123}'
    assert by_json(body).places == [("home", (), 2)]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "zone"),
        ("zone=a&zone=b", "one zone"),
        ("zone=a&uid=7", "UUID"),
        (f"zone=a&uid={UID}&uid={UID}", "UUID"),
        ("zone=a&n=0", "n is"),
        ("zone=a&n=21", "n is"),
        ("zone=a&n=-1", "n is"),
        ("zone=a&n=%D9%A3", "n is"),
        ("zone=a&n=1&n=2", "n is"),
        ("zone=a&size=300", "300x250"),
        ("zone=a&size=300x25O", "300x250"),
        ("zone=a&size=0x250", "300x250"),
        ("zone=a&size=300x250,", "300x250"),
        ("zone=a&size=" + ",".join(["1x1"] * 21), "at most 20 sizes"),
        ("zone=a&format=gif", "html, image, js, json"),
        ("zone=a&format=json&format=js", "format"),
        ("zone=a&format=html&n=2", "without n"),
        ("zone=a&kw=" + ",".join(map(str, range(51))), "At most 50 keywords"),
        ("zone=a&kw=" + "x" * 201, "200 bytes"),
        ("zone=a&k.=x", "name"),
        ("zone=a&k.a=" + "é" * 101, "200 bytes"),
        ("zone=a" + "&k.a=b" * 51, "At most 50 values"),
    ],
)
def test_queries_that_cannot_be_meant(query: str, said: str) -> None:
    with pytest.raises(Malformed, match=said):
        by_query(query)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "places"),
        ({"places": []}, "places"),
        ({"places": {"zone": "a"}}, "places"),
        ({"places": ["a"]}, "names its zone"),
        ({"places": [{"zone": 7}]}, "names its zone"),
        ({"places": [{"zone": "a"}] * 21}, "At most 20"),
        ({"places": [{"zone": "a", "n": 20}, {"zone": "b"}]}, "all n together"),
        ({"places": [{"zone": "a", "n": True}]}, "n is"),
        ({"places": [{"zone": "a", "n": 1.5}]}, "n is"),
        ({"places": [{"zone": "a", "sizes": "300x250"}]}, "sizes"),
        ({"places": [{"zone": "a", "sizes": [300]}]}, "300x250"),
        ({"places": [{"zone": "a"}], "uid": 7}, "UUID"),
        ({"places": [{"zone": "a"}], "keywords": "a"}, "strings"),
        ({"places": [{"zone": "a"}], "keywords": [1]}, "strings"),
        ({"places": [{"zone": "a"}], "values": ["a"]}, "named"),
        ({"places": [{"zone": "a"}], "values": {"a": 1}}, "strings"),
        ({"places": [{"zone": "a"}], "values": {"a": [1]}}, "strings"),
        ({"places": [{"zone": "a"}], "format": "html"}, "list"),
        ({"places": [{"zone": "a"}], "format": ["json"]}, "format"),
    ],
)
def test_bodies_that_cannot_be_meant(body: Any, said: str) -> None:
    with pytest.raises(Malformed, match=said):
        by_json(body)


@pytest.mark.parametrize(
    ("url", "page"),
    [
        ("https://www.News.example/Sports/x?y=1#z", "www.news.example/Sports/x"),
        ("http://news.example", "news.example"),
        ("http://news.example/", "news.example/"),
        ("//news.example/a", "news.example/a"),
        ("news.example/a", "news.example/a"),
        ("news.example:8080/a", "news.example:8080/a"),
        ("https://user:pass@news.example/a@b", "news.example/a@b"),
        ("https://[2001:DB8::1]:8080/a", "[2001:db8::1]:8080/a"),
        ("http://news.example?x=/y", "news.example"),
        (" https://news.example/a ", "news.example/a"),
        ("about:blank", ""),
        ("android-app://com.example.app/x", "com.example.app/x"),
        ("/a/b", ""),
        ("https://", ""),
        ("https://exa mple/", ""),
        ("https://<script>/", ""),
        ("", ""),
    ],
)
def test_the_page_of_an_address(url: str, page: str) -> None:
    assert page_of(url) == page


def test_the_page_is_the_referer_s_unless_it_is_said() -> None:
    referer = b"https://news.example/a?b"
    assert by_query("zone=home", referer).page == "news.example/a"
    assert by_query("zone=home&page=other.example/c", referer).page == "other.example/c"
    assert by_query("zone=home&page=", referer).page == "news.example/a"
    assert by_query("zone=home", b"\xff").page == ""
    assert by_query("zone=home", b"https://news.example/" + b"x" * 5000).page.endswith("xxx")


@given(st.text(max_size=40) | st.text("/:@?#[].ax", max_size=2000))
def test_any_text_has_a_page_of_bounded_size(url: str) -> None:
    page = page_of(url)
    assert len(page.encode(errors="replace")) <= MAX_PAGE_BYTES
    assert "?" not in page
    assert "#" not in page


@given(st.binary(max_size=200), st.binary(max_size=100), st.booleans())
def test_any_query_is_read_or_refused(query: bytes, referer: bytes, with_uid: bool) -> None:
    try:
        asked = asked_by_query(parse_query(b"zone=a&" + query), referer, with_uid=with_uid)
    except Malformed:
        return
    assert sum(count for _, _, count in asked.places) <= MAX_PLACES


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)
NAMES = st.sampled_from(["places", "uid", "page", "keywords", "values", "format", "gdpr", "x"])
PLACES = st.lists(
    st.fixed_dictionaries({"zone": st.text(max_size=3) | JSON}, optional={"n": JSON, "sizes": JSON})
)


@given(st.dictionaries(NAMES, JSON), st.none() | PLACES)
def test_any_body_is_read_or_refused(body: dict[str, Any], places: Any) -> None:
    if places is not None:
        body["places"] = places
    try:
        asked = by_json(json.dumps(body).encode())
    except (Malformed, MalformedBody):
        return
    assert 1 <= sum(count for _, _, count in asked.places) <= MAX_PLACES
