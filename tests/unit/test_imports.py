"""The direction of imports: from the command line down to the settings, and never in a circle.

LAYERS is the map of the rooms. It is read by people who wonder where a new module belongs, and by
the tests below, which look at every `import` in the package, also at those inside a function.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

import prefork_ads

# From the top. A module may import from any lower line and from its own room; two rooms of one
# line do not know each other. The longest prefix decides which room a module is in.
LAYERS: Final = (
    ("prefork_ads.__main__",),
    ("prefork_ads.cli",),
    ("prefork_ads.process", "prefork_ads.report", "prefork_ads.management", "prefork_ads.demo"),
    ("prefork_ads.ads", "prefork_ads.db"),
    ("prefork_ads.http", "prefork_ads.events", "prefork_ads.web"),
    ("prefork_ads.metrics",),
    ("prefork_ads.config", "prefork_ads.options", "prefork_ads.values", "prefork_ads.dsn"),
    ("prefork_ads.errors",),
    ("prefork_ads",),
)

# These are one room in several files: what can be configured.
SETTINGS: Final = frozenset(LAYERS[6])

Graph = Mapping[str, frozenset[str]]


def room_of(module: str) -> str | None:
    """The longest prefix in LAYERS that the module belongs to."""
    rooms = [room for layer in LAYERS for room in layer]
    # The package itself holds the version; a new module beside it needs a line in LAYERS.
    inside = [
        r for r in rooms if module == r or (r != "prefork_ads" and module.startswith(r + "."))
    ]
    return max(inside, key=len, default=None)


def level_of(room: str) -> int:
    return next(level for level, layer in enumerate(LAYERS) if room in layer)


def may_import(importer: str, imported: str) -> bool:
    upper, lower = room_of(importer), room_of(imported)
    assert upper is not None, importer
    assert lower is not None, imported
    if upper == lower or {upper, lower} <= SETTINGS:
        return True
    return level_of(upper) < level_of(lower)


def imports_of(
    module: str, tree: ast.AST, known: frozenset[str], is_package: bool
) -> Iterator[str]:
    """The modules of the package that a source names, wherever in the file it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                parents = package[: len(package) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                name = f"{base}.{alias.name}"
                if name in known:
                    yield name
                elif base in known:
                    yield base


def graph_of(sources: Mapping[str, str], packages: frozenset[str] = frozenset()) -> Graph:
    known = frozenset(sources)
    return {
        module: frozenset(imports_of(module, ast.parse(text), known, module in packages)) - {module}
        for module, text in sources.items()
    }


def upward_arrows(graph: Graph) -> list[str]:
    return [
        f"{module} imports {other}"
        for module, others in sorted(graph.items())
        for other in sorted(others)
        if not may_import(module, other)
    ]


def find_cycle(graph: Graph) -> list[str]:
    """One circle, its first module repeated at the end; empty when there is none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for other in sorted(graph[module]):
            cycle = visit(other, [*path, module])
            if cycle:
                return cycle
        done.add(module)
        return []

    return next((cycle for module in sorted(graph) if (cycle := visit(module, []))), [])


def package_sources() -> tuple[dict[str, str], frozenset[str]]:
    top = Path(prefork_ads.__file__).parent
    sources: dict[str, str] = {}
    packages: set[str] = set()
    for path in sorted(top.rglob("*.py")):
        parts = ["prefork_ads", *path.relative_to(top).with_suffix("").parts]
        if parts[-1] == "__init__":
            parts.pop()
            packages.add(".".join(parts))
        sources[".".join(parts)] = path.read_text(encoding="utf-8")
    return sources, frozenset(packages)


def test_every_module_has_a_room() -> None:
    """A module outside the map would escape the other tests."""
    sources, _ = package_sources()
    homeless = [module for module in sources if room_of(module) is None]
    assert not homeless, f"add to LAYERS in {Path(__file__).name}: {', '.join(homeless)}"


def test_imports_point_downwards() -> None:
    """Otherwise a low room could not be understood, tested or replaced without a high one."""
    arrows = upward_arrows(graph_of(*package_sources()))
    assert not arrows, (
        "upward or sideways, see LAYERS; move the code down or pass it in as an argument:\n  "
        + "\n  ".join(arrows)
    )


def test_no_module_imports_itself_by_a_detour() -> None:
    """Within a room the layers do not help, so circles are looked for everywhere."""
    cycle = find_cycle(graph_of(*package_sources()))
    assert not cycle, "a circle of imports: " + " → ".join(cycle)


def test_every_module_says_what_it_is_for() -> None:
    sources, _ = package_sources()
    silent = [module for module, text in sources.items() if not ast.get_docstring(ast.parse(text))]
    assert not silent, f"without a docstring at the top: {', '.join(silent)}"


@pytest.mark.parametrize(
    ("module", "text", "arrow"),
    [
        ("prefork_ads.db.x", "import prefork_ads.cli", "prefork_ads.cli"),
        ("prefork_ads.http.x", "from prefork_ads.db import reader", "prefork_ads.db.reader"),
        ("prefork_ads.http.x", "def f():\n from prefork_ads import cli", "prefork_ads.cli"),
        ("prefork_ads.http.x", "from ..db.reader import Reader", "prefork_ads.db.reader"),
        ("prefork_ads.db.x", "from prefork_ads.ads import Ad", "prefork_ads.ads"),
        ("prefork_ads.errors", "from prefork_ads.config import Config", "prefork_ads.config"),
    ],
)
def test_an_upward_or_sideways_import_is_seen(module: str, text: str, arrow: str) -> None:
    """In every spelling: absolute, of a module, relative, and inside a function."""
    names = ("cli", "ads", "db", "db.reader", "http", "config", "errors")
    sources = {f"prefork_ads.{name}": "" for name in names} | {"prefork_ads": "", module: text}
    assert upward_arrows(graph_of(sources)) == [f"{module} imports {arrow}"]


def test_a_circle_is_seen() -> None:
    """Also one that never leaves its room and goes through a package's own __init__."""
    sources = {
        "prefork_ads.db": "from .a import a",
        "prefork_ads.db.a": "import prefork_ads.db.b",
        "prefork_ads.db.b": "from prefork_ads.db import anything",
    }
    cycle = find_cycle(graph_of(sources, frozenset({"prefork_ads.db"})))
    assert cycle == ["prefork_ads.db", "prefork_ads.db.a", "prefork_ads.db.b", "prefork_ads.db"]
