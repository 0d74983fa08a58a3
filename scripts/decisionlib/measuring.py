"""One catalog, measured: compiling, patching, deciding."""

import gc
import time
import tracemalloc
from collections.abc import Generator
from copy import deepcopy
from dataclasses import dataclass
from random import Random
from statistics import fmean, median, quantiles
from typing import TypeVar

from decisionlib.mixed import Page, catalog_rows, facts, pages, uneven, user
from prefork_ads.ads.catalog import Catalog, Rows, compile_catalog
from prefork_ads.ads.decision import best_tier, decide
from prefork_ads.ads.facts import DRAW_BITS, Facts, Place
from prefork_ads.ads.standing import Standing

T = TypeVar("T")


# Users see some pages much more often than others, and a few of them each.
PAGES = 2000
VIEWS = 4
# What a worker serves before each round: requests like those that are measured, and none of them.
OTHERS = 20_000
ROUNDS = 5


@dataclass(frozen=True)
class Figures:
    """Of one number of campaigns."""

    campaigns: int
    compile_s: float
    compile_pause_s: float
    """The longest time between two pauses."""
    patch_s: float
    patch_pause_s: float
    bytes: int
    eligible: float
    drawn: float
    """Of the best tier."""
    mean_us: float
    median_us: float
    p99_us: float
    three_places_us: float


def run(steps: Generator[None, None, T]) -> tuple[T, float, float]:
    """What it returns, how long it took, and the longest stretch without a pause."""
    longest = total = 0.0
    while True:
        began = time.perf_counter()
        try:
            next(steps)
        except StopIteration as end:
            return end.value, total + time.perf_counter() - began, longest
        took = time.perf_counter() - began
        total += took
        longest = max(longest, took)


def measure(campaigns: int, requests: int, seed: int) -> Figures:
    random = Random(seed)
    rows: Rows = catalog_rows(random, campaigns)
    gc.collect()
    gc.disable()
    try:
        catalog, compile_s, compile_pause_s = run(compile_catalog(rows, 1))
        patches = [patch(catalog, rows, random) for _ in range(9)]
        standing = standing_at_random(random, catalog)
        there = pages(random, PAGES)
        others = requests_of(random, catalog, there, OTHERS)
        asked = requests_of(random, catalog, there, requests)
        one = decisions(catalog, standing, others, asked, 1)
        three = decisions(catalog, standing, others, asked, 3)
    finally:
        gc.enable()
    eligible, drawn = crowd(catalog, standing, asked)
    return Figures(
        campaigns=campaigns,
        compile_s=compile_s,
        compile_pause_s=compile_pause_s,
        patch_s=median(whole for whole, _ in patches),
        patch_pause_s=median(pause for _, pause in patches),
        bytes=memory(rows),
        eligible=median(eligible),
        drawn=median(drawn),
        mean_us=fmean(one),
        median_us=median(one),
        p99_us=quantiles(one, n=100)[98],
        three_places_us=fmean(three),
    )


Request = tuple[Facts, list[Place], list[int]]


def requests_of(random: Random, catalog: Catalog, there: list[Page], count: int) -> list[Request]:
    """Some thousand users come and go; of a hundred that are there at a time each looks at some pages."""
    zones = list(catalog.zones.values())
    present = [user(random) for _ in range(100)]
    asked = []
    for number in range(count):
        one = random.randrange(len(present))
        about = facts(present[one], uneven(random, there), number / count)
        if random.random() < 1 / VIEWS:
            present[one] = user(random)
        where = [Place(zone) for zone in random.choices(zones, k=3)]
        draws = [random.getrandbits(DRAW_BITS) for _ in where]
        asked.append((about, where, draws))
    return asked


def standing_at_random(random: Random, catalog: Catalog) -> Standing:
    """Every campaign with a goal has a lease, and a need of its own."""
    standing = Standing(catalog)
    for campaign in catalog.campaigns.values():
        if campaign.leased and campaign.bit >= 0:
            standing.reopen(campaign.bit)
            standing.set_need(campaign.bit, random.randint(0, 16))
    return standing


def patch(catalog: Catalog, rows: Rows, random: Random) -> tuple[float, float]:
    """Change one campaign; how long it took in all, and between pauses."""
    one = random.choice(list(rows["campaign"]))
    changed = {**rows, "campaign": dict(rows["campaign"])}
    row = changed["campaign"][one] = deepcopy(rows["campaign"][one])
    row["targeting"]["device"] = {"include": ["tv"]}
    _, whole, pause = run(catalog.patched(changed, [("campaign", one)], 2))
    return whole, pause


def decisions(
    catalog: Catalog, standing: Standing, others: list[Request], asked: list[Request], places: int
) -> list[float]:
    """Microseconds of each: the fastest of some rounds, which is when nothing else had the core."""
    clock = time.perf_counter_ns
    best = [1 << 62] * len(asked)
    for _ in range(ROUNDS):
        # What was remembered of them in the round before is forgotten over these.
        for about, where, draws in others:
            decide(catalog, standing, about, where[:1], draws[:1])
        for number, (about, where, draws) in enumerate(asked):
            some, their_draws = where[:places], draws[:places]
            began = clock()
            decide(catalog, standing, about, some, their_draws)
            best[number] = min(best[number], clock() - began)
    return [took / 1000 for took in best]


def crowd(
    catalog: Catalog, standing: Standing, asked: list[Request]
) -> tuple[list[int], list[int]]:
    """How many campaigns may be shown, and how many of them are of the best tier."""
    eligible, drawn = [], []
    for about, where, _ in asked:
        fit = catalog.inventory.fit(where[0]).mask
        mask = catalog.audience.passing(about) & standing.open & fit
        eligible.append(mask.bit_count())
        drawn.append(best_tier(catalog, mask).bit_count())
    return eligible, drawn


def memory(rows: Rows) -> int:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept, _, _ = run(compile_catalog(rows, 1))
        after = tracemalloc.get_traced_memory()[0]
        del kept
        return after - before
    finally:
        tracemalloc.stop()
