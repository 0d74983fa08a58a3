"""How the keys of tokens come into a worker: an errand that asks for them, and a file that remembers them.

    {data_dir}/catalog/keys.json    mode 0600, beside the catalog's snapshot

Without the file a host that starts while PostgreSQL is away could not sign anything. A new key signs
nothing for its first minute (`token_keys` sees to that), which is many times EVERY_S: whoever is handed
one of its tokens knows the key by then.

- Each worker of a host writes the file when the keys change, which they do a few times a year: put aside
  under a name of its own and renamed, so a reader finds the old one or the new one.
- A file that is not what it should be is ignored: PostgreSQL has the keys.

Must not know: connections, SQL, what is signed.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from prefork_ads.ads.tokens import Key, Keyring

EVERY_S: Final = 2.0
FILE_NAME: Final = "keys.json"


class KeyFeed:
    """The errand. It fills the keyring from the file when it is made."""

    every_s: Final = EVERY_S

    def __init__(self, keyring: Keyring, directory: Path, report: Callable[[str], None]) -> None:
        self._keyring = keyring
        self._path = directory / FILE_NAME
        self._report = report
        keyring.replace(self._remembered())

    def ask(self) -> tuple[str, Mapping[str, Any]] | None:
        return "token_keys", {}

    def answered(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Each row is a key: id, secret, signs."""
        keys = tuple(
            Key(number, None if secret is None else bytes(secret), signs)
            for number, secret, signs in rows
        )
        if keys == self._keyring.keys:
            return
        self._keyring.replace(keys)
        try:
            self._remember(keys)
        except OSError as error:
            self._report(f"keys: they cannot be kept in {self._path}: {error.strerror}")

    def failed(self) -> None:
        """Those we have are still good."""

    def _remember(self, keys: Sequence[Key]) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = self._path.with_suffix(f".{os.getpid()}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(aside, flags, 0o600), "wb") as file:
                file.write(
                    orjson.dumps(
                        [(key.id, key.secret and key.secret.hex(), key.signs) for key in keys]
                    )
                )
            aside.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise

    def _remembered(self) -> Sequence[Key]:
        try:
            return [
                Key(_number(number), None if secret is None else _secret(secret), bool(signs))
                for number, secret, signs in orjson.loads(self._path.read_bytes())
            ]
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, TypeError) as error:
            self._report(f"keys: what is in {self._path} is of no use and ignored: {error}")
            return ()


def _number(number: int) -> int:
    if not 0 <= number <= 255:
        raise ValueError("a key has a number that no token has room for")
    return int(number)


def _secret(text: str) -> bytes:
    secret = bytes.fromhex(text)
    if len(secret) != 32:
        raise ValueError("a key has another length")
    return secret
