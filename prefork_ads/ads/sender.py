"""Who sends a request, as far as its headers and its address tell: the way from a request to `Facts`.

All that is read of a header or an address is remembered within bounds, for the same browsers, languages
and addresses come again and again. What it costs when they do and when they do not is said in `clients`,
`geography` and `languages`.

The place is found by the full address, before it is shortened for whatever is logged.

Must not know: campaigns, what is decided, SQL.
"""

from collections.abc import Callable
from typing import Any, Literal

from prefork_ads.ads.asking import Asked
from prefork_ads.ads.clients import Client, client_of
from prefork_ads.ads.facts import NO_SEGMENTS, Facts
from prefork_ads.ads.geography import Geography, Where
from prefork_ads.ads.languages import languages_of
from prefork_ads.ads.privacy import network_of, refuses_id, whole
from prefork_ads.ads.rates import Rates
from prefork_ads.events.event import line
from prefork_ads.http.message import (
    ACCEPT_LANGUAGE,
    DNT,
    REFERER,
    SEC_GPC,
    USER_AGENT,
    X_FORWARDED_FOR,
    Request,
)


class Sender:
    """What one worker can tell of whoever sends a request."""

    __slots__ = ("_address", "_rates", "geography", "logged")

    def __init__(
        self,
        address: Callable[[str, bytes | None], str],
        geography: Geography,
        *,
        addresses: Literal["truncated", "full"] = "truncated",
        max_events_per_address: int = 600,
    ) -> None:
        """`address` finds the client's from the peer's and X-Forwarded-For (`addresses.client_address`)."""
        self._address = address
        self._rates = Rates(max_events_per_address)
        self.geography = geography
        self.logged: Callable[[str], str] = network_of if addresses == "truncated" else whole
        """What is logged of an address."""

    def address(self, request: Request) -> str:
        """The client's full address; "" behind a UNIX socket when nobody says whose request it is."""
        forwarded = request.fields[X_FORWARDED_FOR]
        return request.peer if forwarded is None else self._address(request.peer, forwarded)

    def client(self, request: Request) -> Client:
        """Device, system and browser; and in `bot` by what it is a program, "" when it is none."""
        return client_of(request.fields[USER_AGENT])

    def refuses_id(self, request: Request, parameters: dict[str, Any]) -> bool:
        """Whether a user id may be neither used nor stored."""
        fields = request.fields
        return refuses_id(fields[SEC_GPC], fields[DNT], parameters)

    def takes_event(self, address: str, *, counts: bool = True) -> bool:
        """Count an impression or click from this full address; False when there are too many this minute."""
        return self._rates.takes(address, counts=counts)

    def facts(
        self,
        request: Request,
        asked: Asked,
        client: Client,
        where: Where,
        at_s: float,
        segments: frozenset[int] = NO_SEGMENTS,
    ) -> Facts:
        """Everything that may decide."""
        # By position: by name it would take three times as long.
        return Facts(
            at_s,
            where.country,
            where.region,
            where.city,
            client.device,
            client.os,
            client.browser,
            languages_of(request.fields[ACCEPT_LANGUAGE]),
            asked.page,
            asked.keywords,
            asked.values,
            segments,
        )

    def line(
        self, stamp: bytes, endpoint: bytes, params_json: bytes, request: Request, address: str
    ) -> bytes:
        """The event line of a request whose client has this full address."""
        fields = request.fields
        return line(
            stamp,
            endpoint,
            params_json,
            fields[USER_AGENT],
            fields[REFERER],
            self.logged(address),
            fields[ACCEPT_LANGUAGE],
        )
