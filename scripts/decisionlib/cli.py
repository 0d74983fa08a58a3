"""The command line: how many campaigns, how many requests, which seed."""

import json
import platform
from dataclasses import asdict

import click

from decisionlib.measuring import Figures, measure

HEAD = (
    "           compile  pause  patch  pause  memory  may be  in the  decision  median    p99  three\n"
    "campaigns       ms     ms     ms     ms      MB   shown    draw        µs      µs     µs places"
)


def line(found: Figures) -> str:
    return (
        f"{found.campaigns:9,}  {found.compile_s * 1e3:7.0f}  {found.compile_pause_s * 1e3:5.1f}"
        f"  {found.patch_s * 1e3:5.1f}  {found.patch_pause_s * 1e3:5.1f}"
        f"  {found.bytes / 1e6:6.1f}  {found.eligible:6.0f}  {found.drawn:6.0f}"
        f"  {found.mean_us:8.1f}  {found.median_us:6.1f}  {found.p99_us:5.1f}"
        f"  {found.three_places_us:5.1f}"
    )


@click.command()
@click.option(
    "--campaigns", default="100,1000,10000,50000", show_default=True, help="How many, in turn."
)
@click.option("--requests", default=5000, show_default=True, help="Different ones, at random.")
@click.option("--seed", default=1, show_default=True, help="Of the catalog and the requests.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(campaigns: str, requests: int, seed: int, as_json: bool) -> None:
    """Measure what a decision costs with catalogs of mixed targeting.

    Each request is decided for one place, and then for three at once, in five rounds of which the fastest
    counts. Before each round come 20,000 other requests of the same sort, over which these are forgotten:
    users look at four pages and go. Times are of the whole call.
    """
    sizes = [int(text) for text in campaigns.split(",")]
    if not as_json:
        print(f"seed {seed}, {requests:,} requests, Python {platform.python_version()}")
        print(HEAD)
    found = []
    for size in sizes:
        found.append(measure(size, requests, seed))
        if not as_json:
            print(line(found[-1]), flush=True)
    if as_json:
        print(json.dumps({"seed": seed, "requests": requests, "sizes": list(map(asdict, found))}))
