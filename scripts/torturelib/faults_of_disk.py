"""Faults of the disk that the journal is on.

A file system of memory is mounted on the journal's directory, which takes root; filling the machine's own
disk would be a fault of everybody's.
"""

import os
import subprocess

from torturelib.errors import Unsupported
from torturelib.faults import NO_ROOM, Fault, Parts

DISK_BYTES = 64 << 20
FILL_BYTES = 1 << 20


class JournalDiskFull(Fault):
    name = "disk-full"
    about = "the journal's disk is full for a while (root: a file system of memory)"
    may_cost = NO_ROOM
    hold_s = (0.5, 5.0)
    outer = True

    @classmethod
    def prepare(cls, parts: Parts) -> None:
        directory = parts.program.journal_dir
        if os.geteuid() != 0:
            raise Unsupported("it takes root to mount a file system for the journal")
        directory.mkdir(parents=True, mode=0o700)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700"]
        done = subprocess.run(
            [*command, "prefork-ads-torture", str(directory)],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise Unsupported(f"no file system can be mounted here: {done.stderr.strip()}")

    @classmethod
    def clean_up(cls, parts: Parts) -> None:
        directory = parts.program.journal_dir
        if directory.is_mount():
            subprocess.run(["umount", str(directory)], check=False, capture_output=True)

    def begin(self) -> None:
        # Its name is none that the server would take for a segment.
        self._filler = self.parts.program.journal_dir / "filler"
        written = 0
        with self._filler.open("wb", buffering=0) as file:
            for size in (FILL_BYTES, 4096, 1):
                block = bytes(size)
                try:
                    while True:
                        written += file.write(block)
                except OSError:
                    continue
        self.did = f"filled {written >> 20} MB"

    def end(self) -> None:
        self._filler.unlink()
