"""What browsers are given as it is: the tag and the demo page.

The files lie beside this one and are read when they are first asked for.
"""

from functools import cache
from importlib.resources import files


@cache
def text(name: str) -> str:
    """A file of this room."""
    return (files("prefork_ads.web") / name).read_text(encoding="utf-8")


@cache
def script(name: str) -> str:
    """A script without the lines that are comments, which say nothing to a browser."""
    lines = text(name).splitlines()
    return "\n".join(line for line in lines if line and not line.lstrip().startswith("//"))
