"""Where a run was taken: figures without the machine and the versions mean nothing."""

import json
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from benchlib.environment import BenchEnvironment

OUR_PACKAGES = ("prefork-ads", "uvloop", "httptools", "aiopg", "psycopg2-binary", "orjson")
PEER_PACKAGES = "aiopg asyncpg fastapi granian httptools orjson psycopg2-binary uvicorn uvloop"
_VERSIONS = "import json, sys; from importlib.metadata import version; "
_VERSIONS += "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"


def _first_line(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    said = done.stdout.splitlines()
    return said[0].strip() if said else None


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def describe(environment: BenchEnvironment, postgresql: str) -> dict[str, Any]:
    peers = subprocess.run(
        [str(environment.python), "-c", _VERSIONS, *PEER_PACKAGES.split()],
        check=True,
        capture_output=True,
        text=True,
    )
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory_bytes / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "postgresql": postgresql,
        "wrk": _first_line("wrk", "--version"),
        "go": _first_line("go", "version"),
        "commit": _first_line("git", "-C", str(environment.root), "rev-parse", "--short", "HEAD"),
        "packages": {name: metadata.version(name) for name in OUR_PACKAGES},
        "peers": json.loads(peers.stdout),
    }
