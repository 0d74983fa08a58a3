"""Just enough of Prometheus' query language to know which metrics and functions an expression names.

Prometheus' own checker is a program that a machine with tests need not have. This one takes an expression
apart into its words, and refuses what it does not know.
"""

import re
from typing import Final

_TOKEN: Final = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<duration>\[(?:\d+[smhdw]|\$__rate_interval)(?::\d*[smhdw]?)?\])
    | (?P<number>\d+(?:\.\d+)?(?:e-?\d+)?)
    | (?P<word>[a-zA-Z_:][a-zA-Z0-9_:]*)
    | (?P<operator>=~|!~|!=|==|>=|<=|[-+*/%^<>=(){},])
    """,
    re.VERBOSE,
)
_FUNCTIONS: Final = frozenset(
    {"rate", "increase", "changes", "histogram_quantile", "time", "label_values"}
)
_AGGREGATIONS: Final = frozenset({"sum", "max", "min", "avg", "count"})
_GROUPINGS: Final = frozenset({"by", "without", "on", "ignoring"})
_WORDS: Final = frozenset({"and", "or", "unless", "bool"})
_CLOSING: Final = {"(": ")", "{": "}"}


class NotPromQL(Exception):
    """The expression cannot be understood."""


def metrics_of(expression: str) -> set[str]:
    """The names of metrics and recorded series in it."""
    tokens = _tokens(expression)
    names: set[str] = set()
    open_brackets: list[str] = []
    in_labels = ""
    for position, (kind, text) in enumerate(tokens):
        following = tokens[position + 1][1] if position + 1 < len(tokens) else ""
        if text in _CLOSING:
            open_brackets.append(_CLOSING[text])
            before = tokens[position - 1][1] if position else ""
            if text == "{" or before in _GROUPINGS:
                in_labels = _CLOSING[text]
        elif text in _CLOSING.values():
            if not open_brackets or open_brackets.pop() != text:
                raise NotPromQL(f"{text} closes nothing: {expression}")
            if text == in_labels:
                in_labels = ""
        elif kind == "word" and not in_labels:
            if text in _GROUPINGS | _WORDS:
                continue
            if following == "(" or text in _AGGREGATIONS:
                if text not in _FUNCTIONS | _AGGREGATIONS:
                    raise NotPromQL(f"no function {text}: {expression}")
            else:
                names.add(text)
    if open_brackets:
        raise NotPromQL(f"{open_brackets[-1]} is missing: {expression}")
    return names


def _tokens(expression: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    position = 0
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None:
            raise NotPromQL(f"{expression[position:]!r} in {expression}")
        if match.lastgroup != "space":
            tokens.append((str(match.lastgroup), match[0]))
        position = match.end()
    return tokens
