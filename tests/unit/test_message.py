"""Answers as bytes: complete, and edited for the rare cases without damage."""

import json
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import pytest

from prefork_ads.http.message import (
    FIELD_NAMES,
    HOST,
    NO_FIELDS,
    UPGRADE,
    Answers,
    Request,
    error_body,
    render,
    with_connection,
    without_body,
)
from tests.unit.http_bed import read_answers

NOW = 1_700_000_000.0


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def answers() -> Answers:
    return Answers(Clock())


def test_the_positions_of_fields() -> None:
    assert FIELD_NAMES[HOST] == b"host"
    assert FIELD_NAMES[UPGRADE] == b"upgrade"
    assert all(name == name.lower() for name in FIELD_NAMES)
    assert len(NO_FIELDS) == len(FIELD_NAMES)


@pytest.mark.parametrize("status", [200, 400, 404, 405, 408, 413, 414, 417, 431, 501, 503, 505])
def test_render(status: int) -> None:
    wire = render(status, b"body", b"text/plain", b"now", b"X: y\r\n")
    [answer] = read_answers(wire)
    assert answer.status == status
    assert answer.body == b"body"
    assert answer.headers == {
        "date": "now",
        "content-type": "text/plain",
        "content-length": "4",
        "x": "y",
    }
    assert HTTPStatus(status).phrase.encode() in wire


def test_all_answers_have_the_date_of_this_second() -> None:
    clock = Clock()
    made = Answers(clock)

    def dates() -> set[float]:
        wire = made.no_content + made.json(b"{}") + made.full(200, b"") + made.error(400, "x")
        return {parsedate_to_datetime(a.headers["date"]).timestamp() for a in read_answers(wire)}

    assert dates() == {NOW}
    clock.now += 1.5
    assert dates() == {NOW}
    made.refresh()
    assert dates() == {NOW + 1}
    assert made.date.endswith(b" GMT")


def test_no_content() -> None:
    [answer] = read_answers(answers().no_content)
    assert answer.status == 204
    assert set(answer.headers) == {"date"}


def test_json() -> None:
    [answer] = read_answers(answers().json('{"a":"é"}'.encode()))
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-length"] == "10"
    assert json.loads(answer.body) == {"a": "é"}


def test_an_error_says_what_is_wrong_in_json() -> None:
    [answer] = read_answers(
        answers().error(400, 'no "id" \ud83d\ude00'.replace("\ud83d\ude00", "😀"))
    )
    assert json.loads(answer.body) == {"error": {"status": 400, "message": 'no "id" 😀'}}
    assert answer.body == error_body(400, 'no "id" 😀')


def test_unavailable_says_when_to_come_back() -> None:
    [answer] = read_answers(answers().unavailable("later", retry_after_s=7))
    assert answer.status == 503
    assert answer.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    "wire",
    [answers().no_content, answers().json(b"a\r\n\r\nb"), answers().error(404, "x\r\n\r\ny")],
)
def test_editing_an_answer(wire: bytes) -> None:
    [before] = read_answers(wire)
    [after] = read_answers(with_connection(wire, b"close"))
    assert after.body == before.body
    assert after.status == before.status
    assert after.headers == {**before.headers, "connection": "close"}
    [head] = read_answers(without_body(wire), ["HEAD"])
    assert head.headers == before.headers
    assert head.body == b""
    assert without_body(with_connection(wire, b"close")) == with_connection(
        without_body(wire), b"close"
    )


class Connection:
    peer = "192.0.2.1"

    def __init__(self) -> None:
        self.delivered: list[tuple[Request, bytes]] = []

    def deliver(self, request: Request, answer: bytes) -> None:
        self.delivered.append((request, answer))


def test_a_request_knows_its_connection() -> None:
    connection = Connection()
    request = Request(connection, b"GET", b"/", b"", NO_FIELDS, b"", keep_alive=True)
    assert request.peer == "192.0.2.1"
    request.respond(b"answer")
    assert connection.delivered == [(request, b"answer")]
