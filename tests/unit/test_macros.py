"""Macros: a value is a value wherever it goes, and what is no macro stays."""

import html
from html.parser import HTMLParser
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_ads.ads import macros

texts = st.text(max_size=60)


@given(texts)
def test_in_a_url_a_value_ends_neither_its_parameter_nor_its_path(value: str) -> None:
    """Whatever it is, the URL has the same parts, in plain ASCII, and gives the value back."""
    url = macros.in_url(
        "https://shop.example/a/{page}/b?x={page}&y=1#{zone}", {"page": value, "zone": value}
    )
    assert url.isascii()
    assert url.isprintable()
    assert " " not in url
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc) == ("https", "shop.example")
    assert parts.path.count("/") == 3
    shown = value.encode(errors="replace").decode()
    assert unquote(parts.path) == f"/a/{shown}/b"
    assert parse_qs(parts.query, keep_blank_values=True) == {"x": [shown], "y": ["1"]}
    assert unquote(parts.fragment) == shown


@given(texts)
def test_no_value_decides_where_a_url_leads(value: str) -> None:
    """Macros in scheme, user, host or port are no macros."""
    for template in (
        "https://{page}/x",
        "https://a.{page}.example:8/?q",
        "https://{page}@h.example",
    ):
        assert macros.in_url(template, {"page": value}).startswith(template.split("/x")[0])


class Reader(HTMLParser):
    """What a browser reads: its elements with their attributes, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(texts)
def test_in_html_a_value_ends_neither_text_nor_attribute(value: str) -> None:
    reader = Reader()
    reader.feed(macros.in_html("<p title=\"{page}\" lang='{page}'>{page}</p>", {"page": value}))
    reader.close()
    [(tag, attributes)] = reader.elements
    shown = "".join(
        " " if not c.isprintable() and (c < " " or c in "\x7f\u2028\u2029") else c for c in value
    )
    assert tag == "p"
    assert [name for name, _ in attributes] == ["title", "lang"]
    assert attributes[0][1] == attributes[1][1] == html.unescape(macros.escaped(value)) == shown
    assert reader.text == shown


@given(texts)
def test_in_a_script_a_value_ends_no_string(value: str) -> None:
    """There nobody decodes what was escaped, which is the author's affair; but it stays one string."""
    escaped = macros.escaped(value)
    assert not set("\"'`\\<>\n\r\u2028\u2029") & set(escaped)


@given(st.text(alphabet="{}abz_ ", max_size=40))
def test_what_is_no_macro_stays(template: str) -> None:
    """Braces of styles, of scripts and of other people's macros."""
    assert macros.in_html(template, {"page": "x"}) == template.replace("{page}", "x")


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("a{zone}{zone}b", "aZZb"),
        ("{unknown} {zone", "{unknown} {zone"),
        ("{{zone}}", "{Z}"),
        ("{ZONE}{ zone }", "{ZONE}{ zone }"),
        ("p { color: red }", "p { color: red }"),
        ("", ""),
    ],
)
def test_examples(template: str, filled: str) -> None:
    assert macros.in_html(template, {"zone": "Z"}) == filled


def test_a_value_is_not_looked_through_for_macros() -> None:
    values = {"page": "{zone}", "zone": "Z"}
    assert macros.in_url("https://a.example/?p={page}", values) == "https://a.example/?p=%7Bzone%7D"
    assert "Z" not in macros.in_html("{page}", values)


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("https://bücher.example/ä?ö=ß", "https://xn--bcher-kva.example/%C3%A4?%C3%B6=%C3%9F"),
        ("https://a.example/%C3%A4?b=%20", "https://a.example/%C3%A4?b=%20"),
        ("/demo/a b.svg", "/demo/a%20b.svg"),
        ("https://a.example", "https://a.example"),
    ],
)
def test_a_url_is_fit_for_a_header(url: str, written: str) -> None:
    """What is encoded already stays so."""
    assert macros.in_url(url, {}) == written


def test_random_digits_are_ten() -> None:
    seen = {macros.random_digits() for _ in range(50)}
    assert all(len(digits) == 10 and digits.isdecimal() for digits in seen)
    assert len(seen) > 40
