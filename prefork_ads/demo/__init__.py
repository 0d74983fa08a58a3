"""A catalog to look at, and a day of visitors for it."""

from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path

import yaml


def catalog_path() -> AbstractContextManager[Path]:
    """The demo catalog as a file."""
    return as_file(files("prefork_ads.demo") / "catalog.yaml")


def advertisers_of_campaigns() -> dict[str, str]:
    """The advertiser's key of each campaign's in the demo catalog."""
    with catalog_path() as path, path.open(encoding="utf-8") as file:
        catalog = yaml.safe_load(file)
    return {key: campaign["advertiser"] for key, campaign in catalog["campaigns"].items()}
