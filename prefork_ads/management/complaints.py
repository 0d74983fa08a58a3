"""What is wrong with a catalog, where it stands, and all of it at once.

A person who mends a file wants every mistake in one go, so readers collect complaints and go on; only the
end of a stage raises.

Must not know: YAML, what a catalog consists of, the database.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from prefork_ads.errors import CatalogRefused

# Whoever has more has one mistake many times, or the wrong file.
MOST_SHOWN: Final = 200


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file; line and column count from 1. Line 0: not from a file."""

    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        # Text that was made on the way (`edit`) has lines and is nobody's file.
        return f"{self.file}:{self.line}:{self.column}" if self.file and self.line else self.file


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing that is wrong: where, at which member (`campaigns.spring.price`), and why."""

    mark: Mark
    path: str
    reason: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.mark), self.path, self.reason) if part)


class Complaints:
    """Those of one reading, in the order of the files."""

    def __init__(self) -> None:
        self.found: list[Complaint] = []
        self.warnings: list[Complaint] = []
        # Something could not be read at all, so what is missing may be in there.
        self.incomplete = False

    def add(self, mark: Mark, path: str, reason: str) -> None:
        self.found.append(Complaint(mark, path, reason))

    def warn(self, mark: Mark, path: str, reason: str) -> None:
        """Something that is allowed and hardly meant."""
        self.warnings.append(Complaint(mark, path, reason))

    def copy(self) -> "Complaints":
        """These so far, for a stage that may be repeated."""
        other = Complaints()
        other.found += self.found
        other.warnings += self.warnings
        return other

    def raise_if_any(self) -> None:
        if self.found:
            raise Refused(self.found)


class Refused(CatalogRefused):
    """The complaints; the message is the last line, for below them."""

    def __init__(self, complaints: Sequence[Complaint]) -> None:
        in_order = sorted(complaints, key=lambda c: (c.mark.file, c.mark.line, c.mark.column))
        self.complaints = in_order[:MOST_SHOWN]
        self.left_out = len(in_order) - len(self.complaints)
        number = len(in_order)
        what = "is one mistake" if number == 1 else f"are {number:,} mistakes"
        super().__init__(f"There {what}; nothing was changed.")


def meant(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'weight'?`, or nothing when nothing is near."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
