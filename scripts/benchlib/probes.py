"""Asks a contender what wrk cannot check: is each answer the right one?

wrk sees statuses and sizes. These probes go over several connections at once, because answers that are
looked up in batches could be given to the wrong request, and they carry the headers of the load, so that
the size of an answer under load can be held against the size of a right one.
"""

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs
from uuid import UUID

from benchlib.browsers import header_blocks
from benchlib.errors import BenchError
from benchlib.plan import Workload
from benchlib.servers import HOST

CONNECTIONS = 20
LIMIT_S = 30.0
WRONG_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    size: int


@dataclass(frozen=True, slots=True)
class ProbeResult:
    asked: int
    bytes_per_answer: float
    wrong: tuple[str, ...]


class Client:
    """One keep-alive connection that asks one thing after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writer: asyncio.StreamWriter | None = None
        self._headers = "".join(
            f"{name}: {value}\r\n" for name, value in random.choice(header_blocks(CONNECTIONS))
        )

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(HOST, self._port)

    async def get(self, path: str) -> Answer:
        request = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{self._port}\r\n{self._headers}\r\n"
        assert self._writer is not None
        self._writer.write(request.encode("ascii"))
        head = await self._reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().splitlines()
        status = int(lines[0].split()[1])
        fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        body = b""
        if status != 204:
            body = await self._reader.readexactly(int(fields["content-length"]))
        return Answer(status, body, len(head) + len(body))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def judge_ad(path: str, answer: Answer, expected: Mapping[str, object]) -> str | None:
    if answer.status != 200:
        return f"{path} answered {answer.status} and not 200"
    try:
        row = json.loads(answer.body)
    except ValueError:
        return f"{path} answered what is not JSON: {answer.body[:80]!r}"
    return None if row == expected else f"{path} answered {row} and not {dict(expected)}"


async def _ask_for_ads(client: Client, ads: Mapping[str, Mapping[str, object]]) -> ProbeResult:
    wrong, size = [], 0
    for key, expected in ads.items():
        path = f"/ad?id={key}"
        answer = await client.get(path)
        size += answer.size
        wrong.append(judge_ad(path, answer, expected))
    unknown = f"/ad?id={UUID(int=random.getrandbits(128), version=4)}"
    answer = await client.get(unknown)
    if answer.status != 204 or answer.body:
        wrong.append(f"{unknown}, which does not exist, answered {answer.status} and not 204")
    return ProbeResult(len(ads) + 1, size / len(ads), tuple(w for w in wrong if w))


def judge_choice(path: str, answer: Answer) -> str | None:
    """Whether this is the answer to a request for an ad in a zone: an ad for that zone, or none."""
    if answer.status == 204:
        return None
    if answer.status != 200:
        return f"{path} answered {answer.status} and not 200 or 204"
    try:
        ad = json.loads(answer.body)
    except ValueError:
        return f"{path} answered what is not JSON: {answer.body[:80]!r}"
    zone = parse_qs(path.partition("?")[2])["zone"][0]
    if ad.get("zone") != zone or not {"decision", "campaign", "creative", "urls"} <= set(ad):
        return f"{path} answered {ad}"
    return None


async def _ask_for_choices(client: Client, keys: Sequence[str], asks: Sequence[str]) -> ProbeResult:
    wrong, size = [], 0
    for number, key in enumerate(keys):
        path = f"/ad?{asks[number % len(asks)]}{key}"
        answer = await client.get(path)
        size += answer.size
        wrong.append(judge_choice(path, answer))
    return ProbeResult(len(keys), size / len(keys), tuple(w for w in wrong if w))


async def _ask_for_logs(client: Client, keys: Sequence[str]) -> ProbeResult:
    wrong, size = [], 0
    for key in keys:
        path = f"/log?id={key}&event=view"
        answer = await client.get(path)
        size += answer.size
        if answer.status != 204:
            wrong.append(f"{path} answered {answer.status} and not 204")
    return ProbeResult(len(keys), size / len(keys), tuple(wrong))


async def _probe(
    port: int,
    workload: Workload,
    ads: Mapping[str, Mapping[str, object]],
    asks: Sequence[str],
) -> ProbeResult:
    keys = sorted(ads)
    shares = [keys[start::CONNECTIONS] for start in range(min(CONNECTIONS, len(keys)))]
    clients = [Client(port) for _ in shares]
    try:
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*(client.open() for client in clients))
            results = await asyncio.gather(
                *(
                    _ask_for_choices(client, share, asks)
                    if asks
                    else _ask_for_ads(client, {key: ads[key] for key in share})
                    if workload is Workload.AD
                    else _ask_for_logs(client, share)
                    for client, share in zip(clients, shares, strict=True)
                )
            )
    except (TimeoutError, OSError, EOFError, KeyError, ValueError) as error:
        raise BenchError(f"the probes got no proper answer: {error!r}") from error
    finally:
        for client in clients:
            client.close()
    return ProbeResult(
        asked=sum(result.asked for result in results),
        bytes_per_answer=sum(result.bytes_per_answer for result in results) / len(results),
        wrong=tuple(wrong for result in results for wrong in result.wrong)[:WRONG_SHOWN],
    )


def probe(
    port: int,
    workload: Workload,
    ads: Mapping[str, Mapping[str, object]],
    asks: Sequence[str] = (),
) -> ProbeResult:
    """Asks for each of these ads (or logs as often), and once a connection for one that does not exist.

    With `asks` their ids are people's, for whom an ad is to be chosen.
    """
    return asyncio.run(_probe(port, workload, ads, asks))
