"""Reading what strace wrote: lines to calls. `tools.powercut.recording` makes steps of them.

A line is `PID name(arguments) = result`, or its two halves `PID name(arguments <unfinished ...>` and `PID <... name
resumed>rest) = result` when another thread came between. Strings are all hex (`-xx`), so no argument has a comma, a quote or
a parenthesis of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

FILES = (
    *("open", "openat", "creat", "close", "dup", "dup2", "dup3", "fcntl", "lseek"),
    *("write", "writev", "pwrite64", "pwritev", "pwritev2", "sendfile", "copy_file_range"),
    *("fsync", "fdatasync", "sync_file_range", "sync", "syncfs", "msync", "mmap"),
    *("truncate", "ftruncate", "fallocate"),
    *("mkdir", "mkdirat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir"),
    *("link", "linkat", "symlink", "symlinkat"),
)
THREADS = ("clone", "clone3")
SOCKETS = ("accept", "accept4", "connect", "sendto", "sendmsg", "recvfrom", "recvmsg", "socket")

OPTIONS = ("-f", "-qq", "-xx", "-s", str(1 << 26), "-e", "signal=none", "--seccomp-bpf")

_LINE = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>(.*)|(\w+)\((.*))", re.DOTALL)
_END = re.compile(r"^(.*)\)\s+= (-?\d+|0x[0-9a-f]+|\?)(?: [^\"]*)?$", re.DOTALL)
_UNFINISHED = " <unfinished ...>"
_QUOTED = re.compile(r'"([^"]*)"')


class BadTrace(Exception):
    """The trace cannot be understood, or the program did what is not modelled; one line says what."""


@dataclass(slots=True)
class Call:
    """A system call. `result` is negative for a failed one. Where it begins and ends is where it stands in the trace."""

    number: int
    thread: int
    name: str
    arguments: str
    result: int

    def descriptor(self) -> int:
        """The first argument."""
        return int(self.arguments.partition(",")[0])

    def strings(self) -> list[bytes]:
        """All strings among the arguments, in order."""
        return [_unhex(text) for text in _QUOTED.findall(self.arguments)]

    def numbers_after_strings(self) -> list[int]:
        """The numbers behind the last string or list."""
        rest = re.split(r'["\]]', self.arguments)[-1]
        return [int(text, 0) for text in re.findall(r"(?<![\w])-?\d\w*", rest)]


def _unhex(text: str) -> bytes:
    try:
        return bytes.fromhex(text.replace("\\x", ""))
    except ValueError:
        raise BadTrace(f"a string that is not all hex: {text[:40]!r}") from None


def threads(found: Iterable[tuple[bool, Call]]) -> set[int]:
    """The threads of the first process of a trace: all share its descriptors."""
    known: set[int] = set()
    for _, call in found:
        known = known or {call.thread}
        if call.name in ("clone", "clone3") and "CLONE_FILES" in call.arguments and call.thread in known:
            known.add(call.result)
    return known


def calls(lines: Iterable[str]) -> Iterator[tuple[bool, Call]]:
    """(whether it begins, the call), each successful call twice. Those that failed or never ended are left out; a call that
    began and did not end when the recording ended is told as begun."""
    waiting: dict[str, tuple[int, str, str]] = {}
    told: list[tuple[bool, int]] = []
    found: dict[int, Call] = {}
    for number, line in enumerate(lines):
        line = line.rstrip("\n")
        match = _LINE.match(line)
        if match is None:
            if line and not re.match(r"\d+ +(\+\+\+|---)", line):
                raise BadTrace(f"line {number + 1} of the trace: {line[:80]!r}")
            continue
        pid, resumed, rest, name, arguments = match.groups()
        if resumed:
            began, name, before = waiting.pop(pid, (number, resumed, ""))
            arguments = before + rest
        else:
            began = number
            told.append((True, began))
            if arguments.endswith(_UNFINISHED):
                waiting[pid] = (began, name, arguments.removesuffix(_UNFINISHED))
                continue
        end = _END.match(arguments)
        if end is None:
            raise BadTrace(f"line {number + 1} of the trace has no result: {line[:80]!r}")
        result = -1 if end[2] == "?" else int(end[2], 0)
        found[began] = Call(began, int(pid), name, end[1], result)
        told.append((False, began))
    for pid, (began, name, arguments) in waiting.items():
        if name in ("write", "writev", "pwrite64", "pwritev", "pwritev2"):  # cut off by the end: it may have written
            size = sum(len(text) // 4 for text in _QUOTED.findall(arguments))
            found[began] = Call(began, int(pid), name, arguments, size)
    for begins, began in told:
        if began in found and found[began].result >= 0:
            yield begins, found[began]
