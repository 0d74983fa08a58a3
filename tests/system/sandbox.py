"""Puts this process under the system call rules of a service file, then becomes the command.

    python -m tests.system.sandbox SERVICE_FILE COMMAND …

A stand-in for the part of a unit that only systemd as the first process could apply and that breaks
programs without a word: SystemCallFilter, RestrictAddressFamilies, MemoryDenyWriteExecute and
NoNewPrivileges. The names in the filter are resolved by systemd itself, the rules loaded by libseccomp.
Not covered: file system and name spaces, which need privileges to make.
"""

import ctypes
import ctypes.util
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

PR_SET_NO_NEW_PRIVS: Final = 38
ALLOW: Final = 0x7FFF0000
REFUSE: Final = 0x00050000  # with the errno in the low half
EQUAL: Final = 4
MASKED_EQUAL: Final = 7
PROT_WRITE_EXEC: Final = 0x2 | 0x4
PROT_EXEC: Final = 0x4
SHM_EXEC: Final = 0o100000

# Sending these is harmless to anybody, and systemd always lets them through: a filter that
# forgot them could not even end the process.
ALWAYS: Final = ("execve", "exit", "exit_group", "getrlimit", "rt_sigreturn", "sigreturn")


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operation", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


class Filter:
    """One seccomp filter; several add up, and the strictest answer counts."""

    def __init__(self, default: int) -> None:
        name = ctypes.util.find_library("seccomp")
        assert name is not None, "libseccomp is needed (Debian: libseccomp2)"
        self.library = ctypes.CDLL(name)
        self.library.seccomp_init.restype = ctypes.c_void_p
        self.default = default
        self.context = ctypes.c_void_p(self.library.seccomp_init(default))

    def add(self, action: int, call: str, *when: Comparison) -> None:
        number = self.library.seccomp_syscall_resolve_name(call.encode())
        if number == -1 or action == self.default:  # not of this machine, or nothing new
            return
        comparisons = (Comparison * len(when))(*when)
        code = self.library.seccomp_rule_add_array(
            self.context, action, number, len(when), comparisons
        )
        assert code == 0, f"{call}: {os.strerror(-code)}"

    def load(self) -> None:
        code = self.library.seccomp_load(self.context)
        assert code == 0, os.strerror(-code)


def settings(service_file: Path, name: str) -> list[str]:
    """Every value of a setting, in the order of the file."""
    lines = service_file.read_text(encoding="utf-8").splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def expand(names: Iterable[str]) -> set[str]:
    """System calls by name; a name with @ is one of systemd's sets, which may hold others."""
    calls: set[str] = set()
    for name in names:
        if not name.startswith("@"):
            calls.add(name)
            continue
        command = ["systemd-analyze", "--no-pager", "syscall-filter", name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        members = [line.strip() for line in said.splitlines()[1:]]
        calls |= expand(member for member in members if member and not member.startswith("#"))
    return calls


def allowed_calls(service_file: Path) -> set[str]:
    """What SystemCallFilter= leaves, its lines applied in order."""
    allowed = set(ALWAYS)
    for line in settings(service_file, "SystemCallFilter"):
        if line.startswith("~"):
            allowed -= expand(line[1:].split())
        else:
            allowed |= expand(line.split())
    return allowed


def confine(service_file: Path) -> None:
    # Resolved first: systemd-analyze itself need not live under the rules.
    calls = allowed_calls(service_file)
    families = settings(service_file, "RestrictAddressFamilies")[-1].split()
    assert ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0

    extras = Filter(ALLOW)
    # Address families are small numbers; those beyond 45 do not exist.
    permitted = {int(getattr(socket, family)) for family in families}
    for family in set(range(46)) - permitted:
        extras.add(REFUSE | errno.EAFNOSUPPORT, "socket", Comparison(0, EQUAL, family, 0))
    if settings(service_file, "MemoryDenyWriteExecute") == ["yes"]:
        refuse = REFUSE | errno.EPERM
        both = Comparison(2, MASKED_EQUAL, PROT_WRITE_EXEC, PROT_WRITE_EXEC)
        extras.add(refuse, "mmap", both)
        for call in ("mprotect", "pkey_mprotect"):
            extras.add(refuse, call, Comparison(2, MASKED_EQUAL, PROT_EXEC, PROT_EXEC))
        extras.add(refuse, "shmat", Comparison(2, MASKED_EQUAL, SHM_EXEC, SHM_EXEC))
    extras.load()

    # Last, since it may forbid loading another.
    main = Filter(REFUSE | errno.EPERM)
    for call in sorted(calls):
        main.add(ALLOW, call)
    main.load()


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
