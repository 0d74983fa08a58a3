"""Path and method to handler: a dictionary of exact paths, and one of first segments.

A route whose path ends in "*" takes every path that begins with what is in front of it: `/i/*` takes
`/i/anything`, and `/i/` itself. That can be one whole segment only, so finding such a route is a look into a
dictionary, too, however many there are. Exact paths are looked for first.

The handler sees the request's path: decoded, if a character of it was percent-encoded.

Answers 404 and 405 itself. Must not know: what an endpoint does.
"""

from collections.abc import Iterable, Mapping
from urllib.parse import unquote_to_bytes

from prefork_ads.http.message import Answers, Handler, Request

# A handler for GET answers HEAD too; the protocol drops the body.
Routes = Mapping[bytes, Mapping[bytes, Handler]]


class Router:
    """Finds the handler. Read-only after construction."""

    __slots__ = ("_answers", "_handlers", "_paths")

    def __init__(self, routes: Routes, answers: Answers) -> None:
        self._answers = answers
        # A path and a method; of a route for all paths that begin so, `/i/` and a method.
        self._handlers: dict[tuple[bytes, bytes], Handler] = {}
        self._paths: dict[bytes, frozenset[bytes]] = {}
        for path, methods in routes.items():
            assert _is_path(path), path
            for method, handler in methods.items():
                self._handlers[path, method] = handler
                if method == b"GET":
                    self._handlers[path, b"HEAD"] = handler
            heads = {b"HEAD"} if b"GET" in methods else set()
            self._paths[path] = frozenset({*methods, *heads, b"OPTIONS"})

    def handle(self, request: Request) -> bytes | None:
        handler = self._handlers.get((request.path, request.method))
        return handler(request) if handler is not None else self._other(request)

    def _other(self, request: Request) -> bytes | None:
        if (handler := self._handlers.get((_family(request.path), request.method))) is not None:
            if b"%" in request.path:
                request.path = unquote_to_bytes(request.path)
            return handler(request)
        if b"%" in request.path:
            request.path = unquote_to_bytes(request.path)
            for path in (request.path, _family(request.path)):
                if (handler := self._handlers.get((path, request.method))) is not None:
                    return handler(request)
        if request.path == b"*" and request.method == b"OPTIONS":
            return self._options(frozenset().union(*self._paths.values()))
        allowed = self._paths.get(request.path) or self._paths.get(_family(request.path))
        if allowed is None:
            return self._answers.error(
                404, "There is nothing at this path. See / for what there is."
            )
        if request.method == b"OPTIONS":
            return self._options(allowed)
        names = _listed(allowed)
        message = (
            f"This path does not take {request.method.decode('latin-1')}, only {names.decode()}."
        )
        return self._answers.error(405, message, b"Allow: " + names + b"\r\n")

    def _options(self, allowed: Iterable[bytes]) -> bytes:
        return b"HTTP/1.1 204 No Content\r\nDate: %b\r\nAllow: %b\r\n\r\n" % (
            self._answers.date,
            _listed(allowed),
        )


def _family(path: bytes) -> bytes:
    """The route for all that begins as this path does: `/i/*` for `/i/x/y`. No route is called `*`."""
    return path[: path.find(b"/", 1) + 1] + b"*"


def _is_path(path: bytes) -> bool:
    """Whether a route may be called so."""
    if not path.endswith(b"*"):
        return path.startswith(b"/")
    return path.startswith(b"/") and path.count(b"/") == 2 and path.endswith(b"/*")


def _listed(methods: Iterable[bytes]) -> bytes:
    return b", ".join(sorted(methods))
