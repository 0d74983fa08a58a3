"""The catalog that a worker serves from, and how things stand with its campaigns.

Both are one tuple, which is replaced whole: who takes `serving` once and uses only that sees a catalog and
a standing that belong together, whatever is loaded meanwhile. Nothing here waits, and there is no lock:
all of it happens in one loop.

Must not know: where catalogs come from, requests.
"""

from collections.abc import Callable

from prefork_ads.ads.catalog import Catalog
from prefork_ads.ads.standing import Standing

Serving = tuple[Catalog, Standing]


class Current:
    """What is served now."""

    __slots__ = ("_told", "serving")

    def __init__(self) -> None:
        # None: no catalog has been loaded yet.
        self.serving: Serving | None = None
        self._told: list[Callable[[Catalog, Standing], None]] = []

    @property
    def catalog(self) -> Catalog | None:
        return self.serving[0] if self.serving is not None else None

    @property
    def standing(self) -> Standing | None:
        return self.serving[1] if self.serving is not None else None

    def subscribe(self, told: Callable[[Catalog, Standing], None]) -> None:
        """Be told of each catalog before anything is served from it; of the present one at once."""
        self._told.append(told)
        if self.serving is not None:
            told(*self.serving)

    def replace(self, catalog: Catalog) -> None:
        """Serve from this one. What budgets and pacing have said of its campaigns still holds."""
        before = self.serving
        standing = Standing(catalog) if before is None else before[1].moved_to(catalog)
        for told in self._told:
            told(catalog, standing)
        self.serving = catalog, standing
