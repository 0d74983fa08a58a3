"""Path and method to handler."""

import pytest

from prefork_ads.http.message import NO_FIELDS, Answers, Request
from prefork_ads.http.router import Router

ANSWERS = Answers(lambda: 1_700_000_000.0)


class Nobody:
    peer = ""

    def deliver(self, request: Request, answer: bytes) -> None:
        raise AssertionError("nothing is answered later here")


def request(method: bytes, path: bytes) -> Request:
    return Request(Nobody(), method, path, b"", NO_FIELDS, b"", keep_alive=True)


def get(_: Request) -> bytes:
    return b"get"


def post(_: Request) -> bytes:
    return b"post"


ROUTER = Router(
    {b"/log": {b"GET": get, b"POST": post}, b"/ad": {b"GET": get}, b"/in": {b"POST": post}}, ANSWERS
)


def status(answer: bytes | None) -> int:
    assert answer is not None
    return int(answer.split(b" ", 2)[1])


def allow(answer: bytes | None) -> bytes:
    assert answer is not None
    [value] = [line for line in answer.split(b"\r\n") if line.startswith(b"Allow: ")]
    return value.removeprefix(b"Allow: ")


@pytest.mark.parametrize(
    ("method", "path", "answer"),
    [
        (b"GET", b"/log", b"get"),
        (b"HEAD", b"/log", b"get"),
        (b"POST", b"/log", b"post"),
        (b"GET", b"/%6Cog", b"get"),
        (b"POST", b"/%6cog", b"post"),
    ],
)
def test_found(method: bytes, path: bytes, answer: bytes) -> None:
    assert ROUTER.handle(request(method, path)) == answer


@pytest.mark.parametrize(
    "path",
    [b"/", b"/logs", b"/log/", b"//log", b"/LOG", b"", b"*", b"/%2Flog", b"/lo%67%00", b"a:1"],
)
def test_nothing_there(path: bytes) -> None:
    for method in (b"GET", b"POST", b"DELETE"):
        assert status(ROUTER.handle(request(method, path))) == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        (b"DELETE", b"/log", b"GET, HEAD, OPTIONS, POST"),
        (b"POST", b"/ad", b"GET, HEAD, OPTIONS"),
        (b"GET", b"/in", b"OPTIONS, POST"),
        (b"HEAD", b"/in", b"OPTIONS, POST"),
        (b"PUT", b"/%6Cog", b"GET, HEAD, OPTIONS, POST"),
    ],
)
def test_another_method(method: bytes, path: bytes, allowed: bytes) -> None:
    answer = ROUTER.handle(request(method, path))
    assert status(answer) == 405
    assert allow(answer) == allowed
    assert answer is not None
    assert method in answer


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (b"/ad", b"GET, HEAD, OPTIONS"),
        (b"/in", b"OPTIONS, POST"),
        (b"*", b"GET, HEAD, OPTIONS, POST"),
    ],
)
def test_options(path: bytes, allowed: bytes) -> None:
    answer = ROUTER.handle(request(b"OPTIONS", path))
    assert status(answer) == 204
    assert allow(answer) == allowed
    assert status(ROUTER.handle(request(b"OPTIONS", b"/nothing"))) == 404


def path_of(request: Request) -> bytes:
    return b"family " + request.path


FAMILY = Router(
    {
        b"/i/*": {b"GET": path_of, b"POST": path_of},
        b"/i/exact": {b"GET": get},
        b"/x": {b"GET": get},
    },
    ANSWERS,
)


@pytest.mark.parametrize(
    ("method", "path", "answer"),
    [
        (b"GET", b"/i/token", b"family /i/token"),
        (b"HEAD", b"/i/token", b"family /i/token"),
        (b"POST", b"/i/token/more", b"family /i/token/more"),
        (b"GET", b"/i/", b"family /i/"),
        (b"GET", b"/i/exact", b"get"),
        (b"POST", b"/i/exact2", b"family /i/exact2"),
        (b"GET", b"/i/a%2Db%2Fc", b"family /i/a-b/c"),
        (b"GET", b"/%69/a%2Db", b"family /i/a-b"),
        (b"GET", b"/i%2Fa", b"family /i/a"),
        (b"GET", b"/%69/exact", b"get"),
    ],
)
def test_a_route_for_all_that_begins_so(method: bytes, path: bytes, answer: bytes) -> None:
    """Exact paths come first, and what is percent-encoded is what it stands for."""
    assert FAMILY.handle(request(method, path)) == answer


@pytest.mark.parametrize(
    "path", [b"/i", b"/I/a", b"//i/a", b"/ii/a", b"i/a", b"/*", b"/x/", b"/x/a"]
)
def test_nothing_else_begins_so(path: bytes) -> None:
    assert status(FAMILY.handle(request(b"GET", path))) == 404


def test_another_method_of_a_family() -> None:
    answer = FAMILY.handle(request(b"DELETE", b"/i/a"))
    assert status(answer) == 405
    assert allow(answer) == b"GET, HEAD, OPTIONS, POST"
    assert status(FAMILY.handle(request(b"OPTIONS", b"/i/a"))) == 204


@pytest.mark.parametrize("path", [b"x", b"", b"*", b"/*", b"/a/b/*", b"/a*", b"x/*"])
def test_a_route_that_would_never_be_found_is_a_mistake(path: bytes) -> None:
    with pytest.raises(AssertionError):
        Router({path: {b"GET": get}}, ANSWERS)
