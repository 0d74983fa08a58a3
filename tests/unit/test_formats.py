"""One decision in four forms."""

import json
import re
from html.parser import HTMLParser

import pytest

from prefork_ads.ads import formats, macros
from prefork_ads.ads.facts import Choice
from prefork_ads.ads.formats import Page, Placed
from prefork_ads.http.message import Answers
from tests.unit.http_bed import Answer, read_answers
from tests.unit.tracking_bed import DECISION, NOW_S, compiled, rows, signed

ANSWERS = Answers(lambda: NOW_S)
PAGE = Page("https://ads.example", "news.example/<x>", NOW_S)
TEXT = signed()
URLS = {
    "impression": f"https://ads.example/i/{TEXT}",
    "viewable": f"https://ads.example/v/{TEXT}",
    "click": f"https://ads.example/c/{TEXT}",
}


def placed(**creative: object) -> Placed:
    """The image creative, or what becomes of it with these members changed."""
    content = rows()
    content["creative"][50].update(creative)
    catalog = compiled(content)
    choice = Choice(catalog.campaigns[5], catalog.creatives[50])
    return Placed(catalog.zones_by_id[12], choice, DECISION.hex(), TEXT)


def html(text: str) -> Placed:
    return placed(format="html", html=text, image_url=None)


def empty() -> Placed:
    return Placed(placed().zone, None, DECISION.hex())


def answer(format: str, one: Placed, page: Page = PAGE) -> Answer:
    [found] = read_answers(formats.answer(ANSWERS, format, [one], page))
    assert "no-store" in found.headers["cache-control"]
    return found


def test_json_says_everything() -> None:
    found = answer("json", placed())
    assert found.headers["content-type"] == "application/json"
    assert found.headers["access-control-allow-origin"] == "*"
    assert json.loads(found.body) == {
        "decision": DECISION.hex(),
        "zone": "home-top",
        "campaign": "spring",
        "creative": "spring-box",
        "format": "image",
        "width": 300,
        "height": 250,
        "content": {"image_url": "https://ads.example/demo/a b.svg", "alt": 'A "b"'},
        "urls": URLS,
    }


def test_several_places_are_a_list_with_its_gaps() -> None:
    """An empty one has no creative; the order is that of the request."""
    [found] = read_answers(
        formats.answer(ANSWERS, "json", [placed(), empty(), placed()], PAGE, several=True)
    )
    ads = json.loads(found.body)["ads"]
    assert ads[1] == {"decision": DECISION.hex(), "zone": "home-top"}
    assert ads[0] == ads[2]
    assert ads[0]["creative"] == "spring-box"


@pytest.mark.parametrize("format", ["json", "html", "image", "js"])
@pytest.mark.parametrize("several", [False, True])
def test_further_header_lines_stand_beside_the_others(format: str, several: bool) -> None:
    one = placed()
    wire = formats.answer(
        ANSWERS, format, [one], PAGE, several=several, extra=b"X-One: 1\r\nX-Two: 2\r\n"
    )
    [found] = read_answers(wire)
    assert (found.headers["x-one"], found.headers["x-two"]) == ("1", "2")
    assert int(found.headers["content-length"]) == len(found.body)


@pytest.mark.parametrize("format", ["json", "html", "image"])
def test_no_ad_is_204(format: str) -> None:
    assert answer(format, empty()).status == 204


def test_no_ad_is_an_empty_script() -> None:
    """204 would be an error to the element that asked for a script."""
    found = answer("js", empty())
    assert found.status == 200
    assert found.body.startswith(b"//")


def test_an_explanation_comes_with_the_json_also_where_there_is_no_ad() -> None:
    one = empty()
    one.explanation = [{"campaign": "spring", "dropped": "country"}]
    found = answer("json", one)
    assert json.loads(found.body)["explanation"] == one.explanation


class Document(HTMLParser):
    """Elements and attributes of a document."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(body.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_a_document_stands_alone() -> None:
    """The ad with its link, the picture that counts it, the script that says when it was seen."""
    found = answer("html", placed())
    assert found.headers["content-type"].startswith("text/html")
    # No origin: nothing in it can read anything of ours.
    policy = found.headers["content-security-policy"]
    assert policy.startswith("sandbox ")
    assert "allow-same-origin" not in policy
    document = Document(found.body)
    [link] = document.all("a")
    assert link["href"] == URLS["click"]
    assert link["target"] == "_blank"
    picture, dot = document.all("img")
    assert picture["src"] == "https://ads.example/demo/a b.svg"
    assert picture["alt"] == 'A "b"'
    assert (picture["width"], picture["height"]) == ("300", "250")
    assert dot["src"] == URLS["impression"]
    [script] = document.all("script")
    assert script == {"src": "https://ads.example/view.js", "data-view": URLS["viewable"]}


def test_a_document_has_no_script_of_its_own() -> None:
    """An inline one would need the permission of whoever frames it."""
    found = answer("html", placed())
    assert re.findall(rb"<script[^>]*>([^<]*)</script>", found.body) == [b""]


def test_macros_in_html_are_escaped() -> None:
    text = '<a href="{click_url}" title="{page}">{campaign} {unknown} {site} {advertiser}</a>'
    found = json.loads(answer("json", html(text)).body)["content"]["html"]
    assert found == (
        f'<a href="{URLS["click"]}" title="news.example/&lt;x&gt;">spring {{unknown}} news acme</a>'
    )


def test_html_that_forgot_the_click_is_one_link() -> None:
    found = json.loads(answer("json", html("<p>Hello</p>")).body)["content"]["html"]
    assert found == (
        f'<a href="{URLS["click"]}" target="_blank" rel="noopener sponsored"><p>Hello</p></a>'
    )


def test_html_is_taken_apart_once_however_often_it_is_shown() -> None:
    """Whatever braces its style has: with a token in it, what is remembered would never be met again."""
    one = html("<style>p{color:red}</style><p>{campaign}</p>")
    answer("html", one)
    met = macros._parts.cache_info().misses
    for number in range(10):
        one.token = signed(zone=number)
        body = answer("html", one).body.decode()
        assert f"/c/{one.token}" in body
        assert "<style>p{color:red}</style><p>spring</p></a>" in body
    assert macros._parts.cache_info().misses == met


def test_html_with_its_click_is_left_alone() -> None:
    text = "<style>p{color:red}</style><a href='{click_url}'>x</a>"
    found = json.loads(answer("json", html(text)).body)["content"]["html"]
    assert found == text.replace("{click_url}", URLS["click"])


def test_native_ads_are_their_content() -> None:
    one = placed(
        format="native",
        native={"title": "A <b>", "text": "c"},
        image_url=None,
        width=None,
        height=None,
    )
    found = json.loads(answer("json", one).body)
    assert found["content"] == {"title": "A <b>", "text": "c"}
    assert found["width"] is None
    assert b"A &lt;b&gt;<br>c" in answer("html", one).body


def test_an_image_goes_by_what_counts_it() -> None:
    """Whoever does not follow has not seen it."""
    found = answer("image", placed())
    assert found.status == 302
    assert found.headers["location"] == f"{URLS['impression']}/image"
    assert answer("image", html("x")).status == 204


def test_a_script_fills_its_place() -> None:
    """One function, with the ad as JSON in it."""
    found = answer("js", placed(alt="</script>\u2028"))
    assert found.headers["content-type"].startswith("text/javascript")
    source = found.body.decode()
    assert source.startswith("(function () {")
    assert "document.currentScript" in source
    [said] = re.findall(r"show\(place, (\{.*\})\);", source)
    assert json.loads(said)["urls"] == URLS


def test_without_a_base_links_are_relative_to_the_server() -> None:
    assert json.loads(answer("json", placed(), Page("")).body)["urls"]["click"] == f"/c/{TEXT}"
