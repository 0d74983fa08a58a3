"""The table of messages over TCP, against a real server: nothing between the wire and the parser differs."""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.system.harness import Server
from tests.system.wire import Line
from tests.unit.http_bed import read_answers
from tests.unit.http_cases import REFUSED, VALID, Seen, get, statuses_of

LAST: Final = get(b"/healthz", b"Connection: close")
SMUGGLED: Final = get(b"/log?smuggled", b"Connection: close")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with Server(workers=1) as server:
        yield server.port


@pytest.mark.parametrize(("data", "expected"), REFUSED.values(), ids=REFUSED)
def test_a_refused_message_is_the_last(
    port: int, data: bytes, expected: int | tuple[int, ...]
) -> None:
    with Line(port) as line:
        line.send(data + SMUGGLED)
        [answer] = read_answers(line.rest())
    assert answer.status in statuses_of(expected)
    assert answer.connection == "close"


@pytest.mark.parametrize(("data", "expected"), VALID.values(), ids=VALID)
def test_behind_a_valid_message_the_next_one_begins(port: int, data: bytes, expected: Seen) -> None:
    with Line(port) as line:
        line.send(data + LAST)
        answers = read_answers(line.rest(), [expected.method.decode()])
    # What there is at the path is not the question here.
    assert answers[0].status in (200, 204, 400, 404, 405)
    assert len(answers) == (2 if expected.keep_alive else 1)
    assert answers[-1].connection == "close"
    if expected.keep_alive:
        assert answers[1].body == b'{"status":"ok"}\n'
