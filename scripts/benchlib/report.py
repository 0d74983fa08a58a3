"""What a run leaves behind: JSON with every single measurement, the chart as SVG and as PNG."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchlib.environment import BenchEnvironment
from benchlib.errors import BenchError
from benchlib.measuring import Measurement
from benchlib.summary import Medians, ratio

# Runs in the peers' environment, which has the renderer. White ground: a PNG cannot follow the reader.
_RENDER = """
import sys, resvg_py
svg, png = sys.argv[1:]
open(png, "wb").write(bytes(resvg_py.svg_to_bytes(svg_path=svg, zoom=2, background="#ffffff")))
"""


def document(
    *,
    machine: Mapping[str, Any],
    settings: Mapping[str, Any],
    skipped: Mapping[str, str],
    measurements: Sequence[Measurement],
    figures: Medians,
) -> dict[str, Any]:
    return {
        "machine": dict(machine),
        "settings": dict(settings),
        "skipped": dict(skipped),
        "medians": [
            {
                "contender": name,
                **asdict(case),
                "requests_per_s": round(figure, 1),
                "ours_over_theirs": ratio(figures, name, case),
            }
            for (name, case), figure in sorted(figures.items())
        ],
        "measurements": [measurement.as_json() for measurement in measurements],
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_chart(environment: BenchEnvironment, path: Path, svg: str) -> Path:
    """Writes the SVG, and the PNG beside it; returns the PNG's path."""
    path.write_text(svg, encoding="utf-8")
    png = path.with_suffix(".png")
    done = subprocess.run(
        [str(environment.python), "-c", _RENDER, str(path), str(png)],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise BenchError(f"the chart could not be drawn as {png}: {done.stderr.strip()}")
    return png
