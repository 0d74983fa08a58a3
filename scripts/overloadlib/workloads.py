"""What is asked: the kinds of requests, as bytes."""

import json
import random
from collections.abc import Callable

from overloadlib.server import Server

SEED = 2016
HOST = b"Host: overload.example\r\n"


def log(_: Server) -> list[bytes]:
    """A pixel: little work, so the worker's processor is the limit."""
    return [b"GET /log?campaign=7&tag=a HTTP/1.1\r\n" + HOST + b"\r\n"]


def report(_: Server) -> list[bytes]:
    """A body of 4 KB of JSON: ten times the work of a pixel."""
    chance = random.Random(SEED)
    items = {
        f"item_{number}": {"price": chance.random(), "tags": ["a", "bé", str(number)]}
        for number in range(80)
    }
    body = json.dumps(items).encode()
    head = b"POST /log HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    return [head + b"Content-Length: %d\r\n\r\n" % len(body) + body]


def ad(server: Server) -> list[bytes]:
    """An ad: PostgreSQL is the limit, above all with `-- --read-batch 1`."""
    return [
        b"GET /ad?id=%b HTTP/1.1\r\n" % ident.encode() + HOST + b"\r\n"
        for ident in server.ids(1000)
    ]


BY_NAME: dict[str, Callable[[Server], list[bytes]]] = {"log": log, "report": report, "ad": ad}


def closing(requests: list[bytes]) -> list[bytes]:
    """The same, each the last on its connection."""
    return [request.replace(HOST, HOST + b"Connection: close\r\n", 1) for request in requests]
