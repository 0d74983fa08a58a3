"""What scripts/overload sees of the server it loads."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from overloadlib.server import _descriptors


def test_descriptors_of_a_process_are_counted() -> None:
    before = _descriptors(os.getpid())
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(100)]
    try:
        assert _descriptors(os.getpid()) == before + 100
    finally:
        for file in files:
            os.close(file)


def test_a_process_that_is_gone_has_none() -> None:
    gone = os.fork()
    if not gone:
        os._exit(0)
    os.waitpid(gone, 0)
    assert _descriptors(gone) == 0
