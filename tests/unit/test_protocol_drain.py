"""Draining: nobody who got through is turned away, and the last answer says that it is the last."""

from tests.unit.http_bed import LIMITS, Bed

REQUEST = b"GET /log HTTP/1.1\r\nHost: a\r\n\r\n"
LATER = b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n"


def test_an_open_connection_gets_one_more_answer() -> None:
    bed = Bed()
    client = bed.connect().send(REQUEST)
    bed.hub.drain()
    bed.tick()
    assert not client.ended
    client.send(REQUEST)
    assert [answer.connection for answer in client.answers()] == [None, "close"]
    assert client.transport.eof_written
    client.connection.data_received(REQUEST)
    bed.tick()
    assert len(bed.requests) == 2, "the client was told that the answer before was the last"


def test_a_connection_made_while_draining_gets_its_answer() -> None:
    bed = Bed()
    bed.hub.drain()
    client = bed.connect().send(REQUEST)
    assert [answer.connection for answer in client.answers()] == ["close"]


def test_all_of_a_pipeline_is_answered() -> None:
    bed = Bed()
    bed.hub.drain()
    client = bed.connect().send(REQUEST + LATER + REQUEST)
    assert [answer.connection for answer in client.answers()] == [None]
    bed.later[0].respond(bed.answers.no_content)
    bed.tick()
    assert [answer.connection for answer in client.answers()] == [None, None, "close"]
    assert client.transport.eof_written


def test_a_request_that_is_half_here_is_not_cut_off() -> None:
    bed = Bed()
    bed.hub.drain()
    client = bed.connect().send(REQUEST + REQUEST[:20])
    assert [answer.connection for answer in client.answers()] == [None]
    bed.hub.close_idle()
    bed.tick()
    assert not client.transport.is_closing()
    client.send(REQUEST[20:])
    assert [answer.connection for answer in client.answers()] == [None, "close"]


def test_a_read_of_several_slices_is_answered() -> None:
    bed = Bed()
    bed.hub.drain()
    client = bed.connect().send(REQUEST * 3000)
    answers = client.answers()
    assert len(answers) == 3000
    assert [answer.connection for answer in answers[-2:]] == [None, "close"]


def test_a_body_that_was_asked_for_is_waited_for() -> None:
    bed = Bed()
    bed.hub.drain()
    head = b"POST /log HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
    client = bed.connect().send(head)
    assert client.wire == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"a")
    assert [answer.connection for answer in client.answers()] == [None, "close"]


def test_http_1_0_is_not_told_to_stay() -> None:
    bed = Bed()
    bed.hub.drain()
    client = bed.connect().send(b"GET /log HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert [answer.connection for answer in client.answers()] == ["close"]
    assert client.transport.eof_written


def test_head_while_draining() -> None:
    bed = Bed()
    bed.hub.drain()
    client = bed.connect().send(REQUEST.replace(b"GET", b"HEAD"))
    assert [answer.connection for answer in client.answers("HEAD")] == ["close"]


def test_idle_connections_are_closed_at_the_end_of_the_window() -> None:
    bed = Bed()
    idle, used, waiting = bed.connect(), bed.connect().send(REQUEST), bed.connect().send(LATER)
    bed.hub.drain()
    bed.hub.close_idle()
    bed.tick()
    assert idle.transport.is_closing()
    assert used.transport.is_closing()
    assert not waiting.transport.is_closing()
    bed.later[0].respond(bed.answers.no_content)
    bed.tick()
    assert [answer.connection for answer in waiting.answers()] == ["close"]
    assert waiting.transport.eof_written


def test_an_answer_that_is_not_written_yet_is_not_lost() -> None:
    bed = Bed()
    client = bed.connect()
    client.connection.data_received(REQUEST)
    bed.hub.drain()
    bed.hub.close_idle()
    bed.tick()
    assert [answer.connection for answer in client.answers()] == ["close"]


def test_a_client_that_has_read_its_last_answer_closes_and_is_forgotten() -> None:
    bed = Bed()
    bed.hub.drain()
    client = bed.connect().send(REQUEST)
    assert bed.hub.connections
    client.send_eof()
    assert client.transport.is_closing()
    assert bed.hub.connections == set()


def test_a_client_that_does_not_close_is_closed() -> None:
    bed = Bed()
    bed.hub.drain()
    bed.connect().send(REQUEST)
    bed.pass_time(LIMITS.linger_s + 0.5)
    assert bed.hub.connections == set()


def test_the_end() -> None:
    bed = Bed()
    clients = [bed.connect(), bed.connect().send(LATER), bed.connect().send(b"GET")]
    bed.hub.abort_all()
    bed.tick()
    assert all(client.transport.aborted for client in clients)
    assert bed.hub.connections == set()
