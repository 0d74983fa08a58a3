"""Tokens: what is signed comes back, and nothing else does."""

import os
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_ads.ads.tokens import Key, Keyring, Token, TokenExpired, TokenRefused

KEY: Final = Key(7, bytes(range(32)), True)
KEYRING: Final = Keyring([KEY])
TOKEN: Final = Token(
    bytes.fromhex("0190163d8694739baea5966c26f8ad91"), 1, 2, 3, 2_500_000, "cpm", "DE", "mobile"
)
ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

numbers = st.integers(0, 2**31 - 1)
tokens = st.builds(
    Token,
    decision=st.binary(min_size=16, max_size=16),
    zone=numbers,
    campaign=numbers,
    creative=numbers,
    price_micros=st.integers(0, 10**12),
    model=st.sampled_from(["cpm", "cpc", "cpa"]),
    country=st.sampled_from(["", "DE", "US", "ZW"]),
    device=st.sampled_from(["", "desktop", "mobile", "tablet", "tv", "other"]),
    uid=st.none() | st.binary(min_size=16, max_size=16),
    filtered=st.booleans(),
)


@given(tokens)
def test_what_was_signed_is_read(token: Token) -> None:
    """Every member, in characters that no URL has to encode, in one of two lengths."""
    text = KEYRING.sign(token).encode()
    assert KEYRING.read(text) == token
    assert set(text) <= set(ALPHABET)
    assert len(text) == (76 if token.uid is None else 100)


@given(tokens, st.data())
def test_any_bit_that_is_changed_is_noticed(token: Token, data: st.DataObject) -> None:
    """Of the characters, not of what they stand for: so a token has one spelling, too."""
    text = bytearray(KEYRING.sign(token).encode())
    text[data.draw(st.integers(0, len(text) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(TokenRefused):
        KEYRING.read(bytes(text))


@pytest.mark.parametrize("uid", [None, bytes(16)])
def test_no_character_can_be_another(uid: bytes | None) -> None:
    """All of them, at every place, the last one included."""
    text = KEYRING.sign(TOKEN._replace(uid=uid)).encode()
    for place in range(len(text)):
        for other in ALPHABET.replace(text[place : place + 1], b""):
            with pytest.raises(TokenRefused):
                KEYRING.read(text[:place] + bytes([other]) + text[place + 1 :])


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_anything_else_is_refused(text: bytes) -> None:
    with pytest.raises(TokenRefused):
        KEYRING.read(text)


@given(tokens, st.integers(0, 99), st.binary(min_size=1, max_size=30))
def test_a_piece_or_more_than_a_token_is_refused(token: Token, size: int, more: bytes) -> None:
    text = KEYRING.sign(token).encode()
    for wrong in (text[:size][: len(text) - 1], text + more, more + text, text + text):
        with pytest.raises(TokenRefused):
            KEYRING.read(wrong)


@pytest.mark.parametrize("old", [b"+", b"/", b"="])
def test_plain_base64_is_another_spelling(old: bytes) -> None:
    """And padding, and spaces, which decoders pass over."""
    text = KEYRING.sign(TOKEN).encode()
    for wrong in (text[:-1] + old, old + text[1:], text[:-1] + b" ", text[:-1] + b"\n"):
        with pytest.raises(TokenRefused):
            KEYRING.read(wrong)


def test_another_key_signs_something_else() -> None:
    other = Keyring([Key(7, os.urandom(32), True)])
    with pytest.raises(TokenRefused, match="altered"):
        other.read(KEYRING.sign(TOKEN).encode())


def test_an_unknown_key_and_a_retired_one_are_told_apart() -> None:
    """A token of a retired key was good once."""
    text = KEYRING.sign(TOKEN).encode()
    with pytest.raises(TokenRefused, match="not known") as refused:
        Keyring([Key(8, bytes(32), True)]).read(text)
    assert not isinstance(refused.value, TokenExpired)
    with pytest.raises(TokenExpired, match="retired"):
        Keyring([Key(7, None, False), Key(8, bytes(32), True)]).read(text)


def test_a_key_that_does_not_sign_yet_is_read_already() -> None:
    """Or a worker that has not heard of it would refuse what another one has signed."""
    first, second = Key(1, bytes(32), True), Key(2, bytes([2] * 32), False)
    keyring = Keyring([first, second])
    ahead = Keyring([first._replace(signs=False), second._replace(signs=True)])
    assert keyring.read(ahead.sign(TOKEN).encode()) == TOKEN
    assert ahead.read(keyring.sign(TOKEN).encode()) == TOKEN
    keyring.replace([first._replace(signs=False), second._replace(signs=True)])
    assert keyring.sign(TOKEN) == ahead.sign(TOKEN) != Keyring([first]).sign(TOKEN)


def test_a_version_that_is_not_known_says_so() -> None:
    text = b"Ag" + KEYRING.sign(TOKEN).encode()[2:]
    with pytest.raises(TokenRefused, match="version"):
        KEYRING.read(text)


def test_time_is_the_decision_s() -> None:
    """A window is counted from it, and its last moment is inside."""
    text = KEYRING.sign(TOKEN).encode()
    decided_s = TOKEN.decided_s
    assert decided_s == 0x0190163D8694 / 1000
    assert KEYRING.read(text, decided_s + 900, 900) == TOKEN
    with pytest.raises(TokenExpired, match="passed"):
        KEYRING.read(text, decided_s + 900.001, 900)


def test_without_a_key_nothing_is_signed_or_read() -> None:
    keyring = Keyring()
    assert not keyring.ready
    with pytest.raises(TokenRefused):
        keyring.read(KEYRING.sign(TOKEN).encode())
    keyring.replace([KEY])
    assert keyring.ready


def test_a_device_that_has_no_number_is_not_known() -> None:
    assert KEYRING.read(KEYRING.sign(TOKEN._replace(device="fridge")).encode()).device == ""
