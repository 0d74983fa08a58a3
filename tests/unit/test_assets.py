"""What browsers are given as it is, and what our links begin with."""

import re

import pytest

from prefork_ads.ads.base_url import base_url
from prefork_ads.http.message import FIELD_NAMES, HOST, X_FORWARDED_PROTO, Request
from tests.unit.tracking_bed import Tracker


@pytest.mark.parametrize("path", ["/tag.js", "/view.js", "/demo"])
def test_a_file_is_sent_once(path: str) -> None:
    """A browser that has it is told so, until it has changed."""
    tracker = Tracker()
    whole = tracker.ask(path)
    assert whole.status == 200
    assert re.fullmatch(r'"[0-9a-f]{18}"', whole.headers["etag"])
    assert "max-age=" in whole.headers["cache-control"]
    assert whole.headers["x-content-type-options"] == "nosniff"
    for tag in (
        whole.headers["etag"],
        "W/" + whole.headers["etag"],
        '"x", ' + whole.headers["etag"],
    ):
        again = tracker.ask(path, {"if-none-match": tag})
        assert (again.status, again.body) == (304, b"")
        assert again.headers["etag"] == whole.headers["etag"]
    assert tracker.ask(path, {"if-none-match": '"other"'}).status == 200
    assert tracker.ask(path, method="HEAD").status == 200
    assert tracker.events == []


def test_the_tag_is_one_function_and_small() -> None:
    """Nothing in it is the page's, and it costs a page less than a picture."""
    source = Tracker().ask("/tag.js").body.decode()
    assert source.startswith("(function () {\n'use strict';")
    assert source.endswith("})();\n")
    assert len(source) < 10_000
    assert not re.search(r"^\s*//", source, re.MULTILINE)


@pytest.mark.parametrize(
    "path",
    [
        *("/demo/", "/demo/../web/tag.js", "/demo/%2e%2e/web/tag.js", "/demo/catalog.yaml"),
        *(
            "/demo/__init__.py",
            "/demo/%00.svg",
            "/demo/..%2f__init__.py",
            "/demo//etc/passwd",
            "/demo/x",
        ),
    ],
)
def test_what_is_not_in_the_set_does_not_exist(path: str) -> None:
    assert Tracker().ask(path).status == 404


class Peer:
    def __init__(self, peer: str) -> None:
        self.peer = peer

    def deliver(self, request: Request, answer: bytes) -> None:
        raise AssertionError


def request(
    peer: str = "192.0.2.1", host: bytes | None = b"h.example", proto: bytes | None = None
) -> Request:
    fields: list[bytes | None] = [None] * len(FIELD_NAMES)
    fields[HOST], fields[X_FORWARDED_PROTO] = host, proto
    return Request(Peer(peer), b"GET", b"/ad", b"", fields, b"", keep_alive=True)


@pytest.mark.parametrize(
    ("asked", "base"),
    [
        (request(), "http://h.example"),
        (request(host=b"h.example:81"), "http://h.example:81"),
        (request(host=None), ""),
        # Not a proxy of ours: anybody can say so.
        (request(proto=b"https"), "http://h.example"),
        (request("10.0.0.1", proto=b"https"), "https://h.example"),
        (request("10.0.0.1", proto=b"HTTPS, http"), "https://h.example"),
        (request("10.0.0.1", proto=b"javascript"), "http://h.example"),
        # A UNIX socket: whoever may connect is a proxy.
        (request("", proto=b"https"), "https://h.example"),
    ],
)
def test_links_begin_with_what_the_request_was_sent_to(asked: Request, base: str) -> None:
    assert base_url(None, ["10.0.0.0/8"])(asked) == base


def test_the_operator_s_word_counts() -> None:
    find = base_url("https://ads.example/x/", ["10.0.0.0/8"])
    assert find(request("10.0.0.1", proto=b"http")) == "https://ads.example/x"
