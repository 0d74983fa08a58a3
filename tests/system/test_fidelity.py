"""Anything a client can send, through the real server into PostgreSQL: faithfully, or refused.

What is expected is worked out here by the standard library alone.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, quote_from_bytes

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.conftest import Database
from tests.conftest import Server as Postgres
from tests.support import wait_until
from tests.system.harness import Server
from tests.system.wire import Line, ask, message, scrape
from tests.unit.http_bed import Answer

KNOWN: Final = ("0190163d-8694-739b-aea5-966c26f8ad91", "0190163d-8694-739b-aea5-966c26f8ad92")
COLUMNS: Final = "params::text, user_agent, referer, host(address), language, endpoint"

NASTY: Final = [
    b"'",
    b'"',
    b"'; DROP TABLE request_log; --",
    b"' OR '1'='1",
    b"$1 %s %(lines)s {} %% :x ?",
    b"E'\\047' $$ $tag$",
    b"\\",
    b"\\\\",
    b"\\N",
    b"\\.",
    b"\\t\\n\\r\\b\\f\\v\\0\\x41\\101",
    b"ends in a backslash\\",
    b"a\tb",
    b"\t",
    b"a\nb\r\nc",
    b"\n",
    b"\0",
    b"a\0b",
    b"\x01\x08\x0b\x0c\x1b\x7f",
    b"\xff\xfe\x80",
    b"\xc3",
    b"\xed\xa0\x80 \xf0\x80\x80\x80 \xf4\x90\x80\x80",
    b"\xc0\x80",
    "😀 \u2028 \u0085 \ufeff \ufffe é e\u0301 \U0010ffff".encode(),
    b"NULL",
    b"null",
    b"{}",
    b'{"a":"b"}',
    b"[1,2]",
    b"\\u0000",
    b"\\\\u0000",
    b"\\ud83d",
    b"<script>alert(1)</script>",
    b"../../etc/passwd",
    b"%",
    b"%zz",
    b"%2",
    b"&amp;=;#?",
    b"x" * 8192,
    b"\\" * 8000,
    b"\t" * 5000 + b"x",
    "é".encode() * 4000,
]


# Percent-encoding and JSON make three to six bytes of one.
ROOM: Final = ("--max-url", "65536", "--max-head", "131072", "--max-body", "262144")
# A machine that is busy with something else must not turn an answer into a 503.
PATIENT: Final = ("--read-timeout-s", "20")


@dataclass
class Site:
    """A server of one worker, so that its rows are in the order of its answers."""

    server: Server
    database: Database
    worker: int
    # Of events that must be in the log, in order, and where the next ones are to be looked for.
    expected: list[tuple[Any, ...]] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.server.port

    def expect(
        self,
        params: Any,
        agent: bytes | None = None,
        referer: bytes | None = None,
        language: bytes | None = None,
        endpoint: str = "log",
    ) -> None:
        self.expected.append(
            (params, _text(agent), _text(referer), "127.0.0.0", _text(language), endpoint)
        )

    def stored(self) -> list[tuple[Any, ...]]:
        rows = self.database.fetch(f"SELECT {COLUMNS} FROM request_log ORDER BY id")
        return [(json.loads(params), *rest) for params, *rest in rows]

    def check(self) -> None:
        """All that was expected is there, in order, and nothing else; and nothing has suffered."""
        wait_until(
            lambda: len(self.stored()) >= len(self.expected) or self.rejected(),
            f"{len(self.expected)} rows",
        )
        assert self.rejected() == []
        assert self.stored() == self.expected
        metrics = scrape(self.port)
        assert metrics("log_rows_rejected_total") == 0
        assert metrics("log_failures_total") == 0
        assert metrics("lookup_failures_total") == 0
        assert metrics("requests_failed_total") == 0
        assert self.server.worker(0) == self.worker
        assert metrics("workers_started_total") == 1

    def rejected(self) -> list[tuple[Any, ...]]:
        return self.database.fetch("SELECT reason, line FROM request_log_rejected")


@pytest.fixture
def site(postgres: Postgres, database: Database) -> Iterator[Site]:
    for n, known in enumerate(KNOWN):
        database.execute(
            "INSERT INTO ad_variant VALUES (%s, 1, 1, 1, 1, %s, 'http://i.x', 'http://c.x')",
            known,
            f"variant {n}",
        )
    log_start = postgres.log_path.stat().st_size if postgres.log_path else 0
    with Server(*ROOM, *PATIENT, dsn=database.dsn, workers=1) as server:
        site = Site(server, database, server.worker(0))
        yield site
        site.check()
        server.stop()
        assert server.count("Traceback|rejected|refused an event") == 0
    if postgres.log_path is not None:
        assert _errors(postgres.log_path, log_start, database.name) == []


def _errors(log: Path, start: int, database: str) -> list[str]:
    """What PostgreSQL refused. What a stopping worker took back itself is no refusal."""
    text = log.read_bytes()[start:].decode(errors="replace")
    ours = "canceling statement due to user request"
    return re.findall(rf"^.* {database} +(?:ERROR|PANIC):  (?!{ours}).*", text, re.MULTILINE)


def _text(raw: bytes | None) -> str | None:
    """A header's value: without the white space around it, replaced where it is not UTF-8."""
    return None if raw is None else raw.strip(b" \t").decode(errors="replace")


def params_of(query: bytes) -> dict[str, Any]:
    """What a query or form means, by the standard library."""
    found: dict[str, Any] = {}
    # latin-1 in and out: parse_qsl wants text, and must not decide about encodings.
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
    for name, value in pairs:
        key, text = (
            part.encode("latin-1").decode(errors="replace").replace("\0", "\ufffd")
            for part in (name, value)
        )
        found.setdefault(key, []).append(text)
    return {key: texts[0] if len(texts) == 1 else texts for key, texts in found.items()}


def header_bytes(raw: bytes) -> bytes:
    """Without what cannot be in a header's value."""
    return bytes(byte for byte in raw if byte == 9 or (byte >= 32 and byte != 127))


def test_values_in_the_url(site: Site) -> None:
    with Line(site.port) as line:
        for value in NASTY:
            query = b"%b=1&v=%b" % (
                quote_from_bytes(value[:100], safe="").encode(),
                quote_from_bytes(value, safe="").encode(),
            )
            assert line.ask(message(b"/log?" + query)).status == 204
            site.expect(params_of(query))


def test_values_as_they_are_in_the_url(site: Site) -> None:
    """Not encoded: what a URL cannot have is refused, the rest is logged."""
    for value in NASTY:
        query = b"v=" + value
        answer = ask(site.port, message(b"/log?" + query))
        # White space ends a target, and a number sign the query.
        refusable = re.search(rb"[\x00-\x20\x7f-\xff]", value)
        assert answer.status == 204 or (answer.status in (400, 505) and refusable), value
        if answer.status == 204:
            site.expect(params_of(query.partition(b"#")[0]))


def test_values_in_the_headers(site: Site) -> None:
    with Line(site.port) as line:
        for raw in NASTY:
            value = header_bytes(raw)
            headers = (b"User-Agent", b"Referer", b"Accept-Language")
            sent = message("/log", *(b"%b: %b" % (name, value) for name in headers))
            assert line.ask(sent).status == 204
            site.expect({}, value, value, value)


@pytest.mark.parametrize("raw", [b"a\0b", b"a\nb", b"a\x01b", b"a\x7fb", b"a\rb"])
def test_what_a_header_cannot_hold_is_refused(site: Site, raw: bytes) -> None:
    assert ask(site.port, message("/log", b"User-Agent: " + raw)).status == 400


def test_values_in_forms_and_text(site: Site) -> None:
    with Line(site.port) as line:
        for value in NASTY:
            form = b"v=%b&w=%b" % (value, quote_from_bytes(value, safe="").encode())
            content_type = b"Content-Type: application/x-www-form-urlencoded"
            assert line.ask(message("/log", content_type, method=b"POST", body=form)).status == 204
            site.expect(params_of(form))
            assert line.ask(message("/log", method=b"POST", body=value)).status == 204
            text = value.decode(errors="replace").replace("\0", "\ufffd")
            site.expect({"body": text})


def test_values_in_json(site: Site) -> None:
    with Line(site.port) as line:
        for value in NASTY:
            text = value.decode(errors="replace")
            for ascii_only in (True, False):
                body = json.dumps({"v": text, text: [text]}, ensure_ascii=ascii_only).encode()
                sent = message("/log", b"Content-Type: application/json", method=b"POST", body=body)
                assert line.ask(sent).status == 204
                visible = text.replace("\0", "\ufffd")
                # Of a name that comes twice the last counts.
                site.expect({"v": visible, visible: [visible]})


def test_ids_that_are_none(site: Site) -> None:
    with Line(site.port) as line:
        for value in NASTY:
            query = b"id=" + quote_from_bytes(value, safe="").encode()
            assert line.ask(message(b"/ad?" + query)).status == 400
            site.expect(params_of(query), endpoint="ad")


@st.composite
def raw_requests(draw: st.DrawFn) -> tuple[bytes, bytes, list[bytes | None], bytes | None]:
    query = draw(
        st.binary(max_size=60).map(lambda raw: quote_from_bytes(raw, safe="&=+%~\\'").encode())
    )
    headers = draw(st.lists(st.none() | st.binary(max_size=40), min_size=3, max_size=3))
    body = draw(st.none() | st.binary(max_size=60))
    return draw(st.sampled_from([b"GET", b"POST", b"HEAD"])), query, headers, body


def test_random_bytes(site: Site) -> None:
    @settings(
        max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(raw_requests())
    def send(request: tuple[bytes, bytes, list[bytes | None], bytes | None]) -> None:
        method, query, values, body = request
        if method != b"POST":
            body = None
        cleaned = [None if value is None else header_bytes(value) for value in values]
        headers = [
            b"%b: %b" % (name, value)
            for name, value in zip(
                (b"User-Agent", b"Referer", b"Accept-Language"), cleaned, strict=True
            )
            if value is not None
        ]
        content_type = b"Content-Type: application/x-www-form-urlencoded"
        sent = message(b"/log?" + query, *headers, content_type, method=method, body=body)
        assert ask(site.port, sent).status == 204
        agent, referer, language = cleaned
        site.expect(params_of(query + b"&" + (body or b"")), agent, referer, language)

    send()


def test_random_bytes_that_are_no_http(site: Site) -> None:
    """Into the middle of a request: refused or answered, and the worker lives."""
    whole = message("/log?noise=1", b"User-Agent: a", b"Content-Length: 0", method=b"POST")

    @settings(
        max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(st.integers(0, len(whole)), st.binary(min_size=1, max_size=30))
    @example(len(whole), b"behind the request")
    def send(at: int, noise: bytes) -> None:
        with Line(site.port) as line:
            line.send(whole[:at] + noise + whole[at:] + b"\r\n\r\n")
            line.send_eof()
            line.rest()

    send()
    # What was a request all the same is in the log, and nothing has failed.
    accepted = scrape(site.port)("requests_total", endpoint="log", status="204")
    assert accepted > 0
    wait_until(lambda: len(site.stored()) == accepted, f"{accepted} rows")
    site.expected = site.stored()


# Pipelines. Three requests of two kinds: one is answered at once, two when PostgreSQL has answered.


def pipeline(mark: str = "") -> bytes:
    first, second = (message(f"/ad?id={known}&m={mark}") for known in KNOWN)
    return first + message(f"/log?m={mark}") + second


def expect_pipeline(site: Site, answers: list[Answer], mark: str = "") -> None:
    assert [answer.status for answer in answers] == [200, 204, 200]
    assert tuple(json.loads(answers[n].body)["id"] for n in (0, 2)) == KNOWN
    site.expect({"id": KNOWN[0], "m": mark}, endpoint="ad")
    site.expect({"m": mark})
    site.expect({"id": KNOWN[1], "m": mark}, endpoint="ad")


def test_a_pipeline_in_one_piece(site: Site) -> None:
    with Line(site.port) as line:
        line.send(pipeline())
        expect_pipeline(site, line.answers(3))


def test_a_pipeline_byte_by_byte(site: Site) -> None:
    whole = pipeline()
    with Line(site.port) as line, Line(site.port) as other:
        for at in range(len(whole)):
            line.send(whole[at : at + 1])
            # The loop has read what was sent before this.
            assert other.ask(message("/healthz")).status == 200
        expect_pipeline(site, line.answers(3))


def test_a_pipeline_split_anywhere(site: Site) -> None:
    """A connection for each place; all have sent their first piece before any sends its second."""
    whole = pipeline()
    lines = [Line(site.port) for _ in range(1, len(whole))]
    with Line(site.port) as other:
        for at, line in enumerate(lines, 1):
            line.send(whole[:at])
        # Two turns of the loop: the first one may have begun before the last piece came.
        for _ in range(2):
            assert other.ask(message("/healthz")).status == 200
    for at, line in enumerate(lines, 1):
        line.send(whole[at:])
        answers = line.answers(3)
        assert [answer.status for answer in answers] == [200, 204, 200]
        assert tuple(json.loads(answers[n].body)["id"] for n in (0, 2)) == KNOWN
        line.close()
    # Rows of different connections mix, so only their numbers are known.
    wait_until(lambda: len(site.stored()) >= 3 * len(lines), "all rows")
    stored = site.stored()
    assert sum(row[-1] == "ad" for row in stored) == 2 * len(lines)
    assert sum(row[-1] == "log" for row in stored) == len(lines)
    site.expected = stored


def test_many_pipelines_one_after_the_other(site: Site) -> None:
    with Line(site.port) as line:
        line.send(b"".join(pipeline(str(n)) for n in range(100)))
        for n in range(100):
            expect_pipeline(site, line.answers(3), str(n))
