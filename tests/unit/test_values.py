"""Text to value and back."""

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork_ads import values


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("10000", 10_000), ("50_000_000", 50_000_000), ("50M", 50_000_000), ("10k", 10_000)],
)
def test_counts(text: str, value: int) -> None:
    assert values.parse_count(text) == value


@pytest.mark.parametrize(
    "text", ["", "-1", "1.5", "1__0", "_1", "1_", "١", "0x10", "k", "9" * 5000]
)
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(ValueError, match=r"\A"):
        values.parse_count(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("65536", 65536),
        ("64K", 65536),
        ("64k", 65536),
        ("64kB", 65536),
        ("64KiB", 65536),
        ("4 MiB", 4 << 20),
        ("1g", 1 << 30),
        ("12B", 12),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert values.parse_size(text) == value


@pytest.mark.parametrize("text", ["", "K", "1.5M", "64Q", "-1K", "9" * 5000])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"\A"):
        values.parse_size(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2.0),
        ("0.25", 0.25),
        (".5", 0.5),
        ("250ms", 0.25),
        ("2s", 2.0),
        ("1m", 60.0),
        ("1 h", 3600),
    ],
)
def test_durations(text: str, value: float) -> None:
    assert values.parse_duration(text) == value


@pytest.mark.parametrize("text", ["", "s", "1e3", "inf", "nan", "-1", "1d", "2 2"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"\A"):
        values.parse_duration(text)


@given(st.integers(min_value=0, max_value=1 << 60))
def test_a_shown_size_reads_as_itself(value: int) -> None:
    assert values.parse_size(values.show_size(value)) == value


@given(st.integers(min_value=0, max_value=10**9))
def test_a_shown_duration_reads_as_itself(milliseconds: int) -> None:
    value = milliseconds / 1000
    assert values.parse_duration(values.show_duration(value)) == value


@given(st.lists(st.ip_addresses(), min_size=1))
def test_shown_networks_read_as_themselves(
    addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address],
) -> None:
    networks = values.parse_networks(", ".join(str(address) for address in addresses))
    assert values.parse_networks(values.NETWORKS.show(networks)) == networks


def test_paths_are_absolute_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ads")
    assert values.parse_path("data") == tmp_path / "data"
    assert values.parse_path("~/data") == Path("/home/ads/data")


@pytest.mark.parametrize("text", ["", "a\0b"])
def test_what_is_no_path(text: str) -> None:
    with pytest.raises(ValueError, match=r"\A"):
        values.parse_path(text)


@pytest.mark.parametrize("text", ["", "  ", "a\nb", "a\0b"])
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"\A"):
        values.parse_text(text)


@pytest.mark.parametrize(("text", "value"), [("0", 0.0), ("0.2", 0.2), (".5", 0.5), ("20%", 0.2)])
def test_shares(text: str, value: float) -> None:
    assert values.parse_share(text) == value


@pytest.mark.parametrize("text", ["", "%", "-0.1", "1e-1", "0.2 %", "nan", "9" * 5000])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(ValueError, match=r"\A"):
        values.parse_share(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("none", "none"), ("auto", "auto"), ("3", (3,)), ("0,2, 4-6", (0, 2, 4, 5, 6))],
)
def test_cores(text: str, value: str | tuple[int, ...]) -> None:
    assert values.parse_cores(text) == value
    assert values.parse_cores(values.show_cores(value)) == value


@pytest.mark.parametrize("text", ["", "all", "0,", "3-1", "-1", "0x1", "0-99999", "1-", "1.5"])
def test_what_is_no_list_of_cores(text: str) -> None:
    with pytest.raises(ValueError, match=r"\A"):
        values.parse_cores(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://ads.example.org",
        "http://127.0.0.1:8080",
        "https://[::1]:8443/",
        "HTTPS://xn--e1afmkfd.example/ads/v1",
    ],
)
def test_addresses_of_the_web(text: str) -> None:
    assert values.parse_web_address(f" {text} ") == text


@pytest.mark.parametrize(
    "text",
    [
        *("ads.example.org", "//ads.example.org", "ftp://a.example", "javascript:x", "https://"),
        *("https://a b", "https://a.example\r\nX: y", "https://a.example?x", "https://u@a.example"),
        *("https://exämple.org", 'https://a.example/"', "https://a.example/{base}"),
    ],
)
def test_what_no_link_can_begin_with(text: str) -> None:
    """All links of all ads would lead nowhere, and nobody would be told."""
    with pytest.raises(ValueError, match=r"\A"):
        values.parse_web_address(text)
