"""What headers and address tell of a sender: right for what browsers send, harmless for anything."""

import ipaddress
from pathlib import Path
from typing import Any

import crawleruseragents  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdb_writer import MMDBWriter
from netaddr import IPSet  # type: ignore[import-untyped]

from prefork_ads.ads import clients
from prefork_ads.ads.clients import NOBODY, client_of
from prefork_ads.ads.geography import NOWHERE, Geography, where_of
from prefork_ads.ads.languages import MAX_LANGUAGES, languages_of
from prefork_ads.ads.privacy import network_of, refuses_id
from prefork_ads.ads.rates import MINUTE_S, Rates
from prefork_ads.ads.targeting import BROWSERS, DEVICES, SYSTEMS

WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
BERLIN = {
    "country": {"iso_code": "DE"},
    "subdivisions": [{"iso_code": "BE"}],
    "city": {"names": {"en": "Berlin", "de": "Berlin"}},
}


# Browsers and programs.


@pytest.mark.parametrize(
    ("user_agent", "device", "os", "browser"),
    [
        (
            f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/126.0.0.0 Safari/537.36",
            *("desktop", "windows", "chrome"),
        ),
        (
            f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/126.0 Safari/537.36 Edg/126.0",
            *("desktop", "windows", "edge"),
        ),
        (
            f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/126.0 OPR/111.0.5168.43",
            *("desktop", "windows", "opera"),
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)"
            " Version/17.5 Safari/605.1.15",
            *("desktop", "macos", "safari"),
        ),
        (
            "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0",
            *("desktop", "linux", "firefox"),
        ),
        (
            f"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) {WEBKIT} Chrome/126.0.0.0 Safari/537.36",
            *("desktop", "chromeos", "chrome"),
        ),
        (
            f"Mozilla/5.0 (Linux; Android 10; K) {WEBKIT} Chrome/126.0.0.0 Mobile Safari/537.36",
            *("mobile", "android", "chrome"),
        ),
        (
            f"Mozilla/5.0 (Linux; Android 13; SM-X906C) {WEBKIT} Chrome/126.0.0.0 Safari/537.36",
            *("tablet", "android", "chrome"),
        ),
        (
            f"Mozilla/5.0 (Linux; Android 14; SAMSUNG SM-S918B) {WEBKIT} SamsungBrowser/25.0"
            " Chrome/121.0.0.0 Mobile Safari/537.36",
            *("mobile", "android", "samsung"),
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like"
            " Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
            *("mobile", "ios", "safari"),
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like"
            " Gecko) CriOS/126.0.6478.54 Mobile/15E148 Safari/604.1",
            *("mobile", "ios", "chrome"),
        ),
        (
            "Mozilla/5.0 (iPad; CPU OS 12_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
            " Version/12.1.2 Mobile/15E148 Safari/604.1",
            *("tablet", "ios", "safari"),
        ),
        (
            f"Mozilla/5.0 (SMART-TV; LINUX; Tizen 6.0) {WEBKIT} 76.0.3809.146/6.0 TV Safari/537.36",
            *("tv", "other", "safari"),
        ),
        ("Something/1.0", "other", "other", "other"),
    ],
)
def test_a_browser_is_told_by_its_user_agent(
    user_agent: str, device: str, os: str, browser: str
) -> None:
    client = client_of(user_agent.encode())
    assert (client.device, client.os, client.browser, client.bot) == (device, os, browser, "")
    assert client.record == {"device": device, "os": os, "browser": browser}


def test_without_a_user_agent_nothing_is_known() -> None:
    assert client_of(None) is NOBODY
    assert client_of(b"") is NOBODY


def test_every_crawler_of_the_list_is_one() -> None:
    """The native matcher reads the patterns as the list's authors mean them: all their examples match."""
    examples = [
        example
        for known in crawleruseragents.CRAWLER_USER_AGENTS_DATA
        for example in known.get("instances", [])
    ]
    assert len(examples) > 1000
    assert [one for one in examples if not clients._remembered.__wrapped__(one.encode()).bot] == []


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        (b"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "Googlebot"),
        (b"curl/8.5.0", "curl"),
        (
            b"Mozilla/5.0 (X11) AppleWebKit/537.36 HeadlessChrome/120.0 Safari/537.36",
            "HeadlessChrome",
        ),
    ],
)
def test_a_program_has_a_name(user_agent: bytes, name: str) -> None:
    assert client_of(user_agent).bot == name


def test_a_user_agent_is_read_to_its_first_kibibyte() -> None:
    """So nobody fills the memory with what is remembered, or the time with what is searched."""
    assert client_of(b"x" * 1024 + b" Googlebot/2.1").bot == ""
    assert client_of(b"x" * 1000 + b" Googlebot/2.1" + b"y" * 60_000).bot == "Googlebot"


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_a_user_agent(header: bytes) -> None:
    client = client_of(header)
    assert client.device in ("", *DEVICES)
    assert client.os in ("", *SYSTEMS)
    assert client.browser in ("", *BROWSERS)


# Languages.


@pytest.mark.parametrize(
    ("header", "languages"),
    [
        (b"de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7", ("de", "en")),
        (b"en;q=0.7, de;q=0.9", ("de", "en")),
        (b"fr, en", ("fr", "en")),
        (b"DE-at", ("de",)),
        (b"de;q=0, en;q=0.001", ("en",)),
        (b"*, en;q=0.5", ("en",)),
        (b"zh-Hant-TW;q=1.000", ("zh",)),
        (b"a,b-c,1,de;q=2,en;q=x,it", ("it",)),
        (b"aa,bb,cc,dd,ee,ff,gg", ("aa", "bb", "cc", "dd", "ee")),
        (b"", ()),
        (None, ()),
    ],
)
def test_languages(header: bytes | None, languages: tuple[str, ...]) -> None:
    """Primary tags, the most wanted first, without what is refused."""
    assert languages_of(header) == languages


@given(st.binary(max_size=400))
def test_any_bytes_ask_for_languages(header: bytes) -> None:
    found = languages_of(header)
    assert len(found) <= MAX_LANGUAGES
    assert len(set(found)) == len(found)
    assert all(tag.isascii() and tag.islower() and 2 <= len(tag) <= 8 for tag in found)


# Privacy.


@pytest.mark.parametrize(
    ("sec_gpc", "dnt", "parameters", "refused"),
    [
        (None, None, {}, False),
        (b"1", None, {}, True),
        (b" 1", None, {}, True),
        (b"0", b"0", {}, False),
        (None, b"1", {}, True),
        (None, b"null", {}, False),
        (None, None, {"gdpr": "1"}, True),
        (None, None, {"gdpr": "1", "gdpr_consent": ""}, True),
        (None, None, {"gdpr": "1", "gdpr_consent": "CPc7TgAPc7TgA"}, False),
        (None, None, {"gdpr": "1", "gdpr_consent": "${GDPR_CONSENT_7}"}, True),
        (None, None, {"gdpr": "0"}, False),
        (None, None, {"gdpr": ""}, False),
        (None, None, {"gdpr": "${GDPR}"}, True),
        (None, None, {"gdpr": ["0", "1"]}, True),
        (None, None, {"gdpr": 1}, True),
        (None, None, {"gdpr": True, "gdpr_consent": None}, True),
        (None, None, {"gdpr": 0}, False),
        (None, None, {"us_privacy": "1YNN"}, False),
        (None, None, {"us_privacy": "1YYN"}, True),
        (None, None, {"us_privacy": "1yyn"}, True),
        (None, None, {"us_privacy": "1---"}, False),
        (None, None, {"us_privacy": ""}, False),
    ],
)
def test_when_no_user_id_may_be_used(
    sec_gpc: bytes | None, dnt: bytes | None, parameters: dict[str, object], refused: bool
) -> None:
    assert refuses_id(sec_gpc, dnt, parameters) is refused


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.77", "203.0.113.0"),
        ("10.0.0.1", "10.0.0.0"),
        ("2001:db8:85a3:8d3:1319:8a2e:370:7348", "2001:db8:85a3::"),
        ("::1", "::"),
        ("::ffff:203.0.113.77", "203.0.113.0"),
        ("", ""),
    ],
)
def test_what_is_left_of_an_address(address: str, network: str) -> None:
    assert network_of(address) == network


@given(st.ip_addresses())
def test_a_network_is_an_address_again(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """PostgreSQL takes it, it is the address's own network, and shortening it changes nothing."""
    shortened = ipaddress.ip_address(network_of(str(address)))
    if address.version == shortened.version:
        bits = 24 if address.version == 4 else 48
        assert address in ipaddress.ip_network(f"{shortened}/{bits}")
    assert network_of(str(shortened)) == str(shortened)


# Rates.


def test_an_address_has_so_many_events_a_minute() -> None:
    """Others are not counted against it, and the next minute begins at nought."""
    now = 0.0
    rates = Rates(3, lambda: now)
    assert [rates.takes("192.0.2.1") for _ in range(5)] == [True, True, True, False, False]
    assert rates.takes("192.0.2.2")
    now = MINUTE_S - 0.1
    assert not rates.takes("192.0.2.1")
    now = MINUTE_S
    assert rates.takes("192.0.2.1")


def test_a_household_of_ipv6_is_one_address() -> None:
    """Who has 2⁶⁴ addresses is not 2⁶⁴ people."""
    rates = Rates(2)
    assert [rates.takes(f"2001:db8::{n}") for n in range(1, 4)] == [True, True, False]
    assert rates.takes("2001:db8:0:1::1")


def test_many_addresses_take_no_room_and_hurt_nobody() -> None:
    """20,000 addresses with one event each: the odd one shares both its cells with busy ones, if any."""
    rates = Rates(2)
    refused = sum(not rates.takes(str(ipaddress.IPv4Address(n))) for n in range(20_000))
    assert refused < 100


def test_nobody_s_address_has_no_limit() -> None:
    rates = Rates(1)
    assert all(rates.takes("") for _ in range(10))


# Places.


def write_database(path: Path, networks: dict[str, Any]) -> None:
    """As updaters do: the new file gets the name when it is complete."""
    writer = MMDBWriter(6, ipv4_compatible=True, database_type="Test-City")
    for network, record in networks.items():
        writer.insert_network(IPSet([network]), record)
    fresh = path.with_suffix(".new")
    writer.to_db_file(str(fresh))
    fresh.rename(path)


def test_the_place_of_an_address(tmp_path: Path) -> None:
    path = tmp_path / "city.mmdb"
    write_database(path, {"192.0.2.0/24": BERLIN, "2001:db8::/32": {"country": {"iso_code": "SG"}}})
    geography = Geography(path, pytest.fail)
    where = geography.find("192.0.2.7")
    assert (where.country, where.region, where.city) == ("DE", "DE-BE", "DE-BE-Berlin")
    assert where.record == {"country": "DE", "region": "DE-BE", "city": "DE-BE-Berlin"}
    assert geography.find("2001:db8::1").record == {"country": "SG"}
    for elsewhere in ("198.51.100.1", "2001:db9::1", "", "::ffff:192.0.2.7"):
        assert geography.find(elsewhere) == NOWHERE


def test_a_database_that_is_replaced_is_used_at_the_next_look(tmp_path: Path) -> None:
    path = tmp_path / "city.mmdb"
    write_database(path, {"192.0.2.0/24": BERLIN})
    geography = Geography(path, pytest.fail)
    assert geography.find("192.0.2.7").country == "DE"
    write_database(path, {"192.0.2.0/24": {"country": {"iso_code": "FR"}}})
    assert geography.find("192.0.2.7").country == "DE"
    geography.look()
    assert geography.find("192.0.2.7").country == "FR"


def test_a_database_that_cannot_be_read_is_told_of_once(tmp_path: Path) -> None:
    """The one before it goes on to serve; without one nobody's place is known; then the right one comes."""
    path = tmp_path / "city.mmdb"
    said: list[str] = []
    geography = Geography(path, said.append)
    geography.look()
    assert geography.find("192.0.2.7") == NOWHERE
    assert len(said) == 1
    assert "No such file" in said[0]
    assert "nobody's place is known" in said[0]
    write_database(path, {"192.0.2.0/24": BERLIN})
    geography.look()
    assert geography.find("192.0.2.7").country == "DE"
    nonsense = tmp_path / "nonsense"
    nonsense.write_bytes(b"nonsense" * 1000)
    nonsense.rename(path)
    geography.look()
    geography.look()
    assert len(said) == 2
    assert "the one before is used" in said[1]
    assert geography.find("192.0.2.7").country == "DE"


def test_without_a_database_nobody_s_place_is_known() -> None:
    geography = Geography(None, pytest.fail)
    geography.look()
    assert geography.find("192.0.2.7") is NOWHERE


@pytest.mark.parametrize(
    "record",
    [
        None,
        {},
        {"country": None},
        {"country": {"iso_code": 7}},
        {"country": {"iso_code": "DEU"}},
        {"country": "DE"},
        "DE",
        {"city": {"names": {"en": "Berlin"}}},
    ],
)
def test_a_record_without_a_country_is_no_place(record: object) -> None:
    assert where_of(record) is NOWHERE


def test_a_record_says_what_it_knows() -> None:
    country = {"iso_code": "sg"}
    assert where_of({"country": country, "subdivisions": []}).record == {"country": "SG"}
    assert where_of({"country": country, "city": {"names": {"de": "Singapur"}}}).city == ""
    assert (
        where_of({"country": country, "city": {"names": {"en": "Singapore"}}}).city
        == "SG-Singapore"
    )
