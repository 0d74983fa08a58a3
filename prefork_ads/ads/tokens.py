"""The signed tokens of tracking URLs: what was decided, so that nobody can say anything else of it later.

    version 1 | key 1 | flags 1 | decision 16 | zone 4 | campaign 4 | creative 4 | price 8 | country 2
    | with a user: uid 16, zero 2 | hash 16                      in base64url: 76 characters, or 100

- The hash is blake2b of everything before it, keyed, with what it is for as its `person`: a hash that the
  same key made for another purpose is none of ours. 128 bits of it cannot be guessed.
- Both lengths are multiples of three, so each token has one spelling only: no bits of the last character
  are without a meaning, and whoever changes any bit of any character changes what was signed.
- A token is no secret and hides nothing: who looks at an ad may read it. It tells nothing that the answer to
  the ad's request did not tell, but for the price.
- It carries what the events need, so that counting one needs no lookup, no catalog and no memory of the
  decision, on whatever host it arrives.
- The time is the decision's: its id is a version 7 uuid.
- A copy of a hash that has taken in the key already costs a third of a keyed hash from the start.
  *Measured* (Python 3.11): signing 1.7 µs, with a user 1.8; reading 2.9 and 3.0; refusing an altered one 2.2.

Must not know: HTTP, what a token is handed in for.
"""

from binascii import Error, a2b_base64, b2a_base64
from collections.abc import Iterable
from hashlib import blake2b
from hmac import compare_digest
from struct import Struct
from typing import Final, NamedTuple

_VERSION: Final = 1
_PURPOSE: Final = b"prefork-ads ad"
_SECRET_BYTES: Final = 32
_HASH_BYTES: Final = 16

_PLAIN: Final = Struct(">BBB16sIIIQ2s")
_WITH_USER: Final = Struct(">BBB16sIIIQ2s16s2x")
# Characters of a token to what stands in front of its hash.
_LAYOUTS: Final = {
    (layout.size + _HASH_BYTES) // 3 * 4: layout.size for layout in (_PLAIN, _WITH_USER)
}

_FILTERED: Final = 1
_HAS_USER: Final = 2
_MODELS: Final = ("cpm", "cpc", "cpa")
_MODEL_AT: Final = 2
_DEVICES: Final = ("", "desktop", "mobile", "tablet", "tv", "other")
_DEVICE_AT: Final = 4
_MODEL_FLAGS: Final = {model: place << _MODEL_AT for place, model in enumerate(_MODELS)}
_DEVICE_FLAGS: Final = {device: place << _DEVICE_AT for place, device in enumerate(_DEVICES)}

_NO_COUNTRY: Final = b"\0\0"
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
# "+" and "/" are no characters of a token; "=" is none of base64 where it does not end it.
_FROM_URL: Final = bytes.maketrans(b"-_+/", b"+/==")


class TokenRefused(Exception):
    """This token does not count; the message says why."""


class TokenExpired(TokenRefused):
    """It did once: its key was retired, or what it was for is over."""


class Token(NamedTuple):
    """A decision, as its beacons tell of it."""

    decision: bytes
    """16 bytes, a version 7 uuid."""
    zone: int
    campaign: int
    creative: int
    price_micros: int
    model: str
    country: str = ""
    device: str = ""
    uid: bytes | None = None
    filtered: bool = False
    """The decision itself is not to be billed."""

    @property
    def decided_s(self) -> float:
        """Seconds since 1970."""
        return int.from_bytes(self.decision[:6], "big") / 1000


class Key(NamedTuple):
    """One key as the database gives it. Without a secret: it was retired."""

    id: int
    secret: bytes | None
    signs: bool


class Keyring:
    """Signs and reads tokens. Its keys are replaced while it is in use."""

    __slots__ = ("_hashes", "_retired", "_sign_hash", "_sign_id", "keys")

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.replace(keys)

    def replace(self, keys: Iterable[Key]) -> None:
        """These and no others from now on."""
        self.keys = tuple(keys)
        self._hashes = {key.id: _keyed(key.secret) for key in self.keys if key.secret is not None}
        self._retired = frozenset(key.id for key in self.keys if key.secret is None)
        # Without one that signs, say from a file of a version that knew no such thing: any.
        signer = next((key.id for key in self.keys if key.signs and key.id in self._hashes), None)
        self._sign_id = signer if signer is not None else next(iter(self._hashes), -1)
        self._sign_hash = self._hashes.get(self._sign_id)

    @property
    def ready(self) -> bool:
        """Whether there is a key to sign with."""
        return self._sign_hash is not None

    def sign(self, token: Token) -> str:
        """The token's characters, fit for a URL. Ask `ready` before."""
        assert self._sign_hash is not None, "no key"
        (decision, zone, campaign, creative, price, model, country, device, uid, filtered) = token
        flags = _MODEL_FLAGS[model] | _DEVICE_FLAGS.get(device, 0) | filtered
        where = country.encode() if country else _NO_COUNTRY
        key = self._sign_id
        if uid is None:
            body = _PLAIN.pack(
                _VERSION, key, flags, decision, zone, campaign, creative, price, where
            )
        else:
            flags |= _HAS_USER
            body = _WITH_USER.pack(
                _VERSION, key, flags, decision, zone, campaign, creative, price, where, uid
            )
        made = self._sign_hash.copy()
        made.update(body)
        return b2a_base64(body + made.digest(), newline=False).translate(_TO_URL).decode()

    def read(self, text: bytes, now_s: float | None = None, window_s: float = 0.0) -> Token:
        """What was signed. Raises TokenRefused; with a time also for one older than `window_s`."""
        size = _LAYOUTS.get(len(text))
        if size is None:
            raise TokenRefused("This is no token: it has another length.")
        try:
            data = a2b_base64(text.translate(_FROM_URL), strict_mode=True)
        except Error:
            raise TokenRefused("This is no token: it has other characters.") from None
        body = data[:size]
        if body[0] != _VERSION:
            raise TokenRefused("This token is of a version that this server does not know.")
        known = self._hashes.get(body[1])
        if known is None:
            if body[1] in self._retired:
                raise TokenExpired("The key of this token was retired.")
            raise TokenRefused("The key of this token is not known.")
        made = known.copy()
        made.update(body)
        if not compare_digest(made.digest(), data[size:]):
            raise TokenRefused("This token was altered.")
        token = _token(body)
        if now_s is not None and now_s - token.decided_s > window_s:
            raise TokenExpired("The time for this has passed.")
        return token


def _keyed(secret: bytes) -> blake2b:
    assert len(secret) == _SECRET_BYTES
    return blake2b(key=secret, digest_size=_HASH_BYTES, person=_PURPOSE)


def _token(body: bytes) -> Token:
    """What stands in a body that we signed."""
    uid = None
    if body[2] & _HAS_USER:
        _, _, flags, decision, zone, campaign, creative, price, where, uid = _WITH_USER.unpack(body)
    else:
        _, _, flags, decision, zone, campaign, creative, price, where = _PLAIN.unpack(body)
    return Token(
        decision,
        zone,
        campaign,
        creative,
        price,
        _MODELS[flags >> _MODEL_AT & 3],
        "" if where == _NO_COUNTRY else where.decode(),
        _DEVICES[flags >> _DEVICE_AT & 7],
        uid,
        bool(flags & _FILTERED),
    )
