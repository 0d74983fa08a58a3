"""The headers of the load: what browsers send, 14 a request, each browser its own.

wrk adds nothing by itself when a script makes the requests, and `Host` is added by load.lua, which knows
the port: 13 here and `Host` make 14. Names, order and sizes are those of current desktop and mobile
browsers; about 1 KB a request with cookies, as an ad request from a page has it.

A few hundred browsers share the connections, so each comes back, as the browsers do that are on a site. Of a
hundred thousand each request has one that is as good as new; what a server remembers is worth nothing then.

They are made from a fixed seed: each run of the bench sends the same load.
"""

import random
from pathlib import Path

HEADERS_PER_REQUEST = 14
BROWSERS = 400
SEED = 2016

_PLATFORMS = (
    ("Windows NT 10.0; Win64; x64", '"Windows"', "?0"),
    ("Macintosh; Intel Mac OS X 10_15_7", '"macOS"', "?0"),
    ("X11; Linux x86_64", '"Linux"', "?0"),
    ("Linux; Android 10; K", '"Android"', "?1"),
)
_LANGUAGES = (
    "en-US,en;q=0.9",
    "en-GB,en-US;q=0.9,en;q=0.8",
    "de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7",
    "fr-FR,fr;q=0.9,en;q=0.8",
    "es-ES,es;q=0.9",
    "pt-BR,pt;q=0.9,en-US;q=0.8,en;q=0.7",
    "ja,en-US;q=0.9,en;q=0.8",
    "pl-PL,pl;q=0.9,en;q=0.8",
)
_PAGES = ("news", "sport", "weather", "recipes", "travel", "finance", "games", "science")


def header_block(chance: random.Random) -> list[tuple[str, str]]:
    """One browser's headers, in the order a browser sends them, without Host."""
    system, platform, mobile = chance.choice(_PLATFORMS)
    version = chance.randint(110, 140)
    phone = " Mobile" if mobile == "?1" else ""
    page = f"{chance.choice(_PAGES)}/{chance.randint(2019, 2026)}/article-{chance.randint(1000, 999_999)}"
    visitor = f"{chance.randint(10**8, 10**9)}.{chance.randint(1_600_000_000, 1_760_000_000)}"
    return [
        ("Connection", "keep-alive"),
        ("sec-ch-ua-platform", platform),
        (
            "User-Agent",
            f"Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) "
            f"Chrome/{version}.0.{chance.randint(1000, 7000)}.{chance.randint(1, 200)}{phone} Safari/537.36",
        ),
        (
            "sec-ch-ua",
            f'"Chromium";v="{version}", "Not=A?Brand";v="24", "Google Chrome";v="{version}"',
        ),
        ("sec-ch-ua-mobile", mobile),
        ("Accept", "*/*"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Mode", "cors"),
        ("Sec-Fetch-Dest", "empty"),
        ("Referer", f"https://www.example.com/{page}?ref={chance.getrandbits(32):08x}"),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        ("Accept-Language", chance.choice(_LANGUAGES)),
        ("Cookie", f"_ga=GA1.1.{visitor}; consent=all; session={chance.getrandbits(128):032x}"),
    ]


def header_blocks(count: int = BROWSERS) -> list[list[tuple[str, str]]]:
    chance = random.Random(SEED)
    return [header_block(chance) for _ in range(count)]


def write_header_file(path: Path, browsers: int = BROWSERS) -> None:
    """The form load.lua reads: one block a line, its headers separated by tabs."""
    with path.open("w", encoding="ascii") as file:
        for block in header_blocks(browsers):
            file.write("\t".join(f"{name}: {value}" for name, value in block) + "\n")
