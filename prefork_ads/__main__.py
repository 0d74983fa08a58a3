"""`python -m prefork_ads` is the same command as `prefork-ads`."""

from prefork_ads.cli import main

main()
